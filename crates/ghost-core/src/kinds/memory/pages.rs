//! What of an address space is there to copy, and the copying, both ways.
//!
//! Out: PAGEMAP_SCAN (Linux 6.7) names the pages that are the process's own: present or swapped, neither of a file nor the
//! shared zero page. One pass over the page tables, whatever the number of mappings. They are read with `process_vm_readv(2)`
//! into a few reused buffers, one thread reading while another writes; pages that hold only zeros carry no bytes.
//! In: `process_vm_writev(2)` into the new mappings, straight from a mapped image, several sections at once; inodes by `pwrite(2)`.

use crate::error::{Context, KindError};
use crate::export::PageSource;
use crate::import::ImportCx;
use crate::model::Model;
use crate::options::Progress;
use crate::view::ProcessView;
use ghost_image::ImageWriter;
use ghost_image::record as rec;
use ghost_sys::remote::{Executor, Memory, RemoteAddr};
use std::collections::HashMap;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc;

/// `PageHead.owner`: an address space.
pub const OWNER_MM: u32 = 0;
/// `PageHead.owner`: shared anonymous memory.
pub const OWNER_SHMEM: u32 = 1;
/// `PageHead.owner`: an inode without a name.
pub const OWNER_CONTENT: u32 = 2;
/// `PageHead.owner`: a System V segment.
pub const OWNER_SYSV: u32 = 3;

/// Bytes of a page: x86-64 has no other base size.
const PAGE: u64 = 4096;

/// Bytes of one page section at most.
///
/// Small enough that all threads of an import have work soon and to the end.
const SECTION: usize = 1 << 20;

/// Pages of an address space that are its own, and its guard regions; ascending (start, end).
#[derive(Debug, Default)]
pub struct Runs {
    data: Vec<(u64, u64)>,
    guards: Vec<(u64, u64)>,
    huge: Vec<(u64, u64)>,
}

impl Runs {
    /// How many pages of the range are to be copied.
    pub fn pages_within(&self, start: u64, end: u64) -> u64 {
        within(&self.data, start, end).map(|(s, e)| (e - s) / PAGE).sum()
    }
    /// The guard regions of the range: start, end, start, end, ...
    pub fn guards_within(&self, start: u64, end: u64) -> Vec<u64> {
        within(&self.guards, start, end).flat_map(|(s, e)| [s, e]).collect()
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

/// The parts of the runs that lie in private mappings of the record: (address, bytes).
pub fn to_copy(runs: &Runs, vmas: &[rec::Vma]) -> Vec<(u64, u64)> {
    let private = vmas.iter().filter(|v| v.data_pages > 0);
    private.flat_map(|v| within(&runs.data, v.start, v.end).map(|(s, e)| (s, e - s))).collect()
}

/// Asks the kernel for them.
pub fn runs(process: &ProcessView) -> Result<Runs, KindError> {
    let regions = ghost_sys::pagemap::scan(&process.dir).step_on(process.pid, || "pagemap".into(), "PAGEMAP_SCAN")?;
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
    Ok(runs)
}

/// A section's worth of bytes on its way from the reader to the writer.
struct Load {
    head: rec::PageHead,
    bytes: Vec<u8>,
    /// Parts of `bytes` to be written.
    keep: Vec<std::ops::Range<usize>>,
}

/// Writes all pages of a source. Returns bytes read and bytes written.
pub fn write<W: Write>(
    source: &PageSource,
    pid: i32,
    out: &mut ImageWriter<W>,
    progress: &Progress,
) -> Result<(u64, u64), KindError> {
    let (to_writer, loads) = mpsc::sync_channel::<Load>(1);
    let (give_back, spare) = mpsc::channel::<Vec<u8>>();
    std::thread::scope(|scope| {
        let reader = scope.spawn(move || read_all(source, pid, &to_writer, &spare));
        let mut written = 0;
        let mut failed = None;
        for load in loads {
            let slices: Vec<&[u8]> = load.keep.iter().map(|r| &load.bytes[r.clone()]).collect();
            written += slices.iter().map(|s| s.len() as u64).sum::<u64>();
            if let Err(e) = out.pages(&load.head, &slices) {
                failed = Some(KindError::new("writing pages", e));
                break;
            }
            progress.add(load.bytes.len() as u64);
            let _ = give_back.send(load.bytes);
        }
        drop(give_back);
        let read = reader.join().expect("the page reader does not panic");
        match failed {
            Some(e) => Err(e),
            None => read.map(|read| (read, written)),
        }
    })
}

fn read_all(
    source: &PageSource,
    pid: i32,
    to_writer: &mpsc::SyncSender<Load>,
    spare: &mpsc::Receiver<Vec<u8>>,
) -> Result<u64, KindError> {
    let (owner, id) = match source {
        PageSource::Memory { mm_id, .. } => (OWNER_MM, *mm_id),
        PageSource::Inode { owner, id, .. } => (*owner, *id),
    };
    let (ranges, from) = match source {
        PageSource::Memory { runs, .. } => (runs.clone(), From::Memory(Memory::open(pid).step("opening its memory")?)),
        PageSource::Inode { file, size, .. } => (extents(file, *size)?, From::File(file)),
    };
    let mut total = 0;
    let mut todo = Portions { ranges: &ranges, at: 0, done: 0 };
    while let Some(portion) = todo.next_portion() {
        let len: usize = portion.iter().map(|p| p.1).sum();
        let mut bytes = spare.try_recv().unwrap_or_default();
        bytes.resize(len, 0);
        from.read(pid, &portion, &mut bytes)?;
        total += len as u64;
        let load = without_zeros(owner, id, &portion, bytes);
        if to_writer.send(load).is_err() {
            break; // the writer has failed and says why
        }
    }
    Ok(total)
}

/// Cuts ranges into portions of a section each.
struct Portions<'r> {
    ranges: &'r [(u64, u64)],
    at: usize,
    done: u64,
}

impl Portions<'_> {
    fn next_portion(&mut self) -> Option<Vec<(u64, usize)>> {
        let mut portion = Vec::new();
        let mut room = SECTION as u64;
        while let (true, Some(&(start, len))) = (room > 0 && portion.len() < 4096, self.ranges.get(self.at)) {
            let take = (len - self.done).min(room);
            portion.push((start + self.done, take as usize));
            self.done += take;
            room -= take;
            if self.done == len {
                self.at += 1;
                self.done = 0;
            }
        }
        (!portion.is_empty()).then_some(portion)
    }
}

