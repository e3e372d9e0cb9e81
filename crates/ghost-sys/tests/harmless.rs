//! Ghost does no harm: a program that watches itself is frozen and made to run batches, by a ghost that lets it go and by ghosts
//! that are killed at any instant.

#![allow(unsafe_code)]

mod common;

use common::{Victim, stop};
use ghost_sys::remote::{Batch, Executor, Hints, Puppet, RemoteError};
use ghost_sys::{Errno, ptrace};
use std::io::Read;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

/// Turns of all the threads of the victim.
static TURNS: [AtomicU64; 8] = [const { AtomicU64::new(0) }; 8];
static HANDLED: AtomicU32 = AtomicU32::new(0);

fn bad(what: &str) -> ! {
    println!("\nbad: {what}");
    std::process::exit(1);
}

fn own_mask() -> u64 {
    let mut mask = 0_u64;
    // SAFETY: the kernel writes eight bytes.
    unsafe { libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_BLOCK, 0, &raw mut mask, 8) };
    mask
}

/// Runs `turn` for ever and checks that the signal mask stays.
fn watch(slot: usize, mut turn: impl FnMut() + Send + 'static) {
    std::thread::spawn(move || {
        let mask = own_mask();
        loop {
            turn();
            if own_mask() != mask {
                bad("signal mask changed");
            }
            TURNS[slot].fetch_add(1, SeqCst);
        }
    });
}

/// Fills all registers, spins, and compares; the sum of the differences.
fn registers_hold(seed: u64) -> u64 {
    let difference: u64;
    // SAFETY: pushes what the compiler keeps and pops it; changes only what is declared.
    unsafe {
        std::arch::asm!(
            "push rbx", "push rbp",
            "movq xmm0, rax", "movq xmm15, rax", "movddup xmm7, xmm0",
            "lea rbx, [rax + 1]", "lea rcx, [rax + 2]", "lea rdx, [rax + 3]", "lea rsi, [rax + 4]", "lea rdi, [rax + 5]",
            "lea rbp, [rax + 6]", "lea r8, [rax + 8]", "lea r9, [rax + 9]", "lea r10, [rax + 10]", "lea r11, [rax + 11]",
            "lea r12, [rax + 12]", "lea r13, [rax + 13]", "lea r14, [rax + 14]",
            "mov r15d, 200000", "stc",
            // dec leaves the carry flag alone: it must live through the loop.
            "2:", "dec r15", "jnz 2b",
            "jnc 3f",
            "sub rbx, rax", "sub rcx, rax", "sub rdx, rax", "sub rsi, rax", "sub rdi, rax", "sub rbp, rax",
            "sub r8, rax", "sub r9, rax", "sub r10, rax", "sub r11, rax", "sub r12, rax", "sub r13, rax", "sub r14, rax",
            "xor rbx, 1", "xor rcx, 2", "xor rdx, 3", "xor rsi, 4", "xor rdi, 5", "xor rbp, 6", "xor r8, 8", "xor r9, 9",
            "xor r10, 10", "xor r11, 11", "xor r12, 12", "xor r13, 13", "xor r14, 14",
            "or rbx, rcx", "or rbx, rdx", "or rbx, rsi", "or rbx, rdi", "or rbx, rbp", "or rbx, r8", "or rbx, r9",
            "or rbx, r10", "or rbx, r11", "or rbx, r12", "or rbx, r13", "or rbx, r14", "or rbx, r15",
            "movq rcx, xmm0", "xor rcx, rax", "or rbx, rcx",
            "movq rcx, xmm15", "xor rcx, rax", "or rbx, rcx",
            "movhlps xmm0, xmm7", "movq rcx, xmm0", "xor rcx, rax", "or rbx, rcx",
            "mov rax, rbx", "jmp 4f",
            "3:", "mov rax, -1",
            "4:", "pop rbp", "pop rbx",
            inlateout("rax") seed => difference,
            out("rcx") _, out("rdx") _, out("rsi") _, out("rdi") _, out("r8") _, out("r9") _, out("r10") _, out("r11") _,
            out("r12") _, out("r13") _, out("r14") _, out("r15") _, out("xmm0") _, out("xmm7") _, out("xmm15") _,
        );
    }
    difference
}

