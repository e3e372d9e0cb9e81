//! Pages on their way out: read, searched for zeros, summed and written, by as many threads as there are CPUs.
//!
//! Each thread takes a section's worth of pages, reads it with `process_vm_readv(2)` into its one buffer, in parts that stay in
//! its CPU's cache until they are summed. Pages that processes share until one of them writes are read from `/proc/PID/mem`: the
//! call pins what it reads, for which the kernel gives each process a page of its own (Linux 5.19), and the memory of a tree that
//! runs on would be multiplied. Only taking a place in the ghost is done by one thread at a time; a destination that
//! can be written at several places is then written by all of them, a stream by one after the other. Sections of one object may
//! so stand in another order than their addresses. Pages that hold only zeros carry no bytes.

use super::common::Also;
use super::pages::{self, OWNER_MM, OWNER_SEVERAL, PAGE};
use crate::abreast;
use crate::error::{Cause, Context, KindError};
use crate::export::PageSource;
use crate::options::Progress;
use ghost_image::bounds::{MAX_DATA, MAX_SECTIONS};
use ghost_image::record as rec;
use ghost_image::{ImageWriter, Place, Tag};
use ghost_resource::WriteAt;
use ghost_sys::Pid;
use ghost_sys::remote::{Memory, RemoteAddr};
use std::borrow::Cow;
use std::io::Write;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// Bytes of one page section: small enough for all threads of an import to have work soon and to the end.
const SECTION: u64 = 1 << 20;
/// What is read at once, to be looked at while it is in the cache.
const HOT: usize = 256 << 10;
/// Bytes from which on more than one thread is worth its making.
const WORTH_THREADS: u64 = 4 << 20;

/// Writes all pages of the sources, each read from this process. Returns bytes read and bytes written.
///
/// With `places` the destination of the image is left behind: it must be moved to the image's offset.
pub fn write<W: Write + Send>(
    sources: &[(&PageSource, Pid)],
    image: &mut ImageWriter<W>,
    places: Option<Arc<dyn WriteAt>>,
    progress: &Progress,
) -> Result<(u64, u64), KindError> {
    let total: u64 = sources.iter().map(|s| s.0.len_bytes()).sum();
    let workers = if total < WORTH_THREADS { 1 } else { abreast::threads() };
    let shared = Shared {
        sources,
        todo: Mutex::new(Todo { section: section_bytes(total), next: 0, ranges: Cow::Borrowed(&[]), at: 0, done: 0 }),
        image: Mutex::new(image),
        places,
        failed: AtomicBool::new(false),
        progress,
    };
    let work = || {
        let mut worker = Worker { shared: &shared, buffer: Vec::new(), from: None, read: 0, written: 0 };
        let done = worker.run();
        shared.failed.fetch_or(done.is_err(), Ordering::Relaxed);
        done.map(|()| (worker.read, worker.written))
    };
    std::thread::scope(|scope| {
        // Where the host has no room for more threads, this one does all.
        let others: Vec<_> =
            (1..workers).map_while(|_| std::thread::Builder::new().spawn_scoped(scope, work).ok()).collect();
        let mut results = vec![work()];
        results.extend(others.into_iter().map(|o| o.join().expect("a page writer does not panic")));
        // What was refused only because another's write had failed tells nothing.
        let of_another = |r: &Result<_, KindError>| {
            r.as_ref().is_err_and(|e| matches!(&e.cause, Cause::Image(e) if e.is_consequence()))
        };
        results.sort_by_key(of_another);
        results.into_iter().try_fold((0, 0), |sum, one| one.map(|one| (sum.0 + one.0, sum.1 + one.1)))
    })
}

/// Larger sections for what would take more than half of those that a ghost may have. Of little the buffer's own pages cost most: each
/// has to be given to ghost first.
fn section_bytes(total: u64) -> u64 {
    if total < WORTH_THREADS {
        return HOT as u64;
    }
    let least = total / (MAX_SECTIONS / 2) + 1;
    least.next_power_of_two().clamp(SECTION, MAX_DATA)
}

