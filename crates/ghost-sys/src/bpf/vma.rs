//! The flags of mappings by the iterator `task_vma`: what the `VmFlags` lines of `/proc/PID/smaps` say, in a tenth of its time; and whether
//! a mapping has a NUMA policy.
//!
//! Which bit is which flag is not the kernel's promise, and has changed. So it is not assumed: [`Flags::load`] makes mappings of its own with
//! known flags, reads what smaps and the iterator say of these and of what every process has (vDSO, stack), and compares. A letter
//! and a bit that were seen in the same mappings belong together. Those that never came apart (`pf` and `io` of `[vvar]`) are known
//! together: all of them or none. A mapping with a bit that is not explained that way has no flags here; its process has to be
//! read by smaps. So nothing can be lost or taken for something else; a new kernel is slower at worst.

use super::iter::Rows;
use super::{Of, btf::Btf};
use crate::proc::{Mapping, Perms, Smap, VmFlags};
use crate::{Errno, Pid, Result};

mod samples;

/// Bits that were always seen together, and what smaps says where they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Class {
    bits: u64,
    flags: VmFlags,
}

/// A way to read the flags of mappings.
#[derive(Debug)]
pub struct Flags {
    rows: Rows,
    /// Whether rows have a fourth number: the NUMA policy, null if there is none (`CONFIG_NUMA`).
    has_policies: bool,
    classes: Vec<Class>,
    known: u64,
}

/// One mapping as the iterator tells it: start, end, bits.
type Row = [u64; 3];

impl Flags {
    /// Prepares it; an error where it cannot be had. Some two milliseconds.
    pub fn load() -> Result<Self> {
        let mut btf = Btf::of_kernel()?;
        let [Some(function)] = btf.functions(["bpf_iter_task_vma"]) else { return Err(Errno(libc::ENOENT)) };
        if !is_one_word(&btf, function) {
            return Err(Errno(libc::ENOTSUP));
        }
        let paths: [&[&str]; 4] =
            [&["vma", "vm_start"], &["vma", "vm_end"], &["vma", "vm_flags"], &["vma", "vm_policy"]];
        let (rows, has_policies) = match Rows::load_for(&btf, function, &paths) {
            Err(super::iter::UNKNOWN) => (Rows::load_for(&btf, function, &paths[..3])?, false),
            loaded => (loaded?, true),
        };
        drop(btf);
        let samples = samples::Samples::make()?;
        let own = in_order(|each| rows.read(Of::Thread(samples.tid), each))?;
        let classes = classes(&samples.compare(&own)?).ok_or(Errno(libc::ENOTSUP))?;
        let known = classes.iter().map(|class| class.bits).sum();
        Ok(Self { rows, has_policies, classes, known })
    }

    /// Adds the flags to the mappings of a thread, as smaps has them. None when that cannot be said: they have changed meanwhile,
    /// or one has a flag that is not known.
    pub fn add(&self, tid: Pid, maps: Vec<Mapping>) -> Result<Option<Vec<Smap>>> {
        let mut told = Vec::with_capacity(maps.len());
        self.rows.read(Of::Thread(tid), |row| {
            let Some(mapping) = maps.get(told.len()) else { return false };
            let fits = |flags: &VmFlags| (row[0], row[1]) == (mapping.start, mapping.end) && fits(*flags, mapping);
            let explained = self.explain(row[2]).filter(fits);
            // Files may have one of their own for what is mapped.
            let is_own = self.has_policies && mapping.inode == 0 && !mapping.perms.contains(Perms::SHARED);
            told.extend(explained.map(|flags| (flags, is_own.then(|| row[3] != 0))));
            explained.is_some()
        })?;
        // The kernel's own mapping at the top is in no address space.
        if let Some(top) = maps.get(told.len()).filter(|m| m.name == b"[vsyscall]" && told.len() + 1 == maps.len()) {
            let mut of_top = VmFlags::empty();
            of_top.set(VmFlags::READ, top.perms.contains(Perms::READ));
            of_top.set(VmFlags::EXEC, top.perms.contains(Perms::EXEC));
            told.push((of_top, None));
        }
        if told.len() != maps.len() {
            return Ok(None);
        }
        let smap = |(mapping, (flags, has_policy))| Smap {
            mapping,
            flags,
            has_policy,
            protection_key: 0,
            unknown_flags: Vec::new(),
        };
        Ok(Some(maps.into_iter().zip(told).map(smap).collect()))
    }

