//! seccomp(2): strict mode, filters, several of them, different ones in threads.
use crate::{Ctx, Victim, call, must, proc, raw, victim};
use std::sync::atomic::{AtomicI64, Ordering::SeqCst};

const SET_MODE_STRICT: i64 = 0;
const SET_MODE_FILTER: i64 = 1;
const FLAG_TSYNC: i64 = 1;
const FLAG_SPEC_ALLOW: i64 = 4;
const RET_ALLOW: u32 = 0x7fff_0000;
const RET_ERRNO: u32 = 0x0005_0000;
const RET_KILL_PROCESS: u32 = 0x8000_0000;
const RET_TRAP: u32 = 0x0003_0000;

pub(super) const VICTIMS: &[Victim] = &[
    victim("seccomp-filter", |v| {
        filter(libc::SYS_getpgid, RET_ERRNO | 18, 0);
        keep_modes(v);
        v.wait();
        v.eq("getpgid under the filter", Err(18), raw!(libc::SYS_getpgid, 0));
        v.check("getsid is allowed", raw!(libc::SYS_getsid, 0).is_ok());
    }),
    victim("seccomp-kill", |v| {
        v.spawn(|child| {
            filter(libc::SYS_getpgid, RET_KILL_PROCESS, FLAG_SPEC_ALLOW);
            keep_modes(child);
            child.wait();
            call!(syscall(libc::SYS_getpgid, 0));
            child.bad("getpgid under the filter", "to kill the process", "that it returns");
        });
        v.wait();
        let mut status = 0;
        let pid = must!(waitpid(-1, &mut status, 0));
        v.eq("signal that ended the child", libc::SIGSYS, libc::WTERMSIG(status));
        v.joined(pid, 0);
    }),
    victim("seccomp-several", |v| {
        // The strictest answer of all counts; the order is that of installation.
        filter(libc::SYS_getpgid, RET_ERRNO | 18, 0);
        filter(libc::SYS_getpgid, RET_ERRNO | 22, FLAG_SPEC_ALLOW);
        filter(libc::SYS_getsid, RET_ERRNO | 33, 0);
        filter(libc::SYS_getpriority, RET_ERRNO | 44, 0);
        keep_modes(v);
        v.keep("getpgid, where two filters answer", || raw!(libc::SYS_getpgid, 0));
        v.wait();
        v.eq("getsid under the third filter", Err(33), raw!(libc::SYS_getsid, 0));
        v.eq("getpriority under the fourth filter", Err(44), raw!(libc::SYS_getpriority, 0, 0));
    }),
    victim("seccomp-threads", |v| {
        // A common filter first, then one more in each odd thread.
        filter(libc::SYS_getpgid, RET_ERRNO | 18, 0);
        let threads = v.team(4, |i, t| {
            if i % 2 == 1 {
                filter(libc::SYS_getsid, RET_ERRNO | i as u32, 0);
            }
            keep_modes(t);
            t.wait();
            t.eq("getpgid under the common filter", Err(18), raw!(libc::SYS_getpgid, 0));
            if i % 2 == 1 {
                t.eq("getsid under the own filter", Err(i as i32), raw!(libc::SYS_getsid, 0));
            } else {
                t.check("getsid is allowed", raw!(libc::SYS_getsid, 0).is_ok());
            }
        });
        v.wait();
        v.gather(threads);
    }),
    victim("seccomp-tsync", |v| {
        let threads = v.team(3, |_, t| {
            t.ready();
            while raw!(libc::SYS_getpgid, 0) != Err(18) && !t.gone() {
                t.pause();
            }
            t.await_go();
            t.eq("getpgid under the filter of another thread", Err(18), raw!(libc::SYS_getpgid, 0));
            t.eq("Seccomp_filters", "1", proc::thread_status("Seccomp_filters").as_str());
        });
        filter(libc::SYS_getpgid, RET_ERRNO | 18, FLAG_TSYNC);
        v.wait();
        v.gather(threads);
    }),
    victim("seccomp-inherited", |v| {
        filter(libc::SYS_getpgid, RET_ERRNO | 18, 0);
        v.spawn(|child| {
            keep_modes(child);
            child.wait();
            child.eq("getpgid under the inherited filter", Err(18), raw!(libc::SYS_getpgid, 0));
        });
        v.wait();
    }),
    victim("seccomp-trap", |v| {
        static TRAPPED: AtomicI64 = AtomicI64::new(0);
        extern "C" fn on_sigsys(_: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
            // si_syscall lies 24 bytes into the structure (sigaction(2)).
            // SAFETY: the kernel gives a whole siginfo_t.
            TRAPPED.store(unsafe { info.cast::<i32>().add(6).read() }.into(), SeqCst);
        }
        // SAFETY: a plain C structure.
        let mut act: libc::sigaction = unsafe { crate::sys::zeroed() };
        act.sa_sigaction = on_sigsys as *const () as usize;
        act.sa_flags = libc::SA_SIGINFO;
        must!(sigaction(libc::SIGSYS, &act, std::ptr::null_mut()));
        filter(libc::SYS_getpgid, RET_TRAP | 5, 0);
        keep_modes(v);
        v.wait();
        call!(syscall(libc::SYS_getpgid, 0));
        v.eq("the system call that SIGSYS names", libc::SYS_getpgid, TRAPPED.load(SeqCst));
    }),
    victim("seccomp-strict", |v| {
        // A strict process can read, write and exit, nothing else; the pipe is its word to go.
        let mut word = [0; 2];
        let mut answer = [0; 2];
        must!(pipe(word.as_mut_ptr()));
        must!(pipe(answer.as_mut_ptr()));
        let child = must!(fork());
        if child == 0 {
            if raw!(libc::SYS_seccomp, SET_MODE_STRICT, 0, 0).is_err() {
                call!(_exit(9));
            }
            let mut b = 0u8;
            call!(read(word[0], (&raw mut b).cast(), 1));
            b += 1;
            call!(write(answer[1], (&raw const b).cast(), 1));
            // Not allowed, and its end.
            call!(syscall(libc::SYS_getppid));
            call!(syscall(libc::SYS_exit, 1));
        }
        v.until("the child is strict", || proc::field_of(&format!("/proc/{child}/status"), "Seccomp") == "1");
        v.wait();
        must!(write(word[1], [7u8].as_ptr().cast(), 1));
        let mut b = 0u8;
        must!(read(answer[0], (&raw mut b).cast(), 1));
        v.eq("the strict child's answer", 8, b);
        let mut status = 0;
        must!(waitpid(-1, &mut status, 0));
        v.eq("signal at its first call that is not allowed", libc::SIGKILL, libc::WTERMSIG(status));
    }),
];

/// Installs a filter for this thread: `answer` to system call `nr`, and all others allowed.
fn filter(nr: i64, answer: u32, flags: i64) {
    let op = |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter { code: code as u16, jt, jf, k };
    let code = [
        op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, nr as u32),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, answer),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: code.len() as u16, filter: code.as_ptr().cast_mut() };
    must!(prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    raw!(libc::SYS_seccomp, SET_MODE_FILTER, flags, &program as *const libc::sock_fprog).unwrap();
}

fn keep_modes(v: &mut Ctx) {
    v.keep("Seccomp", || proc::thread_status("Seccomp"));
    v.keep("Seccomp_filters", || proc::thread_status("Seccomp_filters"));
}