enum From<'f> {
    Memory(Memory),
    File(&'f OwnedFd),
}

impl From<'_> {
    fn read(&self, pid: i32, portion: &[(u64, usize)], bytes: &mut [u8]) -> Result<(), KindError> {
        match self {
            Self::Memory(memory) => {
                let ranges: Vec<_> = portion.iter().map(|&(at, len)| (RemoteAddr(at), len)).collect();
                // Pages without read permission are only readable by force, range by range.
                memory
                    .read_ranges(&ranges, bytes)
                    .or_else(|_| {
                        let mut rest = bytes;
                        ranges.iter().try_for_each(|&(at, len)| {
                            let (now, later) = std::mem::take(&mut rest).split_at_mut(len);
                            rest = later;
                            memory.read_forced(at, now)
                        })
                    })
                    .step_on(pid, || format!("memory at {:x}", portion[0].0), "reading pages")
            }
            Self::File(file) => {
                let mut rest = bytes;
                for &(at, len) in portion {
                    let (now, later) = std::mem::take(&mut rest).split_at_mut(len);
                    rest = later;
                    let mut done = 0;
                    while done < len {
                        match rustix::io::pread(file, &mut now[done..], at + done as u64)
                            .step("reading an inode's bytes")?
                        {
                            0 => break, // the last page of a file is filled up with zeros
                            n => done += n,
                        }
                    }
                    now[done..].fill(0);
                }
                Ok(())
            }
        }
    }
}

