//! `/proc/PID/smaps`: the mappings with their flags, `proc_pid_smaps(5)`; ProtectionKey since Linux 4.9.
//!
//! The kernel walks the page tables for each line: ten times the price of `maps`. What the flags say that `maps`
//! does not (advice, locks, growth, seals) stands in no other file; [`crate::bpf::vma`] can have it from the kernel itself.

use super::text::{At, lines, split_once, whole_lines, words};
use super::{Mapping, Parsed, ProcDir, ProcResult};

macro_rules! vm_flags { ($($(#[doc = $doc:literal])* $name:ident = $code:literal, $bit:literal;)*) => {
    bitflags::bitflags! {
        /// The flags of a mapping as the `VmFlags` line prints them, two letters each.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
        pub struct VmFlags: u64 { $($(#[doc = $doc])* const $name = 1 << $bit;)* }
    }
    impl VmFlags {
        /// The flag that these two letters stand for.
        pub fn from_code(code: &[u8]) -> Option<Self> {
            $(if code == $code { return Some(Self::$name); })*
            None
        }
    }
} }

vm_flags! {
    /// readable
    READ = b"rd", 0;
    /// writable
    WRITE = b"wr", 1;
    /// executable
    EXEC = b"ex", 2;
    /// shared
    SHARED = b"sh", 3;
    /// may be made readable
    MAY_READ = b"mr", 4;
    /// may be made writable
    MAY_WRITE = b"mw", 5;
    /// may be made executable
    MAY_EXEC = b"me", 6;
    /// may be shared
    MAY_SHARE = b"ms", 7;
    /// grows down, as a stack
    GROWS_DOWN = b"gd", 8;
    /// raw page frames, no `struct page` behind
    PFN_MAP = b"pf", 9;
    /// locked in memory (mlock)
    LOCKED = b"lo", 10;
    /// memory of a device
    IO = b"io", 11;
    /// MADV_SEQUENTIAL
    SEQ_READ = b"sr", 12;
    /// MADV_RANDOM
    RAND_READ = b"rr", 13;
    /// MADV_DONTFORK
    DONT_COPY = b"dc", 14;
    /// cannot grow by mremap
    DONT_EXPAND = b"de", 15;
    /// locked as pages are touched (MLOCK_ONFAULT)
    LOCK_ON_FAULT = b"lf", 16;
    /// counted against the commit limit
    ACCOUNT = b"ac", 17;
    /// MAP_NORESERVE
    NO_RESERVE = b"nr", 18;
    /// hugetlb pages
    HUGE_TLB = b"ht", 19;
    /// MAP_SYNC page faults
    SYNC = b"sf", 20;
    /// flag of the architecture
    ARCH = b"ar", 21;
    /// MADV_WIPEONFORK
    WIPE_ON_FORK = b"wf", 22;
    /// MADV_DONTDUMP
    DONT_DUMP = b"dd", 23;
    /// changed since soft-dirty bits were cleared
    SOFT_DIRTY = b"sd", 24;
    /// pages of mixed kinds
    MIXED_MAP = b"mm", 25;
    /// MADV_HUGEPAGE
    HUGE_PAGE = b"hg", 26;
    /// MADV_NOHUGEPAGE
    NO_HUGE_PAGE = b"nh", 27;
    /// MADV_MERGEABLE
    MERGEABLE = b"mg", 28;
    /// userfaultfd, missing pages
    UFFD_MISSING = b"um", 29;
    /// userfaultfd, write protection
    UFFD_WP = b"uw", 30;
    /// userfaultfd, minor faults
    UFFD_MINOR = b"ui", 31;
    /// memory tags enabled (arm64)
    MTE = b"mt", 32;
    /// branch target identification (arm64)
    BTI = b"bt", 33;
    /// shadow stack
    SHADOW_STACK = b"ss", 34;
    /// sealed by mseal(2), Linux 6.10
    SEALED = b"sl", 35;
    /// MAP_DROPPABLE, Linux 6.11
    DROPPABLE = b"dp", 36;
    /// may hold guard regions, Linux 6.19
    MAYBE_GUARD = b"gu", 37;
    /// cannot be split by the large-page writer (older kernels: denied writes)
    DENY_WRITE = b"dw", 38;
    /// non-linear mapping (older kernels)
    NON_LINEAR = b"nl", 39;
}

/// One mapping with its flags.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Smap {
    /// The line of `maps`.
    pub mapping: Mapping,
    /// The memory protection key; 0 is the default.
    pub protection_key: u32,
    /// The flags.
    pub flags: VmFlags,
    /// Whether it has a NUMA policy of its own, if that is known: smaps does not say.
    pub has_policy: Option<bool>,
    /// Codes of flags that this version does not know, for messages.
    pub unknown_flags: Vec<u8>,
}

/// Parses `/proc/PID/smaps`.
pub fn parse_smaps(text: &[u8]) -> Parsed<Vec<Smap>> {
    let mut all = Vec::with_capacity(text.len() / 640);
    parse_more(text, &mut all)?;
    Ok(all)
}

fn parse_more(text: &[u8], all: &mut Vec<Smap>) -> Parsed<()> {
    let at = At("smaps");
    for line in lines(text) {
        // A line of `maps` begins with an address in lower case, all others with a capital letter.
        if !line[0].is_ascii_uppercase() {
            all.push(empty(super::maps::parse_mapping(line)?));
            continue;
        }
        let Some(smap) = all.last_mut() else { return at.error("address", line) };
        let Some((key, value)) = split_once(line, b':') else { return at.error("name", line) };
        match key {
            b"ProtectionKey" => {
                smap.protection_key = at.narrow("ProtectionKey", words(value).next().unwrap_or(b""))?;
            }
            b"VmFlags" => {
                for code in words(value) {
                    match VmFlags::from_code(code) {
                        Some(flag) => smap.flags |= flag,
                        None => smap.unknown_flags.extend_from_slice(code),
                    }
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// Reads the mappings of a process with their flags, ascending.
pub fn read_smaps(dir: &ProcDir) -> ProcResult<Vec<Smap>> {
    let mut all = Vec::new();
    dir.parse_in_parts("smaps", |text, is_last| {
        let whole = if is_last { text.len() } else { whole_lines(text) };
        parse_more(&text[..whole], &mut all)?;
        Ok(whole)
    })?;
    Ok(all)
}

fn empty(mapping: Mapping) -> Smap {
    Smap { mapping, protection_key: 0, flags: VmFlags::empty(), has_policy: None, unknown_flags: Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &[u8] = b"7ffd7ae5e000-7ffd7ae7f000 rw-p 00000000 00:00 0                          [stack]
Size:                132 kB
KernelPageSize:        4 kB
MMUPageSize:           4 kB
Rss:                  16 kB
Pss:                  16 kB
Pss_Dirty:            16 kB
Shared_Clean:          0 kB
Shared_Dirty:          0 kB
Private_Clean:         0 kB
Private_Dirty:        12 kB
Referenced:           16 kB
Anonymous:            16 kB
KSM:                   0 kB
LazyFree:              0 kB
AnonHugePages:         0 kB
ShmemPmdMapped:        0 kB
FilePmdMapped:         0 kB
Shared_Hugetlb:        0 kB
Private_Hugetlb:       0 kB
Swap:                  8 kB
SwapPss:               8 kB
Locked:                4 kB
THPeligible:           1
ProtectionKey:         3
VmFlags: rd wr mr mw me gd ac zz 
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
Size:                  4 kB
THPeligible:           0
VmFlags: ex 
";

    #[test]
    fn real_lines() {
        let all = parse_smaps(TEXT).unwrap();
        assert_eq!(all.len(), 2);
        let stack = &all[0];
        assert_eq!(stack.mapping.name, b"[stack]");
        assert_eq!(stack.protection_key, 3);
        assert!(stack.flags.contains(VmFlags::GROWS_DOWN | VmFlags::ACCOUNT | VmFlags::WRITE));
        assert_eq!(stack.unknown_flags, b"zz");
        assert_eq!(all[1].flags, VmFlags::EXEC);
        assert!(parse_smaps(b"Rss: 1 kB\n").is_err());
        for cut in 1..TEXT.len() {
            let (first, mut parts) = (whole_lines(&TEXT[..cut]), Vec::new());
            parse_more(&TEXT[..first], &mut parts).unwrap();
            parse_more(&TEXT[first..], &mut parts).unwrap();
            assert_eq!(parts, all);
        }
    }

    #[test]
    fn own_smaps_agree_with_maps() {
        let dir = ProcDir::own().unwrap();
        let all = read_smaps(&dir).unwrap();
        assert!(all.len() > 5);
        assert!(all.iter().all(|s| s.unknown_flags.is_empty()), "a flag that VmFlags lacks: {all:?}");
        for s in &all {
            assert_eq!(s.flags.contains(VmFlags::WRITE), s.mapping.perms.contains(super::super::Perms::WRITE));
        }
    }
}
