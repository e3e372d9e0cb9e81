//! `/proc/PID/status`: identity, credentials, signals and switches of a process or thread, `proc_pid_status(5)`.
//!
//! In `task/TID/status` the credentials, masks, capabilities and filters are those of that thread: the kernel keeps
//! them per thread. `NS*` lines (Linux 4.1) list the number in each pid namespace, ours first, its own last.

use super::text::{At, lines, split_once, words};
use super::{Parsed, ProcDir, ProcResult};
use crate::Pid;

/// What `/proc/PID/status` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// The command name, at most 15 bytes, unescaped.
    pub name: Vec<u8>,
    /// The file mode creation mask; None once the process has no `fs_struct` (a zombie).
    pub umask: Option<u32>,
    /// `R` running, `S` sleeping, `D` disk, `T` stopped, `t` traced, `Z` zombie, `X` dead, `I` idle.
    pub state: u8,
    /// The process that it is a thread of.
    pub tgid: Pid,
    /// NUMA group, 0 when none.
    pub ngid: Pid,
    /// Its pid (in a thread's file, its tid).
    pub pid: Pid,
    /// Its parent; 0 when that is outside of our pid namespace.
    pub ppid: Pid,
    /// Who traces it; 0 when nobody.
    pub tracer_pid: Pid,
    /// Real, effective, saved, filesystem user id.
    pub uid: [u32; 4],
    /// Real, effective, saved, filesystem group id.
    pub gid: [u32; 4],
    /// Room in the descriptor table.
    pub fd_size: u32,
    /// Supplementary groups, ascending.
    pub groups: Vec<u32>,
    /// The process's number in each pid namespace.
    pub ns_tgid: Vec<Pid>,
    /// Its own number in each pid namespace.
    pub ns_pid: Vec<Pid>,
    /// Its process group in each pid namespace; 0 where the group is outside.
    pub ns_pgid: Vec<Pid>,
    /// Its session in each pid namespace; 0 where the session is outside.
    pub ns_sid: Vec<Pid>,
    /// A kernel thread (Linux 6.8).
    pub kthread: bool,
    /// Size of the address space; None when there is none (zombie, kernel thread).
    pub vm_size_kb: Option<u64>,
    /// Locked memory.
    pub vm_locked_kb: u64,
    /// Pinned memory.
    pub vm_pinned_kb: u64,
    /// Memory in use.
    pub vm_rss_kb: u64,
    /// Its anonymous part.
    pub rss_anon_kb: u64,
    /// Its shared-memory part.
    pub rss_shmem_kb: u64,
    /// Swapped out.
    pub vm_swap_kb: u64,
    /// Page tables.
    pub vm_pte_kb: u64,
    /// hugetlb pages in use.
    pub hugetlb_kb: u64,
    /// Being written to a core file (Linux 4.15).
    pub core_dumping: bool,
    /// Huge pages allowed to this process (PR_SET_THP_DISABLE takes them; Linux 5.0).
    pub thp_enabled: Option<bool>,
    /// Bits of an address that count (Linux 6.4).
    pub untag_mask: Option<u64>,
    /// Number of threads.
    pub threads: u32,
    /// Queued signals of this user, and their limit.
    pub sig_queue: (u64, u64),
    /// Signals that wait for this thread; bit 0 is signal 1.
    pub sig_pending: u64,
    /// Signals that wait for the process.
    pub shared_pending: u64,
    /// Blocked signals.
    pub sig_blocked: u64,
    /// Ignored signals.
    pub sig_ignored: u64,
    /// Signals with a handler.
    pub sig_caught: u64,
    /// Inheritable capabilities.
    pub cap_inheritable: u64,
    /// Permitted capabilities.
    pub cap_permitted: u64,
    /// Effective capabilities.
    pub cap_effective: u64,
    /// Capability bounding set.
    pub cap_bounding: u64,
    /// Ambient capabilities (Linux 4.3).
    pub cap_ambient: u64,
    /// PR_SET_NO_NEW_PRIVS is on (Linux 4.10).
    pub no_new_privs: bool,
    /// 0 none, 1 strict, 2 filters.
    pub seccomp: u32,
    /// Number of filters (Linux 5.9).
    pub seccomp_filters: u32,
    /// `Speculation_Store_Bypass` as printed: `vulnerable`, `thread force mitigated`, ... (Linux 4.17).
    pub speculation_store_bypass: String,
    /// `SpeculationIndirectBranch` as printed (Linux 5.8).
    pub speculation_indirect_branch: String,
    /// CPUs it may run on, as the kernel lists them: `0-3,8`.
    pub cpus_allowed_list: String,
    /// Memory nodes it may use, as the kernel lists them.
    pub mems_allowed_list: String,
    /// Times it gave the CPU away.
    pub voluntary_switches: u64,
    /// Times the CPU was taken from it.
    pub nonvoluntary_switches: u64,
}

impl Status {
    /// A zombie, or dead.
    pub fn is_dead(&self) -> bool {
        matches!(self.state, b'Z' | b'X' | b'x')
    }
    /// Its pid in the innermost pid namespace, as itself sees it.
    pub fn innermost_pid(&self) -> Pid {
        self.ns_pid.last().copied().unwrap_or(self.pid)
    }
}