extern "C" fn count(_: i32) {
    HANDLED.fetch_add(1, SeqCst);
}

const NAP: Duration = Duration::from_millis(4);

/// Makes a call that must last for a nap and answer `want`.
fn lasts(what: &str, want: Result<i64, i32>, call: impl FnOnce() -> i64) {
    let begin = Instant::now();
    let value = call();
    let got = if value == -1 { Err(Errno::last().0) } else { Ok(value) };
    if got != want {
        bad(&format!("{what}: {got:?} for {want:?}"));
    }
    if begin.elapsed() < NAP {
        bad(&format!("{what}: came back after {:?}", begin.elapsed()));
    }
}

#[test]
#[ignore = "a victim, not a test"]
fn victim_watchful() {
    watchful(true)
}

/// The same without signals. A ghost that is killed between two calls, sending a thread inside and blocking its signals, may make a
/// call again that a handler has just ended; a microsecond, unless somebody stops ghost at each of its calls.
#[test]
#[ignore = "a victim, not a test"]
fn victim_without_signals() {
    watchful(false)
}

fn watchful(signals: bool) -> ! {
    watch(0, || match registers_hold(TURNS[0].load(SeqCst).wrapping_mul(0x9e37_79b9_7f4a_7c15)) {
        0 => {}
        d => bad(&format!("registers differ: {d:#x}")),
    });
    watch(1, || {
        let nap = libc::timespec { tv_sec: 0, tv_nsec: NAP.as_nanos() as i64 };
        // SAFETY: the kernel reads one timespec.
        lasts("nanosleep", Ok(0), || unsafe { libc::syscall(libc::SYS_nanosleep, &raw const nap, 0) });
    });
    watch(2, || {
        // SAFETY: no descriptors are given.
        lasts("poll", Ok(0), || unsafe { libc::syscall(libc::SYS_poll, 0, 0, NAP.as_millis() as i32) });
    });
    watch(3, || {
        let word = AtomicU32::new(5);
        let nap = libc::timespec { tv_sec: 0, tv_nsec: NAP.as_nanos() as i64 };
        lasts("futex", Err(libc::ETIMEDOUT), || {
            // SAFETY: one futex word and one timespec of ours.
            unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, 5, &raw const nap) }
        });
    });
    let mut fds = [0; 2];
    // SAFETY: room for two descriptors.
    unsafe { libc::pipe(fds.as_mut_ptr()) };
    watch(4, move || {
        let mut byte = 0_u8;
        // SAFETY: room for one byte.
        let n = unsafe { libc::syscall(libc::SYS_read, fds[0], &raw mut byte, 1) };
        if (n, byte) != (1, b'x') {
            bad(&format!("read: {n} {}", Errno::last()));
        }
    });
    watch(5, move || {
        std::thread::sleep(Duration::from_millis(2));
        // SAFETY: one byte.
        if unsafe { libc::syscall(libc::SYS_write, fds[1], b"x".as_ptr(), 1) } != 1 {
            bad("write");
        }
    });
    if signals {
        exchange_signals();
    } else {
        TURNS[6..].iter().for_each(|turns| turns.store(1, SeqCst));
    }
    std::thread::sleep(Duration::from_millis(50));
    println!("\nready");
    let _ = std::io::stdin().read(&mut [0]);
    let turns: Vec<u64> = TURNS.iter().map(|t| t.load(SeqCst)).collect();
    if turns.contains(&0) {
        bad(&format!("a thread made no turn: {turns:?}"));
    }
    println!("\ndone {turns:?}");
    std::process::exit(0);
}

