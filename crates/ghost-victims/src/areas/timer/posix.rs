//! timer_create(2): all clocks, numbers, overruns, threads, silent ones.
use super::ticks::{count, judge, listen, note};
use crate::sys::{clock_ns, now_ns, sleep_ms, zeroed};
use crate::{Ctx, Flag, Victim, call, flagged, must, proc, raw, victim};
use std::sync::atomic::{AtomicI32, AtomicI64, Ordering::SeqCst};

const SIGEV_SIGNAL: i32 = 0;
const SIGEV_NONE: i32 = 1;
const SIGEV_THREAD_ID: i32 = 4;
const ABSTIME: i32 = 1;

/// `struct sigevent` as the kernel has it.
#[repr(C)]
struct Event {
    value: u64,
    signo: i32,
    notify: i32,
    tid: i32,
    rest: [i32; 11],
}

pub(super) const VICTIMS: &[Victim] = &[
    victim("monotonic", |v| ticking(v, libc::CLOCK_MONOTONIC)),
    victim("realtime", |v| ticking(v, libc::CLOCK_REALTIME)),
    victim("boottime", |v| ticking(v, libc::CLOCK_BOOTTIME)),
    victim("tai", |v| ticking(v, libc::CLOCK_TAI)),
    victim("boottime-alarm", |v| ticking(v, libc::CLOCK_BOOTTIME_ALARM)),
    victim("of-dead-thread", |v| {
        // Its signals would go to a thread that has ended. It still counts down.
        let made = std::thread::spawn(|| {
            let tid = call!(gettid());
            let id = create(libc::CLOCK_MONOTONIC, SIGEV_THREAD_ID, libc::SIGUSR1, 3, tid).unwrap();
            set(id, 0, 600_000, 0);
            id
        });
        let id = made.join().unwrap();
        v.wait();
        let (left, interval) = get(id);
        v.check("what is left of it", left > 500_000 && left <= 600_000 && interval == 0);
    }),
    victim("once", |v| {
        listen(libc::SIGUSR1);
        let begin = now_ns();
        let id = create(libc::CLOCK_MONOTONIC, SIGEV_SIGNAL, libc::SIGUSR1, 7, 0).unwrap();
        set(id, 0, 700, 0);
        let outage = v.wait_outage();
        while now_ns() - begin < 1_000_000_000 + outage {
            sleep_ms(10);
        }
        judge(v, begin, 700, 0, outage);
        v.eq("a timer that has fired", (0, 0), get(id));
    }),
    victim("absolute", |v| {
        // By the wall clock, which no outage stops.
        listen(libc::SIGUSR1);
        let begin = now_ns();
        let id = create(libc::CLOCK_REALTIME, SIGEV_SIGNAL, libc::SIGUSR1, 7, 0).unwrap();
        set(id, ABSTIME, clock_ns(libc::CLOCK_REALTIME) / 1_000_000 + 800, 0);
        let outage = v.wait_outage();
        while now_ns() - begin < 1_100_000_000 + outage {
            sleep_ms(10);
        }
        judge(v, begin, 799, 0, outage);
    }),
    victim("ids", |v| {
        // Numbers with holes, and one far from the others.
        let ids: Vec<i32> = (0..8)
            .map(|i| create(libc::CLOCK_MONOTONIC, SIGEV_SIGNAL, libc::SIGRTMIN() + i, 1000 + i as u64, 0).unwrap())
            .collect();
        for i in [0, 3, 4, 6] {
            raw!(libc::SYS_timer_delete, ids[i]).unwrap();
        }
        for i in [1, 2, 5, 7] {
            set(ids[i], 0, 100_000 * (i as i64 + 1), 1000 * i as i64);
            let id = ids[i];
            v.keep(&format!("interval of timer {id}"), move || get(id).1);
        }
        v.keep("timers in proc", || {
            // The last number of `notify` is a pid.
            let text = proc::read("/proc/self/timers");
            text.lines().map(|l| l.split_once('.').map_or(l, |(a, _)| a).to_owned()).collect::<Vec<_>>()
        });
        v.wait();
        for i in [1, 2, 5, 7] {
            v.within("what is left, in ms", 99_000 * (i as i64 + 1), 100_000 * (i as i64 + 1), get(ids[i]).0);
        }
        v.eq("a deleted timer", Err(libc::EINVAL), raw!(libc::SYS_timer_delete, ids[3]));
    }),
    victim("disarmed", |v| {
        let id = create(libc::CLOCK_MONOTONIC, SIGEV_SIGNAL, libc::SIGUSR1, 5, 0).unwrap();
        v.wait();
        v.eq("a timer never set", (0, 0), get(id));
        listen(libc::SIGUSR1);
        set(id, 0, 30, 0);
        v.eventually("it fires once it is set", 3000, || count() == 1);
    }),
    victim("silent", |v| {
        let begin = now_ns();
        let id = create(libc::CLOCK_MONOTONIC, SIGEV_NONE, 0, 0, 0).unwrap();
        let ended = create(libc::CLOCK_MONOTONIC, SIGEV_NONE, 0, 0, 0).unwrap();
        set(id, 0, 60_000, 0);
        set(ended, 0, 50, 0);
        let outage = v.wait_outage() / 1_000_000;
        let gone = (now_ns() - begin) / 1_000_000;
        v.within("what is left, in ms", 60_000 - gone - 100, 60_000 - gone + outage + 100, get(id).0);
        sleep_ms(60);
        v.eq("a silent timer after its end", (0, 0), get(ended));
    }),
    victim("restore-ids", |v| {
        // The program itself asks for ids of its choice (as a restorer does), with a timer and without.
        const PR_TIMER_CREATE_RESTORE_IDS: i32 = 77;
        let asked = |how: i32| call!(prctl(PR_TIMER_CREATE_RESTORE_IDS, how, 0, 0, 0));
        if asked(1) == -1 {
            v.skip("timer_create takes ids since Linux 6.16");
        }
        v.spawn(|c| {
            const PR_TIMER_CREATE_RESTORE_IDS: i32 = 77;
            c.wait();
            c.eq("the child has it off", 0, call!(prctl(PR_TIMER_CREATE_RESTORE_IDS, 2, 0, 0, 0)));
        });
        let make = |id: i32| {
            let mut id = id;
            raw!(libc::SYS_timer_create, libc::CLOCK_MONOTONIC, 0, &raw mut id).map(|_| id)
        };
        v.need("a timer of its number", make(77) == Ok(77));
        v.wait();
        v.eq("it is on", 1, asked(2));
        v.eq("another timer of its number", Ok(4711), make(4711));
        v.eq("the first is there", Ok(0), raw!(libc::SYS_timer_delete, 77));
    }),
    victim("overrun", |v| {
        // Fires every 5 ms while its signal is blocked: one signal, and the count of the others.
        let sig = libc::SIGRTMIN() + 2;
        let m = 1u64 << (sig - 1);
        raw!(libc::SYS_rt_sigprocmask, libc::SIG_BLOCK, &raw const m, 0, 8).unwrap();
        let begin = now_ns();
        let id = create(libc::CLOCK_MONOTONIC, SIGEV_SIGNAL, sig, 0x1234_5678_9abc, 0).unwrap();
        set(id, 0, 5, 5);
        sleep_ms(300);
        let least = (now_ns() - begin) / 5_000_000 - 2;
        let outage = v.wait_outage() / 1_000_000;
        // SAFETY: plain C structures.
        let (mut info, limit): (libc::siginfo_t, libc::timespec) = unsafe { (zeroed(), crate::sys::ms(1000)) };
        let got = raw!(libc::SYS_rt_sigtimedwait, &raw const m, &raw mut info, &raw const limit, 8);
        v.eq("the signal", Ok(i64::from(sig)), got);
        v.eq("code", libc::SI_TIMER, info.si_code);
        // SAFETY: a siginfo_t of a timer: si_overrun is the second word of its part, si_value follows.
        let (overrun, value) =
            unsafe { ((&raw const info).cast::<i32>().add(5).read(), info.si_value().sival_ptr as u64) };
        v.eq("value", 0x1234_5678_9abc, value);
        let most = (now_ns() - begin) / 5_000_000;
        v.within("overruns", least, most, i64::from(overrun));
        v.check("an outage is not negative", outage >= 0);
    }),
    victim("pending", |v| {
        // It has fired; nobody has looked yet.
        let sig = libc::SIGUSR2;
        let m = 1u64 << (sig - 1);
        raw!(libc::SYS_rt_sigprocmask, libc::SIG_BLOCK, &raw const m, 0, 8).unwrap();
        let id = create(libc::CLOCK_MONOTONIC, SIGEV_SIGNAL, sig, 4711, 0).unwrap();
        set(id, 0, 5, 0);
        v.until("it has fired", || proc::status("ShdPnd") != "0000000000000000");
        v.keep("ShdPnd", || proc::status("ShdPnd"));
        v.wait();
        // SAFETY: plain C structures.
        let (mut info, limit): (libc::siginfo_t, libc::timespec) = unsafe { (zeroed(), crate::sys::ms(1000)) };
        let got = raw!(libc::SYS_rt_sigtimedwait, &raw const m, &raw mut info, &raw const limit, 8);
        v.eq("the signal", Ok(i64::from(sig)), got);
        v.eq("code", libc::SI_TIMER, info.si_code);
        // SAFETY: a siginfo_t of a timer.
        v.eq("value", 4711, unsafe { info.si_value() }.sival_ptr as u64);
        let short = crate::sys::ms(20);
        v.eq("a second one", Err(libc::EAGAIN), raw!(libc::SYS_rt_sigtimedwait, &raw const m, 0, &raw const short, 8));
    }),
    victim("thread", |v| {
        // To one thread of several, and to no other.
        static CAUGHT_BY: AtomicI64 = AtomicI64::new(0);
        static TIMES: AtomicI32 = AtomicI32::new(0);
        extern "C" fn on_signal(_: i32) {
            CAUGHT_BY.store(raw!(libc::SYS_gettid).unwrap_or(-1), SeqCst);
            TIMES.fetch_add(1, SeqCst);
        }
        must!(signal(libc::SIGUSR1, on_signal as *const () as usize));
        let threads = v.team(3, |i, t| {
            if i == 1 {
                let tid = raw!(libc::SYS_gettid).unwrap() as i32;
                let id = create(libc::CLOCK_MONOTONIC, SIGEV_THREAD_ID, libc::SIGUSR1, 3, tid).unwrap();
                set(id, 0, 20, 20);
            }
            t.wait();
            if i == 1 {
                let before = TIMES.load(SeqCst);
                t.eventually("it still fires", 5000, || TIMES.load(SeqCst) > before + 2);
                t.eq("the thread that it reaches", raw!(libc::SYS_gettid), Ok(CAUGHT_BY.load(SeqCst)));
            }
        });
        v.wait();
        v.gather(threads);
    }),
    victim("cpu-process", |v| cpu(v, libc::CLOCK_PROCESS_CPUTIME_ID)),
    victim("cpu-thread", |v| cpu(v, libc::CLOCK_THREAD_CPUTIME_ID)),
    victim("limit-lowered", |v| {
        // Each timer takes a place in the queue of signals. They were made when there were some.
        let ids: Vec<i32> =
            (0..4).map(|i| create(libc::CLOCK_MONOTONIC, SIGEV_SIGNAL, libc::SIGUSR1, i, 0).unwrap()).collect();
        for id in &ids {
            set(*id, 0, 1_000_000, 0);
        }
        let limit = || {
            let mut limit = libc::rlimit { rlim_cur: 9, rlim_max: 9 };
            must!(getrlimit(libc::RLIMIT_SIGPENDING, &mut limit));
            (limit.rlim_cur, limit.rlim_max)
        };
        let low = libc::rlimit { rlim_cur: 0, rlim_max: 1 };
        must!(setrlimit(libc::RLIMIT_SIGPENDING, &low));
        v.wait();
        v.eq("limit", (0, 1), limit());
        v.check("what is left of them", ids.iter().all(|id| (900_000..=1_000_000).contains(&get(*id).0)));
    }),
    flagged("many", &[Flag::Seconds(90)], |v| {
        let ids: Vec<i32> =
            (0..500).map(|i| create(libc::CLOCK_MONOTONIC, SIGEV_SIGNAL, libc::SIGUSR1, i, 0).unwrap()).collect();
        for id in &ids {
            set(*id, 0, 1_000_000 + i64::from(*id), 0);
        }
        v.wait();
        let wrong = ids.iter().filter(|id| !(900_000..=1_000_000 + i64::from(**id)).contains(&get(**id).0)).count();
        v.eq("timers whose rest is wrong", 0, wrong);
        v.eq(
            "timers in proc",
            500,
            proc::read("/proc/self/timers").matches("ID:").count()
                - proc::read("/proc/self/timers").matches("ClockID:").count(),
        );
    }),
];