    /// What smaps would say; None where it is not known.
    fn explain(&self, bits: u64) -> Option<VmFlags> {
        if bits & !self.known != 0 {
            return None;
        }
        let mut flags = VmFlags::empty();
        for class in &self.classes {
            match bits & class.bits {
                0 => {}
                some if some == class.bits => flags |= class.flags,
                _ => return None,
            }
        }
        Some(flags)
    }
}

/// The rows of a process that runs meanwhile: ghost itself.
///
/// Between two portions the kernel looks for the mapping that comes after the last one by where that was. If the last is the stack, and another
/// thread of ours has made it grow, it finds the stack again, and again, without end. So rows that do not ascend end the reading, and it is
/// tried anew.
fn in_order(mut read: impl FnMut(&mut dyn FnMut(&[u64]) -> bool) -> Result<()>) -> Result<Vec<Row>> {
    const TRIES: usize = 4;
    for _ in 0..TRIES {
        let (mut own, mut ascends) = (Vec::<Row>::new(), true);
        read(&mut |row| {
            ascends = own.last().is_none_or(|last| row[0] >= last[1]);
            own.extend(<Row>::try_from(&row[..3]).ok().filter(|_| ascends));
            ascends
        })?;
        if ascends {
            return Ok(own);
        }
    }
    Err(Errno(libc::EAGAIN))
}

/// Whether all flags are in the one word that is read.
fn is_one_word(btf: &Btf, function: super::btf::TypeId) -> bool {
    let vma = btf.parameter(function, "vma").and_then(|(_, ty)| btf.kind(ty));
    let Some(super::btf::Kind::Pointer(vma)) = vma else { return false };
    btf.member(vma, "vm_flags").is_some_and(|flags| flags.within == 8)
}

/// Whether the flags are those of this line of `maps`.
fn fits(flags: VmFlags, mapping: &Mapping) -> bool {
    let pairs = [
        (VmFlags::READ, Perms::READ),
        (VmFlags::WRITE, Perms::WRITE),
        (VmFlags::EXEC, Perms::EXEC),
        (VmFlags::MAY_SHARE, Perms::SHARED),
    ];
    pairs.iter().all(|&(flag, perm)| flags.contains(flag) == mapping.perms.contains(perm))
}

