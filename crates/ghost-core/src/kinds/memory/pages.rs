//! What of an address space is there to copy, and putting it back.
//!
//! Out: PAGEMAP_SCAN (Linux 6.7) names the pages that are the process's own: present or swapped, neither of a file nor the
//! shared zero page. One pass over the page tables, whatever the number of mappings. How they are copied says [`super::pages_out`].
//! In, several sections at once: UFFDIO_COPY ([`ghost_sys::uffd`]) into large anonymous mappings of small pages, which clears no page
//! first; `process_vm_writev(2)` into all others, so that huge pages come by the first fault; inodes by `pwrite(2)`.

use crate::error::{Context, KindError};
use crate::import::ImportCx;
use crate::model::Model;
use crate::view::ProcessView;
use ghost_image::record as rec;
use ghost_image::record::vma::Special;
use ghost_sys::pagemap::{PageMap, Query};
use ghost_sys::remote::{Batch, Executor, Memory, RemoteAddr};
use ghost_sys::uffd::Missing;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::fd::{AsFd, OwnedFd};

/// `PageHead.owner`: an address space.
pub const OWNER_MM: u32 = 0;
/// `PageHead.owner`: shared anonymous memory.
pub const OWNER_SHMEM: u32 = 1;
/// `PageHead.owner`: an inode without a name.
pub const OWNER_CONTENT: u32 = 2;
/// `PageHead.owner`: a System V segment.
pub const OWNER_SYSV: u32 = 3;
/// `PageHead.owner`: an address space and those that have some of its pages, too.
pub const OWNER_SEVERAL: u32 = ghost_image::pages::SEVERAL;

/// Bytes of a page: x86-64 has no other base size.
pub(super) const PAGE: u64 = 4096;

/// Pages of an address space that are its own, and its guard regions; ascending (start, end).
#[derive(Debug, Default)]
pub struct Runs {
    data: Vec<(u64, u64)>,
    guards: Vec<(u64, u64)>,
    huge: Vec<(u64, u64)>,
    /// Parts of the first that others may have too until somebody writes.
    common: Vec<(u64, u64)>,
}

impl Runs {
    /// How many pages of the range are to be copied.
    pub fn pages_within(&self, start: u64, end: u64) -> u64 {
        within(&self.data, start, end).map(|(s, e)| (e - s) / PAGE).sum()
    }
    /// The pages of the range that are to be copied: (start, end).
    pub fn data_within(&self, start: u64, end: u64) -> impl Iterator<Item = (u64, u64)> + '_ {
        within(&self.data, start, end)
    }
    /// The guard regions of the range: start, end, start, end, ...
    pub fn guards_within(&self, start: u64, end: u64) -> Vec<u64> {
        within(&self.guards, start, end).flat_map(|(s, e)| [s, e]).collect()
    }
    /// Pages that other processes may have too, after a fork, or that are merged (KSM); ascending (start, end).
    pub fn common(&self) -> &[(u64, u64)] {
        &self.common
    }
    /// What of the range is in transparent huge pages, in the same form.
    pub fn huge_within(&self, start: u64, end: u64) -> Vec<u64> {
        within(&self.huge, start, end).flat_map(|(s, e)| [s, e]).collect()
    }
}

/// The parts of ascending ranges that lie in `start..end`.
fn within(ranges: &[(u64, u64)], start: u64, end: u64) -> impl Iterator<Item = (u64, u64)> + '_ {
    let first = ranges.partition_point(|r| r.1 <= start);
    ranges[first..].iter().take_while(move |r| r.0 < end).map(move |r| (r.0.max(start), r.1.min(end)))
}

/// Whether one of these ranges, ascending, has the address.
pub(super) fn has(ranges: &[(u64, u64)], at: u64) -> bool {
    ranges.get(ranges.partition_point(|r| r.1 <= at)).is_some_and(|r| r.0 <= at)
}

