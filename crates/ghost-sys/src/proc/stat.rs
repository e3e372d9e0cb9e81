//! `/proc/PID/stat`: one line of 52 numbers, `proc_pid_stat(5)`; the layout of an address space since Linux 3.5.
//!
//! Without `PTRACE_MODE_READ` over the process the addresses and the exit code read 0: rights first, then reading.
//! The name stands raw between parentheses and may hold parentheses, blanks and newlines itself: the *last* one ends it.

use super::text::{At, ParseError, words};
use super::{Parsed, ProcDir, ProcResult};
use crate::Pid;

/// What `/proc/PID/stat` says; the kernel's order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stat {
    /// Its pid (in a thread's file, its tid).
    pub pid: Pid,
    /// The command name, raw.
    pub comm: Vec<u8>,
    /// `R` running, `S` sleeping, `D` disk, `T` stopped, `t` traced, `Z` zombie, `X` dead, `I` idle.
    pub state: u8,
    /// Its parent.
    pub ppid: Pid,
    /// Its process group.
    pub pgid: Pid,
    /// Its session.
    pub sid: Pid,
    /// Its controlling terminal as a device number of `stat(2)`; 0 when it has none.
    pub tty_nr: i32,
    /// The foreground process group of that terminal; -1 when it has none.
    pub tpgid: Pid,
    /// Kernel flags (`PF_*`).
    pub flags: u64,
    /// Page faults without a read.
    pub minflt: u64,
    /// The same of children waited for.
    pub cminflt: u64,
    /// Page faults with a read.
    pub majflt: u64,
    /// The same of children waited for.
    pub cmajflt: u64,
    /// User time, in clock ticks.
    pub utime: u64,
    /// System time, in clock ticks.
    pub stime: u64,
    /// User time of children waited for.
    pub cutime: i64,
    /// System time of children waited for.
    pub cstime: i64,
    /// Priority as the kernel counts.
    pub priority: i64,
    /// Nice value.
    pub nice: i64,
    /// Number of threads.
    pub num_threads: i64,
    /// Always 0 since Linux 2.6.17.
    pub itrealvalue: i64,
    /// When it started after boot, in clock ticks (in the boot clock of its time namespace).
    pub starttime: u64,
    /// Size of the address space in bytes.
    pub vsize: u64,
    /// Pages in memory.
    pub rss: i64,
    /// Soft limit of `rss` in bytes.
    pub rsslim: u64,
    /// First address of its code.
    pub start_code: u64,
    /// Address after its code.
    pub end_code: u64,
    /// Bottom of its stack.
    pub start_stack: u64,
    /// Stack pointer; 0 unless it is exiting.
    pub kstkesp: u64,
    /// Instruction pointer; 0 unless it is exiting.
    pub kstkeip: u64,
    /// Pending signals below 32 (see status for all).
    pub signal: u64,
    /// Blocked signals below 32.
    pub blocked: u64,
    /// Ignored signals below 32.
    pub sigignore: u64,
    /// Caught signals below 32.
    pub sigcatch: u64,
    /// 1 when it sleeps in the kernel, 0 when it runs.
    pub wchan: u64,
    /// Not kept.
    pub nswap: u64,
    /// Not kept.
    pub cnswap: u64,
    /// The signal its parent gets at its end; -1 for a thread that is not the leader.
    pub exit_signal: i32,
    /// The CPU it ran on last.
    pub processor: i32,
    /// Real-time priority, 0 when it has none.
    pub rt_priority: u32,
    /// Scheduling policy (`SCHED_*`).
    pub policy: u32,
    /// Time it waited for block devices, in clock ticks.
    pub delayacct_blkio_ticks: u64,
    /// Time it ran a virtual processor.
    pub guest_time: u64,
    /// The same of children.
    pub cguest_time: i64,
    /// First address of its data.
    pub start_data: u64,
    /// Address after its data.
    pub end_data: u64,
    /// Where the heap begins.
    pub start_brk: u64,
    /// First byte of its arguments.
    pub arg_start: u64,
    /// Byte after its arguments.
    pub arg_end: u64,
    /// First byte of its environment.
    pub env_start: u64,
    /// Byte after its environment.
    pub env_end: u64,
    /// What `waitpid(2)` will report, once it is a zombie.
    pub exit_code: i32,
}

