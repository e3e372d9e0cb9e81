//! One mapping: `mmap(2)`, `madvise(2)`, `mlock2(2)`, `mseal(2)`, PR_SET_VMA.
//!
//! Private mappings into which pages will come, or which have been writable once (VM_ACCOUNT), are made writable and get
//! their own protection in [`finish`]; the others are made as they are, since a reservation of terabytes is only granted
//! to memory that cannot be written.

use super::pages::Runs;
use super::{probes, secret, together};
use crate::error::{Blocker, Context, KindError};
use crate::export::{ExportCx, PageSource};
use crate::import::ImportCx;
use crate::kinds::fd::{self, inodes};
use crate::view::ProcessView;
use ghost_image::record as rec;
use ghost_image::record::vma::Special;
use ghost_sys::proc::{Smap, VmFlags};
use ghost_sys::remote::{Batch, Label};
use std::collections::{BTreeSet, HashMap};

/// What backs a mapping, told from its name, device and flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Backing {
    Anonymous,
    SharedAnonymous,
    SysvShm,
    File,
    Secret,
    Special(Special),
    /// Cannot travel: kind, why.
    Alien(&'static str, &'static str),
}

fn backing(smap: &Smap) -> Backing {
    let (m, flags) = (&smap.mapping, smap.flags);
    let name = m.name.as_slice();
    if flags.intersects(VmFlags::UFFD_MISSING | VmFlags::UFFD_WP | VmFlags::UFFD_MINOR) {
        return Backing::Alien("userfaultfd", "the program handles page faults of this memory itself");
    }
    if flags.contains(VmFlags::HUGE_TLB) {
        return Backing::Alien("hugetlb", "huge pages of hugetlbfs are not carried");
    }
    if flags.contains(VmFlags::SHADOW_STACK) {
        return Backing::Alien("shadow stack", "user shadow stacks are not carried");
    }
    match name {
        b"[vdso]" => Backing::Special(Special::Vdso),
        b"[vvar]" => Backing::Special(Special::Vvar),
        b"[vvar_vclock]" => Backing::Special(Special::VvarVclock),
        b"[vsyscall]" => Backing::Special(Special::Vsyscall),
        b"[heap]" => Backing::Anonymous,
        b"[stack]" => Backing::Anonymous,
        b"[uprobes]" => Backing::Alien("uprobes", "a tracer has put probes into this program"),
        b"/[aio] (deleted)" => Backing::Special(Special::AioRing),
        b"/secretmem (deleted)" => Backing::Secret,
        b"/dev/zero (deleted)" if flags.contains(VmFlags::MAY_SHARE) => Backing::SharedAnonymous,
        _ if name.starts_with(b"anon_inode:[io_uring]") => Backing::Alien("io_uring", "a ring shared with the kernel"),
        _ if name.starts_with(b"anon_inode:[perf_event]") => {
            Backing::Alien("perf_event", "a ring shared with the kernel")
        }
        _ if name.starts_with(b"anon_inode:bpf") => Backing::Alien("bpf", "memory of a BPF map"),
        _ if name.starts_with(b"socket:") => Backing::Alien("packet", "a ring of a packet socket"),
        _ if name.starts_with(b"anon_inode:") => {
            Backing::Alien("anon_inode", "memory of a kernel object that ghost does not know")
        }
        // Eight digits, so that it is no file of that name.
        _ if name.starts_with(b"/SYSV") && name.len() == 23 && name.ends_with(b" (deleted)") => Backing::SysvShm,
        _ if name.starts_with(b"/anon_hugepage") => {
            Backing::Alien("hugetlb", "huge pages of hugetlbfs are not carried")
        }
        _ if name.starts_with(b"[anon_shmem:") => Backing::SharedAnonymous,
        _ if flags.intersects(VmFlags::PFN_MAP | VmFlags::IO) => {
            Backing::Alien("device", "memory of a device is mapped")
        }
        _ if m.inode == 0 && (name.is_empty() || name.starts_with(b"[anon")) => Backing::Anonymous,
        _ if m.inode == 0 => Backing::Alien("mapping", "a special mapping that ghost does not know"),
        _ => Backing::File,
    }
}