/// One thread waits in `sigsuspend(2)` for the signals of another.
fn exchange_signals() {
    static SUSPENDED: AtomicI32 = AtomicI32::new(0);
    std::thread::spawn(|| {
        let bit = 1_u64 << (libc::SIGUSR1 - 1);
        // SAFETY: the handler only counts; masks are eight bytes that the kernel reads.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = count as *const () as usize;
            libc::sigaction(libc::SIGUSR1, &raw const action, std::ptr::null_mut());
            libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_BLOCK, &raw const bit, 0, 8);
        }
        let mask = own_mask();
        // SAFETY: no argument.
        SUSPENDED.store(unsafe { libc::gettid() }, SeqCst);
        loop {
            let (before, open) = (HANDLED.load(SeqCst), mask & !bit);
            // SAFETY: the kernel reads eight bytes.
            let n = unsafe { libc::syscall(libc::SYS_rt_sigsuspend, &raw const open, 8) };
            if n != -1 || Errno::last() != Errno(libc::EINTR) || HANDLED.load(SeqCst) != before + 1 {
                bad(&format!("sigsuspend: {n}, {} signals handled", HANDLED.load(SeqCst) - before));
            }
            if own_mask() != mask {
                bad("signal mask changed by sigsuspend");
            }
            TURNS[6].fetch_add(1, SeqCst);
        }
    });
    watch(7, || {
        std::thread::sleep(Duration::from_millis(2));
        let before = HANDLED.load(SeqCst);
        let tid = SUSPENDED.load(SeqCst);
        if tid != 0 {
            ghost_sys::signal::kill_thread(std::process::id() as i32, tid, libc::SIGUSR1).expect("tgkill");
            let begin = Instant::now();
            while HANDLED.load(SeqCst) == before {
                if begin.elapsed() > Duration::from_secs(20) {
                    bad("a signal was lost");
                }
                std::thread::yield_now();
            }
        }
    });
}

/// Tells the victim to end and reads its verdict.
fn verdict(mut victim: Victim) {
    drop(victim.child.stdin.take());
    println!("{}", victim.line("done"));
    assert!(victim.child.wait().expect("wait").success());
}

/// Stops all threads of a process at the same time.
fn stop_all(pid: i32) -> Vec<ptrace::Stopped> {
    let mut threads = Vec::new();
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).expect("tasks") {
        let tid = task.expect("task").file_name().to_str().unwrap().parse().unwrap();
        let running = ptrace::seize(tid, 0).expect("seize");
        running.interrupt().expect("interrupt");
        threads.push(running);
    }
    threads.into_iter().map(stop).collect()
}

/// One visit to every thread of a process, with batches in each; errors as a tracer would have to expect them.
fn visit(pid: i32) -> Result<(), RemoteError> {
    let threads = stop_all(pid);
    let mut puppet = Puppet::new(pid)?;
    for thread in &threads {
        let before = thread.registers().expect("registers");
        let mut inside = puppet.enter(thread)?;
        for _ in 0..2 {
            let mut batch = Batch::new();
            let fd = batch.call("dup", libc::SYS_dup, &[1.into()]);
            let room = batch.room(32);
            for _ in 0..20 {
                batch.call("getpid", libc::SYS_getpid, &[]);
                batch.call("sigaction", libc::SYS_rt_sigaction, &[15.into(), 0.into(), room.into(), 8.into()]);
            }
            batch.finally("close", libc::SYS_close, &[fd.into()]);
            inside.run(&batch)?;
        }
        inside.leave()?;
        let after = thread.registers().expect("registers");
        assert_eq!(format!("{before:?}"), format!("{after:?}"));
    }
    visit_all_at_once(&mut puppet, &threads)?;
    puppet.finish(&threads[0])
}

/// A puppet with room for more threads than there are.
fn crowded(pid: i32) -> Result<Puppet, RemoteError> {
    Puppet::with_hints(pid, &Hints { threads: 64, ..Hints::default() })
}

