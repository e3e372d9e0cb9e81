//! Processes built from nothing: clean address spaces, chosen pids, threads, and that none outlives its maker.

#![allow(unsafe_code)]

use ghost_sys::Errno;
use ghost_sys::clone3::CloneArgs;
use ghost_sys::remote::{Arg, Batch, Call, Executor, ForkOptions, RemoteAddr, RemoteError, Stub, StubLayout};
use std::os::fd::AsRawFd;

const LAYOUT: StubLayout = StubLayout { base: RemoteAddr(0x7_0000_0000), data_len: 256 << 10 };

fn spawn() -> Stub {
    Stub::spawn(0, LAYOUT, &[]).expect("spawn")
}

fn call(stub: &mut Stub, nr: i64, args: &[Arg]) -> ghost_sys::Result<i64> {
    let mut batch = Batch::new();
    let slot = batch.try_call("call", nr, args);
    stub.run(&batch).expect("batch").result(slot)
}

fn status(pid: i32, field: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
    let line = text.lines().find(|l| l.starts_with(field)).unwrap_or_else(|| panic!("{field} in {text}"));
    line[field.len()..].trim().to_owned()
}

/// Runs `body` where pids are free: in a new pid namespace, whose first process is the stub that it gets.
fn in_new_pid_namespace(body: impl FnOnce(&mut Stub) + Send + 'static) {
    std::thread::spawn(move || {
        let options =
            ForkOptions { pids: &[1], flags: libc::CLONE_NEWPID as u64, exit_signal: 17, ..ForkOptions::default() };
        match Stub::spawn_with(LAYOUT, &[], &options) {
            Ok(mut init) => body(&mut init),
            Err(RemoteError::Step { errno: Errno(libc::EPERM), .. }) => {
                println!("skip: making a pid namespace needs CAP_SYS_ADMIN");
            }
            Err(e) => panic!("{e}"),
        }
    })
    .join()
    .expect("test thread");
}

#[test]
fn a_stub_has_nothing_but_its_executor() {
    let null = std::fs::File::open("/dev/null").unwrap();
    let mut stub = Stub::spawn(0, LAYOUT, &[null.as_raw_fd()]).expect("spawn");
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", stub.pid)).unwrap();
    for line in maps.lines() {
        let known = ["[vdso]", "[vvar]", "[vvar_vclock]", "[vsyscall]"].iter().any(|n| line.ends_with(n))
            || line.starts_with("700000000-700001000 r-xp")
            || line.starts_with("700001000-700041000 rw-p");
        assert!(known, "unexpected mapping: {line}");
    }
    assert!(maps.contains("[vdso]") && maps.lines().count() <= 6, "{maps}");
    let fds: Vec<_> = std::fs::read_dir(format!("/proc/{}/fd", stub.pid))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(fds, [null.as_raw_fd().to_string()]);
    for field in ["SigBlk:", "SigIgn:", "SigCgt:", "SigPnd:", "ShdPnd:"] {
        assert_eq!(status(stub.pid, field), "0000000000000000", "{field}");
    }
    assert_eq!(stub.thread.rseq(), Ok(None));
    assert_eq!(call(&mut stub, libc::SYS_getppid, &[]), Ok(i64::from(std::process::id() as i32)));
}

#[test]
fn a_dropped_stub_leaves_no_process() {
    let mut stub = spawn();
    let child = stub.fork(0, 0, libc::SIGCHLD as u32).expect("fork");
    let threads = stub.spawn_threads(&[(0, 0); 5]).expect("threads");
    let (pid, child_pid) = (stub.pid, child.pid);
    assert_eq!(status(pid, "Threads:"), "6");
    drop(child);
    assert_eq!(status(child_pid, "State:"), "Z (zombie)", "its parent, the stub, has not waited for it");
    drop(stub);
    drop(threads);
    // SAFETY: takes numbers only.
    assert_eq!(unsafe { libc::kill(pid, 0) }, -1, "the process is still there");
}

