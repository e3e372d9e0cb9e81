//! Calls with a limit of time: the whole sleep is neither too short nor begun anew.
use crate::inside::enter;
use crate::sys::{clock_ns, ms, now_ns, sleep_ms};
use crate::{Ctx, Victim, must, raw, victim};

/// How long each call sleeps, and how far into it the victim says ready.
const TOTAL: i64 = 1600;
const READY: i64 = 900;

/// What a call gave.
type Answer = Result<i64, i32>;

pub(super) const VICTIMS: &[Victim] = &[
    victim("nanosleep", |v| {
        let f = || {
            let (t, mut left) = (ms(TOTAL), ms(0));
            raw!(libc::SYS_nanosleep, &raw const t, &raw mut left)
        };
        sleeps(v, &[libc::SYS_nanosleep], Ok(0), f);
    }),
    victim("clock-nanosleep-relative", |v| {
        let f = || {
            let t = ms(TOTAL);
            raw!(libc::SYS_clock_nanosleep, libc::CLOCK_MONOTONIC, 0, &raw const t, 0)
        };
        sleeps(v, &[libc::SYS_clock_nanosleep], Ok(0), f);
    }),
    victim("clock-nanosleep-absolute", |v| {
        let f = || {
            let t = ms(now_ns() / 1_000_000 + TOTAL + 1);
            raw!(libc::SYS_clock_nanosleep, libc::CLOCK_MONOTONIC, libc::TIMER_ABSTIME, &raw const t, 0)
        };
        sleeps(v, &[libc::SYS_clock_nanosleep], Ok(0), f);
    }),
    victim("clock-nanosleep-realtime", |v| {
        let f = || {
            let t = ms(clock_ns(libc::CLOCK_REALTIME) / 1_000_000 + TOTAL + 1);
            raw!(libc::SYS_clock_nanosleep, libc::CLOCK_REALTIME, libc::TIMER_ABSTIME, &raw const t, 0)
        };
        sleeps(v, &[libc::SYS_clock_nanosleep], Ok(0), f);
    }),
    victim("poll", |v| {
        let fd = silent_pipe();
        let f = move || {
            let mut p = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
            raw!(libc::SYS_poll, &raw mut p, 1, TOTAL)
        };
        sleeps(v, &[libc::SYS_poll], Ok(0), f);
    }),
    victim("ppoll", |v| {
        let fd = silent_pipe();
        let f = move || {
            let mut p = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
            let mut t = ms(TOTAL);
            raw!(libc::SYS_ppoll, &raw mut p, 1, &raw mut t, 0, 8)
        };
        sleeps(v, &[libc::SYS_ppoll], Ok(0), f);
    }),
    victim("select", |v| {
        let fd = silent_pipe();
        let f = move || {
            let mut set = [1u64 << fd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            let mut t = libc::timeval { tv_sec: TOTAL / 1000, tv_usec: TOTAL % 1000 * 1000 };
            raw!(libc::SYS_select, fd + 1, set.as_mut_ptr(), 0, 0, &raw mut t)
                .map(|r| r + i64::from(t.tv_sec != 0 || t.tv_usec != 0))
        };
        sleeps(v, &[libc::SYS_select], Ok(0), f);
    }),
    victim("pselect", |v| {
        let fd = silent_pipe();
        let f = move || {
            let mut set = [1u64 << fd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            let mut t = ms(TOTAL);
            raw!(libc::SYS_pselect6, fd + 1, set.as_mut_ptr(), 0, 0, &raw mut t, 0)
        };
        sleeps(v, &[libc::SYS_pselect6], Ok(0), f);
    }),
    victim("epoll-wait", |v| {
        let fd = must!(epoll_create1(0));
        let f = move || {
            // SAFETY: a plain C structure.
            let mut e: libc::epoll_event = unsafe { crate::sys::zeroed() };
            again(|left| raw!(libc::SYS_epoll_wait, fd, &raw mut e, 1, left))
        };
        sleeps(v, &[libc::SYS_epoll_wait], Ok(0), f);
    }),
    victim("epoll-pwait2", |v| {
        const SYS_EPOLL_PWAIT2: i64 = 441;
        let fd = must!(epoll_create1(0));
        let f = move || {
            // SAFETY: a plain C structure.
            let mut e: libc::epoll_event = unsafe { crate::sys::zeroed() };
            again(|left| {
                let t = ms(left);
                raw!(SYS_EPOLL_PWAIT2, fd, &raw mut e, 1, &raw const t, 0, 8)
            })
        };
        sleeps(v, &[SYS_EPOLL_PWAIT2], Ok(0), f);
    }),
    victim("sigtimedwait", |v| {
        let f = || {
            let m = 1u64 << (libc::SIGUSR2 - 1);
            again(|left| {
                let t = ms(left);
                raw!(libc::SYS_rt_sigtimedwait, &raw const m, 0, &raw const t, 8)
            })
        };
        sleeps(v, &[libc::SYS_rt_sigtimedwait], Err(libc::EAGAIN), f);
    }),
    victim("recv-timeout", |v| {
        let mut ends = [0; 2];
        must!(socketpair(libc::AF_UNIX, libc::SOCK_STREAM, 0, ends.as_mut_ptr()));
        let f = move || {
            let mut b = [0u8; 8];
            again(|left| {
                let t = libc::timeval { tv_sec: left / 1000, tv_usec: left % 1000 * 1000 };
                must!(setsockopt(ends[0], libc::SOL_SOCKET, libc::SO_RCVTIMEO, (&raw const t).cast(), 16));
                raw!(libc::SYS_recvfrom, ends[0], b.as_mut_ptr(), 8, 0, 0, 0)
            })
        };
        sleeps(v, &[libc::SYS_recvfrom], Err(libc::EAGAIN), f);
    }),
    victim("io-getevents", |v| {
        let mut ring = 0u64;
        if let Err(e) = raw!(libc::SYS_io_setup, 4, &raw mut ring) {
            v.skip(&format!("io_setup: {}", crate::sys::strerror(e)));
        }
        let f = move || {
            let mut events = [0u64; 16];
            again(|left| {
                let t = ms(left);
                raw!(libc::SYS_io_getevents, ring, 1, 4, events.as_mut_ptr(), &raw const t)
            })
        };
        sleeps(v, &[libc::SYS_io_getevents], Ok(0), f);
    }),
    victim("nanosleep-many", |v| {
        // Twenty at once, each of another length.
        let begin = now_ns();
        let all: Vec<_> = (0..20)
            .map(|i| {
                enter(v, &format!("sleep-{i}"), &[libc::SYS_nanosleep], move || {
                    let from = now_ns();
                    let t = ms(800 + i * 100);
                    let r = raw!(libc::SYS_nanosleep, &raw const t, 0);
                    (r, (now_ns() - from) / 1_000_000)
                })
            })
            .collect();
        sleep_ms((500 - (now_ns() - begin) / 1_000_000).max(0));
        let outage = v.wait_outage() / 1_000_000;
        for (i, s) in all.into_iter().enumerate() {
            let total = 800 + i as i64 * 100;
            match s.end(10_000) {
                Ok((r, took)) => {
                    v.eq("nanosleep", Ok(0), r);
                    v.within(&format!("a sleep of {total} ms"), total - 1, total + outage + 400, took);
                }
                Err(e) => v.bad("nanosleep", "an end", &e),
            }
        }
    }),
];

/// A pipe to which nobody writes: its reading end.
fn silent_pipe() -> i32 {
    let mut ends = [0; 2];
    must!(pipe(ends.as_mut_ptr()));
    ends[0]
}

/// Makes a call again with what is left of [`TOTAL`] when it says EINTR.
fn again(mut call: impl FnMut(i64) -> Answer) -> Answer {
    let end = now_ns() + TOTAL * 1_000_000;
    loop {
        let left = ((end - now_ns() + 999_999) / 1_000_000).max(0);
        match call(left) {
            Err(libc::EINTR) => {}
            other => return other,
        }
    }
}

/// A thread sleeps in the call for [`TOTAL`] ms in all.
///
/// Ready is said late, so that a sleep begun anew ends visibly later than what the outage explains.
fn sleeps(v: &mut Ctx, nrs: &[i64], expected: Answer, f: impl FnOnce() -> Answer + Send + 'static) {
    let begin = now_ns();
    let sleeper = enter(v, "sleeper", nrs, move || {
        let from = now_ns();
        (f(), (now_ns() - from) / 1_000_000)
    });
    sleep_ms((READY - (now_ns() - begin) / 1_000_000).max(0));
    let outage = v.wait_outage() / 1_000_000;
    match sleeper.end(10_000) {
        Ok((result, took)) => {
            v.eq("result", expected, result);
            v.within("length of the sleep in ms", TOTAL - 1, TOTAL + outage + 500, took);
        }
        Err(e) => v.bad("the call", "an end", &e),
    }
}
