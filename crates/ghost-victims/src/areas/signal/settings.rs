//! Actions with all their flags, masks, the alternate stack.
use super::{block, blocked, handle, mask};
use crate::sys::zeroed;
use crate::{Ctx, Flag, Victim, call, flagged, must, raw, victim};
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicU32, Ordering::SeqCst};

/// `struct kernel_sigaction` of x86-64.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Action {
    handler: u64,
    flags: u64,
    restorer: u64,
    mask: u64,
}

const SA_RESTORER: u64 = 0x0400_0000;

static CAUGHT: AtomicU32 = AtomicU32::new(0);
static LAST: AtomicI32 = AtomicI32::new(0);
/// The context, for handlers that wait.
static CTX: AtomicPtr<Ctx> = AtomicPtr::new(std::ptr::null_mut());
static AREA: AtomicPtr<u8> = AtomicPtr::new(std::ptr::null_mut());

extern "C" fn count(sig: i32) {
    CAUGHT.fetch_add(1, SeqCst);
    LAST.store(sig, SeqCst);
}

pub(super) const VICTIMS: &[Victim] = &[
    flagged("actions", &[Flag::NoStop], |v| {
        const FLAGS: [i32; 7] = [
            libc::SA_NOCLDSTOP,
            libc::SA_NOCLDWAIT,
            libc::SA_SIGINFO,
            libc::SA_ONSTACK,
            libc::SA_RESTART,
            libc::SA_NODEFER,
            libc::SA_RESETHAND,
        ];
        for sig in (1..=64).filter(|s| *s != libc::SIGKILL && *s != libc::SIGSTOP) {
            // Addresses that are never called: the numbers are what is under test.
            let bits = FLAGS.iter().enumerate().filter(|(i, _)| sig >> (i % 6) & 1 == 1 || *i == sig as usize % 7);
            let flags = bits.fold(SA_RESTORER, |f, (_, b)| f | u64::from(*b as u32));
            let action = match sig % 4 {
                0 => Action { handler: 0, flags, restorer: 0x1000 + sig as u64, mask: 1 << (sig - 1) },
                1 => Action { handler: 1, flags, restorer: 0, mask: 0 },
                _ => Action {
                    handler: 0x10_0000 + sig as u64,
                    flags,
                    restorer: 0x20_0000 + sig as u64,
                    mask: 0xa5a5 << (sig % 40),
                },
            };
            raw!(libc::SYS_rt_sigaction, sig, &raw const action, 0, 8).unwrap();
            v.keep(&format!("action of signal {sig}"), move || get(sig));
        }
        v.need("they are set", get(2).handler == 0x10_0002);
        v.wait();
    }),
    victim("handler", |v| {
        handle(libc::SIGUSR1, count as *const () as usize, libc::SA_RESTART);
        handle(libc::SIGRTMIN() + 5, count as *const () as usize, libc::SA_RESETHAND);
        v.wait();
        must!(raise(libc::SIGUSR1));
        v.eq("calls after SIGUSR1", 1, CAUGHT.load(SeqCst));
        must!(raise(libc::SIGRTMIN() + 5));
        v.eq("the last signal", libc::SIGRTMIN() + 5, LAST.load(SeqCst));
        v.eq("action after SA_RESETHAND", 0, get(libc::SIGRTMIN() + 5).handler);
    }),
    victim("ignored", |v| {
        must!(signal(libc::SIGTERM, libc::SIG_IGN));
        must!(signal(libc::SIGHUP, libc::SIG_IGN));
        v.wait();
        must!(raise(libc::SIGTERM));
        must!(raise(libc::SIGHUP));
        v.eq("action of SIGTERM", 1, get(libc::SIGTERM).handler);
    }),
    victim("mask", |v| {
        let wanted: Vec<i32> = (1..=64).filter(|s| s % 3 == 0 && *s != libc::SIGSTOP && *s != libc::SIGKILL).collect();
        block(&wanted);
        v.keep("SigBlk", || crate::proc::thread_status("SigBlk"));
        v.wait();
        v.eq("mask", mask(&wanted), blocked());
    }),
    victim("altstack", |v| {
        altstack(0);
        handle(libc::SIGUSR1, where_am_i as *const () as usize, libc::SA_ONSTACK);
        v.keep("sigaltstack", stack);
        v.wait();
        must!(raise(libc::SIGUSR1));
        v.eq("the handler ran on the alternate stack", 1, CAUGHT.load(SeqCst));
    }),
    victim("altstack-none", |v| {
        let none = libc::stack_t { ss_sp: std::ptr::null_mut(), ss_flags: libc::SS_DISABLE, ss_size: 0 };
        must!(sigaltstack(&none, std::ptr::null_mut()));
        v.wait();
        v.eq("sigaltstack's flags", libc::SS_DISABLE, stack().2);
    }),
    victim("altstack-autodisarm", |v| {
        altstack(AUTODISARM);
        handle(libc::SIGUSR1, where_am_i as *const () as usize, libc::SA_ONSTACK);
        v.need("the flag is set", stack().2 & AUTODISARM != 0);
        v.keep("sigaltstack", stack);
        v.wait();
        must!(raise(libc::SIGUSR1));
        v.eq("the handler ran on the alternate stack", 1, CAUGHT.load(SeqCst));
    }),
    victim("altstack-in-use", |v| {
        altstack(0);
        in_handler(v, libc::SA_ONSTACK);
        v.eq("the handler was on the alternate stack, before and after", 2, CAUGHT.load(SeqCst));
        v.eq("sigaltstack's flags outside", 0, stack().2);
    }),
    victim("altstack-disarmed-in-use", |v| {
        // While the handler runs the kernel has forgotten the stack; its frame remembers it.
        altstack(AUTODISARM);
        in_handler(v, libc::SA_ONSTACK);
        v.eq("sigaltstack's flags outside", AUTODISARM, stack().2 & AUTODISARM);
    }),
    victim("in-handler", |v| {
        block(&[libc::SIGUSR2]);
        in_handler(v, 0);
        v.eq("mask after the handler", mask(&[libc::SIGUSR2]), blocked());
    }),
    victim("fault-handler", |v| {
        // A page that is made accessible by the handler of the fault.
        extern "C" fn on_fault(_: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
            // SAFETY: the kernel gives a whole siginfo_t of a fault.
            let at = unsafe { (*info).si_addr() } as usize & !4095;
            call!(mprotect(at as *mut libc::c_void, 4096, libc::PROT_READ | libc::PROT_WRITE));
            CAUGHT.fetch_add(1, SeqCst);
        }
        handle(libc::SIGSEGV, on_fault as *const () as usize, libc::SA_SIGINFO | libc::SA_ONSTACK);
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let page: *mut u64 = must!(mmap(std::ptr::null_mut(), 8192, libc::PROT_NONE, flags, -1, 0)).cast();
        // SAFETY: the handler makes each page writable.
        unsafe { page.write_volatile(1) };
        v.need("one fault", CAUGHT.load(SeqCst) == 1);
        v.wait();
        // SAFETY: as above; the first page is writable already.
        unsafe {
            page.write_volatile(2);
            v.eq("faults before the second page", 1, CAUGHT.load(SeqCst));
            page.add(512).write_volatile(3);
            v.eq("faults", 2, CAUGHT.load(SeqCst));
            v.eq("sum of the pages", 5, page.read_volatile() + page.add(512).read_volatile());
        }
    }),
];

