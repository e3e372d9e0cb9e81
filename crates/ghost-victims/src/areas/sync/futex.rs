//! futex(2), bare: waiting with and without a limit, requeued, on shared memory, in several at once.
use crate::inside::enter;
use crate::sys::{ms, now_ns, sleep_ms};
use crate::{Ctx, Victim, raw, victim};
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

const WAIT: i32 = 0;
const WAKE: i32 = 1;
const CMP_REQUEUE: i32 = 4;
const WAIT_BITSET: i32 = 9;
const WAKE_BITSET: i32 = 10;
const PRIVATE: i32 = 128;

static WORD: AtomicU32 = AtomicU32::new(0);
static OTHER: AtomicU32 = AtomicU32::new(0);

pub(super) const VICTIMS: &[Victim] = &[
    victim("futex-wait", |v| {
        let sleeper =
            enter(v, "sleeper", &[libc::SYS_futex], || raw!(libc::SYS_futex, WORD.as_ptr(), WAIT | PRIVATE, 0, 0));
        v.wait();
        wake(v, 1);
        v.eq("futex of the sleeper", Ok(Ok(0)), sleeper.end(5000));
    }),
    victim("futex-many", |v| {
        let sleepers: Vec<_> = (0..10)
            .map(|i| {
                enter(v, &format!("sleeper-{i}"), &[libc::SYS_futex], || {
                    raw!(libc::SYS_futex, WORD.as_ptr(), WAIT | PRIVATE, 0, 0)
                })
            })
            .collect();
        v.wait();
        wake(v, 10);
        for s in sleepers {
            v.eq("futex of a sleeper", Ok(Ok(0)), s.end(5000));
        }
    }),
    victim("futex-not-woken", |v| {
        // Nothing that happens may wake it: programs may cope, but this is not what the kernel promises of a signal.
        let sleeper =
            enter(v, "sleeper", &[libc::SYS_futex], || raw!(libc::SYS_futex, WORD.as_ptr(), WAIT | PRIVATE, 0, 0));
        v.wait();
        sleep_ms(50);
        v.check("the sleeper still sleeps", !sleeper.is_back());
        v.check("it sleeps in futex", sleeper.syscall().starts_with("202 "));
        wake(v, 1);
        v.eq("futex of the sleeper", Ok(Ok(0)), sleeper.end(5000));
    }),
    victim("futex-timeout", |v| {
        let begin = now_ns();
        let sleeper = enter(v, "sleeper", &[libc::SYS_futex], || {
            let limit = ms(1500);
            (raw!(libc::SYS_futex, WORD.as_ptr(), WAIT | PRIVATE, 0, &raw const limit), now_ns())
        });
        timed(v, begin, 1500, Err(libc::ETIMEDOUT), move || sleeper.end(10_000));
    }),
    victim("futex-absolute", |v| {
        let begin = now_ns();
        let sleeper = enter(v, "sleeper", &[libc::SYS_futex], move || {
            let at = ms(begin / 1_000_000 + 1500);
            (raw!(libc::SYS_futex, WORD.as_ptr(), WAIT_BITSET | PRIVATE, 0, &raw const at, 0, 0xff), now_ns())
        });
        timed(v, begin, 1499, Err(libc::ETIMEDOUT), move || sleeper.end(10_000));
    }),
    victim("futex-bitset", |v| {
        let sleeper = enter(v, "sleeper", &[libc::SYS_futex], || {
            raw!(libc::SYS_futex, WORD.as_ptr(), WAIT_BITSET | PRIVATE, 0, 0, 0, 0b0100)
        });
        v.wait();
        v.eventually("a wake with another bit finds nobody", 3000, || {
            raw!(libc::SYS_futex, WORD.as_ptr(), WAKE_BITSET | PRIVATE, 1, 0, 0, 0b0010) == Ok(0)
        });
        v.eventually("a wake with its bit finds it", 3000, || {
            raw!(libc::SYS_futex, WORD.as_ptr(), WAKE_BITSET | PRIVATE, 1, 0, 0, 0b0110) == Ok(1)
        });
        v.eq("futex of the sleeper", Ok(Ok(0)), sleeper.end(5000));
    }),
    victim("futex-requeue", |v| {
        // Waits at WORD, was moved to OTHER: interrupted, it would look at WORD again, so the waker changes both.
        let sleeper =
            enter(v, "sleeper", &[libc::SYS_futex], || raw!(libc::SYS_futex, WORD.as_ptr(), WAIT | PRIVATE, 0, 0));
        let moved = raw!(libc::SYS_futex, WORD.as_ptr(), CMP_REQUEUE | PRIVATE, 0, 1, OTHER.as_ptr(), 0);
        v.need("one sleeper was moved", moved == Ok(1));
        v.wait();
        WORD.store(1, SeqCst);
        OTHER.store(1, SeqCst);
        raw!(libc::SYS_futex, OTHER.as_ptr(), WAKE | PRIVATE, 1).ok();
        raw!(libc::SYS_futex, WORD.as_ptr(), WAKE | PRIVATE, 1).ok();
        let r = sleeper.end(5000);
        v.check("futex of the sleeper is 0 or EAGAIN", matches!(r, Ok(Ok(0) | Err(libc::EAGAIN))));
    }),
    victim("futex-waitv", |v| {
        #[repr(C)]
        struct Waiter {
            value: u64,
            at: u64,
            flags: u32,
            reserved: u32,
        }
        const SYS_FUTEX_WAITV: i64 = 449;
        const U32_PRIVATE: u32 = 2 | 128;
        let sleeper = enter(v, "sleeper", &[SYS_FUTEX_WAITV], || {
            let both =
                [&WORD, &OTHER].map(|w| Waiter { value: 0, at: w.as_ptr() as u64, flags: U32_PRIVATE, reserved: 0 });
            raw!(SYS_FUTEX_WAITV, both.as_ptr(), 2, 0, 0, 0)
        });
        v.wait();
        OTHER.store(1, SeqCst);
        let mut woken = 0;
        for _ in 0..500 {
            woken += raw!(libc::SYS_futex, OTHER.as_ptr(), WAKE | PRIVATE, 1).unwrap_or(0);
            if woken > 0 || sleeper.is_back() {
                break;
            }
            sleep_ms(2);
        }
        let r = sleeper.end(5000);
        // A signal makes it look again: then the changed word is found at once.
        v.check("futex_waitv names the second, or saw it changed", matches!(r, Ok(Ok(1) | Err(libc::EAGAIN))));
    }),
    victim("futex-shared", |v| {
        let word: &'static AtomicU32 = super::shared_word();
        v.spawn(|c| {
            c.ready();
            while word.load(SeqCst) == 0 {
                raw!(libc::SYS_futex, word.as_ptr(), WAIT, 0, 0).ok();
            }
            c.await_go();
            c.eq("the word", 7, word.load(SeqCst));
        });
        v.wait();
        word.store(7, SeqCst);
        raw!(libc::SYS_futex, word.as_ptr(), WAKE, 1).unwrap();
        v.join();
    }),
];

/// Waits through the middle of a sleep of `total_ms` that began at `begin`; it must end neither early, nor begin anew.
fn timed<T: PartialEq + std::fmt::Debug>(
    v: &mut Ctx,
    begin: i64,
    total_ms: i64,
    expected: T,
    end: impl FnOnce() -> Result<(T, i64), String>,
) {
    sleep_ms((total_ms - 700 - (now_ns() - begin) / 1_000_000).max(0));
    let outage = v.wait_outage() / 1_000_000;
    match end() {
        Ok((result, at)) => {
            v.eq("result of the sleep", expected, result);
            v.within("length of the sleep in ms", total_ms, total_ms + outage + 500, (at - begin) / 1_000_000);
        }
        Err(e) => v.bad("a sleep", "an end", &e),
    }
}

/// Wakes `n` sleepers at WORD: exactly so many there are.
fn wake(v: &mut Ctx, n: i64) {
    let mut woken = 0;
    for _ in 0..1000 {
        woken += raw!(libc::SYS_futex, WORD.as_ptr(), WAKE | PRIVATE, 1000).unwrap_or(0);
        if woken >= n {
            break;
        }
        sleep_ms(2);
    }
    v.eq("sleepers woken", n, woken);
}
