//! Descriptors by the iterator `task_file`: what procfs says of each in three files, of all of a process in one.
//!
//! A row is about a description: its address (good for telling descriptions apart), flags, offset, whether the descriptor is closed by
//! execve, and whether there is more that only `/proc/PID/fdinfo/N` can tell: locks of the inode, lines of its own sort. Of a socket it
//! has the members in which the kernel keeps options, as they are: two sockets of one sort that agree in all of them
//! have the same options. Whether that holds on a kernel is for the caller to try out.

use super::btf::Btf;
use super::{Of, load_iterator, open_iterator, reader};
use crate::{Errno, Pid, Result};
use std::collections::HashSet;
use std::fs::File;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::sync::Arc;

/// A descriptor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its number.
    pub fd: RawFd,
    /// The address of the description: the same for duplicates, and for nothing else while it is open.
    pub file: u64,
    /// `O_*` flags of the description.
    pub flags: u32,
    /// File offset.
    pub pos: u64,
    /// Whether it is closed by execve.
    pub cloexec: bool,
    /// Type and permissions of the inode.
    pub mode: u32,
    /// Number of the inode inside of the kernel.
    pub ino: u64,
    /// Which sort of file system it is on, as `statfs(2)` has it.
    pub magic: u64,
    /// Whether the inode has ever had a lock or lease.
    pub is_lockable: bool,
    /// Whether fdinfo has lines of its sort.
    pub has_more: bool,
    /// Whether somebody may be told of input there; not where it says false.
    pub is_owned: bool,
    /// Of a regular file its name, as the link in `/proc/PID/fd` shows it, unless it is long.
    pub name: Option<Vec<u8>>,
    /// Of a socket.
    pub socket: Option<Socket>,
}

/// A socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Socket {
    /// Family, type, protocol.
    pub sort: (u32, u32, u32),
    /// `TCP_*` states, which unix sockets have too.
    pub state: u8,
    /// How many pieces lie in its queue.
    pub queued: u32,
    /// Of a unix socket that does not listen: how many descriptors lie there.
    pub flying: u32,
    /// Whether a filter program is attached.
    pub is_filtered: bool,
    /// Of a unix socket: whether it has a name, and whether its peer has one, if there is a peer.
    pub names: (bool, Option<bool>),
    /// Of a unix socket: whether an urgent byte waits; not where it says false.
    pub is_urgent: bool,
    /// Who made its other end: the same numbers for the same process with the same ids, as long as it is open.
    pub maker: (u64, u64),
    /// What its options are kept in.
    pub options: Arc<[u64]>,
}

/// A way to read the descriptors of a thread.
#[derive(Debug)]
pub struct Files {
    program: OwnedFd,
    of_socket: usize,
}

/// Numbers of every row, and of the part that sockets have more before their options.
const OF_FILE: usize = 12;
const OF_SOCKET: usize = 13;

/// Names that are longer are left out; a number of bytes that fits on the stack of a program, beside a row.
const NAME: usize = 256;
/// `S_IFMT`, `S_IFREG`
const TYPE: u32 = 0o170_000;
const REGULAR: u32 = 0o100_000;
/// The most numbers of a socket: so many fit on the stack of a program.
const MOST: usize = 60;
/// The kernel hands out so much at once, whole rows only.
const AT_ONCE: usize = 64 << 10;

mod program;

const UNKNOWN: Errno = Errno(libc::ENOENT);

impl Files {
    /// Prepares it; an error where it cannot be had.
    pub fn load() -> Result<Self> {
        let mut btf = Btf::of_kernel()?;
        let [Some(files), Some(unix)] = btf.functions(["bpf_iter_task_file", "bpf_iter_unix"]) else {
            return Err(UNKNOWN);
        };
        let (code, of_socket) = program::Program::write(&btf, files, unix).ok_or(UNKNOWN)?;
        Ok(Self { program: load_iterator(&code, files)?, of_socket })
    }

    /// The descriptors of a thread, in ascending order.
    pub fn read(&self, tid: Pid) -> Result<Vec<Row>> {
        let file = File::from(open_iterator(self.program.as_fd(), Of::Thread(tid))?);
        let (mut rows, mut marks) = (Vec::<Row>::new(), HashSet::new());
        reader::read(file, &mut vec![0; AT_ONCE], |bytes| {
            let Some((row, behind)) = self.row(bytes, &mut marks) else { return ControlFlow::Continue(None) };
            // Or the kernel might tell without end of what changes meanwhile.
            if rows.last().is_some_and(|last| last.fd >= row.fd) {
                return ControlFlow::Break(Err(Errno(libc::EIO)));
            }
            rows.push(row);
            ControlFlow::Continue(Some(bytes.len() - behind.len()))
        })?;
        Ok(rows)
    }

    /// The first row of these bytes, and what is behind it; None if they are not a whole one.
    fn row<'b>(&self, bytes: &'b [u8], marks: &mut HashSet<Arc<[u64]>>) -> Option<(Row, &'b [u8])> {
        let number = |at: usize| Some(u64::from_ne_bytes(bytes.get(8 * at..8 * at + 8)?.try_into().ok()?));
        let mut head = [0; OF_FILE];
        for (at, place) in head.iter_mut().enumerate() {
            *place = number(at)?;
        }
        let [fd, file, flags, pos, closing, mode, ino, magic, locks, more, owner, is_socket] = head;
        let mut row = Row {
            fd: fd as RawFd,
            file,
            flags: flags as u32 & !(libc::O_CLOEXEC as u32),
            pos,
            cloexec: closing >> (fd % 64) & 1 != 0,
            mode: mode as u32,
            ino,
            magic,
            is_lockable: locks != 0,
            has_more: more != 0,
            is_owned: owner != 0,
            name: None,
            socket: None,
        };
        if is_socket == 0 {
            if row.mode & TYPE != REGULAR {
                return Some((row, &bytes[8 * OF_FILE..]));
            }
            let len = number(OF_FILE)? as i64;
            let (name, rest) = bytes[8 * OF_FILE + 8..].split_at_checked(NAME)?;
            row.name = usize::try_from(len - 1).ok().and_then(|len| Some(name.get(..len)?.to_vec()));
            return Some((row, rest));
        }
        let end = OF_FILE + self.of_socket;
        let mut tail = [0; MOST];
        for (at, place) in (OF_FILE..end).zip(&mut tail) {
            *place = number(at)?;
        }
        let (head, options) = tail[..self.of_socket].split_first_chunk::<OF_SOCKET>()?;
        let &[family, kind, protocol, state, queued, filter, process, ids, flying, name, peer, name_of_peer, urgent] =
            head;
        // There are many sockets, and few sorts of options.
        let options = marks.get(options).cloned().unwrap_or_else(|| {
            let options: Arc<[u64]> = options.into();
            marks.insert(Arc::clone(&options));
            options
        });
        row.socket = Some(Socket {
            sort: (family as u32, kind as u32, protocol as u32),
            state: state as u8,
            queued: queued as u32,
            flying: flying as u32,
            is_filtered: filter != 0,
            names: (name != 0, (peer != 0).then_some(name_of_peer != 0)),
            is_urgent: urgent != 0,
            maker: (process, ids),
            options,
        });
        Some((row, &bytes[8 * end..]))
    }
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