/// One batch in every thread: the first owns the scratch area, the others are its guests. There is room for more of them than come.
fn crowd(pid: i32) -> Result<(), RemoteError> {
    let threads = stop_all(pid);
    let mut puppet = crowded(pid)?;
    for _ in 0..3 {
        visit_all_at_once(&mut puppet, &threads)?;
    }
    puppet.finish(&threads[0])
}

fn visit_all_at_once(puppet: &mut Puppet, threads: &[ptrace::Stopped]) -> Result<(), RemoteError> {
    let before: Vec<_> = threads.iter().map(|t| t.registers().expect("registers")).collect();
    let mut batch = Batch::new();
    let tid = batch.call("gettid", libc::SYS_gettid, &[]);
    let room = batch.room(32);
    batch.call("sigaltstack", libc::SYS_sigaltstack, &[0.into(), room.into()]);
    // Long enough to be caught in the middle of it.
    let mut longer = batch.clone();
    for _ in 0..200 {
        longer.call("getppid", libc::SYS_getppid, &[]);
    }
    let work: Vec<_> =
        threads.iter().enumerate().map(|(i, t)| (t, if i % 3 == 1 { &longer } else { &batch })).collect();
    for (outcome, thread) in puppet.run_each(&work).into_iter().zip(threads) {
        assert_eq!(outcome?.result(tid), Ok(i64::from(thread.tid())));
    }
    for (thread, before) in threads.iter().zip(before) {
        assert_eq!(format!("{before:?}"), format!("{:?}", thread.registers().expect("registers")));
    }
    Ok(())
}

fn masks(victim: &Victim) -> Vec<String> {
    let of = |tid| std::fs::read_to_string(format!("/proc/{}/task/{tid}/status", victim.pid())).expect("status");
    victim.threads().into_iter().map(of).map(|t| t.split("SigBlk:").nth(1).unwrap()[..20].to_owned()).collect()
}

#[test]
fn a_visited_program_notices_nothing() {
    let victim = Victim::start("victim_watchful");
    let (maps, begin) = (victim.maps(), Instant::now());
    let mut visits = 0;
    while begin.elapsed() < Duration::from_secs(3) {
        visit(victim.pid()).expect("visit");
        visits += 1;
        std::thread::sleep(Duration::from_millis(1));
    }
    println!("{visits} visits");
    assert_eq!(maps, victim.maps());
    verdict(victim);
}

#[test]
fn ghosts_that_are_killed_harm_nobody() {
    let mut victim = Victim::start("victim_watchful");
    let (maps, before) = (victim.maps(), masks(&victim));
    let (begin, mut kills, mut random) = (Instant::now(), 0, 88_172_645_463_325_252_u64);
    while begin.elapsed() < Duration::from_secs(12) {
        // SAFETY: the child uses this library, which takes no lock that another thread of ours could hold now but malloc's,
        // and libc puts that right itself.
        let ghost = unsafe { libc::fork() };
        if ghost == 0 {
            loop {
                let done = if kills % 3 == 0 { visit(victim.pid()) } else { crowd(victim.pid()) };
                match done {
                    // A thread is still on its way home from the last ghost.
                    Ok(()) | Err(RemoteError::Step { errno: Errno(libc::EBUSY), .. }) => {}
                    // SAFETY: ends this process at once.
                    Err(_) => unsafe { libc::_exit(3) },
                }
            }
        }
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        std::thread::sleep(Duration::from_micros(random % 4000));
        let mut status = 0;
        // SAFETY: takes numbers, and a status that is ours; `ghost` is our child and not yet reaped.
        unsafe {
            libc::kill(ghost, libc::SIGKILL);
            assert_eq!(libc::waitpid(ghost, &raw mut status, 0), ghost);
        }
        assert!(libc::WIFSIGNALED(status), "a ghost failed before it was killed: {status:#x}");
        kills += 1;
        if let Some(end) = victim.child.try_wait().expect("wait") {
            println!("the victim ended after {kills} kills: {end}");
            victim.line("bad");
        }
    }
    println!("{kills} ghosts killed");
    // Those who were in the executor come home within two seconds.
    std::thread::sleep(Duration::from_millis(2500));
    assert_eq!(maps, victim.maps());
    // The sigsuspend thread changes its mask by itself.
    let differ = masks(&victim).into_iter().zip(before).filter(|(a, b)| a != b).count();
    assert!(differ <= 1, "{differ} masks differ");
    visit(victim.pid()).expect("a last visit");
    verdict(victim);
}

