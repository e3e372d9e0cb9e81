//! setitimer(2) and alarm(2).
use super::ticks::{count, judge, listen};
use crate::sys::{now_ns, sleep_ms, zeroed};
use crate::{Ctx, Victim, call, must, victim};

pub(super) const VICTIMS: &[Victim] = &[
    victim("itimer-real", |v| {
        listen(libc::SIGALRM);
        let begin = now_ns();
        set(libc::ITIMER_REAL, 300, 100);
        let outage = v.wait_outage();
        sleep_ms(600);
        v.eq("interval", 100_000, get(libc::ITIMER_REAL).1);
        set(libc::ITIMER_REAL, 0, 0);
        judge(v, begin, 300, 100, outage);
    }),
    victim("itimer-signal-waits", |v| {
        // The kernel begins the next interval when the signal is taken; until then it tells that nothing is left.
        listen(libc::SIGALRM);
        crate::kit::task::block(&[libc::SIGALRM]).unwrap();
        set(libc::ITIMER_REAL, 20, 20);
        sleep_ms(60);
        v.need("it has expired", get(libc::ITIMER_REAL) == (0, 20_000));
        v.wait();
        v.eq("expirations that were told", 0, count());
        crate::kit::task::unblock(&[libc::SIGALRM]).unwrap();
        v.eventually("it ticks again", 3000, || count() >= 3);
        set(libc::ITIMER_REAL, 0, 0);
    }),
    victim("itimer-once", |v| {
        listen(libc::SIGALRM);
        let begin = now_ns();
        set(libc::ITIMER_REAL, 700, 0);
        let outage = v.wait_outage();
        while now_ns() - begin < 1_000_000_000 + outage {
            sleep_ms(10);
        }
        judge(v, begin, 700, 0, outage);
    }),
    victim("itimer-long", |v| {
        let begin = now_ns();
        set(libc::ITIMER_REAL, 1_000_000, 5_000_000);
        let outage = v.wait_outage() / 1000;
        let (left, every) = get(libc::ITIMER_REAL);
        let gone = (now_ns() - begin) / 1000;
        v.within("what is left, in us", 1_000_000_000 - gone - 200_000, 1_000_000_000 - gone + outage + 200_000, left);
        v.eq("interval, in us", 5_000_000_000, every);
    }),
    victim("itimer-virtual", |v| cpu(v, libc::ITIMER_VIRTUAL, libc::SIGVTALRM)),
    victim("itimer-prof", |v| cpu(v, libc::ITIMER_PROF, libc::SIGPROF)),
    victim("itimers-off", |v| {
        for which in [libc::ITIMER_REAL, libc::ITIMER_VIRTUAL, libc::ITIMER_PROF] {
            v.need("it is off", get(which) == (0, 0));
        }
        v.wait();
        for which in [libc::ITIMER_REAL, libc::ITIMER_VIRTUAL, libc::ITIMER_PROF] {
            v.eq("a timer never set", (0, 0), get(which));
        }
    }),
    victim("alarm", |v| {
        listen(libc::SIGALRM);
        let begin = now_ns();
        call!(alarm(1));
        let outage = v.wait_outage();
        while now_ns() - begin < 1_300_000_000 + outage {
            sleep_ms(10);
        }
        judge(v, begin, 1000, 0, outage);
        v.eq("what is left of the alarm", 0, call!(alarm(0)));
    }),
    victim("alarm-long", |v| {
        call!(alarm(5000));
        v.wait();
        v.within("what is left of the alarm", 4900, 5000, call!(alarm(0)));
    }),
];

fn set(which: i32, first_ms: i64, every_ms: i64) {
    let time = |ms: i64| libc::timeval { tv_sec: ms / 1000, tv_usec: ms % 1000 * 1000 };
    let t = libc::itimerval { it_value: time(first_ms), it_interval: time(every_ms) };
    must!(setitimer(which as _, &t, std::ptr::null_mut()));
}

/// What is left and the interval, in microseconds.
fn get(which: i32) -> (i64, i64) {
    // SAFETY: a plain C structure.
    let mut t: libc::itimerval = unsafe { zeroed() };
    must!(getitimer(which as _, &mut t));
    (t.it_value.tv_sec * 1_000_000 + t.it_value.tv_usec, t.it_interval.tv_sec * 1_000_000 + t.it_interval.tv_usec)
}

/// A timer of CPU time: what is left shrinks by what was used, and it fires when that is used up.
fn cpu(v: &mut Ctx, which: i32, sig: i32) {
    listen(sig);
    set(which, 400, 50_000);
    v.wait();
    let (left, every) = get(which);
    v.eq("fired before its time", 0, count());
    // The kernel counts CPU time in ticks, and adds one whenever such a timer is set.
    v.within("what is left, in us", 100_000, 420_000, left);
    v.eq("interval, in us", 50_000_000, every);
    let begin = now_ns();
    let mut x = 1u64;
    while count() == 0 && now_ns() - begin < 20_000_000_000 {
        for _ in 0..10_000 {
            x = std::hint::black_box(x.wrapping_mul(3));
        }
    }
    v.eq("fired after so much work", 1, count());
    v.within("time until it fired, in ms", left / 1000 - 50, 19_000, (now_ns() - begin) / 1_000_000);
}
