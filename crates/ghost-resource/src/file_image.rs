//! An image in a file, as `disk:` and `mem:` share it: invisible until whole, then there at once.
//!
//! The file is made without a name (`open(2)`, `O_TMPFILE`, Linux 3.11) and linked in when it is whole
//! (`linkat(2)` of `/proc/self/fd/N`), so neither an error nor a kill leaves anything. File systems without
//! `O_TMPFILE` (NFS, overlay over some, vfat) get a hidden name in the same directory, which is renamed at the end
//! (`renameat2(2)`, `RENAME_NOREPLACE`, Linux 3.15) and removed on abort; only a kill can leave that one.
//! Replacing links the new file under a hidden name and renames it over the old one.
//!
//! Durable means: `fsync(2)` of the file before it gets its name and of the directory after. While it grows, each
//! 8 MiB are handed to the disk early (`sync_file_range(2)`), so that the final `fsync` finds little to do. That beat
//! O_DIRECT with two buffers, and keeps the pages cached for a restart: `docs/decisions/disk-writes.md`.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, BufReader, IoSlice, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use ghost_sys::file::{MappedFile, start_writeback};
use rustix::fs::{Advice, AtFlags, CWD, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::error::{Aftermath, Cause, Error, Result};
use crate::resource::{GhostRead, GhostWrite, Written};

/// Small writes are gathered up to this size; larger ones go straight through.
const GATHER_BYTES: usize = 256 << 10;
/// The disk is set to work whenever this much is new.
const WRITEBACK_BYTES: u64 = 8 << 20;
/// The kernel takes at most 1024 buffers in one `writev(2)`.
const IOV_MAX: usize = 1024;

/// Where an image is to be, and how.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// The directory it is kept in.
    pub dir: std::path::PathBuf,
    /// Its name there.
    pub name: OsString,
    /// The URL, for messages.
    pub label: String,
    /// An image of that name is replaced.
    pub replace: bool,
    /// `finish` waits for the disk.
    pub durable: bool,
}

impl Place {
    fn error(&self, step: &'static str, cause: impl Into<Cause>) -> Error {
        Error::new(step, &self.label, cause)
    }

    /// What is there already must be nothing, or a regular file that may be replaced.
    fn check_target(&self, dir: &OwnedFd) -> Result<()> {
        let stat = match rustix::fs::statat(dir, &self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(()),
            Err(e) => return Err(self.error("looking at", io::Error::from(e))),
        };
        if !rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file() {
            let why = "there is something other than a regular file, which is never replaced".into();
            return Err(self.error("creating", Cause::Address(why)).advise("name a new file, or the link's target"));
        }
        if self.replace { Ok(()) } else { Err(self.error("creating", Cause::Exists)) }
    }

    /// Begins a new image.
    pub fn create(&self) -> Result<ImageWriter> {
        self.create_with(true)
    }

