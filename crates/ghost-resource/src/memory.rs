//! `mem:NAME`: an image in RAM that outlives the command that made it.
//!
//! It is a file of a tmpfs directory that is the user's alone: `/dev/shm/ghost-UID`, or `$XDG_RUNTIME_DIR/ghost` where
//! there is no `/dev/shm`. The directory must be on a tmpfs (`statfs(2)`), owned by the user and closed to others
//! (0700), else it is refused: another user of a world-writable `/dev/shm` could have made it first. Images live
//! until `ghost remove` or the next boot, and count against the size of the tmpfs (half of the RAM, commonly).
//!
//! Because it is a file, all that a disk image can do it can as well: replaced whole, mapped, spliced, sparse.

use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::error::{Cause, Error, Result};
use crate::file_image::{Place, list_directory};
use crate::{ClassId, Direction, Entry, GhostRead, GhostWrite, Options, Resource, Store};

/// `TMPFS_MAGIC` of `linux/magic.h`.
const TMPFS_MAGIC: u64 = 0x0102_1994;
/// Longest name of an image.
const NAME_MAX_BYTES: usize = 128;

/// A named image in RAM.
#[derive(Debug, Clone)]
pub struct Memory {
    name: String,
    options: Options,
}

impl Memory {
    /// The image of this name: letters, digits, `-`, `_` and `.`, not first a `.`; an empty name serves only to list.
    pub fn new(name: &str, options: &Options) -> Result<Self> {
        let good = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if name.len() > NAME_MAX_BYTES || name.starts_with('.') || !name.chars().all(good) {
            let why = format!("`{name}` is no name for an image: letters, digits, `-`, `_` and `.`, at most 128");
            return Err(Error::new("opening", format!("mem:{name}"), Cause::Address(why)));
        }
        Ok(Self { name: name.into(), options: options.clone() })
    }

    fn fail(&self, step: &'static str, cause: impl Into<Cause>) -> Error {
        Error::new(step, self.describe(), cause)
    }

    fn place(&self) -> Result<Place> {
        if self.name.is_empty() {
            return Err(self.fail("opening", Cause::Address("the name is missing".into())));
        }
        Ok(Place {
            dir: self.directory()?,
            name: self.name.clone().into(),
            label: self.describe(),
            replace: self.options.replace,
            // RAM has no later moment at which it would be safer.
            durable: false,
        })
    }

    fn root(&self) -> Result<PathBuf> {
        match &self.options.memory_root {
            Some(dir) => Ok(dir.clone()),
            None => self.usual_directory(),
        }
    }

    /// The user's directory, made if need be and checked.
    fn directory(&self) -> Result<PathBuf> {
        let dir = self.root()?;
        match std::fs::DirBuilder::new().mode(0o700).create(&dir) {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(self.fail("making the directory of", e));
            }
            _ => {}
        }
        self.check(&dir)?;
        Ok(dir)
    }

    fn usual_directory(&self) -> Result<PathBuf> {
        let shm = Path::new("/dev/shm");
        if is_tmpfs(shm) {
            return Ok(shm.join(format!("ghost-{}", rustix::process::geteuid().as_raw())));
        }
        if let Some(dir) = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|dir| is_tmpfs(dir)) {
            return Ok(dir.join("ghost"));
        }
        let why = "neither /dev/shm nor $XDG_RUNTIME_DIR is a tmpfs".into();
        Err(self.fail("opening", Cause::Unsafe(why)).advise("mount a tmpfs on /dev/shm, or use disk:"))
    }

    fn check(&self, dir: &Path) -> Result<()> {
        let meta = std::fs::symlink_metadata(dir).map_err(|e| self.fail("checking the directory of", e))?;
        let me = rustix::process::geteuid().as_raw();
        let flaw = if !meta.is_dir() {
            "is not a directory".to_string()
        } else if meta.uid() != me {
            format!("belongs to uid {}, not to uid {me}", meta.uid())
        } else if meta.mode() & 0o077 != 0 {
            format!("is open to others (mode {:o})", meta.mode() & 0o777)
        } else if !is_tmpfs(dir) {
            "is not in RAM (no tmpfs)".to_string()
        } else {
            return Ok(());
        };
        Err(self.fail("opening", Cause::Unsafe(format!("{} {flaw}", dir.display()))))
    }
}

fn is_tmpfs(dir: &Path) -> bool {
    rustix::fs::statfs(dir).is_ok_and(|fs| fs.f_type as u64 == TMPFS_MAGIC)
}

impl Resource for Memory {
    fn class(&self, direction: Direction) -> ClassId {
        match direction {
            Direction::Export => ClassId::MEMORY_WRITE,
            Direction::Import => ClassId::MEMORY_READ,
        }
    }
    fn describe(&self) -> String {
        format!("mem:{}", self.name)
    }
    fn open_export(&mut self) -> Result<Box<dyn GhostWrite>> {
        Ok(Box::new(self.place()?.create()?))
    }
    fn open_import(&mut self) -> Result<Box<dyn GhostRead>> {
        Ok(Box::new(self.place()?.open()?))
    }
    fn store(&self) -> Option<&dyn Store> {
        Some(self)
    }
}

impl Store for Memory {
    /// All images of the user in RAM, or the one that is named.
    fn list(&self) -> Result<Vec<Entry>> {
        let dir = self.root()?;
        if std::fs::symlink_metadata(&dir).is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound) {
            return Ok(Vec::new());
        }
        self.check(&dir)?;
        let wanted = |name: &str| !name.starts_with('.') && (self.name.is_empty() || self.name == name);
        list_directory(&self.describe(), &dir, wanted, |name| format!("mem:{name}"))
    }
    fn exists(&self) -> Result<bool> {
        self.place()?.exists()
    }
    fn remove(&self) -> Result<()> {
        self.place()?.remove()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for name in ["../x", "a/b", ".hidden", "a b", "ü", &"n".repeat(129)] {
            assert!(Memory::new(name, &Options::default()).is_err(), "{name}");
        }
        assert!(Memory::new("web-1_b.2", &Options::default()).is_ok());
    }

    #[test]
    fn a_directory_that_others_may_enter_or_that_is_no_ram_is_refused() {
        let shm = PathBuf::from(format!("/dev/shm/ghost-test-open-{}", std::process::id()));
        std::fs::create_dir(&shm).unwrap();
        std::fs::set_permissions(&shm, std::fs::Permissions::from_mode(0o755)).unwrap();
        let options = Options { memory_root: Some(shm.clone()), ..Options::default() };
        let error = Memory::new("a", &options).unwrap().open_export().err().unwrap();
        assert!(error.to_string().contains("mode 755"), "{error}");
        std::fs::remove_dir(shm).unwrap();
        let proc = Options { memory_root: Some("/proc/self".into()), ..Options::default() };
        assert!(matches!(Memory::new("a", &proc).unwrap().open_export().err().unwrap().cause(), Cause::Unsafe(_)));
    }
}