/// Names the mappings of a process that cannot travel.
pub fn check(process: &ProcessView, out: &mut Vec<Blocker>) {
    for smap in &process.smaps {
        let m = &smap.mapping;
        let unknown = (!smap.unknown_flags.is_empty())
            .then(|| format!("flags {} are unknown to ghost", String::from_utf8_lossy(&smap.unknown_flags)));
        let unmap = "let the program unmap it first";
        let (kind, why, advice) = match (backing(smap), unknown) {
            (Backing::Alien(kind, why), _) => (kind, why.to_owned(), unmap),
            (_, Some(why)) => ("mapping", why, unmap),
            (Backing::Secret, None) => (secret::KIND, secret::WHY.to_owned(), secret::ADVICE),
            _ => continue,
        };
        let name = String::from_utf8_lossy(&m.name).into_owned();
        out.push(Blocker {
            pid: process.pid,
            comm: process.comm(),
            kind,
            subject: format!("memory {:x}-{:x} {name}", m.start, m.end),
            why,
            advice: advice.to_owned(),
            passes: false,
        });
    }
}

/// Whether it shares an inode that no name reaches: anonymous shared memory, a memfd, a deleted file.
pub fn is_nameless(smap: &Smap) -> bool {
    smap.flags.contains(VmFlags::MAY_SHARE)
        && match backing(smap) {
            Backing::SharedAnonymous | Backing::Secret => true,
            Backing::File => smap.mapping.is_deleted(),
            _ => false,
        }
}

/// What the kernel itself has put there, if it has.
pub fn special(smap: &Smap) -> Special {
    match backing(smap) {
        Backing::Special(special) => special,
        _ => Special::None,
    }
}

/// Whether this is hidden memory.
pub fn is_secret(smap: &Smap) -> bool {
    backing(smap) == Backing::Secret
}

/// The id of the System V segment that is attached here, if one is.
pub fn sysv(smap: &Smap) -> Option<i32> {
    (backing(smap) == Backing::SysvShm).then_some(smap.mapping.inode as i32)
}

/// Whether this maps an inode whose seals keep everybody from writing: it can only be made once they are there, since a
/// mapping that could be made writable stands in their way.
pub fn is_after_seals(vma: &rec::Vma) -> bool {
    vma.shared && vma.file_id != 0 && vma.sealed_writes
}

/// The record of a mapping; None for those that every process has (vsyscall).
pub fn export(cx: &mut ExportCx<'_>, index: usize, smap: &Smap, runs: &Runs) -> Result<Option<rec::Vma>, KindError> {
    let (m, flags) = (&smap.mapping, smap.flags);
    let back = backing(smap);
    let special = match back {
        Backing::Special(Special::Vsyscall) => return Ok(None),
        Backing::Special(s) => s,
        _ => Special::None,
    };
    let mut vma = rec::Vma {
        start: m.start,
        end: m.end,
        prot: m.perms.prot() as u32,
        shared: flags.contains(VmFlags::MAY_SHARE),
        grows_down: flags.contains(VmFlags::GROWS_DOWN),
        offset: m.offset,
        special: special.into(),
        name: m.given_name().map(|n| String::from_utf8_lossy(n).into_owned()).unwrap_or_default(),
        advice: advice(flags),
        locked: flags.contains(VmFlags::LOCKED),
        lock_onfault: flags.contains(VmFlags::LOCK_ON_FAULT),
        no_reserve: flags.contains(VmFlags::NO_RESERVE),
        pkey: smap.protection_key,
        sealed: flags.contains(VmFlags::SEALED),
        droppable: flags.contains(VmFlags::DROPPABLE),
        max_write: flags.contains(VmFlags::MAY_WRITE),
        sealed_writes: flags.contains(VmFlags::SHARED) && !flags.contains(VmFlags::MAY_WRITE),
        mempolicy: cx.answers.processes[index].memory.policy(m.start),
        accounted: flags.contains(VmFlags::ACCOUNT),
        ..rec::Vma::default()
    };
    match back {
        Backing::File => {
            probes::check(&cx.view.processes[index], smap, runs.data_within(m.start, m.end))?;
            vma.file_id = fd::export_mapping(cx, index, smap)?;
        }
        Backing::Secret => {
            vma.file_id = secret::export_mapping(cx, index, smap)?;
            // It always is, by itself, and can't be by mlock(2).
            (vma.locked, vma.lock_onfault) = (false, false);
        }
        // A file without a name: its descriptors and private mappings are of the same inode.
        Backing::SharedAnonymous if inodes::inodes(cx.view).is_file(cx.view, (m.dev, m.inode)) => {
            vma.file_id = fd::export_mapping(cx, index, smap)?;
        }
        Backing::SharedAnonymous => vma.shmem_id = export_shmem(cx, index, smap)?,
        Backing::SysvShm => vma.sysv_id = super::sysv::export(cx, index, smap)?,
        _ => {}
    }
    if !vma.shared && special == Special::None {
        vma.data_pages = runs.pages_within(m.start, m.end);
        vma.guards = runs.guards_within(m.start, m.end);
        vma.huge = runs.huge_within(m.start, m.end);
    }
    Ok(Some(vma))
}