    fn create_with(&self, unnamed: bool) -> Result<ImageWriter> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::openat(CWD, &self.dir, flags, Mode::empty()).map_err(|e| {
            self.error("opening the directory of", io::Error::from(e))
                .advise(format!("make sure that {} is a directory that you may write", self.dir.display()))
        })?;
        self.check_target(&dir)?;
        let mode = Mode::RUSR | Mode::WUSR;
        let nameless = if unnamed {
            rustix::fs::openat(&dir, ".", OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC, mode)
        } else {
            Err(Errno::OPNOTSUPP)
        };
        let (fd, hidden) = match nameless {
            Ok(fd) => (fd, None),
            // ISDIR and NOENT are what kernels without O_TMPFILE make of the flag's bits (open(2)).
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOENT | Errno::INVAL) => {
                let hidden = hidden_name(&self.name);
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
                let fd = rustix::fs::openat(&dir, &hidden, flags, mode)
                    .map_err(|e| self.error("creating", io::Error::from(e)))?;
                (fd, Some(hidden))
            }
            Err(e) => return Err(self.error("creating", io::Error::from(e))),
        };
        let writer = ImageWriter {
            place: self.clone(),
            dir,
            file: File::from(fd),
            hidden,
            gathered: Vec::with_capacity(GATHER_BYTES),
            position: 0,
            handed_over: 0,
            lent: false,
            broken: false,
        };
        // The umask may have taken bits away, a default ACL may have added some.
        rustix::fs::fchmod(&writer.file, mode).map_err(|e| self.error("creating", io::Error::from(e)))?;
        Ok(writer)
    }

    /// Opens the image that is there.
    pub fn open(&self) -> Result<ImageReader> {
        // NONBLOCK: a FIFO must be told from a file without waiting for its writer.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let path = self.dir.join(&self.name);
        let fd = rustix::fs::openat(CWD, &path, flags, Mode::empty()).map_err(|e| match e {
            Errno::NOENT => self.error("opening", Cause::Missing),
            e => self.error("opening", io::Error::from(e)),
        })?;
        let file = File::from(fd);
        let meta = file.metadata().map_err(|e| self.error("opening", e))?;
        if !meta.is_file() {
            let why = "it is not a regular file".into();
            return Err(self.error("opening", Cause::Address(why)).advise("give a FIFO or device as `- < PATH`"));
        }
        // Only a hint; file systems without it read as well.
        let _ = rustix::fs::fadvise(&file, 0, None, Advice::Sequential);
        Ok(ImageReader { file: BufReader::with_capacity(GATHER_BYTES, file), map: OnceLock::new() })
    }

    /// Removes the image that is there, and lets the directory forget it durably.
    pub fn remove(&self) -> Result<()> {
        let path = self.dir.join(&self.name);
        let meta = std::fs::symlink_metadata(&path).map_err(|e| self.gone("removing", e))?;
        if !meta.is_file() {
            return Err(self.error("removing", Cause::Address("it is not a regular file".into())));
        }
        std::fs::remove_file(&path).map_err(|e| self.gone("removing", e))?;
        if self.durable {
            File::open(&self.dir)
                .and_then(|d| d.sync_all())
                .map_err(|e| self.error("removing", e).leaving(Aftermath::NotDurable))?;
        }
        Ok(())
    }

    /// The image is there.
    pub fn exists(&self) -> Result<bool> {
        match std::fs::symlink_metadata(self.dir.join(&self.name)) {
            Ok(_) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(self.error("looking for", e)),
        }
    }

    fn gone(&self, step: &'static str, error: io::Error) -> Error {
        if error.kind() == io::ErrorKind::NotFound { self.error(step, Cause::Missing) } else { self.error(step, error) }
    }
}