/// Parses `/proc/PID/status`. Unknown lines are ignored: every kernel adds some.
pub fn parse_status(text: &[u8]) -> Parsed<Status> {
    let at = At("status");
    let mut s = Status::default();
    for line in lines(text) {
        let Some((key, value)) = split_once(line, b':') else { return at.error("name", line) };
        let mut all = words(value);
        // Every value that is a number stands first; the rest is its unit.
        let first = || words(value).next().unwrap_or(b"");
        match key {
            b"Name" => s.name = unescape_name(value.strip_prefix(b"\t").unwrap_or(value)),
            b"Umask" => s.umask = Some(at.oct("Umask", first())? as u32),
            b"State" => s.state = first().first().copied().unwrap_or(b'?'),
            b"Tgid" => s.tgid = at.narrow("Tgid", first())?,
            b"Ngid" => s.ngid = at.narrow("Ngid", first())?,
            b"Pid" => s.pid = at.narrow("Pid", first())?,
            b"PPid" => s.ppid = at.narrow("PPid", first())?,
            b"TracerPid" => s.tracer_pid = at.narrow("TracerPid", first())?,
            b"Uid" => s.uid = four(at, "Uid", value)?,
            b"Gid" => s.gid = four(at, "Gid", value)?,
            b"FDSize" => s.fd_size = at.narrow("FDSize", first())?,
            b"Groups" => s.groups = at.list("Groups", value)?,
            b"NStgid" => s.ns_tgid = at.list("NStgid", value)?,
            b"NSpid" => s.ns_pid = at.list("NSpid", value)?,
            b"NSpgid" => s.ns_pgid = at.list("NSpgid", value)?,
            b"NSsid" => s.ns_sid = at.list("NSsid", value)?,
            b"Kthread" => s.kthread = at.dec("Kthread", first())? != 0,
            b"VmSize" => s.vm_size_kb = Some(at.dec("VmSize", first())?),
            b"VmLck" => s.vm_locked_kb = at.dec("VmLck", first())?,
            b"VmPin" => s.vm_pinned_kb = at.dec("VmPin", first())?,
            b"VmRSS" => s.vm_rss_kb = at.dec("VmRSS", first())?,
            b"RssAnon" => s.rss_anon_kb = at.dec("RssAnon", first())?,
            b"RssShmem" => s.rss_shmem_kb = at.dec("RssShmem", first())?,
            b"VmSwap" => s.vm_swap_kb = at.dec("VmSwap", first())?,
            b"VmPTE" => s.vm_pte_kb = at.dec("VmPTE", first())?,
            b"HugetlbPages" => s.hugetlb_kb = at.dec("HugetlbPages", first())?,
            b"CoreDumping" => s.core_dumping = at.dec("CoreDumping", first())? != 0,
            b"THP_enabled" => s.thp_enabled = Some(at.dec("THP_enabled", first())? != 0),
            b"untag_mask" => s.untag_mask = Some(at.hex("untag_mask", first().strip_prefix(b"0x").unwrap_or(b""))?),
            b"Threads" => s.threads = at.narrow("Threads", first())?,
            b"SigQ" => {
                let (used, limit) = split_once(first(), b'/').map_or_else(|| at.error("SigQ", value), Ok)?;
                s.sig_queue = (at.dec("SigQ", used)?, at.dec("SigQ", limit)?);
            }
            b"SigPnd" => s.sig_pending = at.hex("SigPnd", first())?,
            b"ShdPnd" => s.shared_pending = at.hex("ShdPnd", first())?,
            b"SigBlk" => s.sig_blocked = at.hex("SigBlk", first())?,
            b"SigIgn" => s.sig_ignored = at.hex("SigIgn", first())?,
            b"SigCgt" => s.sig_caught = at.hex("SigCgt", first())?,
            b"CapInh" => s.cap_inheritable = at.hex("CapInh", first())?,
            b"CapPrm" => s.cap_permitted = at.hex("CapPrm", first())?,
            b"CapEff" => s.cap_effective = at.hex("CapEff", first())?,
            b"CapBnd" => s.cap_bounding = at.hex("CapBnd", first())?,
            b"CapAmb" => s.cap_ambient = at.hex("CapAmb", first())?,
            b"NoNewPrivs" => s.no_new_privs = at.dec("NoNewPrivs", first())? != 0,
            b"Seccomp" => s.seccomp = at.narrow("Seccomp", first())?,
            b"Seccomp_filters" => s.seccomp_filters = at.narrow("Seccomp_filters", first())?,
            b"Speculation_Store_Bypass" => s.speculation_store_bypass = phrase(value),
            b"SpeculationIndirectBranch" => s.speculation_indirect_branch = phrase(value),
            b"Cpus_allowed_list" => s.cpus_allowed_list = phrase(value),
            b"Mems_allowed_list" => s.mems_allowed_list = phrase(value),
            b"voluntary_ctxt_switches" => {
                s.voluntary_switches = at.dec("voluntary_ctxt_switches", all.next().unwrap_or(b""))?;
            }
            b"nonvoluntary_ctxt_switches" => {
                s.nonvoluntary_switches = at.dec("nonvoluntary_ctxt_switches", all.next().unwrap_or(b""))?;
            }
            _ => {}
        }
    }
    if s.pid == 0 || s.state == 0 {
        return at.error("Pid and State", text);
    }
    Ok(s)
}