fn advice(flags: VmFlags) -> Vec<u32> {
    let table = [
        (VmFlags::HUGE_PAGE, libc::MADV_HUGEPAGE),
        (VmFlags::NO_HUGE_PAGE, libc::MADV_NOHUGEPAGE),
        (VmFlags::DONT_COPY, libc::MADV_DONTFORK),
        (VmFlags::WIPE_ON_FORK, libc::MADV_WIPEONFORK),
        (VmFlags::DONT_DUMP, libc::MADV_DONTDUMP),
        (VmFlags::MERGEABLE, libc::MADV_MERGEABLE),
        (VmFlags::SEQ_READ, libc::MADV_SEQUENTIAL),
        (VmFlags::RAND_READ, libc::MADV_RANDOM),
    ];
    table.iter().filter(|(flag, _)| flags.contains(*flag)).map(|&(_, advice)| advice as u32).collect()
}

/// The inode behind shared anonymous memory, written once however many map it.
fn export_shmem(cx: &mut ExportCx<'_>, index: usize, smap: &Smap) -> Result<u32, KindError> {
    let process = &cx.view.processes[index];
    let m = &smap.mapping;
    let (id, new) = cx.shmems.get((m.dev, m.inode));
    if new {
        let what = || format!("shared memory {:x}-{:x}", m.start, m.end);
        let file = process.dir.open_file(&m.map_file(), libc::O_RDONLY).step_on(
            process.pid,
            what,
            "opening what is mapped",
        )?;
        let size = rustix::fs::fstat(&file).step_on(process.pid, what, "fstat")?.st_size as u64;
        cx.model.shmems.push(rec::Shmem { id, size, ..rec::Shmem::default() });
        cx.pages.push(PageSource::Inode { owner: super::pages::OWNER_SHMEM, id, file, size });
    }
    Ok(id)
}

/// Makes each shared anonymous inode through the first process that maps it, and opens it for the others.
pub fn import_shmem(cx: &mut ImportCx<'_>, first_user: &HashMap<u32, usize>) -> Result<(), KindError> {
    let model = cx.model;
    for shmem in &model.shmems {
        let user = model.mms.iter().find(|mm| mm.vmas.iter().any(|v| v.shmem_id == shmem.id));
        let Some(&index) = user.and_then(|mm| first_user.get(&mm.id)) else { continue };
        let pid = cx.building[index].pid;
        let what = || format!("shared anonymous memory of {} bytes", shmem.size);
        cx.flush(index)?;
        let mut batch = Batch::new();
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let at = batch.call(
            "mmap of shared memory",
            libc::SYS_mmap,
            &[0.into(), shmem.size.into(), prot.into(), flags.into(), (-1).into(), 0.into()],
        );
        let start = cx.run(index, &batch)?.result(at).step_on(pid, what, "mmap")? as u64;
        let end = start + shmem.size.next_multiple_of(4096);
        let path = format!("/proc/{pid}/map_files/{start:x}-{end:x}");
        let opened =
            rustix::fs::open(&path, rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC, rustix::fs::Mode::empty())
                .step_on(pid, what, "opening it through map_files (CAP_CHECKPOINT_RESTORE)")?;
        cx.building[index].batch.call("munmap of shared memory", libc::SYS_munmap, &[start.into(), shmem.size.into()]);
        cx.flush(index)?;
        cx.shmems.insert(shmem.id, opened);
    }
    Ok(())
}

/// Numbers of descriptors inside a process, by what they are for.
#[derive(Debug, Default)]
pub struct Numbers {
    files: HashMap<u32, i32>,
    shmems: HashMap<u32, i32>,
}

