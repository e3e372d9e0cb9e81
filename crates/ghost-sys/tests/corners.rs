//! Batches in programs that make it hard: restartable sequences, syscall user dispatch, seccomp, no vDSO; and children of batches.

#![allow(unsafe_code)]

mod common;

use common::{Victim, stop};
use ghost_sys::clone3::CloneArgs;
use ghost_sys::ptrace::{self, Stop, Waited};
use ghost_sys::remote::{Batch, Call, Entered, Executor, Puppet};
use std::io::Read;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

fn bad(what: &str) -> ! {
    println!("\nbad: {what}");
    std::process::exit(1);
}

fn verdict(mut victim: Victim) {
    drop(victim.child.stdin.take());
    println!("{}", victim.line("done"));
    assert!(victim.child.wait().expect("wait").success());
}

/// Waits for the end of standard input, asks `judge` and ends.
fn until_end(judge: impl FnOnce() -> String) -> ! {
    println!("\nready");
    let _ = std::io::stdin().read(&mut [0]);
    println!("\ndone {}", judge());
    std::process::exit(0)
}

fn ask_pid(inside: &mut Entered<'_>) -> i64 {
    let mut batch = Batch::new();
    let pid = batch.call("getpid", libc::SYS_getpid, &[]);
    inside.run(&batch).expect("batch").result(pid).expect("getpid")
}

/// Freezes all threads of a process with `options`, runs a batch in each, and lets them go; says how many there were.
fn visit(victim: &Victim, options: i32) -> usize {
    let running: Vec<_> = victim.threads().into_iter().map(|t| ptrace::seize(t, options).expect("seize")).collect();
    let threads: Vec<_> = running.into_iter().map(stop).collect();
    let mut puppet = Puppet::new(victim.pid()).expect("puppet");
    for thread in &threads {
        let mut inside = puppet.enter(thread).expect("enter");
        assert_eq!(ask_pid(&mut inside), i64::from(victim.pid()));
        inside.leave().expect("leave");
    }
    puppet.finish(&threads[0]).expect("finish");
    threads.len()
}

fn visit_for(victim: &Victim, options: i32, time: Duration) -> usize {
    let (begin, mut visits) = (Instant::now(), 0);
    while begin.elapsed() < time {
        visit(victim, options);
        visits += 1;
    }
    visits
}

// ---- restartable sequences ----

/// Two threads on one processor add to this with plain loads and stores; only rseq makes that right.
static SHARED: AtomicI64 = AtomicI64::new(0);
static ADDED: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];
static ABORTS: AtomicU64 = AtomicU64::new(0);
static STOP: AtomicBool = AtomicBool::new(false);

/// Offset of the thread's rseq area from its thread pointer, where libc (glibc 2.35) registers one.
fn rseq_offset() -> Option<i64> {
    // SAFETY: looks a symbol up; glibc documents `__rseq_offset` as a constant ptrdiff_t and `__rseq_size` as unsigned int.
    unsafe {
        let offset = libc::dlsym(libc::RTLD_DEFAULT, c"__rseq_offset".as_ptr()).cast::<i64>();
        let size = libc::dlsym(libc::RTLD_DEFAULT, c"__rseq_size".as_ptr()).cast::<u32>();
        (!offset.is_null() && !size.is_null() && *size > 0).then(|| *offset)
    }
}

/// One addition in a restartable sequence, made long by a spin between load and store; false when it was aborted.
fn add_in_sequence(area: *mut u8, word: *mut i64) -> bool {
    let aborted: u64;
    // SAFETY: `area` is this thread's registered rseq area; the descriptor is constant data; the signature before the abort handler is
    // the one that glibc registers on x86-64. Only the registers declared are changed.
    unsafe {
        std::arch::asm!(
            ".pushsection .data.ghost_rseq, \"aw\", @progbits",
            ".balign 32",
            "77:",
            ".long 0, 0",
            ".quad 2f, 3f - 2f, 4f",
            ".popsection",
            "lea {t}, [rip + 77b]",
            "mov [{area} + 8], {t}",
            "2:",
            "mov {v}, [{word}]",
            "mov ecx, 3000",
            "5: dec ecx",
            "jnz 5b",
            "inc {v}",
            "mov [{word}], {v}",
            "3:",
            "xor {v}, {v}",
            "jmp 6f",
            ".byte 0x0f, 0xb9, 0x3d",
            ".long 0x53053053",
            "4:",
            "mov {v}, 1",
            "6:",
            area = in(reg) area, word = in(reg) word, v = out(reg) aborted, t = out(reg) _, out("ecx") _,
        );
    }
    aborted == 0
}

