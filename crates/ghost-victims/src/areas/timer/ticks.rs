//! A record of when a timer's signals came, and the judgement on it.
use crate::sys::now_ns;
use crate::{Ctx, must};
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering::SeqCst};

static TIMES: [AtomicI64; 4096] = [const { AtomicI64::new(0) }; 4096];
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// The handler that notes the time.
pub extern "C" fn note(_: i32) {
    let i = COUNT.fetch_add(1, SeqCst);
    if let Some(t) = TIMES.get(i) {
        t.store(now_ns(), SeqCst);
    }
}

/// Lets the handler note `sig`.
pub fn listen(sig: i32) {
    // SAFETY: a plain C structure.
    let mut act: libc::sigaction = unsafe { crate::sys::zeroed() };
    act.sa_sigaction = note as *const () as usize;
    act.sa_flags = libc::SA_RESTART;
    must!(sigaction(sig, &act, std::ptr::null_mut()));
}

/// How many came so far.
pub fn count() -> usize {
    COUNT.load(SeqCst)
}

/// A timer that began at `begin`, first fires after `first_ms` and then every `every_ms` (0: never again).
///
/// Tick `n` may not come before its time, whatever was lost in between; two ticks may lie an outage apart, not more; and the last
/// may not lie too far back.
pub fn judge(v: &mut Ctx, begin: i64, first_ms: i64, every_ms: i64, outage_ns: i64) {
    const SLACK: i64 = 400;
    let now = now_ns();
    let outage = outage_ns / 1_000_000;
    let times: Vec<i64> =
        TIMES[..count().min(TIMES.len())].iter().map(|t| (t.load(SeqCst) - begin) / 1_000_000).collect();
    for (n, t) in times.iter().enumerate() {
        let due = first_ms + n as i64 * every_ms - 2;
        if *t < due {
            return v.bad(&format!("tick {n}"), &format!("not before {due} ms"), &format!("{t} ms; all: {times:?}"));
        }
    }
    if every_ms == 0 {
        v.eq("ticks of a timer that fires once", 1, times.len());
        if let Some(t) = times.first() {
            v.within("when it fired, in ms", first_ms - 2, first_ms + outage + SLACK, *t);
        }
        return;
    }
    let all: Vec<i64> =
        [first_ms - every_ms].into_iter().chain(times.iter().copied()).chain([(now - begin) / 1_000_000]).collect();
    let longest = all.windows(2).map(|w| w[1] - w[0]).max().unwrap_or(0);
    if longest > every_ms + outage + SLACK {
        v.bad(
            "longest time without a tick",
            &format!("at most {} ms", every_ms + outage + SLACK),
            &format!("{longest} ms; all: {times:?}"),
        );
    }
}
