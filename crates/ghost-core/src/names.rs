//! Names that an import gives to files, for a moment or for good, and that must not stay if it fails or ghost dies.
//!
//! A unix socket has the name that the program bound as soon as it is bound. A directory, and a FIFO, must have a name while they
//! are made, even where theirs is gone. Each is written down before it is made ([`Names::intend`]), and an
//! [`Undertaker`] removes it should ghost be killed before it has said that the name is gone again or is to stay.

use ghost_sys::undertaker::{Entry, Undertaker};
use std::os::fd::OwnedFd;

pub use ghost_sys::undertaker::Sort;

/// A name that is written down.
#[derive(Debug, Clone, Copy)]
pub struct Ticket(usize);

#[derive(Debug)]
struct Name {
    path: Vec<u8>,
    sort: Sort,
    /// Once it is made: device and inode.
    identity: Option<(u64, u64)>,
    entry: Option<Entry>,
    over: bool,
}

/// The names of one import. Dropping it removes those that are made and not gone, if they are still the same.
#[derive(Debug, Default)]
pub struct Names {
    all: Vec<Name>,
    undertaker: Option<Undertaker>,
}

impl Names {
    /// Writes down a name that is free and is about to be given.
    pub fn intend(&mut self, path: &[u8], sort: Sort) -> Ticket {
        if self.undertaker.is_none() {
            // Where no child can be had the import goes on without: it matters only if ghost is killed.
            self.undertaker = Undertaker::new(&[]).ok();
        }
        let entry = self.undertaker.as_mut().and_then(|u| u.intend(path, sort).ok());
        self.all.push(Name { path: path.to_vec(), sort, identity: None, entry, over: false });
        Ticket(self.all.len() - 1)
    }

    /// It is made.
    pub fn made(&mut self, ticket: Ticket) {
        let name = &mut self.all[ticket.0];
        let Ok(s) = rustix::fs::lstat(name.path.as_slice()) else { return };
        name.identity = Some((s.st_dev, s.st_ino));
        if let (Some(u), Some(entry)) = (&mut self.undertaker, name.entry) {
            let _ = u.made(entry, s.st_dev, s.st_ino);
        }
    }

    /// It is gone again, or was not made.
    pub fn gone(&mut self, ticket: Ticket) {
        let name = &mut self.all[ticket.0];
        name.over = true;
        if let (Some(u), Some(entry)) = (&mut self.undertaker, name.entry) {
            let _ = u.revoke(entry);
        }
    }

    /// These processes are about to be let go. Should ghost die before [`Names::keep`] they end, and the names with them: all or nothing.
    ///
    /// A single process without names that goes in one step needs nobody for that.
    pub fn let_go(&mut self, processes: &[OwnedFd], in_steps: bool) -> ghost_sys::Result<()> {
        self.undertaker = match self.undertaker.take() {
            Some(u) => Some(u.succeeded(processes)?),
            None if in_steps => Some(Undertaker::new(processes)?),
            None => None,
        };
        Ok(())
    }

    /// All names stay: their files belong to programs that run.
    pub fn keep(&mut self) {
        self.all.clear();
        self.undertaker = None;
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        // What was made in a directory goes before it.
        for name in self.all.iter().rev().filter(|n| !n.over) {
            let path = name.path.as_slice();
            let is_same = |s: rustix::fs::Stat| Some((s.st_dev, s.st_ino)) == name.identity;
            if rustix::fs::lstat(path).is_ok_and(is_same) {
                // What cannot be removed stays behind, empty; the next restart takes a socket for stale.
                let _ = match name.sort {
                    Sort::Directory => rustix::fs::rmdir(path),
                    Sort::Fifo | Sort::Socket | Sort::Device => rustix::fs::unlink(path),
                };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_kept_is_taken_back() {
        let dir = std::env::temp_dir().join(format!("ghost-names-{}", std::process::id()));
        let inner = dir.join("inner");
        let bytes = |p: &std::path::Path| p.as_os_str().as_encoded_bytes().to_vec();
        for kept in [false, true] {
            let mut names = Names::default();
            for path in [&dir, &inner] {
                let ticket = names.intend(&bytes(path), Sort::Directory);
                std::fs::create_dir(path).unwrap();
                names.made(ticket);
            }
            if kept {
                names.keep();
            }
            drop(names);
            assert_eq!(inner.exists(), kept);
        }
        let mut names = Names::default();
        let ticket = names.intend(&bytes(&inner), Sort::Directory);
        names.made(ticket);
        names.gone(ticket);
        drop(names);
        assert!(inner.exists(), "what is over is left alone");
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
