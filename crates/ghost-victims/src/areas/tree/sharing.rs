//! What clone(2) lets processes share without making them threads, and exit signals of its own.
//!
//! A child that shares memory also shares libc's variables: it runs a few bare calls and nothing of libc or std.
use crate::sys::sleep_ms;
use crate::{Ctx, Flag, Victim, call, flagged, must, proc, raw, victim};
use std::arch::asm;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering::SeqCst};

/// Set by the parent: the child shall act.
static GO: AtomicU32 = AtomicU32::new(0);
/// Counted up by the child while it waits.
static BEATS: AtomicU32 = AtomicU32::new(0);
/// What the child found.
static FOUND: AtomicI32 = AtomicI32::new(0);
static CAUGHT: AtomicI32 = AtomicI32::new(0);

pub(super) const VICTIMS: &[Victim] = &[
    victim("clone-vm", |v| {
        shared(v, libc::CLONE_VM, |v| v.eq("the child wrote into our memory", 4242, FOUND.load(SeqCst)))
    }),
    victim("clone-vm-fs", |v| {
        shared(v, libc::CLONE_VM | libc::CLONE_FS, |v| {
            v.eq("umask that the child set", 0o123, call!(umask(0o22)) as i32)
        });
    }),
    victim("clone-vm-files", |v| {
        must!(fcntl(must!(open(c"/dev/null".as_ptr(), libc::O_RDONLY)), libc::F_DUPFD, 77));
        shared(v, libc::CLONE_VM | libc::CLONE_FILES, |v| {
            v.eq("fd that the child closed", -1, call!(fcntl(77, libc::F_GETFD)));
        });
    }),
    victim("clone-vm-sighand", |v| {
        shared(v, libc::CLONE_VM | libc::CLONE_SIGHAND, |v| {
            // SAFETY: a plain C structure.
            let mut act: libc::sigaction = unsafe { crate::sys::zeroed() };
            must!(sigaction(libc::SIGUSR2, std::ptr::null(), &mut act));
            v.eq("action that the child set", libc::SIG_IGN, act.sa_sigaction);
        });
    }),
    victim("clone-vm-all", |v| {
        let all = libc::CLONE_VM | libc::CLONE_FS | libc::CLONE_FILES | libc::CLONE_SIGHAND;
        shared(v, all, |v| {
            v.eq("umask that the child set", 0o123, call!(umask(0o22)) as i32);
            v.eq("the child wrote into our memory", 4242, FOUND.load(SeqCst));
        });
    }),
    victim("clone-files", |v| {
        forked(v, libc::CLONE_FILES, |c| {
            must!(dup2(must!(open(c"/dev/zero".as_ptr(), libc::O_RDONLY)), 99));
            c.check("fd 99 is open in the child", call!(fcntl(99, libc::F_GETFD)) >= 0);
        });
        v.wait();
        v.join();
        v.eq("link of the fd that the child opened", "/dev/zero", proc::link("/proc/self/fd/99").as_str());
    }),
    victim("clone-fs", |v| {
        let dir = v.path("there");
        std::fs::create_dir(&dir).unwrap();
        let there = dir.clone();
        forked(v, libc::CLONE_FS, move |_| {
            std::env::set_current_dir(&there).unwrap();
            call!(umask(0o111));
        });
        v.wait();
        v.join();
        v.eq("directory that the child went to", dir, proc::link("/proc/self/cwd"));
        v.eq("umask that the child set", 0o111, call!(umask(0)));
    }),
    victim("clone-apart", |v| {
        // The same without sharing: nothing the child does shows in the parent.
        forked(v, 0, |_| {
            std::env::set_current_dir("/").unwrap();
            call!(umask(0o111));
            must!(dup2(must!(open(c"/dev/zero".as_ptr(), libc::O_RDONLY)), 99));
        });
        must!(umask(0o070));
        v.keep("cwd", || proc::link("/proc/self/cwd"));
        v.wait();
        v.join();
        v.eq("umask", 0o070, call!(umask(0)));
        v.eq("fd 99", -1, call!(fcntl(99, libc::F_GETFD)));
    }),
    flagged("exit-signal-usr1", &[Flag::NoStop], |v| exit_signal(v, libc::SIGUSR1)),
    flagged("exit-signal-none", &[Flag::NoStop], |v| exit_signal(v, 0)),
];