fn create(clock: i32, notify: i32, signo: i32, value: u64, tid: i32) -> Result<i32, i32> {
    let event = Event { value, signo, notify, tid, rest: [0; 11] };
    let mut id = 0i32;
    raw!(libc::SYS_timer_create, clock, &raw const event, &raw mut id).map(|_| id)
}

fn spec(first_ms: i64, every_ms: i64) -> libc::itimerspec {
    libc::itimerspec { it_value: crate::sys::ms(first_ms), it_interval: crate::sys::ms(every_ms) }
}

fn set(id: i32, flags: i32, first_ms: i64, every_ms: i64) {
    let s = spec(first_ms, every_ms);
    raw!(libc::SYS_timer_settime, id, flags, &raw const s, 0).unwrap();
}

/// What is left and the interval, in milliseconds.
fn get(id: i32) -> (i64, i64) {
    let mut s = spec(0, 0);
    match raw!(libc::SYS_timer_gettime, id, &raw mut s) {
        Ok(_) => {
            let ms = |t: libc::timespec| t.tv_sec * 1000 + (t.tv_nsec + 999_999) / 1_000_000;
            (ms(s.it_value), ms(s.it_interval))
        }
        Err(e) => (-1, e.into()),
    }
}

fn ticking(v: &mut Ctx, clock: i32) {
    listen(libc::SIGUSR1);
    let begin = now_ns();
    let id = match create(clock, SIGEV_SIGNAL, libc::SIGUSR1, 7, 0) {
        Ok(id) => id,
        Err(e) => v.skip(&format!("no timer of clock {clock} here: {}", crate::sys::strerror(e))),
    };
    set(id, 0, 300, 100);
    let outage = v.wait_outage();
    sleep_ms(600);
    v.eq("interval in ms", 100, get(id).1);
    raw!(libc::SYS_timer_delete, id).unwrap();
    judge(v, begin, 300, 100, outage);
}

fn cpu(v: &mut Ctx, clock: i32) {
    must!(signal(libc::SIGUSR1, note as *const () as usize));
    let id = create(clock, SIGEV_SIGNAL, libc::SIGUSR1, 9, 0).unwrap();
    set(id, 0, 400, 100_000);
    v.wait();
    let (left, every) = get(id);
    v.eq("fired before its time", 0, count());
    v.within("what is left, in ms", 100, 420, left);
    v.eq("interval in ms", 100_000, every);
    let begin = now_ns();
    let mut x = 1u64;
    while count() == 0 && now_ns() - begin < 20_000_000_000 {
        for _ in 0..10_000 {
            x = std::hint::black_box(x.wrapping_mul(3));
        }
    }
    v.eq("fired after so much work", 1, count());
    v.within("time until it fired, in ms", left - 50, 19_000, (now_ns() - begin) / 1_000_000);
    v.eq("delete", 0, call!(syscall(libc::SYS_timer_delete, id)));
}
