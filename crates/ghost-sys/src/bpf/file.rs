//! Descriptors by the iterator `task_file`: what procfs says of each in three files, of all of a process in one.
//!
//! A row is about a description: its address (good for telling descriptions apart), flags, offset, whether the descriptor is closed by
//! execve, and whether there is more that only `/proc/PID/fdinfo/N` can tell: locks of the inode, lines of its own sort. Of a socket it
//! has the members in which the kernel keeps options, as they are: two sockets of one sort that agree in all of them
//! have the same options. Whether that holds on a kernel is for the caller to try out.

use super::asm::{Asm, READ, Reg, SEQ_WRITE, SOCKET_OF, Width};
use super::btf::{Btf, Kind, TypeId};
use super::{Of, load_iterator, open_iterator};
use crate::{Errno, Pid, Result};
use std::collections::HashSet;
use std::fs::File;
use std::io::Read;
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

/// Where the options of sockets are kept, as members of `struct sock`; which there are differs between kernels.
const MEMBERS: &[&[&str]] = &[
    &["__sk_common", "skc_flags"],
    &["__sk_common", "skc_reuse"],
    &["__sk_common", "skc_bound_dev_if"],
    &["__sk_common", "skc_incoming_cpu"],
    &["__sk_common", "skc_net", "net"],
    &["sk_peek_off"],
    &["sk_ll_usec"],
    &["sk_prefer_busy_poll"],
    &["sk_busy_poll_budget"],
    &["sk_userlocks"],
    &["sk_rcvbuf"],
    &["sk_sndbuf"],
    &["sk_rcvlowat"],
    &["sk_rcvtimeo"],
    &["sk_sndtimeo"],
    &["sk_reserved_mem"],
    &["sk_tsflags"],
    &["sk_bind_phc"],
    &["sk_max_pacing_rate"],
    &["sk_priority"],
    &["sk_mark"],
    &["sk_no_check_tx"],
    &["sk_lingertime"],
    &["sk_txrehash"],
    &["sk_scm_recv_flags"],
    &["sk_clockid"],
    &["sk_txtime_deadline_mode"],
];

/// The most numbers of a socket: so many fit on the stack of a program.
const MOST: usize = 60;
/// The kernel hands out so much at once, whole rows only.
const AT_ONCE: usize = 64 << 10;

const UNKNOWN: Errno = Errno(libc::ENOENT);

impl Files {
    /// Prepares it; an error where it cannot be had.
    pub fn load() -> Result<Self> {
        let mut btf = Btf::of_kernel()?;
        let [Some(files), Some(unix)] = btf.functions(["bpf_iter_task_file", "bpf_iter_unix"]) else {
            return Err(UNKNOWN);
        };
        let (code, of_socket) = Program::write(&btf, files, unix).ok_or(UNKNOWN)?;
        Ok(Self { program: load_iterator(&code, files)?, of_socket })
    }