/// The data of an inode, page by page: (offset, bytes) of each extent (SEEK_DATA, SEEK_HOLE).
pub(super) fn extents(file: &OwnedFd, size: u64) -> Result<Vec<(u64, u64)>, KindError> {
    use rustix::fs::SeekFrom;
    // A description of our own: the offset of the program's must not move.
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(file));
    let own =
        rustix::fs::open(&path, rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC, rustix::fs::Mode::empty())
            .step("reopening an inode")?;
    let mut list: Vec<(u64, u64)> = Vec::new();
    let mut at = 0;
    while at < size {
        let start = match rustix::fs::seek(&own, SeekFrom::Data(at)) {
            Ok(start) => start / PAGE * PAGE,
            Err(rustix::io::Errno::NXIO) => break,
            Err(e) => return Err(KindError::new("SEEK_DATA", e)),
        };
        let end = rustix::fs::seek(&own, SeekFrom::Hole(start.max(at))).step("SEEK_HOLE")?.next_multiple_of(PAGE);
        match list.last_mut() {
            Some(last) if last.0 + last.1 >= start => last.1 = end - last.0,
            _ => list.push((start, end - start)),
        }
        at = end;
    }
    Ok(list)
}

/// Makes a section of what was read: pages of zeros become runs without bytes.
fn without_zeros(owner: u32, id: u32, portion: &[(u64, usize)], bytes: Vec<u8>) -> Load {
    let page = PAGE as usize;
    let mut head = rec::PageHead { owner, id, runs: Vec::new() };
    let mut keep: Vec<std::ops::Range<usize>> = Vec::new();
    let mut at = 0;
    for &(start, len) in portion {
        for offset in (0..len).step_by(page) {
            let here = at + offset..at + offset + page;
            let zero = is_zero(&bytes[here.clone()]);
            let address = start + offset as u64;
            match head.runs.last_mut() {
                Some(run) if run.zero == zero && run.start + run.pages * PAGE == address => run.pages += 1,
                _ => head.runs.push(rec::PageRun { start: address, pages: 1, zero, huge: false }),
            }
            if !zero {
                match keep.last_mut() {
                    Some(last) if last.end == here.start => last.end = here.end,
                    _ => keep.push(here),
                }
            }
        }
        at += len;
    }
    Load { head, bytes, keep }
}

/// Looks at the first word first: most pages are told by it.
fn is_zero(page: &[u8]) -> bool {
    page[..8] == [0; 8] && page.as_chunks::<64>().0.iter().all(|chunk| *chunk == [0; 64])
}

/// Where pages go, for several threads at once.
pub struct Targets<'c> {
    model: &'c Model,
    memories: HashMap<u32, Memory>,
    shmems: &'c HashMap<u32, OwnedFd>,
    contents: &'c HashMap<u32, OwnedFd>,
    sysv: &'c HashMap<u32, OwnedFd>,
}

impl<'c> Targets<'c> {
    /// Those of a tree whose mappings and inodes are made.
    pub fn of(cx: &'c ImportCx<'_>) -> Result<Self, KindError> {
        let mut memories = HashMap::new();
        for (mm, index) in crate::import::first_users(cx.model) {
            if let Some(stub) = &cx.building[index].leader {
                let memory = stub.memory().try_clone().step_on(stub.pid, String::new, "opening its memory")?;
                memories.insert(mm, memory);
            }
        }
        Ok(Self { model: cx.model, memories, shmems: &cx.shmems, contents: &cx.contents, sysv: &cx.sysv.files })
    }
}

/// Puts the pages of one section where they belong.
pub fn import(cx: &Targets<'_>, head: &rec::PageHead, bytes: &[u8]) -> Result<(), KindError> {
    let filled = head.runs.iter().filter(|r| !r.zero);
    match head.owner {
        OWNER_MM => {
            let memory = cx.memories.get(&head.id).ok_or_else(|| alien(head))?;
            let ranges: Vec<_> = filled.map(|r| (RemoteAddr(r.start), (r.pages * PAGE) as usize)).collect();
            let written = memory.write_ranges(&ranges, bytes).and_then(|()| write_zeros(cx.model, memory, head));
            written.step_on(memory.pid(), String::new, "writing its pages")
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

fn alien(head: &rec::PageHead) -> KindError {
    KindError::conflict(
        "placing pages",
        format!("the ghost has pages for object {}/{} and does not describe it", head.owner, head.id),
    )
}

/// Pages of zeros that hide what a file has there are pages all the same; anonymous memory reads as zeros by itself.
fn write_zeros(model: &Model, memory: &Memory, head: &rec::PageHead) -> ghost_sys::Result<()> {
    let Some(mm) = model.mm(head.id) else { return Ok(()) };
    for run in head.runs.iter().filter(|r| r.zero) {
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