/// The parts of the runs that lie in private mappings of the record: (address, bytes). Each is all common, or not at all.
pub fn to_copy(runs: &Runs, vmas: &[rec::Vma]) -> Vec<(u64, u64)> {
    let private = vmas.iter().filter(|v| v.data_pages > 0);
    let mut parts = Vec::new();
    for (mut start, end) in private.flat_map(|v| within(&runs.data, v.start, v.end)) {
        for (from, to) in within(&runs.common, start, end) {
            parts.extend([(start, from), (from, to)]);
            start = to;
        }
        parts.push((start, end));
    }
    parts.iter().filter(|p| p.0 < p.1).map(|p| (p.0, p.1 - p.0)).collect()
}

/// Asks the kernel for them.
pub fn runs(process: &ProcessView) -> Result<Runs, KindError> {
    let what = || "pagemap".to_owned();
    let map = PageMap::open(&process.dir).step_on(process.pid, what, "opening it")?;
    let regions = map.scan_all(&Query::own_pages()).step_on(process.pid, what, "PAGEMAP_SCAN")?;
    let mut runs = Runs::default();
    for region in regions {
        let add = |list: &mut Vec<(u64, u64)>| match list.last_mut() {
            Some(last) if last.1 == region.start => last.1 = region.end,
            _ => list.push((region.start, region.end)),
        };
        if region.is_guard() {
            add(&mut runs.guards);
        } else {
            add(&mut runs.data);
            if region.is_huge() {
                add(&mut runs.huge);
            }
        }
    }
    runs.common = common(&map, &runs.data).step_on(process.pid, what, "reading it")?;
    Ok(runs)
}

/// How far the pages lie apart that are asked for whether a process shares memory at all.
const SAMPLE: u64 = 2 << 20;
/// How much is asked for at once.
const STRETCH: u64 = 64 << 20;
/// Fewer pages between common ones are taken for such, too.
const SHORT: u64 = 8 * PAGE;

/// Whether a word of pagemap is of a page that nobody else has: `PM_PRESENT` and `PM_MMAP_EXCLUSIVE`.
fn is_own(word: u64) -> bool {
    const OWN: u64 = 1 << 63 | 1 << 56;
    word & OWN == OWN
}

/// Addresses so far from each other within a run.
fn every(run: (u64, u64), step: u64) -> impl Iterator<Item = u64> {
    (run.0..run.1).step_by(step as usize)
}

