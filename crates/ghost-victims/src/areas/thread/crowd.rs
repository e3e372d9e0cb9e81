//! So many threads that ghost asks only some of them, and among those that are alike some that are not.
use crate::sys::{errno, zeroed};
use crate::{Victim, call, must, raw, victim};

const PR_GET_SPECULATION_CTRL: i32 = 52;
const PR_SET_SPECULATION_CTRL: i32 = 53;
const PR_SPEC_DISABLE: u64 = 4;
const ADDR_NO_RANDOMIZE: u64 = 0x004_0000;
const THREADS: usize = 120;

pub(super) const VICTIMS: &[Victim] = &[victim("hundred-unlike", |v| {
    let threads = v.team(THREADS, |i, t| {
        // Every fourth has something of its own, and some of these share it.
        match if i % 4 == 1 { i / 4 % 8 } else { 99 } {
            0 => drop(must!(prctl(libc::PR_SET_TIMERSLACK, 60_000 + i))),
            1 => drop(must!(prctl(libc::PR_MCE_KILL, 1, i32::from(i > 60), 0, 0))),
            2 => drop(must!(prctl(libc::PR_SET_KEEPCAPS, 1))),
            3 => drop(raw!(libc::SYS_personality, ADDR_NO_RANDOMIZE)),
            4 => drop(raw!(libc::SYS_set_mempolicy, 1, [1u64].as_ptr(), 64)),
            5 => drop(raw!(libc::SYS_prctl, PR_SET_SPECULATION_CTRL, 0, PR_SPEC_DISABLE, 0, 0)),
            6 => drop(raw!(libc::SYS_prctl, libc::PR_SET_TSC, libc::PR_TSC_SIGSEGV)),
            7 => {
                // SAFETY: a plain C structure.
                let mut none: libc::stack_t = unsafe { zeroed() };
                none.ss_flags = libc::SS_DISABLE;
                must!(sigaltstack(&raw const none, std::ptr::null_mut()));
            }
            _ => {}
        }
        t.keep("alternate stack", || {
            // SAFETY: a plain C structure.
            let mut stack: libc::stack_t = unsafe { zeroed() };
            must!(sigaltstack(std::ptr::null(), &raw mut stack));
            (stack.ss_sp as usize, stack.ss_flags, stack.ss_size)
        });
        t.keep("clear_child_tid", || {
            let mut at = 0usize;
            (call!(prctl(libc::PR_GET_TID_ADDRESS, &raw mut at)), at)
        });
        t.keep("timer slack", || raw!(libc::SYS_prctl, libc::PR_GET_TIMERSLACK));
        t.keep("machine checks", || raw!(libc::SYS_prctl, libc::PR_MCE_KILL_GET, 0, 0, 0, 0));
        t.keep("securebits", || raw!(libc::SYS_prctl, libc::PR_GET_SECUREBITS));
        t.keep("personality", || raw!(libc::SYS_personality, u32::MAX));
        t.keep("memory policy", || {
            let (mut mode, mut nodes) = (0i32, [0u64; 16]);
            let asked = raw!(libc::SYS_get_mempolicy, &raw mut mode, nodes.as_mut_ptr(), 1024, 0, 0);
            (asked.map_err(|_| errno()), mode, nodes)
        });
        t.keep("speculation", || [0, 1].map(|which| raw!(libc::SYS_prctl, PR_GET_SPECULATION_CTRL, which, 0, 0, 0)));
        t.keep("time stamp counter", || {
            let mut mode = 0i32;
            (call!(prctl(libc::PR_GET_TSC, &raw mut mode)), mode)
        });
        t.wait();
        // What follows may look at a clock.
        let _ = raw!(libc::SYS_prctl, libc::PR_SET_TSC, libc::PR_TSC_ENABLE);
    });
    v.wait();
    v.gather(threads);
})];
