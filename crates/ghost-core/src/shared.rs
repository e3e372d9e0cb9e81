//! Objects seen twice are written once.
//!
//! Two descriptors may stand for one open file description: after `dup`, after `fork`, after SCM_RIGHTS. The kernel tells
//! by `kcmp(2)`, which also gives descriptions an order. Descriptors are put in groups that agree in inode and flags, and
//! a group is kept in the kernel's order, so that each is found by binary search: never all pairs.

use crate::view::FdView;
use ghost_sys::{Errno, fdops};
use std::cmp::Ordering;
use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// What two descriptors of one description have in common, cheap to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Group {
    device: u64,
    inode: u64,
    flags: u32,
}

/// A description that has an id.
#[derive(Debug)]
struct Seen {
    ours: Arc<OwnedFd>,
    id: u32,
}

/// The descriptions met so far, and other shared objects by their identity.
#[derive(Debug, Default)]
pub struct Shared {
    groups: HashMap<Group, Vec<Seen>>,
    by_fd: HashMap<(usize, i32), u32>,
    files: u32,
    /// Ids of inodes whose content travels.
    pub(crate) contents: crate::model::Ids<(u64, u64)>,
    /// Ids of pipes.
    pub(crate) pipes: crate::model::Ids<(u64, u64)>,
    /// The pipe through which others are looked at.
    pub(crate) glass: crate::kinds::fd::pipe::Glass,
    /// Records of file mappings and executables, by inode and access.
    pub(crate) opened: HashMap<(u64, u64, u32), u32>,
    /// Processes that are gone and still have pidfds, by the inode of those, each with a number of its own.
    pub(crate) dead_pids: HashMap<u64, i32>,
}

impl Shared {
    /// The id of the description behind this descriptor, and whether it is new.
    pub fn description(&mut self, fd: &FdView) -> Result<(u32, bool), Errno> {
        let key = Group { device: fd.stat.st_dev, inode: fd.stat.st_ino, flags: fd.info.description_flags() };
        let group = self.groups.entry(key).or_default();
        match find(group, fd.ours.as_fd())? {
            Ok(at) => Ok((group[at].id, false)),
            Err(at) => {
                self.files += 1;
                group.insert(at, Seen { ours: Arc::clone(&fd.ours), id: self.files });
                Ok((self.files, true))
            }
        }
    }

    /// An id for a description that ghost makes up: of a file mapping, of an executable.
    pub fn fresh_file(&mut self) -> u32 {
        self.files += 1;
        self.files
    }

    /// Remembers that descriptor `fd` of the table with this number is this description.
    pub fn note_fd(&mut self, table: usize, fd: i32, id: u32) {
        self.by_fd.insert((table, fd), id);
    }

    /// The description of this descriptor, once the descriptor tables are exported.
    pub fn of_fd(&self, table: usize, fd: i32) -> Option<u32> {
        self.by_fd.get(&(table, fd)).copied()
    }

    /// The description that `compare` finds equal among those of this inode.
    pub fn search(
        &self,
        device: u64,
        inode: u64,
        mut compare: impl FnMut(BorrowedFd<'_>) -> Result<Ordering, Errno>,
    ) -> Result<Option<u32>, Errno> {
        for (key, group) in &self.groups {
            if (key.device, key.inode) == (device, inode) {
                for seen in group {
                    if compare(seen.ours.as_fd())? == Ordering::Equal {
                        return Ok(Some(seen.id));
                    }
                }
            }
        }
        Ok(None)
    }
}

/// Where a description stands in its group, or belongs.
fn find(group: &[Seen], fd: BorrowedFd<'_>) -> Result<Result<usize, usize>, Errno> {
    let mut failed = None;
    let found = group.binary_search_by(|seen| {
        fdops::compare(seen.ours.as_fd(), fd).unwrap_or_else(|e| {
            failed = Some(e);
            Ordering::Equal
        })
    });
    failed.map_or(Ok(found), Err)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::fd::testing::view_of;

    #[test]
    fn a_duplicate_is_the_same_and_a_second_open_is_not() {
        let one = std::fs::File::open("/proc/self/status").unwrap();
        let two = std::fs::File::open("/proc/self/status").unwrap();
        let again = one.try_clone().unwrap();
        let mut shared = Shared::default();
        assert_eq!(shared.description(&view_of(one.as_fd())), Ok((1, true)));
        assert_eq!(shared.description(&view_of(two.as_fd())), Ok((2, true)));
        assert_eq!(shared.description(&view_of(again.as_fd())), Ok((1, false)));
    }

    #[test]
    fn a_thousand_descriptions_of_one_inode_are_sorted_quickly() {
        let files: Vec<_> = (0..300).map(|_| std::fs::File::open("/dev/null").unwrap()).collect();
        let mut shared = Shared::default();
        let views: Vec<_> = files.iter().map(|f| view_of(f.as_fd())).collect();
        for (i, view) in views.iter().enumerate() {
            assert_eq!(shared.description(view), Ok((i as u32 + 1, true)));
        }
        for (i, view) in views.iter().enumerate().rev() {
            assert_eq!(shared.description(view), Ok((i as u32 + 1, false)));
        }
    }
}