/// What the threads share.
struct Shared<'s, W> {
    sources: &'s [(&'s PageSource, Pid)],
    todo: Mutex<Todo<'s>>,
    image: Mutex<&'s mut ImageWriter<W>>,
    places: Option<Arc<dyn WriteAt>>,
    failed: AtomicBool,
    progress: &'s Progress,
}

/// Ranges of one source that make a section: (start, bytes).
type Portion = Vec<(u64, usize)>;

/// How far the sources have been given out.
struct Todo<'s> {
    /// Bytes of a section at most.
    section: u64,
    /// The source after the current one.
    next: usize,
    /// (start, bytes) of the current one, where in it, and how many bytes of that range are given out.
    ranges: Cow<'s, [(u64, u64)]>,
    at: usize,
    done: u64,
}

impl<'s> Todo<'s> {
    /// The next section's worth, and of which source it is; no range is longer than [`HOT`].
    fn portion(&mut self, sources: &'s [(&'s PageSource, Pid)]) -> Result<Option<(usize, Portion)>, KindError> {
        while self.at == self.ranges.len() {
            let Some((source, _)) = sources.get(self.next) else { return Ok(None) };
            self.ranges = match source {
                PageSource::Memory { runs, .. } => Cow::Borrowed(runs),
                PageSource::Inode { file, size, .. } => Cow::Owned(extents(file, *size)?),
                PageSource::Bytes { runs, .. } => Cow::Owned(runs.iter().map(|r| (r.0, r.1.len() as u64)).collect()),
            };
            (self.next, self.at, self.done) = (self.next + 1, 0, 0);
        }
        let mut portion = Portion::new();
        let mut room = self.section;
        while let (true, Some(&(start, len))) = (room > 0 && portion.len() < 4096, self.ranges.get(self.at)) {
            let take = (len - self.done).min(room).min(HOT as u64);
            portion.push((start + self.done, take as usize));
            self.done += take;
            room -= take;
            if self.done == len {
                self.at += 1;
                self.done = 0;
            }
        }
        Ok(Some((self.next - 1, portion)))
    }
}

struct Worker<'w, W> {
    shared: &'w Shared<'w, W>,
    buffer: Vec<u8>,
    /// The source that is open.
    from: Option<(usize, From<'w>)>,
    read: u64,
    written: u64,
}

impl<'w, W: Write> Worker<'w, W> {
    fn run(&mut self) -> Result<(), KindError> {
        let shared = self.shared;
        while !shared.failed.load(Ordering::Relaxed) {
            let portion = shared.todo.lock().expect("no page writer panics").portion(shared.sources)?;
            let Some((index, portion)) = portion else { break };
            let section = self.read(index, &portion)?;
            self.put(&section)?;
            self.read += section.len;
            shared.progress.add(section.len);
            crate::failpoint::hit("export.source")?;
        }
        Ok(())
    }