/// Lets a traced ghost make `calls` system calls and kills it before or after the next one; None when it has ended before that.
fn killed_after(ghost: i32, calls: usize) -> Option<()> {
    let mut status = 0;
    // SAFETY: takes numbers, and a status that is ours; `ghost` is our child and traced by us.
    unsafe {
        assert_eq!(libc::waitpid(ghost, &raw mut status, 0), ghost);
        assert!(libc::WIFSTOPPED(status), "the ghost is traced: {status:#x}");
        let options = libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_EXITKILL;
        libc::ptrace(libc::PTRACE_SETOPTIONS, ghost, 0, options);
        for _ in 0..calls {
            libc::ptrace(libc::PTRACE_SYSCALL, ghost, 0, 0);
            assert_eq!(libc::waitpid(ghost, &raw mut status, libc::__WALL), ghost);
            if libc::WIFEXITED(status) {
                assert!([0, 4].contains(&libc::WEXITSTATUS(status)), "a ghost failed: {status:#x}");
                return None;
            }
        }
        libc::kill(ghost, libc::SIGKILL);
        while libc::waitpid(ghost, &raw mut status, libc::__WALL) == ghost && !libc::WIFSIGNALED(status) {}
    }
    Some(())
}

/// Kills a ghost at the entry or the exit of its n-th system call, for every `STRIDE`-th n; GHOST_EVERY_CALL=1 leaves none
/// out from the first on.
#[test]
fn ghosts_that_are_killed_at_a_system_call_harm_nobody() {
    const STRIDE: usize = 41;
    let mut victim = Victim::start("victim_without_signals");
    let (maps, before) = (victim.maps(), masks(&victim));
    let every = std::env::var("GHOST_EVERY_CALL").ok().and_then(|n| n.parse().ok());
    let mut n = every.unwrap_or(1 + std::process::id() as usize % STRIDE);
    let mut kills = 0;
    loop {
        // SAFETY: as for the ghosts that are killed at random.
        let ghost = unsafe { libc::fork() };
        if ghost == 0 {
            // SAFETY: takes numbers only.
            unsafe {
                libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0);
                libc::raise(libc::SIGSTOP);
            }
            let end = match crowd(victim.pid()) {
                Ok(()) => 0,
                // A thread is still on its way home from the last ghost.
                Err(RemoteError::Step { errno: Errno(libc::EBUSY), .. }) => 4,
                Err(_) => 3,
            };
            // SAFETY: ends this process at once.
            unsafe { libc::_exit(end) };
        }
        let killed = killed_after(ghost, n);
        if let Some(end) = victim.child.try_wait().expect("wait") {
            println!("the victim ended after a kill at stop {n}: {end}");
            victim.line("bad");
        }
        if killed.is_some() {
            kills += 1;
            n += if every.is_some() { 1 } else { STRIDE };
        } else if victim.maps() == maps && crowd(victim.pid()).is_ok() {
            // It came to its end: n is larger than the number of its calls.
            break;
        }
        // Those in the sleep after their program come home within two seconds.
        let began = Instant::now();
        while victim.maps() != maps || crowd_is_busy(victim.pid()) {
            if let Some(end) = victim.child.try_wait().expect("wait") {
                println!("the victim ended after a kill at stop {n}: {end}");
                victim.line("bad");
            }
            assert!(
                began.elapsed() < Duration::from_secs(6),
                "after a kill at stop {n} something stays: {:?}, {:?}",
                victim.maps().iter().filter(|m| !maps.contains(m)).collect::<Vec<_>>(),
                victim
                    .threads()
                    .iter()
                    .map(|t| std::fs::read_to_string(format!("/proc/{t}/syscall")))
                    .collect::<Vec<_>>()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    println!("{kills} ghosts killed, the last at stop {n}");
    let differ = masks(&victim).into_iter().zip(before).filter(|(a, b)| a != b).count();
    assert!(differ <= 1, "{differ} masks differ");
    verdict(victim);
}

/// Whether a thread of the process is still on its way home.
fn crowd_is_busy(pid: i32) -> bool {
    let _held = stop_all(pid);
    matches!(crowded(pid), Err(RemoteError::Step { errno: Errno(libc::EBUSY), .. }))
}

static COUNTED: AtomicU64 = AtomicU64::new(0);
static SUM: AtomicU64 = AtomicU64::new(0);

extern "C" fn add(_: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    COUNTED.fetch_add(1, SeqCst);
    // SAFETY: the kernel passes a siginfo of SI_QUEUE, which has a value.
    SUM.fetch_add(unsafe { (*info).si_value().sival_ptr } as u64, SeqCst);
}

#[test]
#[ignore = "a victim, not a test"]
fn victim_counting() {
    // SAFETY: the handler only adds; the structure is zeroed and filled.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = add as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
        libc::sigaction(libc::SIGRTMIN(), &raw const action, std::ptr::null_mut());
    }
    for i in 0..2 {
        std::thread::spawn(move || {
            loop {
                if registers_hold(i) != 0 {
                    bad("registers differ");
                }
            }
        });
    }
    std::thread::spawn(|| {
        loop {
            std::thread::sleep(Duration::from_millis(3));
        }
    });
    println!("\nready");
    let mut want = String::new();
    std::io::stdin().read_line(&mut want).expect("a number");
    let want: u64 = want.trim().parse().expect("a number");
    let begin = Instant::now();
    while COUNTED.load(SeqCst) < want && begin.elapsed() < Duration::from_secs(10) {
        std::thread::sleep(Duration::from_millis(1));
    }
    if (COUNTED.load(SeqCst), SUM.load(SeqCst)) != (want, want * (want + 1) / 2) {
        bad(&format!("{} signals of {want}, sum {}", COUNTED.load(SeqCst), SUM.load(SeqCst)));
    }
    println!("\ndone {want}");
    std::process::exit(0);
}

#[test]
fn no_signal_is_lost_or_doubled() {
    use std::io::Write;
    use std::sync::{Arc, atomic::AtomicBool};
    let mut victim = Victim::start("victim_counting");
    let (pid, stop) = (victim.pid(), Arc::new(AtomicBool::new(false)));
    let sender = std::thread::spawn({
        let stop = Arc::clone(&stop);
        move || {
            let mut info = [0; ghost_sys::signal::SIGINFO_LEN];
            info[..4].copy_from_slice(&libc::SIGRTMIN().to_ne_bytes());
            info[8..12].copy_from_slice(&libc::SI_QUEUE.to_ne_bytes());
            let mut n = 0_u64;
            while !stop.load(SeqCst) {
                info[24..32].copy_from_slice(&(n + 1).to_ne_bytes());
                match ghost_sys::signal::queue(pid, &info) {
                    Ok(()) => n += 1,
                    // The queue is full for now.
                    Err(Errno(libc::EAGAIN)) => {}
                    Err(e) => panic!("{e}"),
                }
                std::thread::sleep(Duration::from_micros(100));
            }
            n
        }
    });
    let (begin, mut visits) = (Instant::now(), 0);
    while begin.elapsed() < Duration::from_secs(3) {
        visit(pid).expect("visit");
        visits += 1;
    }
    stop.store(true, SeqCst);
    let sent = sender.join().expect("sender");
    println!("{visits} visits, {sent} signals");
    writeln!(victim.child.stdin.as_mut().unwrap(), "{sent}").unwrap();
    verdict(victim);
}

#[test]
fn job_control_goes_on_during_visits() {
    let victim = Victim::start("victim_watchful");
    let (pid, begin, mut visits) = (victim.pid(), Instant::now(), 0);
    let sender = std::thread::spawn(move || {
        while begin.elapsed() < Duration::from_secs(3) {
            for signal in [libc::SIGSTOP, libc::SIGCONT] {
                // SAFETY: takes numbers only; the victim is ours and lives until this thread has been joined.
                assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
                std::thread::sleep(Duration::from_micros(700));
            }
        }
    });
    while begin.elapsed() < Duration::from_secs(3) {
        match visit(pid) {
            Ok(()) => visits += 1,
            // Stopped for longer than the wait inside lasts: it has gone home by itself, unharmed, which is what is tried here.
            Err(RemoteError::Step { errno: Errno(libc::ETIME | libc::EBUSY), .. }) => {}
            Err(e) => panic!("{e}"),
        }
    }
    sender.join().expect("sender");
    // A program that was stopped before a visit is stopped after it.
    let state = || {
        let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        text.split("State:").nth(1).unwrap().trim().chars().next().unwrap()
    };
    // SAFETY: takes numbers only; the victim is ours.
    unsafe { libc::kill(pid, libc::SIGSTOP) };
    let settled = Instant::now();
    while state() != 'T' {
        assert!(settled.elapsed() < Duration::from_secs(5), "the victim did not stop: {}", state());
    }
    visit(pid).expect("a visit to a stopped program");
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(state(), 'T');
    // SAFETY: as before.
    unsafe { libc::kill(pid, libc::SIGCONT) };
    println!("{visits} visits");
    verdict(victim);
}

/// Stops all threads and runs a batch of half a second in one of them.
fn long_visit(pid: i32) -> Result<(), RemoteError> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("tasks");
    let tids = tasks.map(|t| t.expect("task").file_name().to_str().unwrap().parse().unwrap());
    let threads: Vec<_> = tids.map(|tid| stop(ptrace::seize(tid, 0).expect("seize"))).collect();
    let mut puppet = Puppet::new(pid)?;
    let mut inside = puppet.enter(&threads[1])?;
    let mut batch = Batch::new();
    let half = batch.data(&[0_u64.to_ne_bytes(), 500_000_000_u64.to_ne_bytes()].concat());
    batch.call("pselect6", libc::SYS_pselect6, &[0.into(), 0.into(), 0.into(), 0.into(), half.into(), 0.into()]);
    inside.run(&batch).map(drop)
}

