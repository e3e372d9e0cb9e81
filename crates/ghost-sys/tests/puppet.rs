//! Batches in living programs: results, epilogues, and that nothing of it is left behind.

mod common;

use common::Victim;
use ghost_sys::Errno;
use ghost_sys::ptrace;
use ghost_sys::remote::{Arg, Batch, Executor, Puppet, RemoteError};

fn same_registers(a: &ptrace::Registers, b: &ptrace::Registers) {
    assert_eq!(format!("{a:?}"), format!("{b:?}"));
}

#[test]
#[ignore = "a victim, not a test"]
fn victim_idle() {
    for _ in 0..3 {
        std::thread::spawn(|| std::thread::sleep(std::time::Duration::from_secs(600)));
    }
    println!("\nready");
    std::thread::sleep(std::time::Duration::from_secs(600));
}

#[test]
fn results_feed_later_calls_and_nothing_is_left_behind() {
    let victim = Victim::start("victim_idle");
    let threads = victim.freeze();
    let before = victim.maps();
    let mut puppet = Puppet::new(victim.pid()).expect("puppet");
    for thread in &threads {
        let registers = thread.registers().unwrap();
        let (mask, fpu) = (thread.signal_mask().unwrap(), thread.xstate().unwrap());
        let mut inside = puppet.enter(thread).expect("enter");
        for round in 0..3 {
            let mut batch = Batch::new();
            let pid = batch.call("getpid", libc::SYS_getpid, &[]);
            let tid = batch.call("gettid", libc::SYS_gettid, &[]);
            let area = batch.call(
                "mmap",
                libc::SYS_mmap,
                &[0.into(), (8192_u64).into(), 3.into(), 0x22.into(), (-1).into(), 0.into()],
            );
            let text = batch.c_string(b"ghost-test");
            let fd = batch.call("memfd_create", libc::SYS_memfd_create, &[text.into(), 0.into()]);
            let word = batch.data(b"hello, remote");
            let written = batch.call("write", libc::SYS_write, &[fd.into(), word.into(), 13.into()]);
            let room = batch.room(4 << round);
            let read = batch.call("pread", libc::SYS_pread64, &[fd.into(), room.into(), 4.into(), 7.into()]);
            let fail = batch.try_call("close of nothing", libc::SYS_close, &[(-1).into()]);
            let stored = batch.room(4);
            batch.store(fd, stored);
            let after = batch.call("dup", libc::SYS_dup, &[fd.into()]);
            batch.finally("close", libc::SYS_close, &[fd.into()]);
            batch.finally("close", libc::SYS_close, &[after.into()]);
            batch.finally("munmap", libc::SYS_munmap, &[area.into(), 8192.into()]);
            // Enough data that the scratch area must grow in the last round.
            let filler = batch.room(if round == 2 { 300_000 } else { 10 });
            let out = inside.run(&batch).expect("batch");
            assert_eq!(out.result(pid), Ok(i64::from(victim.pid())));
            assert_eq!(out.result(tid), Ok(i64::from(thread.tid())));
            assert_eq!(out.result(written), Ok(13));
            assert_eq!(out.result(read), Ok(4));
            assert_eq!(&out.bytes(room)[..4], b"remo");
            assert_eq!(out.result(fail), Err(Errno(libc::EBADF)));
            assert_eq!(i64::from(out.u32(stored)), out.result(fd).unwrap());
            assert!(out.bytes(filler).iter().all(|b| *b == 0));
        }
        inside.leave().expect("leave");
        same_registers(&registers, &thread.registers().unwrap());
        assert_eq!(mask, thread.signal_mask().unwrap());
        assert_eq!(fpu, thread.xstate().unwrap());
    }
    puppet.finish(&threads[0]).expect("finish");
    assert_eq!(before, victim.maps());
}

#[test]
fn a_failure_ends_the_batch_but_not_its_epilogue() {
    let victim = Victim::start("victim_idle");
    let fds = || std::fs::read_dir(format!("/proc/{}/fd", victim.pid())).unwrap().count();
    let threads = victim.freeze();
    let (open, maps) = (fds(), victim.maps());
    let mut puppet = Puppet::new(victim.pid()).expect("puppet");
    let mut inside = puppet.enter(&threads[1]).expect("enter");
    let mut batch = Batch::new();
    let fd = batch.call("dup", libc::SYS_dup, &[0.into()]);
    let room = batch.room(4);
    batch.store(fd, room);
    batch.call("chdir to nowhere", libc::SYS_chdir, &[16.into()]);
    let never = batch.call("dup again", libc::SYS_dup, &[0.into()]);
    batch.finally("close", libc::SYS_close, &[fd.into()]);
    batch.finally("close what never was", libc::SYS_close, &[never.into()]);
    match inside.run(&batch) {
        Err(RemoteError::Call { index: 1, label, errno: Errno(libc::EFAULT) }) => assert_eq!(label, "chdir to nowhere"),
        other => panic!("{other:?}"),
    }
    drop(inside);
    drop(puppet);
    assert_eq!(fds(), open);
    assert_eq!(maps, victim.maps());
}

#[test]
fn all_signal_actions_in_one_batch() {
    let victim = Victim::start("victim_idle");
    let threads = victim.freeze();
    let mut puppet = Puppet::new(victim.pid()).expect("puppet");
    let mut inside = puppet.enter(&threads[0]).expect("enter");
    let mut batch = Batch::new();
    let asked: Vec<_> = (1..=64_i32)
        .map(|s| {
            let room = batch.room(32);
            let args = [Arg::from(s), 0.into(), room.into(), 8.into()];
            (s, room, batch.call(format!("rt_sigaction of signal {s}"), libc::SYS_rt_sigaction, &args))
        })
        .collect();
    let stack = batch.room(24);
    batch.call("sigaltstack", libc::SYS_sigaltstack, &[0.into(), stack.into()]);
    let out = inside.run(&batch).expect("batch");
    let status = std::fs::read_to_string(format!("/proc/{}/status", victim.pid())).unwrap();
    let set = |name: &str| {
        u64::from_str_radix(status.split(name).nth(1).unwrap().split_whitespace().next().unwrap(), 16).unwrap()
    };
    let (ignored, caught) = (set("SigIgn:"), set("SigCgt:"));
    // The Rust runtime handles SIGSEGV and ignores SIGPIPE.
    assert!(caught & 1 << (libc::SIGSEGV - 1) != 0 && ignored & 1 << (libc::SIGPIPE - 1) != 0);
    for (signal, room, slot) in asked {
        assert_eq!(out.result(slot), Ok(0));
        let handler = out.u64(room);
        assert_eq!(handler == 1, ignored & 1 << (signal - 1) != 0, "signal {signal}: {handler:#x}");
        assert_eq!(handler > 1, caught & 1 << (signal - 1) != 0, "signal {signal}: {handler:#x}");
    }
    assert!(out.u64(stack) != 0 && out.u64(stack.at(16)) >= 2048);
}