    fn read(&mut self, index: usize, portion: &[(u64, usize)]) -> Result<Section<'w>, KindError> {
        let (source, pid) = self.shared.sources[index];
        if self.from.as_ref().is_none_or(|f| f.0 != index) {
            let from = match source {
                PageSource::Memory { common, .. } => From::Memory(Memory::of_stopped(pid), common),
                PageSource::Inode { file, .. } => From::File(file),
                PageSource::Bytes { runs, .. } => From::Bytes(runs),
            };
            self.from = Some((index, from));
        }
        let Some((_, from)) = &self.from else { unreachable!("it was opened above") };
        let (owner, id, also) = match source {
            PageSource::Memory { mm_id, also, .. } => (OWNER_MM, *mm_id, &also[..]),
            PageSource::Inode { owner, id, .. } | PageSource::Bytes { owner, id, .. } => (*owner, *id, &[][..]),
        };
        let len: usize = portion.iter().map(|p| p.1).sum();
        if self.buffer.len() < len {
            self.buffer.resize(len, 0);
        }
        let mut section = Section::of(owner, id, also);
        let mut rest = portion;
        while !rest.is_empty() {
            let mut len = 0;
            let fits = |part: &&(u64, usize)| {
                len += part.1;
                len <= HOT
            };
            let count = rest.iter().take_while(fits).count();
            let (now, later) = rest.split_at(count);
            rest = later;
            section.add(now, from, pid, &mut self.buffer)?;
        }
        Ok(section)
    }

    fn put(&mut self, section: &Section<'_>) -> Result<(), KindError> {
        let slices: Vec<&[u8]> = section.keep.iter().map(|r| &self.buffer[r.clone()]).collect();
        let (len, checksum) = (section.keep.iter().map(|r| r.len() as u64).sum(), section.sum.value());
        let mut image = self.shared.image.lock().expect("no page writer panics");
        let done = match &self.shared.places {
            None => image.pages_with_checksum(&section.head, &slices, Some(checksum)).map(drop),
            Some(places) => image.place_pages(&section.head, len, checksum).and_then(|placed| {
                drop(image);
                let place = Place { offset: placed.offset(), section: Tag::Pages.into() };
                let written = places.write_at(&placed.parts(&slices), place.offset);
                written.map_err(|source| ghost_image::Error::Write { place, source })
            }),
        };
        self.written += len;
        done.map_err(|e| KindError::unwritten("writing pages", e))
    }
}

/// A section in the making: what its pages are, and which parts of the buffer are to be written.
struct Section<'s> {
    head: rec::PageHead,
    /// Which pages others have, too; what lies before the section's pages is not among them any more.
    also: &'s [Also],
    keep: Vec<Range<usize>>,
    sum: ghost_image::pages::DataSum,
    /// Bytes in the buffer.
    len: u64,
}

impl<'s> Section<'s> {
    fn of(owner: u32, id: u32, also: &'s [Also]) -> Self {
        let head = rec::PageHead { owner, id, ..rec::PageHead::default() };
        Self { head, also, keep: Vec::new(), sum: ghost_image::pages::DataSum::default(), len: 0 }
    }

    /// Puts a page into the head; whoever has it, too, must be the same for all pages of a run.
    fn page(&mut self, address: u64, zero: bool) {
        self.also = &self.also[self.also.iter().take_while(|a| a.end <= address).count()..];
        let also = self.also.first().filter(|a| a.start <= address);
        let runs = self.head.runs.len() as u32;
        let last = self.head.shares.last_mut();
        // Those who have the last run, and those who have this page.
        let of_last = last.as_ref().filter(|s| s.first + s.count == runs).map_or(&[][..], |s| &s.ids);
        let ids = also.map_or(&[][..], |a| &a.ids);
        let is_same = of_last == ids;
        match self.head.runs.last_mut() {
            Some(run) if is_same && run.zero == zero && run.start + run.pages * PAGE == address => {
                run.pages += 1;
                return;
            }
            _ => self.head.runs.push(rec::PageRun { start: address, pages: 1, zero, huge: false }),
        }
        match last {
            _ if ids.is_empty() => {}
            Some(last) if is_same => last.count += 1,
            _ => {
                self.head.owner = OWNER_SEVERAL;
                self.head.shares.push(rec::PageShare { first: runs, count: 1, ids: ids.to_vec() });
            }
        }
    }

