//! One-number files of a process: what it or others have set, each as the kernel takes it back.
//!
//! `oom_score_adj` (Linux 2.6.36), `coredump_filter` (2.6.23), `loginuid` (CONFIG_AUDIT), `timerslack_ns` (4.6),
//! `personality` (2.6.29), `autogroup` (2.6.38), `comm` (2.6.33), user namespace maps (3.5), time offsets (5.5).

use super::text::{At, dec, lines, split_once, words};
use super::{ParseError, Parsed, ProcDir, ProcResult};

/// Reads `oom_score_adj`, -1000 to 1000. Writing a lower one than it had needs CAP_SYS_RESOURCE.
pub fn read_oom_score_adj(dir: &ProcDir) -> ProcResult<i32> {
    dir.parse("oom_score_adj", |t| At("oom_score_adj").narrow("value", t.trim_ascii()))
}

/// Reads `coredump_filter`, which mappings go into a core; None without an address space.
pub fn read_coredump_filter(dir: &ProcDir) -> ProcResult<Option<u32>> {
    dir.parse("coredump_filter", |t| match t.trim_ascii() {
        b"" => Ok(None),
        number => Ok(Some(At("coredump_filter").hex("value", number)? as u32)),
    })
}

/// Reads `loginuid`, `u32::MAX` when nobody logged in. Writing it may be allowed only once.
pub fn read_loginuid(dir: &ProcDir) -> ProcResult<u32> {
    dir.parse("loginuid", |t| At("loginuid").narrow("value", t.trim_ascii()))
}

/// Reads `timerslack_ns`; of another process it needs PTRACE_MODE_ATTACH and CAP_SYS_NICE.
pub fn read_timerslack_ns(dir: &ProcDir) -> ProcResult<u64> {
    dir.parse("timerslack_ns", |t| At("timerslack_ns").dec("value", t.trim_ascii()))
}

/// Reads `personality`, as `personality(2)` takes it.
pub fn read_personality(dir: &ProcDir) -> ProcResult<u32> {
    dir.parse("personality", |t| Ok(At("personality").hex("value", t.trim_ascii())? as u32))
}

/// Reads `comm` without its final newline. Of a thread, given its directory.
pub fn read_comm(dir: &ProcDir) -> ProcResult<Vec<u8>> {
    dir.with_bytes("comm", |t| t.strip_suffix(b"\n").unwrap_or(t).to_vec())
}

/// The autogroup of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Autogroup {
    /// Its number: equal in a session.
    pub id: u64,
    /// Its nice value, which can be written back.
    pub nice: i32,
}

/// Parses `/proc/PID/autogroup`: `/autogroup-3 nice 0`; None when the process is in none.
pub fn parse_autogroup(text: &[u8]) -> Parsed<Option<Autogroup>> {
    let mut rest = words(text);
    let Some(name) = rest.next() else { return Ok(None) };
    let id = name.strip_prefix(b"/autogroup-").and_then(dec);
    match (id, rest.next(), rest.next()) {
        (Some(id), Some(b"nice"), Some(nice)) => {
            Ok(Some(Autogroup { id, nice: At("autogroup").narrow("nice", nice)? }))
        }
        _ => At("autogroup").error("group", text),
    }
}

/// Reads the autogroup of a process; None where the kernel has none or has them switched off.
pub fn read_autogroup(dir: &ProcDir) -> ProcResult<Option<Autogroup>> {
    match dir.parse("autogroup", parse_autogroup) {
        Err(e) if e.is_gone() && dir.stat("stat").is_ok() => Ok(None),
        other => other,
    }
}

/// A line of `uid_map` or `gid_map`, `user_namespaces(7)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdRange {
    /// First id inside.
    pub inside: u32,
    /// First id in the user namespace of the reader (or, for its own, in the parent).
    pub outside: u32,
    /// How many.
    pub count: u32,
}

