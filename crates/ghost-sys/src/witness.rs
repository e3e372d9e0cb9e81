//! Somebody to compare with: a process of ghost's own that has ended, with the ids that are asked for and nothing else.

#![allow(unsafe_code)]

use crate::clone3::{self, CLONE_CLEAR_SIGHAND, CloneArgs};
use crate::errno::cvt;
use crate::remote::ending_program;
use crate::{Errno, Pid, Result};
use std::os::fd::AsRawFd;

/// A dead child of ghost with these ids, without capabilities, that everybody with the same ids may look at.
///
/// It has no memory and no descriptors any more that anybody could take from it, and what it had while it lived came from
/// its own execve(2). No signal tells of its end. Dropping it reaps it.
#[derive(Debug)]
pub struct Witness {
    pid: Pid,
}

/// What the child needs.
#[repr(C)]
struct Plan {
    program: i32,
    uid: u32,
    gid: u32,
    argv: [*const u8; 2],
}

unsafe extern "C" fn child(data: *const u8) -> ! {
    static CAPABILITY_VERSION_3: [u32; 2] = [0x2008_0522, 0];
    const CLOSE_RANGE_CLOEXEC: u64 = 4;
    let (none, plan) = ([0_u32; 6], data.cast::<Plan>());
    // SAFETY: the child has a copy of the plan, which the parent filled in; raw system calls touch neither errno nor any lock.
    unsafe {
        let Plan { program, uid, gid, argv } = &*plan;
        let (uid, gid) = (u64::from(*uid), u64::from(*gid));
        let mut failed = clone3::raw(libc::SYS_close_range, 0, u64::from(u32::MAX), CLOSE_RANGE_CLOEXEC, 0, 0);
        // As the user it was, it may lack the right to set ids, but then it has them already.
        failed |= clone3::raw(libc::SYS_setresgid, gid, gid, gid, 0, 0);
        failed |= clone3::raw(libc::SYS_setresuid, uid, uid, uid, 0, 0);
        // Without this its execve(2) would give root all capabilities again, more than who is to look may have. Where it fails, the
        // user is another one, or has none to give.
        let (option, bits) = (libc::PR_SET_SECUREBITS as u64, libc::SECBIT_NOROOT as u64);
        clone3::raw(libc::SYS_prctl, option, bits, 0, 0, 0);
        let header = CAPABILITY_VERSION_3.as_ptr() as u64;
        failed |= clone3::raw(libc::SYS_capset, header, none.as_ptr() as u64, 0, 0, 0);
        if failed == 0 {
            let (path, at) = (c"".as_ptr() as u64, libc::AT_EMPTY_PATH as u64);
            let environment = &raw const argv[1];
            clone3::raw(libc::SYS_execveat, *program as u64, path, argv.as_ptr() as u64, environment as u64, at);
        }
        loop {
            clone3::raw(libc::SYS_exit_group, 1, 0, 0, 0, 0);
        }
    }
}

impl Witness {
    /// Makes one; an error where ghost may not take these ids.
    pub fn of(uid: u32, gid: u32) -> Result<Self> {
        let program = ending_program()?;
        let plan =
            Plan { program: program.as_raw_fd(), uid, gid, argv: [c"witness".as_ptr().cast(), std::ptr::null()] };
        let stack = vec![0_u128; 1024];
        let args = CloneArgs {
            flags: CLONE_CLEAR_SIGHAND,
            stack: stack.as_ptr() as u64,
            stack_size: size_of_val(stack.as_slice()) as u64,
            ..CloneArgs::default()
        };
        // SAFETY: the child gets a copy of this memory, with an unused stack and the plan in it; it makes raw calls only and never
        // returns.
        let pid = unsafe { clone3::spawn(&args, child, (&raw const plan).cast()) }?;
        let witness = Self { pid };
        // SAFETY: an all-zero siginfo is valid, and the kernel writes one.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        let how = libc::WEXITED | libc::WNOWAIT | libc::__WALL;
        // SAFETY: `info` outlives the call.
        while let Err(e) = cvt(unsafe { libc::waitid(libc::P_PID, pid as u32, &raw mut info, how) }.into()) {
            if e != Errno(libc::EINTR) {
                return Err(e);
            }
        }
        // SAFETY: waitid filled it in for a child that ended.
        let status = unsafe { info.si_status() };
        if info.si_code == libc::CLD_EXITED && status == 0 { Ok(witness) } else { Err(Errno(libc::EPERM)) }
    }
    /// Its pid.
    pub fn pid(&self) -> Pid {
        self.pid
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        // SAFETY: our own dead child; no memory is involved.
        unsafe { libc::waitpid(self.pid, std::ptr::null_mut(), libc::__WALL) };
    }
}