    /// Reads these ranges behind what is in the buffer; pages of zeros become runs without bytes.
    fn add(&mut self, ranges: &[(u64, usize)], from: &From<'_>, pid: Pid, buffer: &mut [u8]) -> Result<(), KindError> {
        let page = PAGE as usize;
        let mut at = self.len as usize;
        let len: usize = ranges.iter().map(|r| r.1).sum();
        from.read(pid, ranges, &mut buffer[at..at + len])?;
        self.len += len as u64;
        let mut unsummed = at..at;
        for &(start, len) in ranges {
            for offset in (0..len).step_by(page) {
                let here = at..at + page;
                let zero = is_zero(&buffer[here.clone()]);
                let address = start + offset as u64;
                self.page(address, zero);
                if !zero {
                    match self.keep.last_mut() {
                        Some(last) if last.end == here.start => last.end = here.end,
                        _ => self.keep.push(here.clone()),
                    }
                    if unsummed.end != here.start {
                        self.sum.add(&buffer[unsummed.clone()]);
                        unsummed.start = here.start;
                    }
                    unsummed.end = here.end;
                }
                at += page;
            }
        }
        self.sum.add(&buffer[unsummed]);
        Ok(())
    }
}

/// Looks at the first word first: most pages are told by it.
fn is_zero(page: &[u8]) -> bool {
    page[..8] == [0; 8] && page.as_chunks::<64>().0.iter().all(|chunk| *chunk == [0; 64])
}

enum From<'f> {
    /// With what of it others may have too.
    Memory(Memory, &'f [(u64, u64)]),
    File(&'f OwnedFd),
    Bytes(&'f [(u64, Vec<u8>)]),
}

impl From<'_> {
    fn read(&self, pid: Pid, ranges: &[(u64, usize)], bytes: &mut [u8]) -> Result<(), KindError> {
        match self {
            Self::Memory(memory, common) => {
                let (mut there, mut rest) = (ranges, bytes);
                while let Some(&(first, _)) = there.first() {
                    let gently = pages::has(common, first);
                    let count = there.iter().take_while(|r| pages::has(common, r.0) == gently).count();
                    let (now, later) = there.split_at(count);
                    let len = now.iter().map(|r| r.1).sum();
                    let (bytes, others) = std::mem::take(&mut rest).split_at_mut(len);
                    (there, rest) = (later, others);
                    read_alike(memory, now, gently, bytes).step_on(
                        pid,
                        || format!("memory at {first:x}"),
                        "reading pages",
                    )?;
                }
                Ok(())
            }
            Self::Bytes(runs) => {
                let mut rest = bytes;
                for &(at, len) in ranges {
                    let (now, later) = std::mem::take(&mut rest).split_at_mut(len);
                    rest = later;
                    let inside = |r: &&(u64, Vec<u8>)| r.0 <= at && at + len as u64 <= r.0 + r.1.len() as u64;
                    let run = runs.iter().find(inside).expect("ranges are parts of the runs");
                    now.copy_from_slice(&run.1[(at - run.0) as usize..][..len]);
                }
                Ok(())
            }
            Self::File(file) => {
                let mut rest = bytes;
                for &(at, len) in ranges {
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

/// Reads ranges of memory, range by range through `/proc/PID/mem` if it is to be done gently.
fn read_alike(memory: &Memory, ranges: &[(u64, usize)], gently: bool, bytes: &mut [u8]) -> ghost_sys::Result<()> {
    if !gently {
        let there: Vec<_> = ranges.iter().map(|&(at, len)| (RemoteAddr(at), len)).collect();
        if memory.read_ranges(&there, bytes).is_ok() {
            return Ok(());
        }
        // Pages without read permission are only readable by force.
    }
    let mut rest = bytes;
    ranges.iter().try_for_each(|&(at, len)| {
        let (now, later) = std::mem::take(&mut rest).split_at_mut(len);
        rest = later;
        memory.read_forced(RemoteAddr(at), now)
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_grow_with_what_they_must_hold() {
        assert_eq!(section_bytes(0), HOT as u64);
        assert_eq!(section_bytes(WORTH_THREADS), SECTION);
        assert_eq!(section_bytes(200 << 30), SECTION);
        for total in [1_u64 << 39, 1 << 40, 7 << 40, 30 << 40] {
            let bytes = section_bytes(total);
            assert!(bytes <= MAX_DATA && total / bytes < MAX_SECTIONS, "{total}: {bytes}");
        }
    }
}
