//! rseq(2): the registration that libc made, and critical sections that must be aborted when they are left.
use crate::sys::sleep_ms;
use crate::{Ctx, Victim, call, raw, victim};
use std::arch::{asm, global_asm};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

const SYS_RSEQ: i64 = 334;
const SIGNATURE: i64 = 0x5305_3053;

pub(super) const VICTIMS: &[Victim] = &[
    victim("rseq-registered", |v| {
        area(v);
        let threads = v.team(3, |_, t| {
            t.keep("another registration", another);
            t.wait();
            t.eq("another registration", Err(libc::EINVAL), another());
            cpu_is_right(t);
        });
        v.wait();
        v.eq("another registration", Err(libc::EINVAL), another());
        cpu_is_right(v);
        v.gather(threads);
    }),
    victim("rseq-counters", |v| {
        // Threads add to a counter of their CPU without any atomic instruction. A section that is gone on with after another
        // thread ran on that CPU, or on another CPU, loses an addition.
        area(v);
        let counters: &'static [u64; 512] = Box::leak(Box::new([0; 512]));
        let stop = Arc::new(AtomicBool::new(false));
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let stop = stop.clone();
                std::thread::spawn(move || {
                    let (mut done, mut aborted) = (0u64, 0u64);
                    let rseq = own_area();
                    while !stop.load(SeqCst) {
                        for _ in 0..50 {
                            // SAFETY: the routine writes the counter of this CPU (below 64) and the thread's rseq area.
                            match unsafe { rseq_add(counters.as_ptr().cast_mut(), rseq) } {
                                1 => done += 1,
                                _ => aborted += 1,
                            }
                        }
                        sleep_ms(1);
                    }
                    (done, aborted)
                })
            })
            .collect();
        sleep_ms(30);
        v.wait();
        stop.store(true, SeqCst);
        let mut sum = 0;
        for t in threads {
            sum += t.join().unwrap().0;
        }
        // SAFETY: nobody writes any more.
        let found: u64 = (0..512).map(|i| unsafe { std::ptr::read_volatile(&raw const counters[i]) }).sum();
        v.check("there were additions", sum > 0);
        v.eq("the sum of all counters", sum, found);
    }),
];

unsafe extern "C" {
    static __rseq_offset: isize;
    static __rseq_size: libc::c_uint;
    fn rseq_add(counters: *mut u64, rseq: usize) -> u64;
}

fn own_area() -> usize {
    let thread: usize;
    // SAFETY: the word at fs:0 is the thread pointer (x86-64 ABI); the offset is libc's constant.
    unsafe {
        asm!("mov {}, fs:[0]", out(reg) thread);
        thread.wrapping_add_signed(__rseq_offset)
    }
}

fn area(v: &Ctx) {
    // SAFETY: a constant of libc.
    if unsafe { __rseq_size } == 0 {
        v.skip("libc did not register rseq");
    }
}

/// Registering another area: EINVAL while one is registered.
fn another() -> Result<i64, i32> {
    #[repr(align(32))]
    struct Area(#[allow(dead_code)] [u64; 4]);
    let other = Area([0; 4]);
    let r = raw!(SYS_RSEQ, &raw const other, 32, 0, SIGNATURE);
    if r.is_ok() {
        raw!(SYS_RSEQ, &raw const other, 32, 1, SIGNATURE).ok();
    }
    r
}

/// The kernel keeps the number of the CPU in the area.
fn cpu_is_right(v: &mut Ctx) {
    for cpu in 0..call!(sysconf(libc::_SC_NPROCESSORS_ONLN)).min(2) {
        let mask = 1u64 << cpu;
        if raw!(libc::SYS_sched_setaffinity, 0, 8, &raw const mask).is_ok() {
            // SAFETY: bytes 4 to 8 of the area are cpu_id.
            let found = unsafe { std::ptr::read_volatile((own_area() + 4) as *const u32) };
            v.eq("cpu_id in the area", cpu as u32, found);
        }
    }
}

global_asm!(
    ".pushsection .data.rel.ro, \"aw\"",
    ".balign 32",
    "rseq_add_cs: .long 0, 0",
    ".quad 2f, 3f - 2f, 4f",
    ".popsection",
    ".globl rseq_add",
    "rseq_add:",
    "lea rax, [rip + rseq_add_cs]",
    "mov [rsi + 8], rax",
    "2: mov ecx, [rsi + 4]",
    "and ecx, 63",
    "shl ecx, 6",
    "add rcx, rdi",
    "mov rax, [rcx]",
    "inc rax",
    // Some time between reading and writing, or nothing would ever come in between.
    "mov edx, 300",
    "5: pause",
    "dec edx",
    "jnz 5b",
    "mov [rcx], rax",
    "3: mov eax, 1",
    "ret",
    ".byte 0x0f, 0xb9, 0x3d",
    ".long 0x53053053",
    "4: xor eax, eax",
    "ret",
);
