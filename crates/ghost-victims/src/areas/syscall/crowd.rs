//! Many threads in sleeps at one place of the code: more than ghost has code for, each with its own rest of its time.
use crate::inside::enter;
use crate::sys::{ms, now_ns, sleep_ms, zeroed};
use crate::{Victim, must, victim};

/// Threads, how long the first sleeps, by how much longer each other one, and after what time the victim says ready.
const THREADS: i64 = 60;
const SHORTEST: i64 = 2400;
const STEP: i64 = 10;
const READY: i64 = 1200;

pub(super) const VICTIMS: &[Victim] = &[victim("nanosleep-crowd", |v| {
    // SAFETY: a plain C structure.
    let mut action: libc::sigaction = unsafe { zeroed() };
    action.sa_sigaction = on_signal as *const () as usize;
    must!(sigaction(libc::SIGUSR1, &raw const action, std::ptr::null_mut()));
    let begin = now_ns();
    let all: Vec<_> = (0..THREADS)
        .map(|i| {
            enter(v, &format!("sleep-{i}"), &[libc::SYS_nanosleep], move || {
                let (from, time) = (now_ns(), ms(SHORTEST + i * STEP));
                let at = &raw const time as u64;
                let (result, after) = nanosleep(at);
                (result, after == at, (now_ns() - from) / 1_000_000)
            })
        })
        .collect();
    sleep_ms((READY - (now_ns() - begin) / 1_000_000).max(0));
    let outage = v.wait_outage() / 1_000_000;
    // Every third is told something in its sleep, unless it has woken by itself.
    let told: Vec<bool> = all.iter().enumerate().map(|(i, s)| i % 3 == 2 && s.signal(libc::SIGUSR1).is_ok()).collect();
    for (i, (sleeper, told)) in all.into_iter().zip(told).enumerate() {
        let total = SHORTEST + i as i64 * STEP;
        match sleeper.end(20_000) {
            Ok((result, kept, took)) => {
                v.eq(&format!("the register of sleeper {i}"), true, kept);
                if told && result != 0 {
                    v.eq(&format!("sleeper {i}, which got a signal"), -i64::from(libc::EINTR), result);
                } else {
                    v.eq(&format!("sleeper {i}"), 0, result);
                    v.within(&format!("a sleep of {total} ms"), total - 1, total + outage + 900, took);
                }
            }
            Err(e) => v.bad("nanosleep", "an end", &e),
        }
    }
})];

extern "C" fn on_signal(_: i32) {}

/// `nanosleep(2)` by an instruction that all threads share: its result, and what the register of the time holds after it.
#[inline(never)]
fn nanosleep(at: u64) -> (i64, u64) {
    let (result, after): (i64, u64);
    // SAFETY: the caller's time lives through the call, which writes nothing.
    unsafe {
        std::arch::asm!(
            "syscall",
            inlateout("rax") libc::SYS_nanosleep => result,
            inlateout("rdi") at => after,
            in("rsi") 0,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    (result, after)
}
