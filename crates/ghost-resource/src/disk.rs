//! `disk:PATH`, `file:PATH`, or a plain path: an image in a file.
//!
//! The image appears at its path whole or not at all, mode 0600, sparse where the exporter skipped, and on the disk
//! once the export is finished. How that is done, and on which kernels, says the module `file_image`, which `mem:`
//! shares. An existing image is refused unless [`Options::replace`]; only regular files are ever replaced, so a
//! mistyped device is safe.

use std::path::{Path, PathBuf};

use crate::error::{Cause, Error, Result};
use crate::file_image::{Place, list_directory};
use crate::{ClassId, Direction, Entry, GhostRead, GhostWrite, Options, Resource, Store};

/// An image file.
#[derive(Debug, Clone)]
pub struct Disk {
    path: PathBuf,
    options: Options,
}

impl Disk {
    /// The image at this path. Nothing is touched yet.
    pub fn new(path: impl Into<PathBuf>, options: &Options) -> Self {
        Self { path: path.into(), options: options.clone() }
    }

    fn label(&self) -> String {
        format!("disk:{}", self.path.display())
    }

    fn place(&self) -> Result<Place> {
        let name = self.path.file_name().filter(|_| !self.path.as_os_str().as_encoded_bytes().ends_with(b"/"));
        let Some(name) = name else {
            let why = format!("`{}` names no file", self.path.display());
            return Err(Error::new("opening", self.label(), Cause::Address(why)));
        };
        Ok(Place {
            dir: self.directory(),
            name: name.to_owned(),
            label: self.label(),
            replace: self.options.replace,
            durable: self.options.durable,
        })
    }

    fn directory(&self) -> PathBuf {
        match self.path.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir.to_owned(),
            _ => PathBuf::from("."),
        }
    }
}

impl Resource for Disk {
    fn class(&self, direction: Direction) -> ClassId {
        match direction {
            Direction::Export => ClassId::DISK_WRITE,
            Direction::Import => ClassId::DISK_READ,
        }
    }
    fn describe(&self) -> String {
        self.label()
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

impl Store for Disk {
    /// The `*.ghost` files of the directory, if the path is one; else the image itself, if it is there.
    fn list(&self) -> Result<Vec<Entry>> {
        let (dir, only) = if self.path.is_dir() { (self.path.clone(), None) } else { (self.directory(), self.name()) };
        let wanted = |name: &str| only.map_or_else(|| is_image_name(name), |only| only == name);
        let found = list_directory(&self.label(), &dir, wanted, |name| {
            let path = if dir == Path::new(".") { PathBuf::from(name) } else { dir.join(name) };
            format!("disk:{}", path.display())
        })?;
        if only.is_some() && found.is_empty() {
            let advice = "name a directory or an image; `ghost list` alone shows those in memory";
            return Err(Error::new("listing", self.label(), Cause::Missing).advise(advice));
        }
        Ok(found)
    }
    fn exists(&self) -> Result<bool> {
        self.place()?.exists()
    }
    fn remove(&self) -> Result<()> {
        self.place()?.remove()
    }
}

impl Disk {
    fn name(&self) -> Option<&str> {
        self.path.file_name().and_then(|n| n.to_str())
    }
}

/// `NAME.ghost`, and not hidden.
fn is_image_name(name: &str) -> bool {
    !name.starts_with('.') && Path::new(name).extension().is_some_and(|e| e == "ghost")
}