#[test]
#[ignore = "a victim, not a test"]
fn victim_rseq() {
    let Some(offset) = rseq_offset() else {
        println!("\nready: skip: libc registers no rseq area");
        std::process::exit(0);
    };
    let mut one = vec![0_u8; ghost_sys::sched::affinity(0).expect("affinity").len()];
    one[0] = 1;
    for added in &ADDED {
        let one = one.clone();
        std::thread::spawn(move || {
            ghost_sys::sched::set_affinity(0, &one).expect("affinity");
            let thread_pointer: u64;
            // SAFETY: reads the word that fs points at, which is the thread pointer itself on x86-64.
            unsafe { std::arch::asm!("mov {}, fs:[0]", out(reg) thread_pointer) };
            let area = thread_pointer.wrapping_add_signed(offset) as *mut u8;
            while !STOP.load(SeqCst) {
                if add_in_sequence(area, SHARED.as_ptr()) {
                    added.fetch_add(1, SeqCst);
                } else {
                    ABORTS.fetch_add(1, SeqCst);
                }
            }
        });
    }
    until_end(|| {
        STOP.store(true, SeqCst);
        std::thread::sleep(Duration::from_millis(100));
        let (sum, want) = (SHARED.load(SeqCst), ADDED[0].load(SeqCst) + ADDED[1].load(SeqCst));
        if sum as u64 != want || want == 0 {
            bad(&format!("{want} additions make {sum}"));
        }
        format!("{want} additions, {} aborts", ABORTS.load(SeqCst))
    })
}

#[test]
fn restartable_sequences_are_restarted() {
    let mut victim = Victim::start("victim_rseq");
    if victim.child.try_wait().expect("wait").is_some() {
        println!("skip: libc registers no rseq area");
        return;
    }
    println!("{} visits", visit_for(&victim, 0, Duration::from_secs(2)));
    verdict(victim);
}

// ---- syscall user dispatch ----

static mut SELECTOR: u8 = 0;
static CAUGHT: AtomicU64 = AtomicU64::new(0);

extern "C" fn caught(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: only this thread writes it; rt_sigreturn must be allowed.
    unsafe { (&raw mut SELECTOR).write_volatile(0) };
    CAUGHT.fetch_add(1, SeqCst);
}

#[test]
#[ignore = "a victim, not a test"]
fn victim_dispatch() {
    const PR_SET_SYSCALL_USER_DISPATCH: i32 = 59;
    std::thread::spawn(|| {
        // SAFETY: the handler only writes what it says; the selector is a static byte.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = caught as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO;
            libc::sigaction(libc::SIGSYS, &raw const action, std::ptr::null_mut());
            if libc::prctl(PR_SET_SYSCALL_USER_DISPATCH, 1_u64, 0_u64, 0_u64, &raw mut SELECTOR) != 0 {
                bad("prctl");
            }
        }
        for turn in 1.. {
            // SAFETY: blocked, every call raises SIGSYS, whose handler allows them again.
            unsafe { (&raw mut SELECTOR).write_volatile(1) };
            for _ in 0..100_000 {
                std::hint::spin_loop();
            }
            // SAFETY: takes nothing.
            unsafe { libc::syscall(libc::SYS_getppid) };
            if CAUGHT.load(SeqCst) != turn {
                bad("a call was not dispatched");
            }
        }
    });
    until_end(|| format!("{} calls caught", CAUGHT.load(SeqCst)))
}

#[test]
fn syscall_user_dispatch_is_put_back() {
    let victim = Victim::start("victim_dispatch");
    println!("{} visits", visit_for(&victim, 0, Duration::from_secs(1)));
    verdict(victim);
}

// ---- seccomp ----

#[test]
#[ignore = "a victim, not a test"]
fn victim_filtered() {
    std::thread::spawn(|| {
        // Kills the process for getpid, the very call of the batch.
        let filter = [
            libc::sock_filter { code: 0x20, jt: 0, jf: 0, k: 0 },
            libc::sock_filter { code: 0x15, jt: 0, jf: 1, k: libc::SYS_getpid as u32 },
            libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: libc::SECCOMP_RET_KILL_PROCESS },
            libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: libc::SECCOMP_RET_ALLOW },
        ];
        let program = libc::sock_fprog { len: 4, filter: filter.as_ptr().cast_mut() };
        // SAFETY: the kernel copies the program.
        unsafe {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1_u64, 0_u64, 0_u64, 0_u64);
            if libc::prctl(libc::PR_SET_SECCOMP, 2_u64, &raw const program) != 0 {
                bad("seccomp");
            }
        }
        loop {
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    std::thread::sleep(Duration::from_millis(50));
    until_end(String::new)
}

