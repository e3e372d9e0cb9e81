//! Fifty threads, each inside something else: what ghost's death must not disturb.
use crate::kit::{fd, sock};
use crate::{Ctx, Victim, inside, raw, victim};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};

pub(super) const VICTIMS: &[Victim] = &[victim("fifty-in-many-calls", many_calls)];

type Thread = inside::Inside<Result<Vec<u8>, String>>;

fn many_calls(v: &mut Ctx) {
    let stop = Arc::new(AtomicBool::new(false));
    let word: &'static AtomicU32 = Box::leak(Box::new(AtomicU32::new(0)));
    let mut sleeping: Vec<(Thread, i32)> = Vec::new();
    for i in 0..12 {
        let (r, w) = fd::pipe(0).expect("a pipe");
        let read = move || fd::read(r, 8).map_err(String::from);
        sleeping.push((inside::enter(v, &format!("read{i}"), &[libc::SYS_read], read), w));
    }
    for i in 0..10 {
        let (r, w) = fd::pipe(0).expect("a pipe");
        let poll = move || {
            fd::poll_ms(r, libc::POLLIN, -1).map_err(String::from)?;
            fd::read(r, 8).map_err(String::from)
        };
        sleeping.push((inside::enter(v, &format!("poll{i}"), &[libc::SYS_poll], poll), w));
    }
    for i in 0..8 {
        let (a, b) = sock::pair(libc::SOCK_STREAM).expect("a pair");
        let recv = move || sock::recv(a, 8, 0).map(|g| g.data).map_err(String::from);
        sleeping.push((inside::enter(v, &format!("recv{i}"), &[libc::SYS_recvmsg], recv), b));
    }
    let waiting: Vec<_> = (0..10)
        .map(|i| {
            let wait = move || raw!(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, 0, std::ptr::null::<u8>());
            inside::enter(v, &format!("futex{i}"), &[libc::SYS_futex], wait)
        })
        .collect();
    let begun = Arc::new(AtomicU32::new(0));
    let working: Vec<_> = (1..=9u64)
        .map(|k| {
            let (stop, begun) = (stop.clone(), begun.clone());
            std::thread::spawn(move || {
                begun.fetch_add(1, SeqCst);
                let (mut n, mut sum) = (0u64, 0u64);
                while !stop.load(SeqCst) {
                    n += 1;
                    sum = sum.wrapping_add(n.wrapping_mul(k));
                    if n.is_multiple_of(2000) {
                        crate::sys::sleep_ms(1 + k as i64);
                    }
                }
                ((u128::from(n) * u128::from(n + 1) / 2 * u128::from(k)) as u64, sum)
            })
        })
        .collect();
    v.until("all work", || begun.load(SeqCst) == 9);
    let numbers = fd::numbers();
    v.wait();
    v.eq("the descriptors", numbers, fd::numbers());
    for (i, (thread, end)) in sleeping.into_iter().enumerate() {
        v.check("a thread that sleeps has not come back", !thread.is_back());
        let sent = format!("end {i:02}");
        v.eq("bytes sent to it", Ok(sent.len()), fd::write(end, sent.as_bytes()).map_err(String::from));
        v.eq("what the sleeper found", Ok(Ok(sent.into_bytes())), thread.end(3000));
    }
    word.store(1, SeqCst);
    let woken = raw!(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, i32::MAX);
    // A wait that was interrupted while the word changed begins anew and finds that (EAGAIN, futex(2)), as after any signal.
    let ends: Vec<_> = waiting.into_iter().map(|thread| format!("{:?}", thread.end(3000))).collect();
    let slept = ends.iter().filter(|e| *e == "Ok(Ok(0))").count();
    let found = ends.iter().filter(|e| *e == "Ok(Err(11))").count();
    v.eq("waits that came back in one of the two ways", ends.len(), slept + found);
    v.eq("threads woken", Ok(slept as i64), woken);
    stop.store(true, SeqCst);
    for thread in working {
        let (expected, sum) = thread.join().expect("it ends by itself");
        v.eq("the sum that a thread made", expected, sum);
    }
}
