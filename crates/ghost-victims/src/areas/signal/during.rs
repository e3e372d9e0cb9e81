//! Signals that come while something happens, and what they interrupt afterwards.
use super::{block, blocked, handle, mask};
use crate::inside::enter;
use crate::sys::{ms, sleep_ms};
use crate::{Flag, Victim, call, flagged, must, raw, victim};
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering::SeqCst};

static CAUGHT: AtomicU32 = AtomicU32::new(0);

extern "C" fn count(_: i32) {
    CAUGHT.fetch_add(1, SeqCst);
}

pub(super) const VICTIMS: &[Victim] = &[
    victim("sigsuspend", |v| {
        handle(libc::SIGUSR1, count as *const () as usize, 0);
        block(&[libc::SIGUSR1, libc::SIGUSR2]);
        let sleeper = enter(v, "suspended", &[libc::SYS_rt_sigsuspend], || {
            let during = mask(&[libc::SIGHUP]);
            (raw!(libc::SYS_rt_sigsuspend, &raw const during, 8), blocked())
        });
        v.wait();
        sleep_ms(20);
        v.check("it is still suspended", !sleeper.is_back());
        v.check("the signal is sent", sleeper.signal(libc::SIGUSR1).is_ok());
        let before = mask(&[libc::SIGUSR1, libc::SIGUSR2]);
        v.eq("sigsuspend, and the mask afterwards", Ok((Err(libc::EINTR), before)), sleeper.end(5000));
        v.eq("calls of the handler", 1, CAUGHT.load(SeqCst));
    }),
    victim("sigwait", |v| {
        block(&[libc::SIGUSR1]);
        let sleeper = enter(v, "waiting", &[libc::SYS_rt_sigtimedwait], || {
            let m = mask(&[libc::SIGUSR1]);
            // EINTR is what the kernel says here to any stop; programs know it.
            loop {
                match raw!(libc::SYS_rt_sigtimedwait, &raw const m, 0, 0, 8) {
                    Err(libc::EINTR) => {}
                    other => return other,
                }
            }
        });
        v.wait();
        v.check("the signal is sent", sleeper.signal(libc::SIGUSR1).is_ok());
        v.eq("sigtimedwait", Ok(Ok(i64::from(libc::SIGUSR1))), sleeper.end(5000));
    }),
    victim("ppoll-mask", |v| {
        // The mask of the call holds during the call only.
        handle(libc::SIGUSR1, count as *const () as usize, 0);
        block(&[libc::SIGUSR1, libc::SIGUSR2]);
        let sleeper = enter(v, "polling", &[libc::SYS_ppoll], || {
            let during = mask(&[libc::SIGHUP]);
            (raw!(libc::SYS_ppoll, 0, 0, 0, &raw const during, 8), blocked())
        });
        v.wait();
        sleep_ms(20);
        v.check("it still polls", !sleeper.is_back());
        v.check("the signal is sent", sleeper.signal(libc::SIGUSR1).is_ok());
        let before = mask(&[libc::SIGUSR1, libc::SIGUSR2]);
        v.eq("ppoll, and the mask afterwards", Ok((Err(libc::EINTR), before)), sleeper.end(5000));
        v.eq("calls of the handler", 1, CAUGHT.load(SeqCst));
    }),
    victim("restart", |v| {
        // A read with SA_RESTART does not notice its signals; nor does it notice anything else.
        handle(libc::SIGUSR1, count as *const () as usize, libc::SA_RESTART);
        let mut ends = [0; 2];
        must!(pipe(ends.as_mut_ptr()));
        let reader = enter(v, "reading", &[libc::SYS_read], move || {
            let mut b = [0u8; 8];
            (raw!(libc::SYS_read, ends[0], b.as_mut_ptr(), 8), b[0])
        });
        v.wait();
        for n in 1..=3 {
            v.check("the signal is sent", reader.signal(libc::SIGUSR1).is_ok());
            v.eventually("the handler runs", 3000, || CAUGHT.load(SeqCst) == n);
        }
        v.check("the read goes on", !reader.is_back());
        must!(write(ends[1], [42u8].as_ptr().cast(), 1));
        v.eq("read", Ok((Ok(1), 42)), reader.end(5000));
        v.eq("calls of the handler", 3, CAUGHT.load(SeqCst));
    }),
    victim("eintr", |v| {
        // Without SA_RESTART each signal ends one read, and nothing else does.
        handle(libc::SIGUSR1, count as *const () as usize, 0);
        static CUT: AtomicI32 = AtomicI32::new(0);
        let mut ends = [0; 2];
        must!(pipe(ends.as_mut_ptr()));
        let reader = enter(v, "reading", &[libc::SYS_read], move || {
            let mut b = [0u8; 8];
            loop {
                match raw!(libc::SYS_read, ends[0], b.as_mut_ptr(), 8) {
                    Err(libc::EINTR) => CUT.fetch_add(1, SeqCst),
                    other => return other,
                };
            }
        });
        v.wait();
        v.eq("reads cut short before any signal", 0, CUT.load(SeqCst));
        v.check("the signal is sent", reader.signal(libc::SIGUSR1).is_ok());
        v.eventually("the read is cut short", 3000, || CUT.load(SeqCst) == 1);
        must!(write(ends[1], [1u8].as_ptr().cast(), 1));
        v.eq("read", Ok(Ok(1)), reader.end(5000));
        v.eq("reads cut short", 1, CUT.load(SeqCst));
        v.eq("calls of the handler", 1, CAUGHT.load(SeqCst));
    }),
    victim("pause", |v| {
        handle(libc::SIGUSR1, count as *const () as usize, libc::SA_RESTART);
        let sleeper = enter(v, "pausing", &[libc::SYS_pause], || raw!(libc::SYS_pause));
        v.wait();
        sleep_ms(20);
        v.check("it still pauses", !sleeper.is_back());
        v.check("the signal is sent", sleeper.signal(libc::SIGUSR1).is_ok());
        v.eq("pause", Ok(Err(libc::EINTR)), sleeper.end(5000));
        v.eq("calls of the handler", 1, CAUGHT.load(SeqCst));
    }),
    victim("nanosleep-eintr", |v| {
        // A signal after all ends the sleep and tells what is left of it.
        handle(libc::SIGUSR1, count as *const () as usize, libc::SA_RESTART);
        let begin = crate::sys::now_ns();
        let sleeper = enter(v, "sleeping", &[libc::SYS_nanosleep], || {
            let (want, mut left) = (ms(30_000), ms(0));
            let r = raw!(libc::SYS_nanosleep, &raw const want, &raw mut left);
            (r, left.tv_sec * 1000 + left.tv_nsec / 1_000_000)
        });
        let outage = v.wait_outage() / 1_000_000;
        v.check("it still sleeps", !sleeper.is_back());
        v.check("the signal is sent", sleeper.signal(libc::SIGUSR1).is_ok());
        let slept = (crate::sys::now_ns() - begin) / 1_000_000;
        match sleeper.end(5000) {
            Ok((r, left)) => {
                v.eq("nanosleep", Err(libc::EINTR), r);
                v.within("the rest of the sleep in ms", 30_000 - slept - 300, 30_000 - slept + outage + 300, left);
            }
            Err(e) => v.bad("nanosleep", "an end", &e),
        }
        v.eq("calls of the handler", 1, CAUGHT.load(SeqCst));
    }),
    flagged("stream", &[Flag::Seconds(90)], |v| {
        // A child sends numbered signals all the time; none is lost, none comes twice, none out of order.
        static NEXT: AtomicI32 = AtomicI32::new(0);
        static WRONG: AtomicI32 = AtomicI32::new(-1);
        extern "C" fn on_number(_: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
            // SAFETY: the kernel gives a whole siginfo_t of a queued signal.
            let n = unsafe { (*info).si_value() }.sival_ptr as usize as i32;
            if NEXT.fetch_add(1, SeqCst) != n {
                WRONG.store(n, SeqCst);
            }
        }
        let sig = libc::SIGRTMIN() + 7;
        handle(sig, on_number as *const () as usize, libc::SA_SIGINFO | libc::SA_RESTART);
        let dir = v.dir().to_owned();
        v.spawn(move |c| {
            c.ready();
            let mut n = 0usize;
            while !c.gone() && n < 200_000 {
                let value = libc::sigval { sival_ptr: n as *mut libc::c_void };
                if call!(sigqueue(call!(getppid()), sig, value)) == 0 {
                    n += 1;
                }
                sleep_ms(1);
            }
            c.await_go();
            std::fs::write(format!("{dir}/sent.{}", call!(getppid())), n.to_string()).unwrap();
        });
        v.wait();
        v.join();
        let sent = std::fs::read_to_string(v.path(&format!("sent.{}", std::process::id()))).unwrap_or_default();
        v.eq("signals caught", sent, NEXT.load(SeqCst).to_string());
        v.eq("a signal out of order", -1, WRONG.load(SeqCst));
    }),
    victim("self-stream", |v| {
        // The same within one process: a thread signals another.
        handle(libc::SIGUSR1, count as *const () as usize, libc::SA_RESTART);
        let mut sent = 0;
        v.wait_with(|| {
            must!(raise(libc::SIGUSR1));
            sent += 1;
        });
        v.check("some were sent", sent > 0);
        v.eq("calls of the handler", sent, CAUGHT.load(SeqCst));
    }),
];