    /// The descriptors of a thread, in ascending order.
    pub fn read(&self, tid: Pid) -> Result<Vec<Row>> {
        let mut file = File::from(open_iterator(self.program.as_fd(), Of::Thread(tid))?);
        let mut buf = vec![0_u8; AT_ONCE];
        let (mut rows, mut marks, mut len) = (Vec::new(), HashSet::new(), 0);
        loop {
            match file.read(&mut buf[len..]) {
                Ok(0) if len == 0 => return Ok(rows),
                // Half a row.
                Ok(0) => return Err(Errno(libc::EIO)),
                Ok(n) => len += n,
                // After a million objects without a row the kernel takes breath.
                Err(e) if matches!(e.raw_os_error(), Some(libc::EINTR | libc::EAGAIN)) => continue,
                Err(e) => return Err(e.into()),
            }
            let mut rest = &buf[..len];
            while let Some((row, behind)) = self.row(rest, &mut marks) {
                rows.push(row);
                rest = behind;
            }
            let left = rest.len();
            buf.copy_within(len - left..len, 0);
            len = left;
        }
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
            socket: None,
        };
        if is_socket == 0 {
            return Some((row, &bytes[8 * OF_FILE..]));
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

/// The program while it is written.
struct Program<'b> {
    btf: &'b Btf,
    asm: Asm,
    /// How deep in the stack the next number lies.
    depth: i16,
}

impl<'b> Program<'b> {
    /// The program, and how many numbers a socket adds.
    fn write(btf: &'b Btf, files: TypeId, unix: TypeId) -> Option<(Vec<u64>, usize)> {
        let mut program = Self { btf, asm: Asm::new(), depth: 8 * OF_FILE as i16 };
        let parameter =
            |name| Some((8 * i16::try_from(btf.parameter(files, name)?.0).ok()?, btf.parameter(files, name)?.1));
        let (task_at, task) = parameter("task")?;
        let (file_at, file) = parameter("file")?;
        let (fd_at, _) = parameter("fd")?;
        let (_, unix_sock) = btf.parameter(unix, "unix_sk")?;
        let Kind::Pointer(unix_sock) = btf.kind(unix_sock)? else { return None };
        let sock = btf.member(unix_sock, "sk").filter(|sk| sk.offset == 0)?.ty;
        let socket = btf.member(sock, "sk_socket")?.ty;

        let seq = program.route(btf.parameter(files, "meta")?.1, &["seq"])?;
        let meta_at = parameter("meta")?.0;
        program.asm.mov(Reg::R6, Reg::R1);
        program.asm.load(Width::B8, Reg::R9, Reg::R6, task_at).end_if(Reg::R9, 0);
        program.asm.load(Width::B8, Reg::R7, Reg::R6, file_at).end_if(Reg::R7, 0);
        program.asm.load(Width::B4, Reg::R2, Reg::R6, fd_at);
        program.store(Reg::R2);
        program.store(Reg::R7);
        program.follow(Reg::R7, file, &["f_flags"])?;
        program.follow(Reg::R7, file, &["f_pos"])?;
        program.closing(task, fd_at)?;
        program.follow(Reg::R7, file, &["f_inode", "i_mode"])?;
        program.follow(Reg::R7, file, &["f_inode", "i_ino"])?;
        program.follow(Reg::R7, file, &["f_inode", "i_sb", "s_magic"])?;
        program.follow(Reg::R7, file, &["f_inode", "i_flctx"])?;
        program.follow(Reg::R7, file, &["f_op", "show_fdinfo"])?;
        // Before Linux 6.12 it was no pointer.
        if program.follow(Reg::R7, file, &["f_owner"]).is_none() {
            program.asm.set(Reg::R1, 1);
            program.store(Reg::R1);
        }
        program.asm.mov(Reg::R1, Reg::R7).call(SOCKET_OF).mov(Reg::R8, Reg::R0);
        program.store(Reg::R0);
        program.put(OF_FILE, meta_at, &seq);

        let byte = |path: &[&str]| {
            let (name, structures) = path.split_last()?;
            let (mut at, mut ty) = (0, sock);
            for structure in structures {
                let found = btf.member(ty, structure)?;
                (at, ty) = (at + found.offset, found.ty);
            }
            Some(vec![(Width::B1, i16::try_from(at + btf.byte(ty, name)?).ok()?)])
        };
        let options: Vec<Vec<(Width, i16)>> =
            MEMBERS.iter().filter_map(|path| program.route(sock, path).or_else(|| byte(path))).collect();
        let of_socket = OF_SOCKET + options.len() + 1;
        if of_socket > MOST {
            return None;
        }
        program.asm.end_if(Reg::R8, 0);
        program.depth = 8 * of_socket as i16;
        let to_sock = program.route(socket, &["sk"])?;
        let &[(Width::B8, to_sock)] = &to_sock[..] else { return None };
        program.asm.load(Width::B8, Reg::R7, Reg::R8, to_sock);
        program.follow(Reg::R7, sock, &["__sk_common", "skc_family"])?;
        program.follow(Reg::R7, sock, &["sk_type"])?;
        program.follow(Reg::R7, sock, &["sk_protocol"])?;
        program.follow(Reg::R7, sock, &["__sk_common", "skc_state"])?;
        program.follow(Reg::R7, sock, &["sk_receive_queue", "qlen"])?;
        program.follow(Reg::R7, sock, &["sk_filter"])?;
        program.follow(Reg::R7, sock, &["sk_peer_pid"])?;
        program.follow(Reg::R7, sock, &["sk_peer_cred"])?;
        // Behind another sort of socket there is something else, or nothing that can be read.
        let flying = program.route(unix_sock, &["scm_stat", "nr_fds", "counter"])?;
        let (name, peer) = (program.route(unix_sock, &["addr"])?, program.route(unix_sock, &["peer"])?);
        let (&[(Width::B4, flying)], &[(Width::B8, name)], &[(Width::B8, peer)]) = (&flying[..], &name[..], &peer[..])
        else {
            return None;
        };
        for (at, bytes) in [(flying, 4), (name, 8), (peer, 8)] {
            program.asm.mov(Reg::R3, Reg::R7).add(Reg::R3, at.into());
            program.read(bytes);
        }
        let peer = -(program.depth + 8);
        program.asm.load(Width::B8, Reg::R3, Reg::R10, peer).add(Reg::R3, name.into());
        program.read(8);
        // Since Linux 5.15, where it is not left out.
        match program.route(unix_sock, &["oob_skb"]).as_deref() {
            Some(&[(Width::B8, at)]) => {
                program.asm.mov(Reg::R3, Reg::R7).add(Reg::R3, at.into());
                program.read(8);
            }
            _ => {
                program.asm.set(Reg::R1, 1);
                program.store(Reg::R1);
            }
        }
        for loads in options {
            program.number(Reg::R7, &loads);
        }
        program.follow(Reg::R8, socket, &["flags"])?;
        program.put(of_socket, meta_at, &seq);
        Some((program.asm.finish()?, of_socket))
    }

