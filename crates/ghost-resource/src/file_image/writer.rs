//! The writing end: gathers small writes, hands the disk its work early, gives the name last.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, IoSlice, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ghost_sys::file::start_writeback;
use rustix::fs::{AtFlags, CWD, RenameFlags};
use rustix::io::Errno;

use super::{Place, hidden_name};
use crate::error::{Aftermath, Cause, Error, Result};
use crate::gather::write_all_vectored;
use crate::resource::{GhostWrite, WriteAt, Written};

/// Small writes are gathered up to this size; larger ones go straight through.
const GATHER_BYTES: usize = 256 << 10;
/// The smallest pages that there are.
const PAGE_BYTES: u64 = 4096;
/// The disk is set to work whenever this much is new.
const WRITEBACK_BYTES: u64 = 8 << 20;

/// An image that is being written and has no name yet.
#[derive(Debug)]
pub(crate) struct ImageWriter {
    place: Place,
    dir: OwnedFd,
    file: File,
    /// The name it has meanwhile, where the file system wants one; gone once it is linked in.
    hidden: Option<OsString>,
    gathered: Vec<u8>,
    /// The file's offset: what was written, without what is gathered.
    position: u64,
    /// Everything before was handed to the disk.
    handed_over: u64,
    /// The file was lent out, so its offset may have moved.
    lent: bool,
    /// A write failed; the image can only be aborted.
    broken: bool,
    /// What was given to those who write at several places.
    places: Option<Arc<Places>>,
}

/// The file of an image, to be written at several places at once.
#[derive(Debug)]
struct Places {
    file: File,
    place: Place,
    failed: AtomicBool,
}

impl WriteAt for Places {
    fn write_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let mut at = offset;
        let done = write_all_vectored(parts, |parts| {
            let done = rustix::io::pwritev(&self.file, parts, at)?;
            at += done as u64;
            Ok(done)
        });
        if let Err(e) = done {
            self.failed.store(true, Ordering::Relaxed);
            return Err(self.place.error("writing", e).leaving(Aftermath::NothingLeft).into());
        }
        // Only whole pages: neighbours may be about to write the others. A hint, as in `ImageWriter::advance`.
        let (start, end) = (offset.next_multiple_of(PAGE_BYTES), at / PAGE_BYTES * PAGE_BYTES);
        if self.place.durable && start < end {
            let _ = start_writeback(&self.file, start, end - start);
        }
        Ok(())
    }
}

