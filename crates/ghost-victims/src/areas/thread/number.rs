//! One thread, two, fifty, a thousand; working and sleeping; born and dying meanwhile.
use crate::{Ctx, Flag, Victim, call, flagged, proc, raw, victim};
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

thread_local! {
    static OWN: Cell<u64> = const { Cell::new(0) };
}

pub(super) const VICTIMS: &[Victim] = &[
    victim("one", |v| many(v, 1)),
    victim("two", |v| many(v, 2)),
    victim("fifty", |v| many(v, 50)),
    flagged("thousand", &[Flag::Seconds(120)], |v| many(v, 1000)),
    flagged("ids", &[Flag::SamePid], |v| {
        let threads = v.team(5, |_, t| {
            t.keep("gettid", || raw!(libc::SYS_gettid));
            t.keep("the thread's link", || proc::link("/proc/thread-self"));
            t.wait();
        });
        v.keep("getpid", || call!(getpid()));
        v.keep("the tasks", tasks);
        v.wait();
        v.gather(threads);
    }),
    victim("working", |v| {
        // Threads that never sleep until told to.
        let stop = Arc::new(AtomicBool::new(false));
        let sums: Vec<_> = (1..=2u64)
            .map(|k| {
                let stop = stop.clone();
                std::thread::spawn(move || {
                    let (mut n, mut sum) = (0u64, 0u64);
                    while !stop.load(SeqCst) {
                        n += 1;
                        sum = sum.wrapping_add(n.wrapping_mul(k));
                        if n % 4096 == 0 {
                            std::thread::yield_now();
                        }
                    }
                    let expected = (u128::from(n) * u128::from(n + 1) / 2 * u128::from(k)) as u64;
                    (expected, sum)
                })
            })
            .collect();
        v.wait();
        stop.store(true, SeqCst);
        for s in sums {
            let (expected, sum) = s.join().unwrap();
            v.eq("the sum that a thread made", expected, sum);
        }
    }),
    victim("coming-and-going", |v| {
        // A thread is born and dies every few milliseconds.
        let count = AtomicU64::new(0);
        let mut joined = 0u64;
        v.wait_with(|| {
            std::thread::scope(|s| {
                s.spawn(|| count.fetch_add(1, SeqCst));
            });
            joined += 1;
        });
        v.check("there were some", joined > 0);
        v.eq("threads that ran", joined, count.load(SeqCst));
    }),
    victim("relay", |v| {
        // Each thread makes its successor and ends: at any instant some end, and others have no number yet.
        const RUNNERS: usize = 24;
        static LEGS: [AtomicU64; RUNNERS] = [const { AtomicU64::new(0) }; RUNNERS];
        static RUNNING: AtomicU64 = AtomicU64::new(RUNNERS as u64);
        static END: AtomicU64 = AtomicU64::new(0);
        static STORE: std::sync::Mutex<Vec<Vec<u64>>> = std::sync::Mutex::new(Vec::new());
        fn leg(runner: usize) {
            let mut store = STORE.lock().expect("nobody panics with it");
            store.push(vec![runner as u64; 64]);
            if store.len() > 100 {
                let old = store.swap_remove(runner);
                assert!(old.iter().all(|word| *word == old[0]), "what a thread kept is damaged");
            }
            drop(store);
            LEGS[runner].fetch_add(1, SeqCst);
            if END.load(SeqCst) == 0 {
                drop(std::thread::spawn(move || leg(runner)));
            } else {
                RUNNING.fetch_sub(1, SeqCst);
            }
        }
        for runner in 0..RUNNERS {
            drop(std::thread::spawn(move || leg(runner)));
        }
        v.wait();
        let legs: Vec<u64> = LEGS.iter().map(|n| n.load(SeqCst)).collect();
        v.eventually("all run on", 20_000, || LEGS.iter().zip(&legs).all(|(now, then)| now.load(SeqCst) > *then));
        END.store(1, SeqCst);
        v.eventually("all come to their end", 20_000, || RUNNING.load(SeqCst) == 0);
    }),
    victim("processes-coming-and-going", |v| {
        let mut bad = Vec::new();
        v.wait_with(|| {
            let child = call!(fork());
            if child == 0 {
                call!(_exit(17));
            }
            let mut status = 0;
            call!(waitpid(-1, &mut status, 0));
            if child < 0 || status != 17 << 8 {
                bad.push((child, status));
            }
        });
        v.eq("births and deaths that went wrong", Vec::<(i32, i32)>::new(), bad);
    }),
    victim("ping-pong", |v| {
        // Two threads hand a number to and fro all the time.
        static TURN: AtomicU64 = AtomicU64::new(0);
        let threads = v.team(2, |i, t| {
            t.ready();
            let mut mine = 0u64;
            while !t.gone() && mine < 100_000_000 {
                if TURN.load(SeqCst) % 2 == i as u64 {
                    TURN.fetch_add(1, SeqCst);
                    mine += 1;
                } else {
                    std::thread::yield_now();
                }
            }
            t.check("it had its turns", mine > 0);
        });
        v.wait();
        v.gather(threads);
    }),
];

fn many(v: &mut Ctx, n: usize) {
    let threads = v.team(n, |i, t| {
        let own = i as u64 * 0x0101_0101 + 5;
        OWN.set(own);
        let on_stack = [own; 64];
        t.wait();
        t.eq("thread-local value", own, OWN.get());
        t.eq("values on the stack", [i as u64 * 0x0101_0101 + 5; 64], on_stack);
    });
    let count = n + 1;
    v.need("the tasks are there", tasks().len() == count);
    v.wait();
    v.eq("tasks in proc", count, tasks().len());
    v.gather(threads);
}

fn tasks() -> Vec<String> {
    let mut all: Vec<String> = std::fs::read_dir("/proc/self/task")
        .map(|d| d.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect())
        .unwrap_or_default();
    all.sort();
    all
}
