//! `/proc/PID/limits`: the resource limits, `proc_pid_limits(5)`; `prlimit(2)` sets them from outside.

use super::text::{At, lines};
use super::{Parsed, ProcDir, ProcResult};

/// No limit, as `setrlimit(2)` writes it.
pub const UNLIMITED: u64 = u64::MAX;

/// A soft and a hard limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Which (`libc::RLIMIT_*`).
    pub which: u32,
    /// What the kernel enforces.
    pub soft: u64,
    /// How far it may be raised.
    pub hard: u64,
}

/// The kernel's own names, in the order of `RLIMIT_*`: which number each has differs between architectures.
const NAMES: [(&[u8], u32); 16] = [
    (b"Max cpu time", libc::RLIMIT_CPU),
    (b"Max file size", libc::RLIMIT_FSIZE),
    (b"Max data size", libc::RLIMIT_DATA),
    (b"Max stack size", libc::RLIMIT_STACK),
    (b"Max core file size", libc::RLIMIT_CORE),
    (b"Max resident set", libc::RLIMIT_RSS),
    (b"Max processes", libc::RLIMIT_NPROC),
    (b"Max open files", libc::RLIMIT_NOFILE),
    (b"Max locked memory", libc::RLIMIT_MEMLOCK),
    (b"Max address space", libc::RLIMIT_AS),
    (b"Max file locks", libc::RLIMIT_LOCKS),
    (b"Max pending signals", libc::RLIMIT_SIGPENDING),
    (b"Max msgqueue size", libc::RLIMIT_MSGQUEUE),
    (b"Max nice priority", libc::RLIMIT_NICE),
    (b"Max realtime priority", libc::RLIMIT_RTPRIO),
    (b"Max realtime timeout", libc::RLIMIT_RTTIME),
];

/// Parses `/proc/PID/limits`: columns of 25, 20 and 20 characters, then the unit.
pub fn parse_limits(text: &[u8]) -> Parsed<Vec<Limit>> {
    let at = At("limits");
    let mut all = Vec::with_capacity(NAMES.len());
    for line in lines(text).skip(1) {
        let column = |from: usize, to: usize| line.get(from..to.min(line.len())).unwrap_or(b"").trim_ascii();
        let name = column(0, 26);
        let Some(&(_, which)) = NAMES.iter().find(|(n, _)| *n == name) else { return at.error("name", line) };
        let value = |text: &[u8]| if text == b"unlimited" { Ok(UNLIMITED) } else { at.dec("limit", text) };
        all.push(Limit { which, soft: value(column(26, 47))?, hard: value(column(47, 68))? });
    }
    if all.len() < NAMES.len() { at.error("name", text) } else { Ok(all) }
}

/// Reads the limits of a process.
pub fn read_limits(dir: &ProcDir) -> ProcResult<Vec<Limit>> {
    dir.parse("limits", parse_limits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_limits_agree_with_getrlimit() {
        for l in read_limits(&ProcDir::own().unwrap()).unwrap() {
            let mut own = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
            // SAFETY: `own` is a whole `struct rlimit` that outlives the call.
            #[allow(unsafe_code)]
            let r = unsafe { libc::getrlimit(l.which, &raw mut own) };
            assert_eq!(r, 0);
            assert_eq!((l.soft, l.hard), (own.rlim_cur, own.rlim_max));
        }
    }

    #[test]
    fn cut_text_is_named() {
        let text = ProcDir::own().unwrap().bytes("limits").unwrap();
        assert_eq!(parse_limits(&text).unwrap().len(), 16);
        assert!(parse_limits(&text[..text.len() / 2]).is_err());
        assert_eq!(parse_limits(b"Limit\nMax dreams                1\n").unwrap_err().field, "name");
    }
}
