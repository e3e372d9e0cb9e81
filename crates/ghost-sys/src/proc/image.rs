//! What a process was started with: `auxv`, `cmdline`, `environ`, `proc_pid_auxv(5)` and its neighbours.
//!
//! `auxv` is the kernel's own copy, which PR_SET_MM_AUXV can change; `cmdline` and `environ` are read from the
//! process's memory between the addresses that `stat` tells, and are whatever the program has made of them.

use super::text::{At, split_once};
use super::{Parsed, ProcDir, ProcResult};

/// The auxiliary vector.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Auxv {
    /// `(AT_*, value)` without the final AT_NULL.
    pub entries: Vec<(u64, u64)>,
}

impl Auxv {
    /// The value of an entry (`libc::AT_*`).
    pub fn get(&self, key: u64) -> Option<u64> {
        self.entries.iter().find(|(k, _)| *k == key).map(|(_, v)| *v)
    }
    /// The bytes as the kernel keeps them, with the final AT_NULL: what PR_SET_MM_MAP takes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let with_end = self.entries.iter().copied().chain([(0, 0)]);
        with_end.flat_map(|(k, v)| [k, v]).flat_map(u64::to_ne_bytes).collect()
    }
}

/// Parses `/proc/PID/auxv` of a 64-bit process.
pub fn parse_auxv(bytes: &[u8]) -> Parsed<Auxv> {
    let mut entries = Vec::with_capacity(bytes.len() / 16);
    let word = |chunk: &[u8]| u64::from_ne_bytes(chunk.try_into().expect("eight bytes"));
    for pair in bytes.chunks(16) {
        if pair.len() < 16 {
            return At("auxv").error("entry", pair);
        }
        match (word(&pair[..8]), word(&pair[8..])) {
            (0, _) => break,
            entry => entries.push(entry),
        }
    }
    Ok(Auxv { entries })
}

/// Reads the auxiliary vector; empty for a process without an address space.
pub fn read_auxv(dir: &ProcDir) -> ProcResult<Auxv> {
    dir.parse("auxv", parse_auxv)
}

/// Splits NUL-terminated strings, as `cmdline` and `environ` hold them.
pub fn parse_strings(bytes: &[u8]) -> Vec<Vec<u8>> {
    let body = bytes.strip_suffix(b"\0").unwrap_or(bytes);
    if bytes.is_empty() { Vec::new() } else { body.split(|&b| b == 0).map(<[u8]>::to_vec).collect() }
}

/// Reads the arguments of a process.
pub fn read_cmdline(dir: &ProcDir) -> ProcResult<Vec<Vec<u8>>> {
    dir.with_bytes("cmdline", parse_strings)
}

/// Reads the environment that a process was started with, in order; what has no `=` has an empty value.
pub fn read_environ(dir: &ProcDir) -> ProcResult<Vec<(Vec<u8>, Vec<u8>)>> {
    let pair = |s: &Vec<u8>| {
        let (name, value) = split_once(s, b'=').unwrap_or((s, b""));
        (name.to_vec(), value.to_vec())
    };
    dir.with_bytes("environ", |b| parse_strings(b).iter().map(pair).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_auxv() {
        let dir = ProcDir::own().unwrap();
        let auxv = read_auxv(&dir).unwrap();
        assert_eq!(auxv.get(libc::AT_PAGESZ), Some(4096));
        assert!(auxv.get(libc::AT_SYSINFO_EHDR).is_some());
        assert_eq!(auxv.get(12345), None);
        let raw = dir.bytes("auxv").unwrap();
        assert!(raw.starts_with(&auxv.to_bytes()));
        assert_eq!(parse_auxv(&raw[..20]).unwrap_err().file, "auxv");
        assert_eq!(parse_auxv(b"").unwrap(), Auxv::default());
    }

    #[test]
    fn own_strings() {
        let dir = ProcDir::own().unwrap();
        let own: Vec<_> = std::env::args().map(String::into_bytes).collect();
        assert_eq!(read_cmdline(&dir).unwrap(), own);
        assert!(read_environ(&dir).unwrap().iter().any(|(n, v)| n == b"PATH" && !v.is_empty()));
        assert_eq!(parse_strings(b"a\0\0b\0"), [&b"a"[..], b"", b"b"]);
        assert!(parse_strings(b"").is_empty());
    }
}
