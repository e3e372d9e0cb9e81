//! The pipes and sockets of a tree by inode: who of the tree has which end.
//!
//! Asked for every descriptor; to look through all of them each time would cost the square of their number.

use crate::view::{FdView, TreeView};
use rustix::fs::{FileType, OFlags};
use std::collections::HashMap;

const ACCESS: u32 = 3;

/// Which ends of a pipe the tree has.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ends {
    /// One to read from: the number of a table, and the descriptor by index.
    pub reader: Option<(usize, usize)>,
    /// One to write to.
    pub writes: bool,
    /// One that writes packets.
    pub packets: bool,
}

/// The pipes and sockets of a tree.
#[derive(Debug, Default)]
pub struct Inodes {
    pipes: HashMap<(u64, u64), Ends>,
    /// The number of a table, and the descriptor by index.
    sockets: HashMap<u64, (usize, usize)>,
}

impl Inodes {
    /// Sorts the descriptors of a view.
    pub fn of(view: &TreeView) -> Self {
        let mut inodes = Self::default();
        for (t, _, fds) in view.tables() {
            for (f, fd) in fds.iter().enumerate() {
                // What was opened with O_PATH neither reads nor writes.
                if fd.info.flags & OFlags::PATH.bits() != 0 {
                    continue;
                }
                match FileType::from_raw_mode(fd.stat.st_mode) {
                    FileType::Fifo => {
                        let ends = inodes.pipes.entry((fd.stat.st_dev, fd.stat.st_ino)).or_default();
                        let access = fd.info.flags & ACCESS;
                        if access != OFlags::WRONLY.bits() {
                            ends.reader.get_or_insert((t, f));
                        }
                        if access != OFlags::RDONLY.bits() {
                            ends.writes = true;
                            ends.packets |= fd.info.flags & OFlags::DIRECT.bits() != 0;
                        }
                    }
                    FileType::Socket => drop(inodes.sockets.entry(fd.stat.st_ino).or_insert((t, f))),
                    _ => {}
                }
            }
        }
        inodes
    }

    /// The ends of this pipe that the tree has.
    pub fn pipe(&self, fd: &FdView) -> Ends {
        self.pipes.get(&(fd.stat.st_dev, fd.stat.st_ino)).copied().unwrap_or_default()
    }

    /// Whether the tree has this socket.
    pub fn has_socket(&self, inode: u64) -> bool {
        self.sockets.contains_key(&inode)
    }

    /// A descriptor of this socket: the number of a table, and the descriptor by index.
    pub fn socket(&self, inode: u64) -> Option<(usize, usize)> {
        self.sockets.get(&inode).copied()
    }
}

/// Those of a view, sorted once.
pub fn inodes(view: &TreeView) -> &Inodes {
    view.inodes.get_or_init(|| Inodes::of(view))
}