    /// Loads from an object of this type, or a pointer to it, to the number that these members lead to.
    fn route(&self, ty: TypeId, members: &[&str]) -> Option<Vec<(Width, i16)>> {
        let mut ty = match self.btf.kind(ty)? {
            Kind::Pointer(to) => to,
            _ => ty,
        };
        let (mut at, mut loads) = (0, Vec::new());
        for member in members {
            if let Kind::Pointer(to) = self.btf.kind(ty)? {
                loads.push((Width::B8, i16::try_from(at).ok()?));
                (at, ty) = (0, to);
            }
            let found = self.btf.member(ty, member)?;
            (at, ty) = (at + found.offset, found.ty);
        }
        let bytes = match self.btf.kind(ty)? {
            Kind::Number(bytes) => bytes,
            Kind::Pointer(_) => 8,
            _ => return None,
        };
        loads.push((Width::of(bytes)?, i16::try_from(at).ok()?));
        Some(loads)
    }

    fn follow(&mut self, from: Reg, ty: TypeId, members: &[&str]) -> Option<()> {
        let loads = self.route(ty, members)?;
        self.number(from, &loads);
        Some(())
    }

    /// The next number of the row.
    fn number(&mut self, from: Reg, loads: &[(Width, i16)]) {
        let mut from = from;
        for &(width, offset) in loads {
            self.asm.load(width, Reg::R2, from, offset);
            from = Reg::R2;
        }
        self.store(from);
    }

    fn store(&mut self, from: Reg) {
        self.asm.store(Width::B8, Reg::R10, -self.depth, from);
        self.depth -= 8;
    }

    /// The next number: so many bytes at the address in R3.
    fn read(&mut self, bytes: i32) {
        let at = -self.depth;
        self.asm.set(Reg::R1, 0);
        self.store(Reg::R1);
        self.asm.mov(Reg::R1, Reg::R10).add(Reg::R1, at.into()).set(Reg::R2, bytes).call(READ);
    }

    /// The word of the table's map that says whether the descriptor is closed by execve.
    fn closing(&mut self, task: TypeId, fd_at: i16) -> Option<()> {
        let loads = self.route(task, &["files", "fdt", "close_on_exec"])?;
        let mut from = Reg::R9;
        for (width, offset) in loads {
            self.asm.load(width, Reg::R3, from, offset);
            from = Reg::R3;
        }
        self.asm.load(Width::B4, Reg::R1, Reg::R6, fd_at).shift_right(Reg::R1, 6).shift_left(Reg::R1, 3);
        self.asm.add_reg(Reg::R3, Reg::R1);
        self.read(8);
        Some(())
    }

    /// Writes the row so far.
    fn put(&mut self, numbers: usize, meta_at: i16, seq: &[(Width, i16)]) {
        let bytes = 8 * numbers as i32;
        self.asm.load(Width::B8, Reg::R1, Reg::R6, meta_at);
        for &(width, offset) in seq {
            self.asm.load(width, Reg::R1, Reg::R1, offset);
        }
        self.asm.mov(Reg::R2, Reg::R10).add(Reg::R2, -bytes).set(Reg::R3, bytes).call(SEQ_WRITE);
    }
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