#[test]
fn results_feed_calls_and_a_failure_is_told() {
    let mut stub = spawn();
    let mut batch = Batch::new();
    let name = batch.c_string(b"x");
    let fd = batch.call("memfd_create", libc::SYS_memfd_create, &[name.into(), 0.into()]);
    batch.call("ftruncate", libc::SYS_ftruncate, &[fd.into(), 4096.into()]);
    let args = [Arg::from(0x10_0000), 4096.into(), 3.into(), (libc::MAP_SHARED | libc::MAP_FIXED_NOREPLACE).into()];
    let args = [args[0], args[1], args[2], args[3], fd.into(), 0.into()];
    let at = batch.call("mmap", libc::SYS_mmap, &args);
    batch.call("close of nothing", libc::SYS_close, &[99.into()]);
    batch.call("never", libc::SYS_exit_group, &[0.into()]);
    batch.finally("close", libc::SYS_close, &[fd.into()]);
    match stub.run(&batch) {
        Err(RemoteError::Call { index: 3, errno: Errno(libc::EBADF), .. }) => {}
        other => panic!("{other:?}"),
    }
    let _ = at;
    stub.memory().write(RemoteAddr(0x10_0000), b"here").expect("mapped");
    assert_eq!(call(&mut stub, libc::SYS_close, &[0.into()]), Err(Errno(libc::EBADF)));
}

#[test]
fn chosen_pids_and_threads_in_a_pid_namespace() {
    in_new_pid_namespace(|init| {
        assert_eq!(call(init, libc::SYS_getpid, &[]), Ok(1));
        let mut child = init.fork(77, 0, libc::SIGCHLD as u32).expect("fork");
        assert_eq!(call(&mut child, libc::SYS_getpid, &[]), Ok(77));
        assert_eq!(call(&mut child, libc::SYS_getppid, &[]), Ok(1));
        match init.fork(77, 0, 0) {
            Err(RemoteError::Call { errno: Errno(libc::EEXIST), .. }) => {}
            other => panic!("{other:?}"),
        }
        // A second thread, then a thousand; the room of 256 KiB holds only some of their batches at once.
        let wanted: Vec<_> = (0..1000).map(|i| (1000 + 3 * i, 0)).collect();
        let mut threads = child.spawn_threads(&wanted).expect("threads");
        let mut batch = Batch::new();
        let tid = batch.call("gettid", libc::SYS_gettid, &[]);
        let room = batch.room(1000);
        batch.store(tid, room);
        let mut work: Vec<_> = threads.iter_mut().map(|t| (t, &batch)).collect();
        for (outcome, (want, _)) in Stub::run_all(&mut work).into_iter().zip(&wanted) {
            let outcome = outcome.expect("batch");
            assert_eq!(outcome.result(tid), Ok(i64::from(*want)));
            assert_eq!(outcome.u32(room), *want as u32);
        }
    });
}

#[test]
fn a_thread_clears_its_tid_address() {
    let mut stub = spawn();
    let address = LAYOUT.base.0 + LAYOUT.len() - 4096;
    stub.memory().write(RemoteAddr(address), &7_u32.to_ne_bytes()).unwrap();
    let mut threads = stub.spawn_threads(&[(0, address)]).expect("thread");
    let mut batch = Batch::new();
    batch.call("exit", libc::SYS_exit, &[0.into()]);
    match threads[0].run(&batch) {
        Err(RemoteError::Died(0)) => {}
        other => panic!("{other:?}"),
    }
    let mut word = [1; 4];
    stub.memory().read(RemoteAddr(address), &mut word).unwrap();
    assert_eq!(word, [0; 4]);
    assert_eq!(status(stub.pid, "Threads:"), "1");
}

#[test]
fn sigtrap_may_be_ignored_and_blocked() {
    let mut stub = spawn();
    let mut batch = Batch::new();
    let mut action = [0_u8; 32];
    action[..8].copy_from_slice(&1_u64.to_ne_bytes());
    let action = batch.data(&action);
    batch.call("ignore SIGTRAP", libc::SYS_rt_sigaction, &[libc::SIGTRAP.into(), action.into(), 0.into(), 8.into()]);
    stub.run(&batch).expect("batch");
    let mut child = stub.fork(0, 0, 0).expect("fork");
    assert_eq!(call(&mut child, libc::SYS_getppid, &[]), Ok(i64::from(stub.pid)));
    child.thread.set_signal_mask(u64::MAX).unwrap();
    assert!(call(&mut child, libc::SYS_getppid, &[]).is_ok());
    for s in [&stub, &child] {
        assert_eq!(status(s.pid, "SigIgn:"), "0000000000000010");
    }
    assert_eq!(status(child.pid, "SigBlk:"), "fffffffffffbfeff", "all but SIGKILL and SIGSTOP");
}