/// What belongs together, from mappings whose bits and flags are both known. None where the two contradict each other.
fn classes(samples: &[(u64, VmFlags)]) -> Option<Vec<Class>> {
    // In which of the samples something was seen.
    let seen = |is: &dyn Fn(&(u64, VmFlags)) -> bool| {
        samples.iter().enumerate().filter(|(_, s)| is(s)).fold(0_u128, |seen, (i, _)| seen | 1 << i)
    };
    if samples.len() > 128 {
        return None;
    }
    let mut classes: Vec<(u128, Class)> = Vec::new();
    for bit in (0..64).map(|n| 1_u64 << n) {
        let place = seen(&|(bits, _)| bits & bit != 0);
        match classes.iter_mut().find(|(other, _)| *other == place) {
            _ if place == 0 => {}
            Some((_, class)) => class.bits |= bit,
            None => classes.push((place, Class { bits: bit, flags: VmFlags::empty() })),
        }
    }
    for flag in VmFlags::all().iter() {
        let place = seen(&|(_, flags)| flags.contains(flag));
        if place != 0 {
            // Each is printed because of one bit, which then was where it was.
            classes.iter_mut().find(|(other, _)| *other == place)?.1.flags |= flag;
        }
    }
    let classes: Vec<Class> = classes.into_iter().map(|(_, class)| class).collect();
    let are_enough = |class: &Class| class.flags.bits().count_ones() <= class.bits.count_ones();
    classes.iter().all(are_enough).then_some(classes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proc::{self, ProcDir};

    fn loaded() -> Option<Flags> {
        Flags::load().inspect_err(|e| eprintln!("skipped: no iterator of mappings: {e}")).ok()
    }

    #[test]
    fn rows_without_end_are_given_up() {
        let mut reads = 0;
        // As the kernel tells of a stack that grows meanwhile.
        let told = in_order(|each| {
            reads += 1;
            let again = (0..).find(|n| !each(&[0x1000 - u64::from(*n == 0) * 0x1000, 0x2000, 3]));
            again.map(drop).ok_or(Errno(libc::EIO))
        });
        assert_eq!((told, reads), (Err(Errno(libc::EAGAIN)), 4));
        let told = in_order(|each| {
            reads += 1;
            let _ = each(&[0x1000, 0x2000, 3]) && (reads == 5 || each(&[0x2000, 0x3000, 1]));
            let _ = reads > 5 || each(&[0x1000, 0x3000, 3]);
            Ok(())
        });
        assert_eq!((told, reads), (Ok(vec![[0x1000, 0x2000, 3], [0x2000, 0x3000, 1]]), 6));
    }

    #[test]
    fn a_letter_and_a_bit_seen_in_the_same_places_belong_together() {
        let (rd, wr, pf, io) = (VmFlags::READ, VmFlags::WRITE, VmFlags::PFN_MAP, VmFlags::IO);
        // Bit 4 is silent and always there; 2 and 3 never come apart.
        let samples = [(0b10001, rd), (0b10011, rd | wr), (0b11101, rd | pf | io), (0b10000, VmFlags::empty())];
        let found = classes(&samples).unwrap();
        let class = |bits, flags| Class { bits, flags };
        assert_eq!(found, [class(1, rd), class(2, wr), class(0b1100, pf | io), class(16, VmFlags::empty())]);
        // A flag without a bit, and two of one bit.
        assert!(classes(&[(1, rd), (1, rd | wr)]).is_none());
        assert!(classes(&[(1, rd | wr), (0, VmFlags::empty())]).is_none());
    }

    #[test]
    fn this_kernels_bits_are_told_apart() {
        let Some(flags) = loaded() else { return };
        eprintln!("{:#x?}", flags.classes);
        for flag in [VmFlags::READ, VmFlags::WRITE, VmFlags::EXEC, VmFlags::SHARED, VmFlags::MAY_SHARE]
            .into_iter()
            .chain([VmFlags::MAY_WRITE, VmFlags::GROWS_DOWN, VmFlags::DONT_COPY, VmFlags::WIPE_ON_FORK])
            .chain([VmFlags::DONT_DUMP, VmFlags::SEQ_READ, VmFlags::RAND_READ, VmFlags::ACCOUNT])
        {
            assert!(flags.classes.iter().any(|c| c.flags == flag && c.bits.count_ones() == 1), "{flag:?}");
        }
        assert_eq!(flags.explain(1 << 63 | 1), None);
    }

    #[test]
    fn own_mappings_are_as_smaps_has_them() {
        let Some(flags) = loaded() else { return };
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(50));
        let dir = ProcDir::open(child.id() as Pid).unwrap();
        let told = flags.add(child.id() as Pid, proc::read_maps(&dir).unwrap()).unwrap();
        let smaps = proc::read_smaps(&dir).unwrap();
        let mut maps = proc::read_maps(&dir).unwrap();
        maps.remove(3);
        let changed = flags.add(child.id() as Pid, maps).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        let mut told = told.expect("nothing strange in it");
        assert!(!flags.has_policies || told.iter().any(|s| s.has_policy == Some(false)));
        told.iter_mut().for_each(|s| s.has_policy = None);
        assert_eq!(told, smaps);
        assert_eq!(changed, None);
    }

    #[test]
    fn without_rights_it_is_an_error() {
        let outcome = std::thread::spawn(|| {
            // Version 3, for the calling thread; no capability in any set.
            let (head, none) = ([0x2008_0522_u32, 0], [0_u32; 6]);
            // SAFETY: both are ours and as long as the kernel has them; the raw call changes this thread alone, which ends here.
            let dropped = unsafe { libc::syscall(libc::SYS_capset, head.as_ptr(), none.as_ptr()) } == 0;
            (dropped, Flags::load().err())
        });
        let (dropped, error) = outcome.join().unwrap();
        let lax = std::fs::read("/proc/sys/kernel/unprivileged_bpf_disabled").is_ok_and(|text| text == b"0\n");
        assert!(!dropped || lax || error.is_some());
    }
}
