//! Mutexes that the kernel knows of: robust ones, with priority inheritance; and the ordinary ones of libc and std.
use crate::inside::enter;
use crate::{Ctx, Flag, Victim, call, flagged, must, raw, victim};
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Barrier, Condvar, Mutex, RwLock};

const LOCK_PI: i32 = 6;
const UNLOCK_PI: i32 = 7;
const PRIVATE: i32 = 128;

pub(super) const VICTIMS: &[Victim] = &[
    victim("mutex", |v| {
        let m = Arc::new(Mutex::new(5));
        let held = m.lock().unwrap();
        let other = m.clone();
        let waiter = enter(v, "waiter", &[libc::SYS_futex], move || {
            let mut m = other.lock().unwrap();
            *m += 1;
            *m
        });
        v.wait();
        v.check("the mutex is still held", !waiter.is_back() && *held == 5);
        drop(held);
        v.eq("what the waiter made of it", Ok(6), waiter.end(5000));
    }),
    victim("condvar", |v| {
        let pair = Arc::new((Mutex::new(false), Condvar::new()));
        let other = pair.clone();
        let waiter = enter(v, "waiter", &[libc::SYS_futex], move || {
            let mut told = other.0.lock().unwrap();
            let mut rounds = 0;
            while !*told {
                told = other.1.wait(told).unwrap();
                rounds += 1;
            }
            rounds
        });
        v.wait();
        *pair.0.lock().unwrap() = true;
        pair.1.notify_one();
        v.check("the waiter heard of it", waiter.end(5000).is_ok_and(|rounds| rounds >= 1));
    }),
    victim("condvar-libc", |v| {
        static mut MUTEX: libc::pthread_mutex_t = libc::PTHREAD_MUTEX_INITIALIZER;
        static mut COND: libc::pthread_cond_t = libc::PTHREAD_COND_INITIALIZER;
        static TOLD: AtomicU32 = AtomicU32::new(0);
        let waiter = enter(v, "waiter", &[libc::SYS_futex], || {
            call!(pthread_mutex_lock(&raw mut MUTEX));
            while TOLD.load(SeqCst) == 0 {
                call!(pthread_cond_wait(&raw mut COND, &raw mut MUTEX));
            }
            call!(pthread_mutex_unlock(&raw mut MUTEX))
        });
        v.wait();
        call!(pthread_mutex_lock(&raw mut MUTEX));
        TOLD.store(1, SeqCst);
        call!(pthread_cond_signal(&raw mut COND));
        call!(pthread_mutex_unlock(&raw mut MUTEX));
        v.eq("the waiter's unlock", Ok(0), waiter.end(5000));
    }),
    victim("barrier", |v| {
        let b = Arc::new(Barrier::new(3));
        let waiters: Vec<_> = (0..2)
            .map(|i| {
                let b = b.clone();
                enter(v, &format!("waiter-{i}"), &[libc::SYS_futex], move || b.wait().is_leader())
            })
            .collect();
        v.wait();
        let mut leaders = usize::from(b.wait().is_leader());
        for w in waiters {
            leaders += usize::from(w.end(5000) == Ok(true));
        }
        v.eq("leaders at the barrier", 1, leaders);
    }),
    victim("rwlock", |v| {
        let l = Arc::new(RwLock::new(1));
        let reader = l.read().unwrap();
        let other = l.clone();
        let writer = enter(v, "writer", &[libc::SYS_futex], move || *other.write().unwrap() += 41);
        v.wait();
        v.check("the writer waits for the reader", !writer.is_back() && *reader == 1);
        drop(reader);
        v.check("the writer had its turn", writer.end(5000).is_ok());
        v.eq("what it wrote", 42, *l.read().unwrap());
    }),
    flagged("pi-mutex", &[Flag::SamePid], |v| {
        static WORD: AtomicU32 = AtomicU32::new(0);
        let op = |op: i32| raw!(libc::SYS_futex, WORD.as_ptr(), op | PRIVATE, 0, 0);
        // Held by the first thread, known to the kernel since another waits.
        WORD.store(raw!(libc::SYS_gettid).unwrap() as u32, SeqCst);
        let waiter = enter(v, "waiter", &[libc::SYS_futex], move || {
            let locked = op(LOCK_PI);
            let owner = WORD.load(SeqCst) & 0x3fff_ffff;
            (locked, i64::from(owner) == raw!(libc::SYS_gettid).unwrap(), op(UNLOCK_PI))
        });
        v.need("the kernel knows of the waiter", WORD.load(SeqCst) & 0x8000_0000 != 0);
        v.wait();
        v.check("the waiter still waits", !waiter.is_back());
        v.eq("unlock by the holder", Ok(0), op(UNLOCK_PI));
        v.eq("lock, ownership, unlock of the waiter", Ok((Ok(0), true, Ok(0))), waiter.end(5000));
        v.eq("the word in the end", 0, WORD.load(SeqCst));
    }),
    flagged("pi-owner-dies", &[Flag::SamePid], |v| {
        // The kernel hands a mutex on when its owner's thread ends; only its lists know who waits.
        static WORD: AtomicU32 = AtomicU32::new(0);
        let owner = v.team(1, |_, t| {
            raw!(libc::SYS_futex, WORD.as_ptr(), LOCK_PI | PRIVATE, 0, 0).unwrap();
            t.wait();
        });
        let waiter =
            enter(v, "waiter", &[libc::SYS_futex], || raw!(libc::SYS_futex, WORD.as_ptr(), LOCK_PI | PRIVATE, 0, 0));
        v.wait();
        v.gather(owner);
        v.eq("lock of the waiter after the owner's end", Ok(Ok(0)), waiter.end(5000));
        v.check("the word says that the owner died", WORD.load(SeqCst) & 0x4000_0000 != 0);
    }),
    flagged("robust", &[Flag::SamePid], |v| {
        let m = robust(false);
        let owner = v.team(1, move |_, t| {
            t.eq("lock of the owner", 0, call!(pthread_mutex_lock(m as *mut libc::pthread_mutex_t)));
            t.wait();
        });
        v.wait();
        v.eq("trylock while it is held", libc::EBUSY, call!(pthread_mutex_trylock(m as *mut libc::pthread_mutex_t)));
        v.gather(owner);
        owner_dead(v, m);
    }),
    flagged("robust-waiter", &[Flag::SamePid], |v| {
        let m = robust(false);
        let owner = v.team(1, move |_, t| {
            t.eq("lock of the owner", 0, call!(pthread_mutex_lock(m as *mut libc::pthread_mutex_t)));
            t.wait();
        });
        let waiter =
            enter(v, "waiter", &[libc::SYS_futex], move || call!(pthread_mutex_lock(m as *mut libc::pthread_mutex_t)));
        v.wait();
        v.check("the waiter waits", !waiter.is_back());
        v.gather(owner);
        v.eq("lock of the waiter after the owner's end", Ok(libc::EOWNERDEAD), waiter.end(5000));
    }),
    flagged("robust-process", &[Flag::SamePid], |v| {
        let m = robust(true);
        v.spawn(move |c| {
            c.eq("lock of the owner", 0, call!(pthread_mutex_lock(m as *mut libc::pthread_mutex_t)));
            c.wait();
        });
        v.wait();
        v.join();
        owner_dead(v, m);
    }),
    victim("robust-lists", |v| {
        // One word of the kernel's per thread: where its list begins.
        let threads = v.team(3, |_, t| {
            t.keep("get_robust_list", || {
                let (mut head, mut len) = (0usize, 0usize);
                (raw!(libc::SYS_get_robust_list, 0, &raw mut head, &raw mut len), head, len)
            });
            t.wait();
        });
        v.wait();
        v.gather(threads);
    }),
    victim("join-later", |v| {
        // pthread_join waits for the kernel to clear the thread's tid word and to wake the futex there.
        let threads = v.team(2, |_, t| t.wait());
        v.wait();
        v.gather(threads);
        let own = std::thread::spawn(|| 42);
        v.eq("a thread born later, joined", Some(42), own.join().ok());
    }),
];