#[test]
fn seccomp_filters_sleep_meanwhile() {
    let victim = Victim::start("victim_filtered");
    let probe = ptrace::seize(victim.pid(), ptrace::SUSPEND_SECCOMP);
    if probe.is_err() {
        println!("skip: suspending seccomp needs CAP_SYS_ADMIN");
        return;
    }
    drop(stop(probe.expect("seized")));
    println!("{} visits", visit_for(&victim, ptrace::SUSPEND_SECCOMP, Duration::from_millis(300)));
    let filters: Vec<_> = victim
        .threads()
        .into_iter()
        .map(|t| stop(ptrace::seize(t, 0).expect("seize")).seccomp_filters().expect("filters"))
        .collect();
    assert_eq!(filters.iter().filter(|f| f.len() == 1 && f[0].0.len() == 4 * 8).count(), 1);
    verdict(victim);
}

// ---- no vDSO ----

#[test]
#[ignore = "a victim, not a test"]
fn victim_without_vdso() {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("maps");
    println!("\nready");
    let line = maps.lines().find(|l| l.ends_with("[vdso]")).expect("a vDSO");
    let (start, end) = line.split(' ').next().unwrap().split_once('-').unwrap();
    let (start, end) = (u64::from_str_radix(start, 16).unwrap(), u64::from_str_radix(end, 16).unwrap());
    // SAFETY: nothing below asks for the time, which libc would do in the vDSO; read and exit are plain calls.
    unsafe {
        libc::munmap(start as *mut libc::c_void, (end - start) as usize);
        let mut byte = 0_u8;
        libc::read(0, (&raw mut byte).cast(), 1);
        libc::write(1, b"\ndone\n".as_ptr().cast(), 6);
        libc::_exit(0);
    }
}

#[test]
fn without_a_vdso_there_is_another_foothold() {
    let victim = Victim::start("victim_without_vdso");
    let begin = Instant::now();
    while victim.maps().iter().any(|l| l.ends_with("[vdso]")) {
        assert!(begin.elapsed() < Duration::from_secs(5));
    }
    let before = victim.maps();
    visit(&victim, 0);
    assert_eq!(before, victim.maps());
    verdict(victim);
}

// ---- children of batches ----

#[test]
#[ignore = "a victim, not a test"]
fn victim_plain() {
    until_end(String::new)
}

#[test]
fn a_batch_can_make_and_reap_a_child() {
    let victim = Victim::start("victim_plain");
    let thread = stop(ptrace::seize(victim.threads()[1], 0).expect("seize"));
    let mut puppet = Puppet::new(victim.pid()).expect("puppet");
    let mut inside = puppet.enter(&thread).expect("enter");
    let mut batch = Batch::new();
    let args = batch.data(&CloneArgs::default().bytes());
    let calls = vec![Call::new("exit", libc::SYS_exit_group, &[5.into()])];
    let child = batch.fork_call("clone3", libc::SYS_clone3, &[args.into(), 88.into()], calls);
    let status = batch.room(4);
    let wait = [child.into(), status.into(), libc::__WALL.into(), 0.into()];
    let reaped = batch.call("wait4", libc::SYS_wait4, &wait);
    let out = inside.run(&batch).expect("batch");
    assert_eq!(out.result(child), out.result(reaped));
    assert_eq!(out.u32(status), 5 << 8);
    inside.leave().expect("leave");
    puppet.finish(&thread).expect("finish");
    drop(thread);
    verdict(victim);
}

#[test]
fn a_snapshot_can_be_held() {
    let victim = Victim::start("victim_plain");
    let options = libc::PTRACE_O_TRACECLONE | libc::PTRACE_O_TRACEFORK | libc::PTRACE_O_TRACEVFORK;
    let thread = stop(ptrace::seize(victim.threads()[1], options).expect("seize"));
    let mut puppet = Puppet::new(victim.pid()).expect("puppet");
    let mut inside = puppet.enter(&thread).expect("enter");
    let mut batch = Batch::new();
    let args = batch.data(&CloneArgs::default().bytes());
    let calls = vec![Call::new("exit", libc::SYS_exit_group, &[0.into()])];
    let slot = batch.fork_call("clone3", libc::SYS_clone3, &[args.into(), 88.into()], calls);
    let pid = inside.run(&batch).expect("batch").result(slot).expect("clone3") as i32;
    assert_eq!(inside.take_children(), [pid]);
    let snapshot = match ptrace::adopt(pid).wait().expect("wait") {
        Waited::Stopped(s, Stop::Trap) => s,
        other => panic!("{other:?}"),
    };
    inside.leave().expect("leave");
    puppet.finish(&thread).expect("finish");
    drop(thread);
    // The copy has the victim's mappings, and the scratch area that it was made from.
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("maps");
    assert!(maps.lines().count() > victim.maps().len());
    drop(snapshot);
    let begin = Instant::now();
    let state = || std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    while !state().is_empty() && !state().contains("Z (zombie)") {
        assert!(begin.elapsed() < Duration::from_secs(5), "the snapshot does not end");
    }
    verdict(victim);
}
