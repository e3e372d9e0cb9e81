//! An image in a file, as `disk:` and `mem:` share it: invisible until whole, then there at once.
//!
//! The file is made without a name (`open(2)`, `O_TMPFILE`, Linux 3.11) and linked in when it is whole
//! (`linkat(2)` of `/proc/self/fd/N`), so neither an error nor a kill leaves anything. File systems without
//! `O_TMPFILE` (NFS, overlay over some, vfat) get a hidden name in the same directory, which is renamed at the end
//! (`renameat2(2)`, `RENAME_NOREPLACE`, Linux 3.15) and removed on abort; only a kill can leave that one.
//! Replacing links the new file under a hidden name and renames it over the old one; between those two calls a kill
//! leaves the hidden name as well.
//!
//! Durable means: `fsync(2)` of the file before it gets its name and of the directory after. While it grows, each
//! 8 MiB are handed to the disk early (`sync_file_range(2)`), so that the final `fsync` finds little to do. That beat
//! O_DIRECT with two buffers, and keeps the pages cached for a restart: `docs/decisions/disk-writes.md`.

mod reader;
mod writer;

pub(crate) use reader::ImageReader;
pub(crate) use writer::ImageWriter;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{Advice, AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

use crate::error::{Aftermath, Cause, Error, Result};

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
        let writer = ImageWriter::new(self.clone(), dir, File::from(fd), hidden);
        // The umask may have taken bits away, a default ACL may have added some.
        rustix::fs::fchmod(writer.file(), mode).map_err(|e| self.error("creating", io::Error::from(e)))?;
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
        Ok(ImageReader::new(file))
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
    use crate::GhostWrite;
    use std::io::{IoSlice, Write};
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
    fn several_places_are_written_at_once_and_a_failure_at_one_is_no_image() {
        let (dir, place) = place("places");
        let mut writer = Box::new(place.create().unwrap());
        writer.write_all(b"head").unwrap();
        let places = writer.places().unwrap().unwrap();
        std::thread::scope(|scope| {
            for n in (0..8_u8).rev() {
                let places = &places;
                let part = vec![n; 50_000];
                let at = 4 + u64::from(n) * 100_000;
                scope.spawn(move || places.write_at(&[IoSlice::new(&part), IoSlice::new(&part)], at).unwrap());
            }
        });
        writer.skip(800_000).unwrap();
        writer.write_all(b"tail").unwrap();
        assert_eq!(writer.finish().unwrap().len_bytes, 800_008);
        let bytes = std::fs::read(dir.join("a")).unwrap();
        assert!(bytes.starts_with(b"head") && bytes.ends_with(b"tail"));
        assert!(bytes[4..800_004].iter().enumerate().all(|(i, b)| usize::from(*b) == i / 100_000));

        let place = Place { name: "b".into(), ..place };
        let mut writer = Box::new(place.create().unwrap());
        let places = writer.places().unwrap().unwrap();
        assert!(places.write_at(&[IoSlice::new(b"x")], u64::MAX / 2 + 1).is_err());
        assert!(writer.finish().is_err());
        assert_eq!(names(&dir), ["a"]);
        std::fs::remove_dir_all(dir).unwrap();
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