/// A robust mutex of libc, as an address.
fn robust(shared: bool) -> usize {
    let flags = libc::MAP_ANONYMOUS | if shared { libc::MAP_SHARED } else { libc::MAP_PRIVATE };
    let m: *mut libc::pthread_mutex_t =
        must!(mmap(std::ptr::null_mut(), 4096, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0)).cast();
    // SAFETY: a plain C structure.
    let mut a: libc::pthread_mutexattr_t = unsafe { crate::sys::zeroed() };
    call!(pthread_mutexattr_init(&mut a));
    call!(pthread_mutexattr_setrobust(&mut a, libc::PTHREAD_MUTEX_ROBUST));
    if shared {
        call!(pthread_mutexattr_setpshared(&mut a, libc::PTHREAD_PROCESS_SHARED));
    }
    assert_eq!(call!(pthread_mutex_init(m, &a)), 0, "pthread_mutex_init");
    m as usize
}

fn owner_dead(v: &mut Ctx, m: usize) {
    let m = m as *mut libc::pthread_mutex_t;
    v.eq("lock after the owner's end", libc::EOWNERDEAD, call!(pthread_mutex_trylock(m)));
    v.eq("consistent", 0, call!(pthread_mutex_consistent(m)));
    v.eq("unlock", 0, call!(pthread_mutex_unlock(m)));
}