/// Whether a process seems to have no page in common with others, as samples say.
fn seems_alone(map: &PageMap, runs: &[(u64, u64)]) -> ghost_sys::Result<bool> {
    for at in runs.iter().flat_map(|run| every(*run, SAMPLE)) {
        if !is_own(map.words(at..at + PAGE, PAGE)?[0]) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The parts of the runs whose pages others may have too.
fn common(map: &PageMap, runs: &[(u64, u64)]) -> ghost_sys::Result<Vec<(u64, u64)>> {
    let mut found: Vec<(u64, u64)> = Vec::new();
    if seems_alone(map, runs)? {
        return Ok(found);
    }
    for (from, end) in runs.iter().flat_map(|run| every(*run, STRETCH).map(|from| (from, run.1))) {
        let words = map.words(from..end.min(from + STRETCH), PAGE)?;
        for at in (from..).step_by(PAGE as usize).zip(words).filter(|w| !is_own(w.1)).map(|w| w.0) {
            match found.last_mut() {
                Some(last) if at - last.1 < SHORT => last.1 = at + PAGE,
                _ => found.push((at, at + PAGE)),
            }
        }
    }
    Ok(found)
}

/// Bytes of pages in a mapping from which on a registration is worth it.
const WORTH_REGISTERING: u64 = 1 << 20;
/// Bytes of pages in all of them from which on the descriptor is, which takes two visits to the process.
const WORTH_VISITING: u64 = 8 << 20;

/// Missing pages of one address space: the descriptor, and what is registered with it, ascending (start, end).
pub type MissingRanges = (Missing, Vec<(u64, u64)>);

/// How many bytes of pages the records speak of: a claim, good for choosing how to go on.
pub fn expected(model: &Model) -> u64 {
    let vmas = model.mms.iter().flat_map(|mm| &mm.vmas).map(|v| v.data_pages.saturating_mul(PAGE));
    let shmems = model.shmems.iter().map(|s| s.size);
    vmas.chain(shmems).fold(0, u64::saturating_add)
}

/// Registers what can be filled by UFFDIO_COPY, by the id of the address space. Where the kernel will not, nothing is.
///
/// From here until the descriptors are dropped, nothing else may touch what is missing in these ranges.
pub fn open_missing(cx: &mut ImportCx<'_>) -> Result<HashMap<u32, MissingRanges>, KindError> {
    let model = cx.model;
    let mut found = HashMap::new();
    for (id, index) in crate::import::first_users(model) {
        let Some(mm) = model.mm(id) else { continue };
        let plain = || super::together::gathered(&mm.vmas).filter(|v| is_plain(v));
        let bytes = plain().map(|v| v.data_pages.saturating_mul(PAGE)).fold(0, u64::saturating_add);
        if bytes < WORTH_VISITING || cx.building[index].leader.is_none() {
            continue;
        }
        let mut batch = Batch::new();
        let made = batch.try_call("userfaultfd", libc::SYS_userfaultfd, &[ghost_sys::uffd::CREATE_FLAGS.into()]);
        let Ok(number) = cx.run(index, &batch)?.result(made) else { continue };
        let pid = cx.building[index].pid;
        let fd = ghost_sys::pidfd::open(pid).and_then(|p| ghost_sys::pidfd::getfd(p.as_fd(), number as i32));
        let mut batch = Batch::new();
        batch.call("close of the userfaultfd", libc::SYS_close, &[number.into()]);
        cx.run(index, &batch)?;
        let Ok(missing) = fd.and_then(Missing::new) else { continue };
        let mut registered = Vec::new();
        for (start, end) in plain().map(|v| (v.start, v.end)) {
            if missing.register(start, end - start).is_ok() {
                registered.push((start, end));
            }
        }
        found.insert(id, (missing, registered));
    }
    Ok(found)
}

/// Large, anonymous, private, and of small pages only.
fn is_plain(vma: &rec::Vma) -> bool {
    let bytes = vma.data_pages.saturating_mul(PAGE);
    let special = [Special::None, Special::Heap].iter().all(|s| vma.special != i32::from(*s));
    let odd = vma.shared || vma.grows_down || vma.droppable || vma.huge_tlb || !vma.guards.is_empty() || special;
    let huge = !vma.huge.is_empty() || vma.advice.contains(&(libc::MADV_HUGEPAGE as u32));
    vma.file_id == 0 && vma.shmem_id == 0 && bytes >= WORTH_REGISTERING && !odd && !huge
}

/// Where pages go, for several threads at once.
pub struct Targets<'c> {
    model: &'c Model,
    memories: HashMap<u32, Memory>,
    missing: HashMap<u32, MissingRanges>,
    shmems: &'c HashMap<u32, OwnedFd>,
    contents: &'c HashMap<u32, OwnedFd>,
    /// Those of them that are hidden memory.
    secrets: HashSet<u32>,
    sysv: &'c HashMap<u32, OwnedFd>,
}

impl<'c> Targets<'c> {
    /// Those of a tree whose mappings and inodes are made.
    pub fn of(cx: &'c ImportCx<'_>, missing: HashMap<u32, MissingRanges>) -> Result<Self, KindError> {
        let mut memories = HashMap::new();
        for (mm, index) in crate::import::first_users(cx.model) {
            if let Some(stub) = &cx.building[index].leader {
                let memory = stub.memory().share();
                memories.insert(mm, memory);
            }
        }
        let (shmems, contents, sysv) = (&cx.shmems, &cx.contents, &cx.sysv.files);
        let secrets = cx.model.files.iter().filter_map(|f| match &f.object {
            Some(rec::file::Object::Regular(r)) if r.secret => Some(r.content_id),
            _ => None,
        });
        Ok(Self { model: cx.model, memories, missing, shmems, contents, secrets: secrets.collect(), sysv })
    }

    /// Writes runs of pages of one address space, whose bytes follow each other.
    fn write(&self, id: u32, memory: &Memory, runs: &[(u64, u64)], bytes: &[u8]) -> ghost_sys::Result<()> {
        let Some((missing, registered)) = self.missing.get(&id) else {
            let ranges: Vec<_> = runs.iter().map(|&(start, len)| (RemoteAddr(start), len as usize)).collect();
            return memory.write_ranges(&ranges, bytes);
        };
        // What is not registered is gathered, to be written by few calls.
        let mut others = Others { memory, ranges: Vec::new(), bytes: 0..0 };
        let mut at = 0;
        for &(start, len) in runs {
            let mut here = start;
            while here < start + len {
                let next = registered.partition_point(|r| r.1 <= here);
                let end = start + len;
                let (until, inside) = match registered.get(next) {
                    Some(r) if r.0 <= here => (end.min(r.1), true),
                    Some(r) => (end.min(r.0), false),
                    None => (end, false),
                };
                let part = at..at + (until - here) as usize;
                at = part.end;
                if inside {
                    fill(missing, memory, here, &bytes[part])?;
                } else {
                    others.add(here, part, bytes)?;
                }
                here = until;
            }
        }
        others.flush(bytes)
    }
}

/// Ranges whose bytes follow each other in the buffer.
struct Others<'m> {
    memory: &'m Memory,
    ranges: Vec<(RemoteAddr, usize)>,
    bytes: std::ops::Range<usize>,
}

