//! The pipes, sockets and shared memory of a tree by inode: who of the tree has which end.
//!
//! Asked for every descriptor; to look through all of them each time would cost the square of their number.

use crate::view::{FdView, TreeView};
use ghost_sys::proc::VmFlags;
use rustix::fs::{FileType, OFlags};
use std::cell::OnceCell;
use std::collections::{HashMap, HashSet};

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
    /// Anonymous shared memory that is open as a file, too: device and inode.
    memory: HashSet<(u64, u64)>,
    /// That which is mapped privately; asked for once the mappings are known.
    private_memory: OnceCell<HashSet<(u64, u64)>>,
}

/// What procfs calls anonymous shared memory.
pub const SHARED_MEMORY: &[u8] = b"/dev/zero (deleted)";

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
                    FileType::RegularFile if fd.link == SHARED_MEMORY => {
                        inodes.memory.insert((fd.stat.st_dev, fd.stat.st_ino));
                    }
                    FileType::Socket => drop(inodes.sockets.entry(fd.stat.st_ino).or_insert((t, f))),
                    _ => {}
                }
            }
        }
        inodes
    }

    /// Whether this anonymous shared memory is open as a file, or mapped privately (`/proc/PID/map_files` leads to it).
    pub fn is_file(&self, view: &TreeView, inode: (u64, u64)) -> bool {
        let privately = || {
            let all = view.processes.iter().flat_map(|p| &p.smaps);
            let private = all.filter(|m| m.mapping.name == SHARED_MEMORY && !m.flags.contains(VmFlags::MAY_SHARE));
            private.map(|m| (m.mapping.dev, m.mapping.inode)).collect()
        };
        self.memory.contains(&inode) || self.private_memory.get_or_init(privately).contains(&inode)
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
