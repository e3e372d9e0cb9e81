//! Signals that were sent and not yet taken: to the process, to a thread, queued in order, of the kernel.
use super::{Taken, block, handle, queue, take};
use crate::{Ctx, Victim, call, must, proc, raw, victim};
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

const SI_USER: i32 = 0;
const SI_QUEUE: i32 = -1;
const SI_TKILL: i32 = -6;

pub(super) const VICTIMS: &[Victim] = &[
    victim("pending-process", |v| {
        block(&[libc::SIGUSR1, libc::SIGTERM]);
        let (pid, uid) = (call!(getpid()), call!(getuid()));
        must!(kill(pid, libc::SIGUSR1));
        must!(kill(pid, libc::SIGTERM));
        keep(v);
        v.wait();
        for signo in [libc::SIGUSR1, libc::SIGTERM] {
            v.eq("signal", Some(Taken { signo, code: SI_USER, value: 0, pid, uid }), taken(signo, pid));
        }
        none_left(v);
    }),
    victim("pending-thread", |v| {
        let threads = v.team(3, |i, t| {
            block(&[libc::SIGUSR1, libc::SIGUSR2]);
            let (pid, uid, tid) = (call!(getpid()), call!(getuid()), raw!(libc::SYS_gettid).unwrap());
            if i > 0 {
                raw!(libc::SYS_tgkill, pid, tid, libc::SIGUSR2).unwrap();
            }
            keep(t);
            t.wait();
            let expected = (i > 0).then_some(Taken { signo: libc::SIGUSR2, code: SI_TKILL, value: 0, pid, uid });
            t.eq("signal", expected, taken(libc::SIGUSR2, pid));
        });
        v.wait();
        v.eq("what the first thread may take", None, take(&[libc::SIGUSR2]));
        v.gather(threads);
    }),
    victim("pending-values", |v| {
        block(&[libc::SIGUSR1]);
        queue(libc::SIGUSR1, 0xdead_beef_0bad_cafe, false);
        // A second one of an ordinary signal is dropped by the kernel.
        queue(libc::SIGUSR1, 2, false);
        keep(v);
        v.wait();
        let expected = Taken { signo: libc::SIGUSR1, code: SI_QUEUE, value: 0xdead_beef_0bad_cafe, pid: 4321, uid: 99 };
        v.eq("signal", Some(expected), take(&[libc::SIGUSR1]));
        none_left(v);
    }),
    victim("pending-realtime", |v| {
        // Lower numbers first; of one number in the order of sending.
        let (a, b) = (libc::SIGRTMIN() + 1, libc::SIGRTMIN() + 2);
        block(&[a, b]);
        for value in 0..20 {
            queue(if value % 3 == 0 { a } else { b }, value, false);
        }
        keep(v);
        v.wait();
        let order =
            (0..20).filter(|n| n % 3 == 0).map(|n| (a, n)).chain((0..20).filter(|n| n % 3 != 0).map(|n| (b, n)));
        for (signo, value) in order {
            v.eq("signal", Some(Taken { signo, code: SI_QUEUE, value, pid: 4321, uid: 99 }), take(&[a, b]));
        }
        none_left(v);
    }),
    victim("pending-fault", |v| {
        // What the kernel sends for a fault is taken before anything else, also while it is blocked (`dequeue_synchronous_signal`).
        let faults = [libc::SIGSEGV, libc::SIGTRAP, libc::SIGFPE];
        block(&faults);
        let (pid, tid) = (call!(getpid()), raw!(libc::SYS_gettid).unwrap());
        for (signo, code) in faults.into_iter().zip([2, 1, 7]) {
            let info = [signo, 0, code, 0, 0x1234_5678, 0, 0, 0];
            let raw: Vec<u8> = info.iter().flat_map(|w: &i32| w.to_ne_bytes()).chain([0; 96]).collect();
            raw!(libc::SYS_rt_tgsigqueueinfo, pid, tid, signo, raw.as_ptr()).unwrap();
        }
        keep(v);
        v.wait();
        for (signo, code) in [(libc::SIGTRAP, 1), (libc::SIGFPE, 7), (libc::SIGSEGV, 2)] {
            let got = take(&[signo]);
            v.eq("signal and code", Some((signo, code, 0x1234_5678)), got.map(|t| (t.signo, t.code, t.pid)));
        }
        none_left(v);
    }),
    victim("pending-both", |v| {
        // The thread's own are taken before the process's.
        let sig = libc::SIGRTMIN() + 3;
        block(&[sig]);
        for value in 0..5 {
            queue(sig, 100 + value, false);
            queue(sig, 200 + value, true);
        }
        keep(v);
        v.wait();
        for value in (200..205).chain(100..105) {
            v.eq("value", Some(value), take(&[sig]).map(|t| t.value));
        }
        none_left(v);
    }),
    victim("pending-many", |v| {
        let sig = libc::SIGRTMIN() + 4;
        block(&[sig]);
        for value in 0..1000 {
            queue(sig, value * value, false);
        }
        v.wait();
        let values: Vec<u64> = std::iter::from_fn(|| take(&[sig])).map(|t| t.value).collect();
        v.eq("number of signals", 1000, values.len());
        v.check("their values in order", values.iter().enumerate().all(|(i, n)| *n == (i * i) as u64));
    }),
    victim("pending-handler", |v| {
        // Taken by handlers as soon as they are let in.
        static SEEN: [AtomicU32; 65] = [const { AtomicU32::new(0) }; 65];
        extern "C" fn on_signal(sig: i32) {
            SEEN[sig as usize].fetch_add(1, SeqCst);
        }
        let all = [libc::SIGUSR1, libc::SIGWINCH, libc::SIGRTMIN() + 6];
        block(&all);
        for sig in all {
            handle(sig, on_signal as *const () as usize, 0);
            for _ in 0..3 {
                must!(kill(call!(getpid()), sig));
            }
        }
        v.wait();
        v.check("none came before its time", all.iter().all(|s| SEEN[*s as usize].load(SeqCst) == 0));
        block(&[]);
        let counts: Vec<u32> = all.iter().map(|s| SEEN[*s as usize].load(SeqCst)).collect();
        v.eq("calls: ordinary ones once, real-time ones each", vec![1, 1, 3], counts);
    }),
    victim("pending-ignored", |v| {
        // Blocked and ignored: kept, since the program may change its mind.
        static SEEN: AtomicU32 = AtomicU32::new(0);
        extern "C" fn on_signal(_: i32) {
            SEEN.fetch_add(1, SeqCst);
        }
        block(&[libc::SIGUSR1]);
        must!(signal(libc::SIGUSR1, libc::SIG_IGN));
        must!(kill(call!(getpid()), libc::SIGUSR1));
        keep(v);
        v.need("it is kept", proc::status("ShdPnd") != "0000000000000000");
        v.wait();
        // Unlike setting SIG_IGN, setting a handler drops nothing.
        handle(libc::SIGUSR1, on_signal as *const () as usize, 0);
        block(&[]);
        v.eq("calls", 1, SEEN.load(SeqCst));
    }),
    victim("pending-child", |v| {
        block(&[libc::SIGCHLD]);
        let child = must!(fork());
        if child == 0 {
            call!(_exit(7));
        }
        v.until("the child is dead", || proc::state(child) == "Z");
        keep(v);
        v.wait();
        let got = take(&[libc::SIGCHLD]);
        v.eq("code of SIGCHLD", Some(libc::CLD_EXITED), got.map(|t| t.code));
        // After a duplication the dead child has another pid; the siginfo may hold either.
        let now = proc::children().first().copied();
        v.check("pid of SIGCHLD is the child's", got.is_some_and(|t| t.pid == child || Some(t.pid) == now));
        // si_status lies where a value's first half does.
        v.eq("status of SIGCHLD", Some(7), got.map(|t| t.value as u32 as i32));
        let mut status = 0;
        must!(waitpid(-1, &mut status, 0));
        v.eq("the child's status", 7 << 8, status);
        none_left(v);
    }),
];

/// Keeps the pending sets of this thread and of the process.
fn keep(v: &mut Ctx) {
    v.keep("SigPnd", || proc::thread_status("SigPnd"));
    v.keep("ShdPnd", || proc::thread_status("ShdPnd"));
}

/// Takes one signal that this process sent itself when it was `sender`.
///
/// What is no value is left out. After a duplication the process has another pid; the siginfo may hold either.
fn taken(signo: i32, sender: i32) -> Option<Taken> {
    take(&[signo]).map(|t| Taken { value: 0, pid: if t.pid == call!(getpid()) { sender } else { t.pid }, ..t })
}

fn none_left(v: &mut Ctx) {
    v.eq("SigPnd in the end", "0000000000000000", proc::thread_status("SigPnd").as_str());
    v.eq("ShdPnd in the end", "0000000000000000", proc::thread_status("ShdPnd").as_str());
}