impl Others<'_> {
    fn add(&mut self, start: u64, part: std::ops::Range<usize>, bytes: &[u8]) -> ghost_sys::Result<()> {
        if part.start != self.bytes.end {
            self.flush(bytes)?;
            self.bytes = part.start..part.start;
        }
        self.ranges.push((RemoteAddr(start), part.len()));
        self.bytes.end = part.end;
        Ok(())
    }
    fn flush(&mut self, bytes: &[u8]) -> ghost_sys::Result<()> {
        self.memory.write_ranges(&std::mem::take(&mut self.ranges), &bytes[self.bytes.clone()])
    }
}

/// Fills registered pages. One that is there already (the later section holds) is overwritten.
fn fill(missing: &Missing, memory: &Memory, start: u64, bytes: &[u8]) -> ghost_sys::Result<()> {
    let mut done = 0;
    while done < bytes.len() {
        done += missing.copy(start + done as u64, &bytes[done..])?;
        if done < bytes.len() {
            let page = done..done + PAGE as usize;
            memory.write(RemoteAddr(start + done as u64), &bytes[page.clone()])?;
            done = page.end;
        }
    }
    Ok(())
}

/// Puts the pages of one section where they belong.
pub fn import(cx: &Targets<'_>, head: &rec::PageHead, bytes: &[u8]) -> Result<(), KindError> {
    let filled = head.runs.iter().filter(|r| !r.zero);
    match head.owner {
        OWNER_MM | OWNER_SEVERAL => {
            let memory = cx.memories.get(&head.id).ok_or_else(|| alien(head))?;
            let runs: Vec<_> = filled.map(|r| (r.start, r.pages * PAGE)).collect();
            let written = cx
                .write(head.id, memory, &runs, bytes)
                .and_then(|()| write_zeros(cx.model, head.id, memory, head.runs.iter()));
            written.step_on(memory.pid(), String::new, "writing its pages")?;
            import_shared(cx, head, bytes)
        }
        OWNER_SHMEM | OWNER_CONTENT | OWNER_SYSV => {
            let table = match head.owner {
                OWNER_SHMEM => cx.shmems,
                OWNER_SYSV => cx.sysv,
                _ => cx.contents,
            };
            let file = table.get(&head.id).ok_or_else(|| alien(head))?;
            let size = rustix::fs::fstat(file).step("fstat of an inode")?.st_size as u64;
            let mut rest = bytes;
            for run in filled {
                let (now, later) = rest.split_at((run.pages * PAGE) as usize);
                rest = later;
                if head.owner == OWNER_CONTENT && cx.secrets.contains(&head.id) {
                    ghost_sys::secret::write(file.as_fd(), run.start, now).step("filling hidden memory")?;
                    continue;
                }
                let len = now.len().min(size.saturating_sub(run.start) as usize);
                let mut done = 0;
                while done < len {
                    done += rustix::io::pwrite(file.as_fd(), &now[done..len], run.start + done as u64)
                        .step("writing an inode's bytes")?;
                }
            }
            Ok(())
        }
        _ => Err(alien(head)),
    }
}