/// Gives processes the descriptors that those of their mappings are made from which `which` chooses.
pub fn hand_over_files(
    cx: &mut ImportCx<'_>,
    owners: &[(&rec::Mm, usize)],
    which: impl Fn(&rec::Vma) -> bool,
) -> Result<HashMap<usize, Numbers>, KindError> {
    let chosen = |of: fn(&rec::Vma) -> u32| {
        let ids = owners.iter().map(|(mm, index)| {
            let ids: BTreeSet<u32> = mm.vmas.iter().filter(|v| which(v)).map(of).filter(|&id| id != 0).collect();
            (*index, ids.into_iter().collect::<Vec<u32>>())
        });
        let mut ids: Vec<_> = ids.collect();
        ids.sort_unstable_by_key(|(index, _)| *index);
        ids
    };
    let (files, shmems) = (chosen(|v| v.file_id), chosen(|v| v.shmem_id));
    let of_files = cx.hand_over_files(&files)?;
    let ours = std::mem::take(&mut cx.shmems);
    let of_shmems = cx.hand_over_all(&shmems, &ours);
    cx.shmems = ours;
    let of_shmems = of_shmems?;
    let mut handed: HashMap<usize, Numbers> = HashMap::new();
    for ((index, files), (_, shmems)) in files.into_iter().zip(shmems) {
        let numbers = Numbers {
            files: files.into_iter().zip(of_files[&index].iter().copied()).collect(),
            shmems: shmems.into_iter().zip(of_shmems[&index].iter().copied()).collect(),
        };
        handed.insert(index, numbers);
    }
    Ok(handed)
}

/// Every number once.
pub fn distinct(numbers: &Numbers) -> BTreeSet<i32> {
    numbers.files.values().chain(numbers.shmems.values()).copied().collect()
}

/// Whether it is made writable first and gets its protection later.
pub fn writable_first(vma: &rec::Vma) -> bool {
    !vma.shared && (vma.data_pages > 0 || vma.accounted) && vma.prot & libc::PROT_WRITE as u32 == 0
}

/// The protection that it is made with. Writable memory of its own has the same at first, whether or not it can be executed, so that
/// neighbours are one mapping while their pages come.
pub fn first_prot(vma: &rec::Vma) -> i32 {
    let (prot, writable) = (vma.prot as i32, libc::PROT_READ | libc::PROT_WRITE);
    if together::is_gatherable(vma) && (writable_first(vma) || prot & libc::PROT_WRITE != 0) {
        return writable;
    }
    prot | if writable_first(vma) { writable } else { 0 }
}

/// Queues the calls that make this mapping.
pub fn import(batch: &mut Batch, vma: &rec::Vma, numbers: &Numbers) {
    if vma.special != i32::from(Special::None) || is_after_seals(vma) || vma.sysv_id != 0 {
        return;
    }
    make(batch, vma, numbers);
}

/// Queues the calls that make a mapping that had to wait for seals.
pub fn import_sealed(batch: &mut Batch, vma: &rec::Vma, numbers: &Numbers) {
    make(batch, vma, numbers);
}

fn make(batch: &mut Batch, vma: &rec::Vma, numbers: &Numbers) {
    let prot = first_prot(vma);
    let fd = match (vma.file_id, vma.shmem_id) {
        (0, 0) => -1,
        (0, shmem) => numbers.shmems[&shmem],
        (file, _) => numbers.files[&file],
    };
    let mut flags = libc::MAP_FIXED_NOREPLACE;
    flags |= match (vma.droppable, vma.shared) {
        (true, _) => MAP_DROPPABLE,
        (_, true) => libc::MAP_SHARED,
        (_, false) => libc::MAP_PRIVATE,
    };
    for (yes, flag) in
        [(fd < 0, libc::MAP_ANONYMOUS), (vma.grows_down, libc::MAP_GROWSDOWN), (vma.no_reserve, libc::MAP_NORESERVE)]
    {
        flags |= if yes { flag } else { 0 };
    }
    let len = vma.end - vma.start;
    let offset = if fd < 0 { 0 } else { vma.offset };
    batch.call(
        Label::Range("mmap", vma.start, vma.end),
        libc::SYS_mmap,
        &[vma.start.into(), len.into(), prot.into(), flags.into(), fd.into(), offset.into()],
    );
    early(batch, vma);
}

/// Whether there is something that it must have before its pages come.
pub fn has_early(vma: &rec::Vma) -> bool {
    !vma.mempolicy.is_empty() || !vma.guards.is_empty() || vma.advice.iter().any(|&a| is_early(a))
}