#[test]
fn a_ghost_that_is_too_slow_harms_nobody() {
    let victim = Victim::start("victim_watchful");
    let (maps, before) = (victim.maps(), masks(&victim));
    // SAFETY: as for the ghosts that are killed.
    let ghost = unsafe { libc::fork() };
    if ghost == 0 {
        let end = match long_visit(victim.pid()) {
            Err(RemoteError::Step { errno: Errno(libc::ETIME), .. }) => 7,
            Ok(()) => 0,
            Err(_) => 3,
        };
        // SAFETY: ends this process at once.
        unsafe { libc::_exit(end) };
    }
    let mut status = 0;
    std::thread::sleep(Duration::from_millis(200));
    // SAFETY: takes numbers only; `ghost` is our child and not yet reaped.
    unsafe { libc::kill(ghost, libc::SIGSTOP) };
    std::thread::sleep(Duration::from_millis(2900));
    // The batch has ended long ago, and the thread is home while all others are still stopped.
    assert_eq!(maps, victim.maps());
    // SAFETY: takes numbers, and a status that is ours.
    unsafe {
        libc::kill(ghost, libc::SIGCONT);
        assert_eq!(libc::waitpid(ghost, &raw mut status, 0), ghost);
    }
    assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 7, "it must notice: {status:#x}");
    let differ = masks(&victim).into_iter().zip(before).filter(|(a, b)| a != b).count();
    assert!(differ <= 1, "{differ} masks differ");
    visit(victim.pid()).expect("a last visit");
    verdict(victim);
}