/// Reads the status of a process, or of a thread given its directory.
pub fn read_status(dir: &ProcDir) -> ProcResult<Status> {
    dir.parse("status", parse_status)
}

fn four(at: At, field: &'static str, value: &[u8]) -> Parsed<[u32; 4]> {
    let list = at.list::<u32>(field, value)?;
    list.try_into().or_else(|_| at.error(field, value))
}

fn phrase(value: &[u8]) -> String {
    String::from_utf8_lossy(value).trim().to_owned()
}

/// The kernel writes a newline as `\n` and a backslash as `\\` in this file (and raw in `comm` and `stat`).
fn unescape_name(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.iter().copied();
    while let Some(b) = bytes.next() {
        out.push(match b {
            b'\\' => match bytes.next() {
                Some(b'n') => b'\n',
                Some(other) => other,
                None => b,
            },
            _ => b,
        });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &[u8] = br"Name:	we\nird\\x y
Umask:	0022
State:	t (tracing stop)
Tgid:	4811
Ngid:	0
Pid:	4812
PPid:	4799
TracerPid:	77
Uid:	0	1	2	4294967294
Gid:	5	6	7	8
FDSize:	256
Groups:	4 27 1000
NStgid:	4811	7
NSpid:	4812	8
NSpgid:	4799	0
NSsid:	2894	0
Kthread:	0
VmSize:	    3060 kB
VmLck:	      12 kB
VmRSS:	    1700 kB
CoreDumping:	0
THP_enabled:	1
untag_mask:	0xffffffffffffffff
Threads:	2
SigQ:	1/96365
SigPnd:	0000000000000001
ShdPnd:	0000000000004000
SigBlk:	0000000000010000
SigIgn:	0000000000001000
SigCgt:	0000000180004002
CapInh:	0000000000000001
CapPrm:	000001fffeffffff
CapEff:	000001fffeffffff
CapBnd:	000001fffeffffff
CapAmb:	0000000000000000
NoNewPrivs:	1
Seccomp:	2
Seccomp_filters:	3
Speculation_Store_Bypass:	thread force mitigated
SpeculationIndirectBranch:	always enabled
Cpus_allowed:	3
Cpus_allowed_list:	0-1
Mems_allowed_list:	0
voluntary_ctxt_switches:	10
nonvoluntary_ctxt_switches:	1
x86_Thread_features:	
";

    #[test]
    fn real_text() {
        let s = parse_status(TEXT).unwrap();
        assert_eq!(s.name, b"we\nird\\x y");
        assert_eq!((s.umask, s.state, s.tgid, s.pid, s.ppid, s.tracer_pid), (Some(0o22), b't', 4811, 4812, 4799, 77));
        assert_eq!((s.uid, s.gid), ([0, 1, 2, u32::MAX - 1], [5, 6, 7, 8]));
        assert_eq!(s.groups, [4, 27, 1000]);
        assert_eq!((s.innermost_pid(), s.ns_pgid.as_slice(), s.ns_sid.as_slice()), (8, &[4799, 0][..], &[2894, 0][..]));
        assert_eq!((s.vm_size_kb, s.vm_locked_kb, s.thp_enabled), (Some(3060), 12, Some(true)));
        assert_eq!((s.sig_queue, s.sig_pending, s.shared_pending), ((1, 96365), 1, 0x4000));
        assert_eq!((s.sig_blocked, s.sig_ignored, s.sig_caught), (0x10000, 0x1000, 0x1_8000_4002));
        assert_eq!((s.cap_inheritable, s.cap_effective, s.cap_ambient), (1, 0x1ff_feff_ffff, 0));
        assert_eq!((s.no_new_privs, s.seccomp, s.seccomp_filters), (true, 2, 3));
        assert_eq!(s.speculation_store_bypass, "thread force mitigated");
        assert_eq!((s.cpus_allowed_list.as_str(), s.voluntary_switches, s.nonvoluntary_switches), ("0-1", 10, 1));
        assert!(!s.is_dead());
    }

    #[test]
    fn broken_text_is_named() {
        assert_eq!(parse_status(b"Pid:\t1\nState:\tR\nUid:\t0\t0\t0\n").unwrap_err().field, "Uid");
        assert_eq!(parse_status(b"Pid:\tx\n").unwrap_err().field, "Pid");
        assert!(parse_status(b"").is_err());
    }

    #[test]
    fn own_status() {
        let s = read_status(&ProcDir::own().unwrap()).unwrap();
        assert_eq!(s.pid, std::process::id() as Pid);
        assert!(s.threads >= 1 && s.vm_size_kb.is_some());
        assert_eq!(s.ns_tgid.last(), Some(&s.innermost_pid()));
    }
}