/// Parses `uid_map`, `gid_map` or `projid_map`.
pub fn parse_id_map(text: &[u8]) -> Parsed<Vec<IdRange>> {
    let line = |line: &[u8]| match At("uid_map").list("range", line)?[..] {
        [inside, outside, count] => Ok(IdRange { inside, outside, count }),
        _ => At("uid_map").error("range", line),
    };
    lines(text).map(line).collect()
}

/// Reads which users its user namespace maps.
pub fn read_uid_map(dir: &ProcDir) -> ProcResult<Vec<IdRange>> {
    dir.parse("uid_map", parse_id_map)
}

/// Reads which groups its user namespace maps.
pub fn read_gid_map(dir: &ProcDir) -> ProcResult<Vec<IdRange>> {
    dir.parse("gid_map", parse_id_map)
}

/// Reads whether `setgroups(2)` is allowed in its user namespace (Linux 3.19).
pub fn read_setgroups_allowed(dir: &ProcDir) -> ProcResult<bool> {
    dir.with_bytes("setgroups", |t| t.trim_ascii() != b"deny")
}

/// How far the clocks of a time namespace are ahead, `time_namespaces(7)`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TimeOffsets {
    /// CLOCK_MONOTONIC, in nanoseconds.
    pub monotonic_ns: i64,
    /// CLOCK_BOOTTIME, in nanoseconds.
    pub boottime_ns: i64,
}

/// Parses `/proc/PID/timens_offsets`: the name of a clock (its number before Linux 5.5.9), seconds, nanoseconds.
pub fn parse_time_offsets(text: &[u8]) -> Parsed<TimeOffsets> {
    let at = At("timens_offsets");
    let mut offsets = TimeOffsets::default();
    for line in lines(text) {
        let mut all = words(line);
        let clock = all.next().unwrap_or(b"");
        let seconds = at.signed("seconds", all.next().unwrap_or(b""))?;
        let ns = at.signed("nanoseconds", all.next().unwrap_or(b""))?;
        let total = seconds.checked_mul(1_000_000_000).and_then(|s| s.checked_add(ns));
        let total = total.ok_or_else(|| ParseError::new("timens_offsets", "seconds", line))?;
        match clock {
            b"monotonic" | b"1" => offsets.monotonic_ns = total,
            b"boottime" | b"7" => offsets.boottime_ns = total,
            _ => return at.error("clock", line),
        }
    }
    Ok(offsets)
}

/// Reads the offsets of the time namespace that its children will be in (its own, unless it has unshared one).
pub fn read_time_offsets(dir: &ProcDir) -> ProcResult<TimeOffsets> {
    dir.parse("timens_offsets", parse_time_offsets)
}

/// Which namespace a link of `/proc/PID/ns` leads to; `namespaces(7)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NsLink {
    /// Its name there: `mnt`, `net`, `pid_for_children`, ...
    pub name: String,
    /// The number that identifies the namespace on this host.
    pub inode: u64,
}

/// Parses what a link of `/proc/PID/ns` reads as, `mnt:[4026531832]`, into its number.
pub fn parse_ns_link(text: &[u8]) -> Parsed<u64> {
    let number = split_once(text, b'[').and_then(|(_, t)| dec(t.strip_suffix(b"]")?));
    number.map_or_else(|| At("ns").error("link", text), Ok)
}

/// Reads in which namespaces a process is, by name; `pid_for_children` is left out while nothing is there.
pub fn read_namespaces(dir: &ProcDir) -> ProcResult<Vec<NsLink>> {
    let mut all = Vec::with_capacity(10);
    for name in dir.names("ns")? {
        let name = String::from_utf8_lossy(&name).into_owned();
        match dir.link(&format!("ns/{name}")) {
            Ok(text) => all.push(NsLink { inode: parse_ns_link(&text)?, name }),
            // A pid namespace that was unshared and has no init yet has no link to follow.
            Err(e) if e.is_gone() && name.ends_with("_for_children") => {}
            Err(e) => return Err(e),
        }
    }
    all.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(all)
}

#[cfg(test)]
#[path = "settings_tests.rs"]
mod tests;