/// Queues what a new mapping must have before its pages come.
pub fn early(batch: &mut Batch, vma: &rec::Vma) {
    let len = vma.end - vma.start;
    if !vma.mempolicy.is_empty() {
        super::policy::mbind(batch, vma);
    }
    // Huge pages are decided at the fault that brings the data.
    for &advice in vma.advice.iter().filter(|&&a| is_early(a)) {
        madvise(batch, vma.start, len, advice);
    }
    for guard in vma.guards.chunks_exact(2) {
        madvise(batch, guard[0], guard[1] - guard[0], MADV_GUARD_INSTALL);
    }
}

const MAP_DROPPABLE: i32 = 8;
const MADV_GUARD_INSTALL: u32 = 102;
/// Linux 6.1; it asks no setting of the machine.
const MADV_COLLAPSE: i32 = 25;

/// For messages.
fn advice_name(advice: u32) -> &'static str {
    match advice as i32 {
        libc::MADV_HUGEPAGE => "MADV_HUGEPAGE",
        libc::MADV_NOHUGEPAGE => "MADV_NOHUGEPAGE",
        libc::MADV_DONTFORK => "MADV_DONTFORK",
        libc::MADV_WIPEONFORK => "MADV_WIPEONFORK",
        libc::MADV_DONTDUMP => "MADV_DONTDUMP",
        libc::MADV_MERGEABLE => "MADV_MERGEABLE",
        libc::MADV_SEQUENTIAL => "MADV_SEQUENTIAL",
        libc::MADV_RANDOM => "MADV_RANDOM",
        _ if advice == MADV_GUARD_INSTALL => "MADV_GUARD_INSTALL",
        _ => "madvise",
    }
}

fn is_early(advice: u32) -> bool {
    advice == libc::MADV_HUGEPAGE as u32 || advice == libc::MADV_NOHUGEPAGE as u32
}

fn madvise(batch: &mut Batch, start: u64, len: u64, advice: u32) {
    batch.call(
        Label::Range(advice_name(advice), start, start + len),
        libc::SYS_madvise,
        &[start.into(), len.into(), advice.into()],
    );
}

/// Queues what completes this mapping once its pages are there. Seals come last of all: [`seal`].
pub fn finish(batch: &mut Batch, vma: &rec::Vma) {
    let is_ring = vma.special() == Special::AioRing;
    if vma.special() != Special::None && !is_ring {
        return;
    }
    let (start, len) = (vma.start, vma.end - vma.start);
    if vma.pkey != 0 {
        batch.call(
            Label::Range("pkey_mprotect", start, vma.end),
            libc::SYS_pkey_mprotect,
            &[start.into(), len.into(), vma.prot.into(), vma.pkey.into()],
        );
    } else if first_prot(vma) != vma.prot as i32
        || (is_ring && vma.prot != (libc::PROT_READ | libc::PROT_WRITE) as u32)
        || (vma.sysv_id != 0 && vma.prot as i32 != super::sysv::attached_prot(vma))
    {
        batch.call(
            Label::Range("mprotect", start, vma.end),
            libc::SYS_mprotect,
            &[start.into(), len.into(), vma.prot.into()],
        );
    }
    if !vma.name.is_empty() {
        let name = batch.c_string(vma.name.as_bytes());
        batch.call(
            Label::Range("PR_SET_VMA", start, vma.end),
            libc::SYS_prctl,
            &[libc::PR_SET_VMA.into(), libc::PR_SET_VMA_ANON_NAME.into(), start.into(), len.into(), name.into()],
        );
    }
    for &advice in vma.advice.iter().filter(|&&a| !is_early(a)) {
        madvise(batch, start, len, advice);
    }
    for huge in vma.huge.chunks_exact(2) {
        // Where the fault that brought the data did not do it already. It is a matter of speed only.
        let args = [huge[0].into(), huge[1].saturating_sub(huge[0]).into(), MADV_COLLAPSE.into()];
        batch.try_call("MADV_COLLAPSE", libc::SYS_madvise, &args);
    }
    if vma.locked {
        let flags = if vma.lock_onfault { libc::MLOCK_ONFAULT } else { 0 };
        batch.call(Label::Range("mlock2", start, vma.end), libc::SYS_mlock2, &[start.into(), len.into(), flags.into()]);
    }
}

/// Queues mseal(2) of this mapping (Linux 6.10).
pub fn seal(batch: &mut Batch, vma: &rec::Vma) {
    let (start, len) = (vma.start, vma.end - vma.start);
    batch.call(Label::Range("mseal", start, vma.end), SYS_MSEAL, &[start.into(), len.into(), 0.into()]);
}

const SYS_MSEAL: i64 = 462;
