//! `/proc/PID/task/TID/syscall` and `wchan`: what a thread waits for in the kernel, `proc_pid_syscall(5)`; Linux 2.6.27.
//!
//! Needs `PTRACE_MODE_ATTACH`. The kernel answers `running` unless the thread is asleep or stopped.

use super::text::{At, ParseError, hex, signed, words};
use super::{Parsed, ProcDir, ProcResult};

/// What a thread is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InSyscall {
    /// It runs, or is about to.
    Running,
    /// It is blocked, but not in a system call (a page fault, a stop before its first instruction).
    Blocked {
        /// Stack pointer.
        sp: u64,
        /// Program counter.
        pc: u64,
    },
    /// It is in a system call.
    Call {
        /// Its number.
        nr: i64,
        /// Its arguments.
        args: [u64; 6],
        /// Stack pointer.
        sp: u64,
        /// Program counter.
        pc: u64,
    },
}

/// Parses `/proc/PID/task/TID/syscall`.
pub fn parse_syscall(text: &[u8]) -> Parsed<InSyscall> {
    let bad = |field| ParseError::new("syscall", field, text);
    let mut rest = words(text);
    let first = rest.next().ok_or_else(|| bad("nr"))?;
    if first == b"running" {
        return Ok(InSyscall::Running);
    }
    let nr = signed(first).ok_or_else(|| bad("nr"))?;
    let numbers: Option<Vec<u64>> = rest.map(hex).collect();
    match *numbers.ok_or_else(|| bad("args"))? {
        [sp, pc] => Ok(InSyscall::Blocked { sp, pc }),
        [a, b, c, d, e, f, sp, pc] => Ok(InSyscall::Call { nr, args: [a, b, c, d, e, f], sp, pc }),
        _ => Err(bad("args")),
    }
}

/// Reads what the thread with this directory ([`ProcDir::thread`]) is doing.
pub fn read_syscall(dir: &ProcDir) -> ProcResult<InSyscall> {
    dir.parse("syscall", parse_syscall)
}

/// Parses `/proc/PID/task/TID/wchan`: the kernel function in which a thread sleeps; None when it does not, or when the kernel hides it.
pub fn parse_wchan(text: &[u8]) -> Parsed<Option<String>> {
    match text.trim_ascii() {
        b"0" | b"" => Ok(None),
        name if name.iter().all(u8::is_ascii_graphic) => Ok(Some(String::from_utf8_lossy(name).into_owned())),
        other => At("wchan").error("symbol", other),
    }
}

/// Reads in which kernel function a thread sleeps ([`parse_wchan`]).
pub fn read_wchan(dir: &ProcDir) -> ProcResult<Option<String>> {
    dir.parse("wchan", parse_wchan)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn real_text() {
        assert_eq!(parse_syscall(b"running\n"), Ok(InSyscall::Running));
        assert_eq!(
            parse_syscall(b"-1 0x7ffdd896cb28 0x7f1b\n"),
            Ok(InSyscall::Blocked { sp: 0x7ffd_d896_cb28, pc: 0x7f1b })
        );
        let read = b"0 0x3 0x7f1be6e6c000 0x20000 0x22 0xffffffff 0x0 0x7ffdd896cb28 0x7f1be6fe82ad\n";
        let args = [3, 0x7f1b_e6e6_c000, 0x20000, 0x22, 0xffff_ffff, 0];
        let call = InSyscall::Call { nr: 0, args, sp: 0x7ffd_d896_cb28, pc: 0x7f1b_e6fe_82ad };
        assert_eq!(parse_syscall(read), Ok(call));
        for bad in [&b""[..], b"x 0x1 0x2", b"0 0x1 0x2 0x3", b"0 0x1 zz"] {
            assert_eq!(parse_syscall(bad).unwrap_err().file, "syscall");
        }
    }

    #[test]
    fn a_sleeping_child_is_in_nanosleep() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let dir = ProcDir::open(child.id() as crate::Pid).unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        let mut seen = read_syscall(&dir);
        while !matches!(seen, Ok(InSyscall::Call { nr: libc::SYS_clock_nanosleep | libc::SYS_nanosleep, .. }))
            && std::time::Instant::now() < deadline
        {
            std::thread::sleep(std::time::Duration::from_millis(5));
            seen = read_syscall(&dir);
        }
        let wchan = read_wchan(&dir);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(matches!(seen, Ok(InSyscall::Call { .. })), "{seen:?}");
        assert!(wchan.is_ok());
    }
}
