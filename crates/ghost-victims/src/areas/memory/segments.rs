//! Segments: the local descriptor table of an address space, and the entries of the global one that each thread has.
use super::{Map, PAGE, PRIVATE, RW};
use crate::{Ctx, Victim, raw, victim};
use std::arch::asm;

/// Low in memory, where a base of 32 bits leads.
const LOW: i32 = PRIVATE | libc::MAP_32BIT;
/// Bits of `struct user_desc`.
const BITS32: u32 = 1;
const CODE: u32 = 2 << 1;
const NOT_WRITABLE: u32 = 1 << 3;
const IN_PAGES: u32 = 1 << 4;
const NOT_PRESENT: u32 = 1 << 5;
const USEABLE: u32 = 1 << 6;

pub(super) const VICTIMS: &[Victim] = &[
    victim("ldt", |v| {
        let m = numbered(0x1111);
        let entries = [
            [0, 0x1234_5678, 0xf_1234, BITS32 | IN_PAGES | NOT_WRITABLE],
            [5, m.at as u32, 0xfff, BITS32 | USEABLE],
            [6, 0, 0xf_ffff, BITS32 | CODE | IN_PAGES],
            // Grows down, and a conforming segment of code that is not there.
            [900, 0x8000_0000, 0x10, BITS32 | 1 << 1],
            [8191, 7, 7, BITS32 | 3 << 1 | NOT_PRESENT],
        ];
        for entry in entries {
            if set(entry).is_err() {
                v.skip("no modify_ldt");
            }
        }
        v.keep("the table", table);
        select(5 << 3 | 7);
        v.wait();
        selected(v, 5 << 3 | 7, 0x1111);
        v.eq("another entry", Ok(0), set([7, m.at as u32, 0xfff, BITS32]));
        select(7 << 3 | 7);
        selected(v, 7 << 3 | 7, 0x1111);
    }),
    victim("ldt-empty", |v| {
        // Nothing is in it any more, but it is there.
        for entry in [[3, 0, 0xfff, BITS32], [3, 0, 0, NOT_WRITABLE | NOT_PRESENT]] {
            if set(entry).is_err() {
                v.skip("no modify_ldt");
            }
        }
        v.keep("the table", table);
        v.wait();
    }),
    victim("ldt-of-child", |v| {
        // It is copied by fork(2), and changed there.
        let m = numbered(0x2222);
        if set([2, m.at as u32, 0xfff, BITS32]).is_err() {
            v.skip("no modify_ldt");
        }
        let of_child = numbered(0x3333);
        v.spawn(move |c| {
            set([2, of_child.at as u32, 0xfff, BITS32]).unwrap();
            c.keep("the table", table);
            select(2 << 3 | 7);
            c.wait();
            selected(c, 2 << 3 | 7, 0x3333);
        });
        v.spawn(|c| c.wait());
        v.keep("the table", table);
        select(2 << 3 | 7);
        v.wait();
        selected(v, 2 << 3 | 7, 0x2222);
    }),
    victim("tls-entries", |v| {
        const FIRST: u32 = 12;
        let room = Map::new(PAGE, RW, LOW, -1, 0);
        if tls(SET_THREAD_AREA, room, [FIRST, 0, 0xfff, BITS32]).is_err() {
            v.skip("no system calls by int 0x80");
        }
        let team = v.team(3, |i, t| {
            let (room, m) = (Map::new(PAGE, RW, LOW, -1, 0), numbered(0x4440 + i as u64));
            let entry = FIRST + i as u32;
            tls(SET_THREAD_AREA, room, [entry, m.at as u32, 0xfff, BITS32]).unwrap();
            t.keep("the entries", move || {
                std::array::from_fn::<_, 3, _>(|n| tls(GET_THREAD_AREA, room, [FIRST + n as u32, 0, 0, 0]))
            });
            select(entry << 3 | 3);
            t.wait();
            selected(t, entry << 3 | 3, 0x4440 + i as u64);
        });
        v.wait();
        v.gather(team);
    }),
];

/// A page that begins with a number.
fn numbered(number: u64) -> Map {
    let m = Map::new(PAGE, RW, LOW, -1, 0);
    m.bytes_mut()[..8].copy_from_slice(&number.to_ne_bytes());
    m
}

fn set(entry: [u32; 4]) -> Result<i64, i32> {
    raw!(libc::SYS_modify_ldt, 0x11, entry.as_ptr(), 16)
}

/// What the kernel tells of the table, and the descriptors that are set.
fn table() -> (Result<i64, i32>, Vec<(usize, u64)>) {
    let mut room = vec![0u64; 8192];
    let told = raw!(libc::SYS_modify_ldt, 0, room.as_mut_ptr(), 8 * 8192);
    (told, room.into_iter().enumerate().filter(|(_, d)| *d != 0).collect())
}

const SET_THREAD_AREA: u32 = 243;
const GET_THREAD_AREA: u32 = 244;

/// A call of 32-bit programs about an entry, which lies in low memory.
fn tls(nr: u32, room: Map, entry: [u32; 4]) -> Result<[u32; 4], i32> {
    room.bytes_mut()[..16].copy_from_slice(&entry.map(u32::to_ne_bytes).concat());
    let mut result = u64::from(nr);
    // SAFETY: the kernel reads and writes 16 bytes of the page; rbx, which the compiler keeps for itself, is put back.
    unsafe {
        asm!("xchg rbx, {at}", "int 0x80", "xchg rbx, {at}", at = inout(reg) room.at => _, inout("rax") result,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _);
    }
    if result as i32 != 0 {
        return Err(-(result as i32));
    }
    Ok(std::array::from_fn(|i| u32::from_ne_bytes(room.bytes()[i * 4..i * 4 + 4].try_into().unwrap())))
}

/// Puts a selector into gs and es.
fn select(selector: u32) {
    // SAFETY: neither is used by compiled code; the entry is there.
    unsafe { asm!("mov gs, {0:e}", "mov es, {0:e}", in(reg) selector) };
}

/// What is selected, and what gs leads to.
fn selected(c: &mut Ctx, selector: u32, number: u64) {
    let (gs, es, found): (u32, u32, u64);
    // SAFETY: as above; the page that the entry names is mapped.
    unsafe {
        asm!("mov {0:e}, gs", "mov {1:e}, es", out(reg) gs, out(reg) es);
        // Loaded anew, from the entry itself.
        asm!("mov gs, {0:e}", "mov {1}, gs:[0]", in(reg) selector, out(reg) found);
    }
    c.eq("the selectors in gs and es", (selector, selector), (gs, es));
    c.eq("what lies at gs:0", number, found);
}