/// A name that listings do not show and that no other writer uses.
fn hidden_name(name: &OsStr) -> OsString {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let mut hidden = OsString::from(".");
    // Names are at most 255 bytes long (limits.h); a long one is cut, the numbers keep it unique.
    hidden.push(name.to_string_lossy().chars().take(48).collect::<String>());
    hidden.push(format!(".{}-{}.new", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
    hidden
}

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
}

impl ImageWriter {
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
        if self.place.durable && self.position - self.handed_over >= WRITEBACK_BYTES {
            // Only a hint: where it is not possible, the fsync at the end does all the work.
            let _ = start_writeback(&self.file, self.handed_over, self.position - self.handed_over);
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
        if self.broken {
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
        let done = self.file.write(bytes).map_err(|e| self.fail(e))?;
        self.advance(done as u64);
        Ok(done)
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
        for group in pages.chunks(IOV_MAX) {
            let mut group = group.to_vec();
            let mut rest = &mut group[..];
            IoSlice::advance_slices(&mut rest, 0);
            while !rest.is_empty() {
                let done = match self.file.write_vectored(rest) {
                    Ok(0) => return Err(self.fail(io::ErrorKind::WriteZero.into())),
                    Ok(done) => done,
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                    Err(e) => return Err(self.fail(e)),
                };
                self.advance(done as u64);
                IoSlice::advance_slices(&mut rest, done);
            }
        }
        Ok(())
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

/// An image that is being read.
#[derive(Debug)]
pub(crate) struct ImageReader {
    file: BufReader<File>,
    map: OnceLock<Option<MappedFile>>,
}

impl Read for ImageReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.file.read(into)
    }
}

impl GhostRead for ImageReader {
    fn as_mapped(&self) -> Option<&[u8]> {
        self.map.get_or_init(|| MappedFile::new(self.file.get_ref()).ok()).as_deref()
    }
    fn as_file(&self) -> Option<&File> {
        Some(self.file.get_ref())
    }
}

/// All images of a directory whose name `wanted` takes, as entries that `url` names.
pub(crate) fn list_directory(
    label: &str,
    dir: &Path,
    wanted: impl Fn(&str) -> bool,
    url: impl Fn(&str) -> String,
) -> Result<Vec<crate::Entry>> {
    let fail = |e| Error::new("listing", label, Cause::Io(e));
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|n| wanted(n)) else { continue };
        let meta = match entry.metadata() {
            Ok(meta) if meta.is_file() => meta,
            // Removed while we looked, or no image.
            _ => continue,
        };
        found.push(crate::Entry { url: url(name), len_bytes: meta.len(), modified: meta.modified().ok() });
    }
    found.sort_by(|a, b| a.url.cmp(&b.url));
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileExt, MetadataExt};

    fn place(name: &str) -> (std::path::PathBuf, Place) {
        let dir = std::env::temp_dir().join(format!("ghost-image-{}-{name}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        let place = Place { dir: dir.clone(), name: "a".into(), label: "disk:a".into(), replace: false, durable: true };
        (dir, place)
    }
    fn names(dir: &Path) -> Vec<String> {
        let mut all: Vec<_> =
            std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        all.sort();
        all
    }

    #[test]
    fn without_a_nameless_file_the_hidden_name_goes_on_abort_and_on_finish() {
        let (dir, mut place) = place("hidden");
        let mut writer = Box::new(place.create_with(false).unwrap());
        writer.write_all(b"one").unwrap();
        assert!(names(&dir)[0].starts_with(".a."));
        writer.abort();
        assert!(names(&dir).is_empty());
        let mut writer = Box::new(place.create_with(false).unwrap());
        writer.write_all(b"one").unwrap();
        writer.finish().unwrap();
        assert_eq!(names(&dir), ["a"]);
        place.replace = true;
        let mut writer = Box::new(place.create_with(false).unwrap());
        writer.write_all(b"two").unwrap();
        writer.finish().unwrap();
        assert_eq!((names(&dir), std::fs::read(dir.join("a")).unwrap()), (vec!["a".into()], b"two".to_vec()));
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn an_image_that_appears_meanwhile_is_not_overwritten() {
        for nameless in [true, false] {
            let (dir, place) = place(if nameless { "raced-link" } else { "raced-rename" });
            let mut writer = Box::new(place.create_with(nameless).unwrap());
            writer.write_all(b"late").unwrap();
            std::fs::write(dir.join("a"), b"first").unwrap();
            let error = writer.finish().unwrap_err();
            assert!(matches!(error.cause(), Cause::Exists), "{error}");
            assert_eq!(std::fs::read(dir.join("a")).unwrap(), b"first");
            assert_eq!(names(&dir), ["a"]);
            std::fs::remove_dir_all(dir).unwrap();
        }
    }

    #[test]
    fn skipped_ranges_are_holes_and_written_ones_behind_the_back_stay() {
        let (dir, place) = place("holes");
        let mut writer = Box::new(place.create().unwrap());
        writer.write_all(b"head").unwrap();
        writer.skip((64 << 20) - 4).unwrap();
        writer.write_all(b"tail").unwrap();
        let at = 4 + (64 << 20);
        writer.as_file().unwrap().unwrap().write_all_at(b"parallel", at).unwrap();
        writer.skip(8).unwrap();
        writer.skip(1 << 20).unwrap();
        assert_eq!(writer.finish().unwrap().len_bytes, at + 8 + (1 << 20));
        let file = File::open(dir.join("a")).unwrap();
        let meta = file.metadata().unwrap();
        assert!(meta.blocks() * 512 < 1 << 20, "{} blocks", meta.blocks());
        assert_eq!(meta.mode() & 0o7777, 0o600);
        let mut tail = [0; 12];
        file.read_exact_at(&mut tail, 64 << 20).unwrap();
        assert_eq!(&tail, b"tailparallel");
        std::fs::remove_dir_all(dir).unwrap();
    }
}