/// Puts those pages of a section where they belong that further address spaces have.
fn import_shared(cx: &Targets<'_>, head: &rec::PageHead, bytes: &[u8]) -> Result<(), KindError> {
    if head.shares.is_empty() {
        return Ok(());
    }
    let mut at = 0;
    let places = head.runs.iter().map(|run| {
        let len = if run.zero { 0 } else { (run.pages * PAGE) as usize };
        at += len;
        (run, &bytes[at - len..at])
    });
    let places: Vec<(&rec::PageRun, &[u8])> = places.collect();
    let mut of_each: BTreeMap<u32, Vec<std::ops::Range<usize>>> = BTreeMap::new();
    for share in &head.shares {
        let runs = share.first as usize..(share.first + share.count) as usize;
        for id in &share.ids {
            of_each.entry(*id).or_default().push(runs.clone());
        }
    }
    for (id, runs) in of_each {
        let memory = cx.memories.get(&id).ok_or_else(|| alien(head))?;
        let places = || runs.iter().flat_map(|runs| &places[runs.clone()]);
        let filled = places().filter(|(run, _)| !run.zero);
        let written = if cx.missing.contains_key(&id) {
            let mut filled = filled;
            filled.try_for_each(|(run, bytes)| cx.write(id, memory, &[(run.start, run.pages * PAGE)], bytes))
        } else {
            memory.write_parts(&filled.map(|(run, bytes)| (RemoteAddr(run.start), *bytes)).collect::<Vec<_>>())
        };
        let written = written.and_then(|()| write_zeros(cx.model, id, memory, places().map(|p| p.0)));
        written.step_on(memory.pid(), String::new, "writing its pages")?;
    }
    Ok(())
}

fn alien(head: &rec::PageHead) -> KindError {
    KindError::conflict(
        "placing pages",
        format!("the ghost has pages for object {}/{} and does not describe it", head.owner, head.id),
    )
}

/// Pages of zeros that hide what a file has there are pages all the same; anonymous memory reads as zeros by itself.
fn write_zeros<'r>(
    model: &Model,
    id: u32,
    memory: &Memory,
    runs: impl Iterator<Item = &'r rec::PageRun>,
) -> ghost_sys::Result<()> {
    let Some(mm) = model.mm(id) else { return Ok(()) };
    for run in runs.filter(|r| r.zero) {
        let end = run.start + run.pages * PAGE;
        let first = mm.vmas.partition_point(|v| v.end <= run.start);
        for vma in mm.vmas[first..].iter().take_while(|v| v.start < end).filter(|v| v.file_id != 0) {
            for at in (vma.start.max(run.start)..vma.end.min(end)).step_by(PAGE as usize) {
                memory.write(RemoteAddr(at), &[0; PAGE as usize])?;
            }
        }
    }
    Ok(())
}
