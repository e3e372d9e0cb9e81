//! Registers: general, vector, floating point, segment bases, debug.
//!
//! Each routine loads known values, spins (or sleeps in the kernel) until [`GO`] is set, and stores what it finds: what happens in
//! between happens with just these values in the registers.
use crate::sys::{ms, sleep_ms};
use crate::{Ctx, Victim, call, must, raw, victim};
use std::arch::{asm, global_asm};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};

/// Ends the spinning.
static GO: AtomicU32 = AtomicU32::new(0);

pub(super) const VICTIMS: &[Victim] = &[
    victim("regs-general", |v| {
        spin(v, || {
            let mut found = [0u64; 16];
            // SAFETY: the routine keeps the C convention and writes 16 words.
            let flags = unsafe { spin_general(found.as_mut_ptr()) };
            let mut bad: Vec<String> = (0..15)
                .filter(|i| found[*i] != 0x1111_1111_1111_1111u64.wrapping_mul(*i as u64 + 1))
                .map(|i| format!("register {i} is {:#x}", found[i]))
                .collect();
            if flags & 1 << 10 == 0 {
                bad.push("the direction flag is clear".into());
            }
            bad
        });
    }),
    victim("regs-sse", |v| {
        spin(v, || {
            let given: [u64; 32] = pattern(1);
            let mut found = [0u64; 32];
            // SAFETY: reads and writes 16 registers of 16 bytes.
            unsafe { spin_xmm(given.as_ptr(), found.as_mut_ptr()) };
            differ("xmm", &given, &found)
        });
    }),
    victim("regs-avx", |v| {
        if !std::is_x86_feature_detected!("avx") {
            v.skip("no AVX");
        }
        spin(v, || {
            let given: [u64; 64] = pattern(2);
            let mut found = [0u64; 64];
            // SAFETY: reads and writes 16 registers of 32 bytes; the CPU has AVX.
            unsafe { spin_ymm(given.as_ptr(), found.as_mut_ptr()) };
            differ("ymm", &given, &found)
        });
    }),
    victim("regs-avx512", |v| {
        if !std::is_x86_feature_detected!("avx512bw") {
            v.skip("no AVX-512");
        }
        spin(v, || {
            let given: [u64; 264] = pattern(3);
            let mut found = [0u64; 264];
            // SAFETY: reads and writes 32 registers of 64 bytes and 7 masks; the CPU has AVX-512.
            unsafe { spin_zmm(given.as_ptr(), found.as_mut_ptr()) };
            // k0 is not among the masks.
            found[256] = given[256];
            differ("zmm or k", &given, &found)
        });
    }),
    victim("regs-sleeping", |v| {
        // The same while inside a system call.
        spin(v, || {
            let given: [u64; 32] = pattern(4);
            let mut found = [0u64; 32];
            let nap = ms(20);
            // SAFETY: reads and writes 16 registers of 16 bytes and sleeps by nanosleep.
            unsafe { sleep_xmm(given.as_ptr(), found.as_mut_ptr(), &nap) };
            differ("xmm", &given, &found)
        });
    }),
    victim("regs-x87", |v| {
        spin(v, || {
            let (mut before, mut after) = ([0u8; 96], [0u8; 96]);
            // SAFETY: writes two areas of 96 bytes.
            unsafe { spin_x87(before.as_mut_ptr(), after.as_mut_ptr()) };
            if before == after && before[0] == 0x7f && before[1] == 0x0c {
                Vec::new()
            } else {
                vec![format!("x87 before {before:x?}, after {after:x?}")]
            }
        });
    }),
    victim("mxcsr", |v| {
        // Rounding down, denormals are zero, and one exception noted already.
        let wanted = 0x1f80u32 | 1 << 13 | 1 << 6 | 1 << 5;
        let threads = v.team(3, move |i, t| {
            let wanted = if i == 1 { wanted ^ 3 << 13 } else { wanted };
            // SAFETY: a valid control word; nothing here computes with floats.
            unsafe { asm!("ldmxcsr [{}]", in(reg) &wanted) };
            t.wait();
            let mut found = 0u32;
            // SAFETY: stores four bytes.
            unsafe { asm!("stmxcsr [{}]", in(reg) &mut found) };
            t.eq("mxcsr", format!("{wanted:#x}"), format!("{found:#x}"));
        });
        v.wait();
        v.gather(threads);
    }),
    victim("gs-base", |v| {
        const ARCH_SET_GS: i64 = 0x1001;
        const ARCH_GET_GS: i64 = 0x1004;
        let threads = v.team(3, |i, t| {
            let own = Box::leak(Box::new(0xabcd_0000u64 + i as u64));
            raw!(libc::SYS_arch_prctl, ARCH_SET_GS, &raw const *own).unwrap();
            t.wait();
            let mut base = 0u64;
            raw!(libc::SYS_arch_prctl, ARCH_GET_GS, &raw mut base).unwrap();
            t.eq("gs base", &raw const *own as u64, base);
            let found: u64;
            if base != 0 {
                // SAFETY: the base is the address of a live number.
                unsafe { asm!("mov {}, gs:[0]", out(reg) found) };
                t.eq("what lies at gs:0", *own, found);
            }
        });
        v.wait();
        v.gather(threads);
    }),
    victim("fs-base", |v| {
        const ARCH_GET_FS: i64 = 0x1003;
        let threads = v.team(3, |_, t| {
            t.keep("fs base", || {
                let mut base = 0u64;
                (raw!(libc::SYS_arch_prctl, ARCH_GET_FS, &raw mut base), base)
            });
            t.wait();
        });
        v.wait();
        v.gather(threads);
    }),
    victim("regs-debug", |v| {
        static WATCHED: AtomicU64 = AtomicU64::new(0);
        static TRAPS: AtomicU32 = AtomicU32::new(0);
        extern "C" fn on_trap(_: i32) {
            TRAPS.fetch_add(1, SeqCst);
        }
        must!(signal(libc::SIGTRAP, on_trap as *const () as usize));
        // A debugger sets a watchpoint and leaves; the watchpoint stays.
        let me = call!(getpid());
        call!(prctl(libc::PR_SET_PTRACER, -1)); // only where Yama is
        let debugger = must!(fork());
        if debugger == 0 {
            let (dr0, dr7) = (DEBUG_REGISTERS, DEBUG_REGISTERS + 7 * 8);
            let mut status = 0;
            let ok = call!(ptrace(libc::PTRACE_ATTACH, me, 0, 0)) == 0
                && call!(waitpid(me, &mut status, 0)) == me
                && call!(ptrace(libc::PTRACE_POKEUSER, me, dr0, WATCHED.as_ptr())) == 0
                // Slot 0: enabled, on writes (01), 8 bytes long (10).
                && call!(ptrace(libc::PTRACE_POKEUSER, me, dr7, 1u64 | 0b1001 << 16)) == 0
                && call!(ptrace(libc::PTRACE_DETACH, me, 0, 0)) == 0;
            call!(_exit(i32::from(!ok)));
        }
        let mut status = 0;
        while call!(waitpid(debugger, &mut status, 0)) == -1 {}
        if status != 0 {
            v.skip("no debug registers, or no ptrace, here");
        }
        WATCHED.store(1, SeqCst);
        v.need("the watchpoint works", TRAPS.load(SeqCst) == 1);
        v.wait();
        WATCHED.store(2, SeqCst);
        v.eq("traps at the watchpoint", 2, TRAPS.load(SeqCst));
    }),
];