#[test]
fn a_child_with_calls_of_its_own_becomes_a_zombie() {
    let mut stub = spawn();
    let mut batch = Batch::new();
    let args = CloneArgs { exit_signal: libc::SIGCHLD as u64, ..CloneArgs::default() };
    let room = batch.data(&args.bytes());
    let exit = Call::new("exit", libc::SYS_exit_group, &[9.into()]);
    let child = batch.fork_call("clone3", libc::SYS_clone3, &[room.into(), 88.into()], vec![exit]);
    let (info, flags) = (batch.room(128), libc::WEXITED | libc::WNOWAIT);
    batch.call("waitid", libc::SYS_waitid, &[libc::P_PID.into(), child.into(), info.into(), flags.into(), 0.into()]);
    let out = stub.run(&batch).expect("batch");
    let pid = out.result(child).unwrap() as i32;
    assert_eq!(status(pid, "State:"), "Z (zombie)");
    assert_eq!(out.u32(info.at(24)), 9, "exit status in siginfo");
}

#[test]
fn the_executor_can_be_unmapped_and_the_program_goes_on() {
    let mut stub = spawn();
    // A program that exits with 42: mov edi, 42; mov eax, 231; syscall.
    let code = [0xbf, 42, 0, 0, 0, 0xb8, 231, 0, 0, 0, 0x0f, 0x05];
    let mut batch = Batch::new();
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
    let args = [Arg::from(0x40_0000), 4096.into(), 5.into(), flags.into(), (-1).into(), 0.into()];
    batch.call("mmap", libc::SYS_mmap, &args);
    stub.run(&batch).expect("batch");
    stub.memory().write_forced(RemoteAddr(0x40_0000), &code).unwrap();
    let at = stub.find_syscall_instruction().unwrap().expect("the vDSO makes system calls");
    let gone = stub.call_at(at, libc::SYS_munmap, [LAYOUT.base.0, LAYOUT.len(), 0, 0, 0, 0]).expect("munmap");
    assert_eq!(gone, 0);
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", stub.pid)).unwrap();
    assert!(!maps.contains("70000"), "{maps}");
    let pid = stub.pid;
    let thread = stub.into_thread().expect("release");
    let mut regs = thread.registers().unwrap();
    regs.rip = 0x40_0000;
    regs.orig_rax = u64::MAX;
    thread.set_registers(&regs).unwrap();
    thread.detach().unwrap();
    let mut status = 0;
    // SAFETY: `status` is ours.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 42, "{status:#x}");
}

/// The next test's process: it lowers a limit that all tests of one process share.
#[test]
#[ignore = "run by children_that_cannot_be_held_are_ended"]
fn too_few_descriptors_for_the_children() {
    let mut stub = spawn();
    let limit = |soft: u64| {
        let mut now = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: a local that the kernel fills, and then reads.
        unsafe {
            assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut now), 0);
            let old = std::mem::replace(&mut now.rlim_cur, soft);
            assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const now), 0);
            old
        }
    };
    let free = std::fs::File::open("/dev/null").unwrap().as_raw_fd() as u64;
    for room in 0..6 {
        let old = limit(free + room);
        let many = stub.fork_many(&[(0, 0, libc::SIGCHLD as u32); 4]);
        let one = stub.fork(0, 0, libc::SIGCHLD as u32);
        limit(old);
        assert!(many.is_err(), "room for {room} descriptors was enough");
        let alive = one.iter().map(|s| s.pid).collect::<Vec<_>>();
        let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", stub.pid)).unwrap();
        for child in children.split_whitespace().map(|c| c.parse().unwrap()).filter(|c| !alive.contains(c)) {
            assert_eq!(status(child, "State:"), "Z (zombie)", "room for {room}: nobody holds it, and it lives");
        }
        drop(one);
        while call(&mut stub, libc::SYS_wait4, &[(-1).into(), 0.into(), 0.into(), 0.into()]).is_ok() {}
    }
}

#[test]
fn children_that_cannot_be_held_are_ended() {
    let mut alone = std::process::Command::new(std::env::current_exe().unwrap());
    let out = alone.args(["--exact", "too_few_descriptors_for_the_children", "--ignored"]).output().unwrap();
    assert!(out.status.success(), "{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
}