/// Parses `/proc/PID/stat`.
pub fn parse_stat(text: &[u8]) -> Parsed<Stat> {
    let at = At("stat");
    let open = text.iter().position(|&b| b == b'(').ok_or_else(|| ParseError::new("stat", "comm", text))?;
    let close = text.iter().rposition(|&b| b == b')').filter(|&c| c > open);
    let close = close.ok_or_else(|| ParseError::new("stat", "comm", text))?;
    let mut rest = words(&text[close + 1..]);
    let mut next = |field| rest.next().ok_or_else(|| ParseError::new("stat", field, text));
    let pid = at.narrow("pid", text[..open].trim_ascii())?;
    let state = next("state")?[0];
    Ok(Stat {
        pid,
        comm: text[open + 1..close].to_vec(),
        state,
        ppid: at.narrow("ppid", next("ppid")?)?,
        pgid: at.narrow("pgid", next("pgid")?)?,
        sid: at.narrow("sid", next("sid")?)?,
        tty_nr: at.narrow("tty_nr", next("tty_nr")?)?,
        tpgid: at.narrow("tpgid", next("tpgid")?)?,
        flags: at.dec("flags", next("flags")?)?,
        minflt: at.dec("minflt", next("minflt")?)?,
        cminflt: at.dec("cminflt", next("cminflt")?)?,
        majflt: at.dec("majflt", next("majflt")?)?,
        cmajflt: at.dec("cmajflt", next("cmajflt")?)?,
        utime: at.dec("utime", next("utime")?)?,
        stime: at.dec("stime", next("stime")?)?,
        cutime: at.signed("cutime", next("cutime")?)?,
        cstime: at.signed("cstime", next("cstime")?)?,
        priority: at.signed("priority", next("priority")?)?,
        nice: at.signed("nice", next("nice")?)?,
        num_threads: at.signed("num_threads", next("num_threads")?)?,
        itrealvalue: at.signed("itrealvalue", next("itrealvalue")?)?,
        starttime: at.dec("starttime", next("starttime")?)?,
        vsize: at.dec("vsize", next("vsize")?)?,
        rss: at.signed("rss", next("rss")?)?,
        rsslim: at.dec("rsslim", next("rsslim")?)?,
        start_code: at.dec("start_code", next("start_code")?)?,
        end_code: at.dec("end_code", next("end_code")?)?,
        start_stack: at.dec("start_stack", next("start_stack")?)?,
        kstkesp: at.dec("kstkesp", next("kstkesp")?)?,
        kstkeip: at.dec("kstkeip", next("kstkeip")?)?,
        signal: at.dec("signal", next("signal")?)?,
        blocked: at.dec("blocked", next("blocked")?)?,
        sigignore: at.dec("sigignore", next("sigignore")?)?,
        sigcatch: at.dec("sigcatch", next("sigcatch")?)?,
        wchan: at.dec("wchan", next("wchan")?)?,
        nswap: at.dec("nswap", next("nswap")?)?,
        cnswap: at.dec("cnswap", next("cnswap")?)?,
        exit_signal: at.narrow("exit_signal", next("exit_signal")?)?,
        processor: at.narrow("processor", next("processor")?)?,
        rt_priority: at.narrow("rt_priority", next("rt_priority")?)?,
        policy: at.narrow("policy", next("policy")?)?,
        delayacct_blkio_ticks: at.dec("delayacct_blkio_ticks", next("delayacct_blkio_ticks")?)?,
        guest_time: at.dec("guest_time", next("guest_time")?)?,
        cguest_time: at.signed("cguest_time", next("cguest_time")?)?,
        start_data: at.dec("start_data", next("start_data")?)?,
        end_data: at.dec("end_data", next("end_data")?)?,
        start_brk: at.dec("start_brk", next("start_brk")?)?,
        arg_start: at.dec("arg_start", next("arg_start")?)?,
        arg_end: at.dec("arg_end", next("arg_end")?)?,
        env_start: at.dec("env_start", next("env_start")?)?,
        env_end: at.dec("env_end", next("env_end")?)?,
        exit_code: at.narrow("exit_code", next("exit_code")?)?,
    })
}

/// Reads the line of a process, or of a thread given its directory.
pub fn read_stat(dir: &ProcDir) -> ProcResult<Stat> {
    dir.parse("stat", parse_stat)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &[u8] =
        b"5130 (a) b (c\n) R 5107 5108 2894 34816 -1 4194304 102 0 3 0 11 12 -1 0 20 0 1 0 141532 3133440 414 \
18446744073709551615 94263089111040 94263089130921 140729426603904 0 0 0 0 0 0 0 0 0 17 1 0 0 0 0 0 94263089146928 \
94263089148544 94264027512832 140729426610906 140729426610926 140729426610926 140729426612203 256\n";

    #[test]
    fn real_line_with_an_evil_name() {
        let s = parse_stat(TEXT).unwrap();
        assert_eq!((s.pid, s.comm.as_slice(), s.state), (5130, &b"a) b (c\n"[..], b'R'));
        assert_eq!((s.ppid, s.pgid, s.sid, s.tty_nr, s.tpgid), (5107, 5108, 2894, 34816, -1));
        assert_eq!((s.utime, s.stime, s.cutime, s.starttime), (11, 12, -1, 141532));
        assert_eq!((s.start_code, s.end_code, s.start_stack), (94263089111040, 94263089130921, 140729426603904));
        assert_eq!((s.exit_signal, s.processor, s.policy), (17, 1, 0));
        assert_eq!((s.start_data, s.end_data, s.start_brk), (94263089146928, 94263089148544, 94264027512832));
        assert_eq!((s.arg_start, s.arg_end, s.env_start), (140729426610906, 140729426610926, 140729426610926));
        assert_eq!((s.env_end, s.exit_code), (140729426612203, 256));
    }

    #[test]
    fn cut_lines_are_named() {
        for cut in 0..TEXT.len() - 4 {
            assert_eq!(parse_stat(&TEXT[..cut]).err().map(|e| e.file), Some("stat"), "cut at {cut}");
        }
    }

    #[test]
    fn own_line() {
        let s = read_stat(&ProcDir::own().unwrap()).unwrap();
        let here = own_line as *const () as u64;
        assert_eq!(s.pid, std::process::id() as Pid);
        assert!((s.start_code..s.end_code).contains(&here));
        assert!(s.arg_start < s.arg_end && s.env_end >= s.arg_end && s.exit_signal == libc::SIGCHLD);
    }
}