/// A child made by clone(2) with these flags, running as a forked one does.
fn forked(v: &mut Ctx, flags: i32, then: impl FnOnce(&mut Ctx)) {
    let pid = raw!(libc::SYS_clone, flags | libc::SIGCHLD, 0, 0, 0, 0).unwrap();
    if pid == 0 {
        v.be_child(|c| {
            c.wait();
            then(c);
        });
    }
    v.adopt(pid as i32);
}

fn exit_signal(v: &mut Ctx, signal: i32) {
    extern "C" fn on_signal(sig: i32) {
        CAUGHT.store(sig, SeqCst);
    }
    must!(signal(libc::SIGUSR1, on_signal as *const () as usize));
    must!(signal(libc::SIGCHLD, on_signal as *const () as usize));
    let pid = raw!(libc::SYS_clone, signal, 0, 0, 0, 0).unwrap();
    if pid == 0 {
        v.be_child(|c| c.wait());
    }
    v.adopt(pid as i32);
    v.keep("exit_signal in stat", || proc::children().first().map(|p| proc::stat(*p as u32, 38)));
    v.need("exit_signal is in stat", proc::stat(pid as u32, 38) == signal.to_string());
    v.wait();
    if signal != 0 {
        v.eventually("the exit signal comes", 5000, || CAUGHT.load(SeqCst) == signal);
    }
    let mut status = 0;
    v.eq("wait without __WALL", -1, call!(waitpid(-1, &mut status, 0)));
    v.join();
    sleep_ms(20);
    v.eq("the signal at the child's end", signal, CAUGHT.load(SeqCst));
}

/// A child that shares memory and more; when told, it acts on all that can be shared.
fn shared(v: &mut Ctx, flags: i32, verify: impl FnOnce(&mut Ctx)) {
    let stack = Box::leak(vec![0u8; 64 << 10].into_boxed_slice());
    // SAFETY: `bare` uses this stack alone and never returns.
    let child = unsafe {
        libc::clone(bare, stack.as_mut_ptr().add(64 << 10).cast(), flags | libc::SIGCHLD, std::ptr::null_mut())
    };
    assert!(child > 0, "clone: {}", crate::sys::strerror(crate::sys::errno()));
    v.until("the child beats", || BEATS.load(SeqCst) > 2);
    v.wait();
    let beats = BEATS.load(SeqCst);
    v.eventually("the child still beats in our memory", 5000, || BEATS.load(SeqCst) > beats + 2);
    GO.store(1, SeqCst);
    let mut status = 0;
    while call!(waitpid(-1, &mut status, 0)) == -1 && crate::sys::errno() == libc::EINTR {}
    v.eq("the child's status", 21 << 8, status);
    verify(v);
}

extern "C" fn bare(_: *mut libc::c_void) -> i32 {
    let t = [0i64, 3_000_000];
    while GO.load(SeqCst) == 0 {
        BEATS.fetch_add(1, SeqCst);
        bare_call(libc::SYS_nanosleep, [t.as_ptr() as i64, 0, 0, 0]);
    }
    FOUND.store(4242, SeqCst);
    bare_call(libc::SYS_umask, [0o123, 0, 0, 0]);
    bare_call(libc::SYS_close, [77, 0, 0, 0]);
    let ignore = [libc::SIG_IGN as i64, 0, 0, 0];
    bare_call(libc::SYS_rt_sigaction, [libc::SIGUSR2.into(), ignore.as_ptr() as i64, 0, 8]);
    bare_call(libc::SYS_exit, [21, 0, 0, 0]);
    0
}

/// A system call that touches nothing of libc, not even errno.
fn bare_call(nr: i64, a: [i64; 4]) -> i64 {
    let mut r = nr;
    // SAFETY: the kernel's convention; the arguments are numbers or addresses of live variables of `bare`.
    unsafe {
        asm!("syscall", inlateout("rax") r, in("rdi") a[0], in("rsi") a[1], in("rdx") a[2], in("r10") a[3], out("rcx") _, out("r11") _);
    }
    r
}
