//! `clone3(2)`: Linux 5.3, with chosen pids (`set_tid`) since 5.5 and into a cgroup since 5.7.
//!
//! Choosing a pid needs `CAP_CHECKPOINT_RESTORE` (5.9) or `CAP_SYS_ADMIN` in the user namespace of the pid namespace.

#![allow(unsafe_code)]

use crate::{Errno, Pid, Result};

/// `struct clone_args` (linux/sched.h), version 2.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(8))]
pub struct CloneArgs {
    /// `CLONE_*`.
    pub flags: u64,
    /// Where to put a pidfd (CLONE_PIDFD).
    pub pidfd: u64,
    /// Where the child's tid goes (CLONE_CHILD_SETTID) or is cleared at its end (CLONE_CHILD_CLEARTID).
    pub child_tid: u64,
    /// Where the child's tid goes in the parent.
    pub parent_tid: u64,
    /// The signal that tells the parent of its end; 0: none.
    pub exit_signal: u64,
    /// Lowest byte of the child's stack; 0: the parent's.
    pub stack: u64,
    /// Its size.
    pub stack_size: u64,
    /// Thread-local storage (CLONE_SETTLS).
    pub tls: u64,
    /// Array of pids, innermost namespace first.
    pub set_tid: u64,
    /// Its length.
    pub set_tid_size: u64,
    /// Descriptor of a cgroup directory (CLONE_INTO_CGROUP).
    pub cgroup: u64,
}
const _: () = assert!(size_of::<CloneArgs>() == 88);

impl CloneArgs {
    /// As the kernel reads them.
    pub fn bytes(&self) -> [u8; 88] {
        // SAFETY: eleven u64 and no padding.
        unsafe { std::mem::transmute(*self) }
    }
}

/// Resets every signal to its default action in the child.
pub const CLONE_CLEAR_SIGHAND: u64 = 1 << 32;
/// Starts the child in the cgroup given.
pub const CLONE_INTO_CGROUP: u64 = 1 << 33;

/// A system call as such: no errno, no thread-local storage, for children that share their parent's memory.
///
/// # Safety
/// As the call itself: pointers must be what it wants.
pub(crate) unsafe fn raw(nr: i64, a: u64, b: u64, c: u64, d: u64, e: u64) -> i64 {
    let value;
    // SAFETY: the caller answers for the call; the instruction changes rax, rcx and r11 only.
    unsafe {
        std::arch::asm!("syscall", inlateout("rax") nr => value, in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e,
            lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    value
}

/// Makes a child that runs `body(data)` on the stack that `args` name, whether it shares this memory or has a copy.
///
/// # Safety
/// `args.stack` must be unused memory; `data` and the stack must stay until the child has left this memory; `body` must use nothing
/// but raw system calls, and never return.
pub(crate) unsafe fn spawn(
    args: &CloneArgs,
    body: unsafe extern "C" fn(*const u8) -> !,
    data: *const u8,
) -> Result<Pid> {
    assert!(args.stack != 0 && args.stack_size >= 4096, "the child needs a stack of its own");
    let value: i64;
    // SAFETY: in the parent this is one system call. The child begins after it with rax = 0 on its own, empty stack (the
    // kernel sets rsp to stack + stack_size, a multiple of 16) and with the parent's other registers, calls `body` and never comes back.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r12",
            "call r13",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone3 => value,
            in("rdi") std::ptr::from_ref(args),
            in("rsi") size_of::<CloneArgs>(),
            in("r12") data,
            in("r13") body as *const u8,
            lateout("rcx") _, lateout("r11") _,
        );
    }
    Errno::check(value).map(|pid| pid as Pid)
}