const AUTODISARM: i32 = 1 << 31;

fn get(sig: i32) -> Action {
    let mut a = Action::default();
    raw!(libc::SYS_rt_sigaction, sig, 0, &raw mut a, 8).unwrap();
    a
}

fn altstack(flags: i32) {
    let area = Box::leak(vec![0u8; 256 << 10].into_boxed_slice());
    AREA.store(area.as_mut_ptr(), SeqCst);
    must!(sigaltstack(
        &libc::stack_t { ss_sp: area.as_mut_ptr().cast(), ss_flags: flags, ss_size: area.len() },
        std::ptr::null_mut()
    ));
}

fn stack() -> (usize, usize, i32) {
    // SAFETY: a plain C structure.
    let mut s: libc::stack_t = unsafe { zeroed() };
    must!(sigaltstack(std::ptr::null(), &mut s));
    (s.ss_sp as usize, s.ss_size, s.ss_flags)
}

/// Whether a local variable lies in the alternate stack's area.
fn on_altstack() -> bool {
    let here = 0u8;
    let area = AREA.load(SeqCst) as usize;
    (area..area + (256 << 10)).contains(&(&raw const here as usize))
}

extern "C" fn where_am_i(_: i32) {
    if on_altstack() {
        CAUGHT.fetch_add(1, SeqCst);
    }
}

/// Spends the wait inside a handler.
fn in_handler(v: &mut Ctx, flags: i32) {
    extern "C" fn waiting(sig: i32) {
        // SAFETY: raised by the thread that owns the context and waits for this handler.
        let v = unsafe { &mut *CTX.load(SeqCst) };
        let see = || u32::from(on_altstack() && stack().2 == libc::SS_ONSTACK);
        CAUGHT.fetch_add(see(), SeqCst);
        v.keep("sigaltstack in the handler", stack);
        v.keep("mask in the handler", blocked);
        v.wait();
        CAUGHT.fetch_add(see(), SeqCst);
        v.eq("the signal's number", libc::SIGUSR1, sig);
        v.check("the signal is blocked in its handler", blocked() & mask(&[libc::SIGUSR1]) != 0);
    }
    handle(libc::SIGUSR1, waiting as *const () as usize, flags);
    CTX.store(v, SeqCst);
    let before: [u64; 8] = std::array::from_fn(|i| i as u64 * 77);
    must!(raise(libc::SIGUSR1));
    v.eq("locals outside the handler", std::array::from_fn::<u64, 8, _>(|i| i as u64 * 77), before);
}