impl ImageWriter {
    pub(super) fn new(place: Place, dir: OwnedFd, file: File, hidden: Option<OsString>) -> Self {
        let gathered = Vec::with_capacity(GATHER_BYTES);
        Self {
            place,
            dir,
            file,
            hidden,
            gathered,
            position: 0,
            handed_over: 0,
            lent: false,
            broken: false,
            places: None,
        }
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    fn fail(&mut self, error: io::Error) -> io::Error {
        self.broken = true;
        self.place.error("writing", error).leaving(Aftermath::NothingLeft).into()
    }

    /// Takes note of where the file's offset is after others used it.
    fn settle(&mut self) -> io::Result<()> {
        if self.lent {
            self.position = self.file.stream_position().map_err(|e| self.fail(e))?;
            self.lent = false;
        }
        Ok(())
    }

    fn advance(&mut self, len_bytes: u64) {
        self.position += len_bytes;
        // Who had the file may have gone back in it; what is handed over twice costs nothing.
        let new = self.position.saturating_sub(self.handed_over);
        if self.place.durable && new >= WRITEBACK_BYTES {
            // Only a hint: where it is not possible, the fsync at the end does all the work.
            let _ = start_writeback(&self.file, self.handed_over, new);
            self.handed_over = self.position;
        }
    }

    fn spill(&mut self) -> io::Result<()> {
        self.settle()?;
        if !self.gathered.is_empty() {
            let gathered = std::mem::take(&mut self.gathered);
            let done = self.file.write_all(&gathered);
            let len = gathered.len() as u64;
            self.gathered = gathered;
            self.gathered.clear();
            done.map_err(|e| self.fail(e))?;
            self.advance(len);
        }
        Ok(())
    }

    /// Gives the file its name.
    fn publish(&mut self) -> Result<()> {
        let name = self.place.name.clone();
        let fail = |this: &Self, e: Errno| {
            let cause = if e == Errno::EXIST { Cause::Exists } else { io::Error::from(e).into() };
            this.place.error("naming", cause).leaving(Aftermath::NothingLeft)
        };
        if self.hidden.is_none() {
            match self.link(&name) {
                Ok(()) => return Ok(()),
                Err(Errno::EXIST) if self.place.replace => {
                    let hidden = hidden_name(&name);
                    self.link(&hidden).map_err(|e| fail(self, e))?;
                    self.hidden = Some(hidden);
                }
                Err(e) => return Err(fail(self, e)),
            }
        }
        let hidden = self.hidden.clone().unwrap_or_default();
        let renamed = if self.place.replace {
            // Somebody may have put something else there meanwhile; a directory makes renameat fail by itself.
            self.place.check_target(&self.dir).map_err(|e| e.leaving(Aftermath::NothingLeft))?;
            rustix::fs::renameat(&self.dir, &hidden, &self.dir, &name)
        } else {
            match rustix::fs::renameat_with(&self.dir, &hidden, &self.dir, &name, RenameFlags::NOREPLACE) {
                // This file system has no such flag: a link refuses an existing name as well.
                Err(Errno::INVAL | Errno::NOSYS) => {
                    rustix::fs::linkat(&self.dir, &hidden, &self.dir, &name, AtFlags::empty())
                        .and_then(|()| rustix::fs::unlinkat(&self.dir, &hidden, AtFlags::empty()))
                }
                other => other,
            }
        };
        renamed.map_err(|e| fail(self, e))?;
        self.hidden = None;
        Ok(())
    }

    /// Links the nameless file into its directory. By way of /proc, since `AT_EMPTY_PATH` asks for
    /// CAP_DAC_READ_SEARCH (open(2)); that one is tried where /proc is not mounted.
    fn link(&self, name: &OsStr) -> rustix::io::Result<()> {
        let proc = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        match rustix::fs::linkat(CWD, proc, &self.dir, name, AtFlags::SYMLINK_FOLLOW) {
            Err(Errno::NOENT) => rustix::fs::linkat(&self.file, "", &self.dir, name, AtFlags::EMPTY_PATH),
            other => other,
        }
    }

    fn complete(&mut self) -> Result<Written> {
        let label = self.place.label.clone();
        if self.broken || self.places.as_ref().is_some_and(|p| p.failed.load(Ordering::Relaxed)) {
            let why = io::Error::other("an earlier write failed");
            return Err(self.place.error("finishing", why).leaving(Aftermath::NothingLeft));
        }
        self.spill().map_err(|e| Error::from_io("writing", &label, e))?;
        let failed = |e| Error::new("finishing", &label, Cause::Io(e)).leaving(Aftermath::NothingLeft);
        let size = self.file.metadata().map_err(failed)?.len();
        if self.position > size {
            // It ends in a hole.
            self.file.set_len(self.position).map_err(failed)?;
        }
        if self.place.durable {
            self.file.sync_all().map_err(failed)?;
        }
        self.publish()?;
        if self.place.durable {
            rustix::fs::fsync(&self.dir)
                .map_err(|e| Error::new("finishing", &label, io::Error::from(e)).leaving(Aftermath::NotDurable))?;
        }
        Ok(Written { len_bytes: self.position.max(size), durable: self.place.durable })
    }
}

impl Write for ImageWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.gathered.len() + bytes.len() > GATHER_BYTES {
            self.spill()?;
        }
        if bytes.len() < GATHER_BYTES / 2 {
            self.gathered.extend_from_slice(bytes);
            return Ok(bytes.len());
        }
        self.spill()?;
        match self.file.write(bytes) {
            Ok(done) => {
                self.advance(done as u64);
                Ok(done)
            }
            // Nothing was written, and who calls tries again.
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Err(e),
            Err(e) => Err(self.fail(e)),
        }
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        self.write_pages(parts)?;
        Ok(parts.iter().map(|p| p.len()).sum())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.spill()
    }
}

impl GhostWrite for ImageWriter {
    fn write_pages(&mut self, pages: &[IoSlice<'_>]) -> io::Result<()> {
        let total: usize = pages.iter().map(|p| p.len()).sum();
        if total < GATHER_BYTES / 2 {
            return pages.iter().try_for_each(|page| self.write_all(page));
        }
        self.spill()?;
        write_all_vectored(pages, |parts| {
            let done = self.file.write_vectored(parts)?;
            self.advance(done as u64);
            Ok(done)
        })
        .map_err(|e| self.fail(e))
    }

    fn skip(&mut self, len_bytes: u64) -> io::Result<()> {
        self.spill()?;
        let Some(to) = self.position.checked_add(len_bytes).filter(|to| i64::try_from(*to).is_ok()) else {
            return Err(self.fail(io::ErrorKind::FileTooLarge.into()));
        };
        self.file.seek(SeekFrom::Start(to)).map_err(|e| self.fail(e))?;
        self.advance(len_bytes);
        Ok(())
    }

    fn as_file(&mut self) -> io::Result<Option<&File>> {
        self.spill()?;
        self.lent = true;
        Ok(Some(&self.file))
    }

    fn places(&mut self) -> io::Result<Option<Arc<dyn WriteAt>>> {
        self.spill()?;
        if self.places.is_none() {
            let file = self.file.try_clone().map_err(|e| self.fail(e))?;
            let places = Places { file, place: self.place.clone(), failed: AtomicBool::new(false) };
            self.places = Some(Arc::new(places));
        }
        Ok(self.places.clone().map(|places| places as Arc<dyn WriteAt>))
    }

    fn finish(mut self: Box<Self>) -> Result<Written> {
        self.complete()
    }

    fn abort(self: Box<Self>) {}
}

impl Drop for ImageWriter {
    fn drop(&mut self) {
        if let Some(hidden) = self.hidden.take() {
            let _ = rustix::fs::unlinkat(self.dir.as_fd(), &hidden, AtFlags::empty());
        }
    }
}