/// Offset of `u_debugreg` in `struct user` of x86-64 (`sys/user.h`).
const DEBUG_REGISTERS: usize = 848;

/// Runs a spinning routine in a thread across the wait, and takes over what it found wrong.
fn spin(v: &mut Ctx, routine: impl FnOnce() -> Vec<String> + Send + 'static) {
    static BEGUN: AtomicBool = AtomicBool::new(false);
    let thread = std::thread::spawn(move || {
        BEGUN.store(true, SeqCst);
        routine()
    });
    v.until("the thread spins", || BEGUN.load(SeqCst));
    sleep_ms(20);
    v.wait();
    sleep_ms(5);
    GO.store(1, SeqCst);
    for bad in thread.join().unwrap_or_else(|_| vec!["the thread died".into()]) {
        v.bad("registers", "as loaded", &bad);
    }
}

fn pattern<const N: usize>(seed: u64) -> [u64; N] {
    std::array::from_fn(|i| (i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(seed as u32 * 7))
}

fn differ(what: &str, given: &[u64], found: &[u64]) -> Vec<String> {
    let same = |(i, (a, b)): (usize, (&u64, &u64))| (a != b).then(|| format!("{what}, word {i}: {b:#x} for {a:#x}"));
    given.iter().zip(found).enumerate().filter_map(same).take(4).collect()
}

unsafe extern "C" {
    fn spin_general(found: *mut u64) -> u64;
    fn spin_xmm(given: *const u64, found: *mut u64);
    fn sleep_xmm(given: *const u64, found: *mut u64, nap: *const libc::timespec);
    fn spin_ymm(given: *const u64, found: *mut u64);
    fn spin_zmm(given: *const u64, found: *mut u64);
    fn spin_x87(before: *mut u8, after: *mut u8);
}

// Every general register but the stack pointer holds a value; the loop needs none of them.
global_asm!(
    ".globl spin_general",
    "spin_general:",
    "push rbx; push rbp; push r12; push r13; push r14; push r15; push rdi",
    ".set n, 1",
    ".irp r, rax, rbx, rcx, rdx, rsi, rdi, rbp, r8, r9, r10, r11, r12, r13, r14, r15",
    "movabs \\r, 0x1111111111111111 * n",
    ".set n, n + 1",
    ".endr",
    "std",
    "2: pause",
    "cmp dword ptr [rip + {go}], 0",
    "je 2b",
    "push rax",
    "mov rax, [rsp + 8]",
    "mov [rax + 8], rbx; mov [rax + 16], rcx; mov [rax + 24], rdx; mov [rax + 32], rsi; mov [rax + 40], rdi",
    "mov [rax + 48], rbp; mov [rax + 56], r8; mov [rax + 64], r9; mov [rax + 72], r10; mov [rax + 80], r11",
    "mov [rax + 88], r12; mov [rax + 96], r13; mov [rax + 104], r14; mov [rax + 112], r15",
    "pop rcx",
    "mov [rax], rcx",
    "pushfq",
    "pop rax",
    "cld",
    "pop rdi; pop r15; pop r14; pop r13; pop r12; pop rbp; pop rbx",
    "ret",
    ".irp kind, xmm, ymm",
    ".globl spin_\\kind",
    "spin_\\kind:",
    ".irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15",
    ".ifc \\kind, xmm",
    "movdqu xmm\\n, [rdi + 16 * \\n]",
    ".else",
    "vmovdqu ymm\\n, [rdi + 32 * \\n]",
    ".endif",
    ".endr",
    "2: pause",
    "cmp dword ptr [rip + {go}], 0",
    "je 2b",
    ".irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15",
    ".ifc \\kind, xmm",
    "movdqu [rsi + 16 * \\n], xmm\\n",
    ".else",
    "vmovdqu [rsi + 32 * \\n], ymm\\n",
    ".endif",
    ".endr",
    ".ifc \\kind, ymm",
    "vzeroupper",
    ".endif",
    "ret",
    ".endr",
    ".globl sleep_xmm",
    "sleep_xmm:",
    "push rbx; push rbp",
    "mov rbx, rsi",
    "mov rbp, rdx",
    ".irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15",
    "movdqu xmm\\n, [rdi + 16 * \\n]",
    ".endr",
    "2: mov eax, 35",
    "mov rdi, rbp",
    "xor esi, esi",
    "syscall",
    "cmp dword ptr [rip + {go}], 0",
    "je 2b",
    ".irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15",
    "movdqu [rbx + 16 * \\n], xmm\\n",
    ".endr",
    "pop rbp; pop rbx",
    "ret",
    ".globl spin_zmm",
    "spin_zmm:",
    ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
    "vmovdqu64 zmm\\n, [rdi + 64 * \\n]",
    ".endr",
    ".irp n, 1, 2, 3, 4, 5, 6, 7",
    "kmovq k\\n, [rdi + 2048 + 8 * \\n]",
    ".endr",
    "2: pause",
    "cmp dword ptr [rip + {go}], 0",
    "je 2b",
    ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
    "vmovdqu64 [rsi + 64 * \\n], zmm\\n",
    ".endr",
    ".irp n, 1, 2, 3, 4, 5, 6, 7",
    "kmovq [rsi + 2048 + 8 * \\n], k\\n",
    ".endr",
    "vzeroupper",
    "ret",
    // Control word 0x0c7f (truncate, all masked), three numbers on the register stack; fnsave stores and clears all.
    ".globl spin_x87",
    "spin_x87:",
    "fninit",
    "sub rsp, 8",
    "mov word ptr [rsp], 0x0c7f",
    "fldcw [rsp]",
    "fldpi; fld1; fldl2e",
    "fnstenv [rdi]",
    "fldenv [rdi]",
    "fld st(0); fstp tbyte ptr [rdi + 28]",
    "2: pause",
    "cmp dword ptr [rip + {go}], 0",
    "je 2b",
    "fnstenv [rsi]",
    "fstp tbyte ptr [rsi + 28]; fstp tbyte ptr [rsi + 38]; fstp tbyte ptr [rsi + 48]",
    "fldl2e; fld1; fldpi",
    "fstp tbyte ptr [rdi + 48]; fstp tbyte ptr [rdi + 38]; fstp st(0)",
    "fninit",
    // Where the last instruction and its operand lie (env bytes 12 to 27) is of no account.
    "mov qword ptr [rdi + 12], 0; mov qword ptr [rdi + 20], 0",
    "mov qword ptr [rsi + 12], 0; mov qword ptr [rsi + 20], 0",
    "add rsp, 8",
    "ret",
    go = sym GO,
);
