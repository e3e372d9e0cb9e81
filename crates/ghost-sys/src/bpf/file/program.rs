//! The program of the iterator: which members of which objects make up a row.

use super::super::asm::{Asm, NAME_OF, READ, Reg, SEQ_WRITE, SOCKET_OF, Width};
use super::super::btf::{Btf, Kind, TypeId};
use super::{MOST, NAME, OF_FILE, OF_SOCKET, REGULAR, TYPE};

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

/// The program while it is written.
pub(super) struct Program<'b> {
    btf: &'b Btf,
    asm: Asm,
    /// How deep in the stack the next number lies.
    depth: i16,
}

impl<'b> Program<'b> {
    /// The program, and how many numbers a socket adds.
    pub(super) fn write(btf: &'b Btf, files: TypeId, unix: TypeId) -> Option<(Vec<u64>, usize)> {
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
        let no_socket = program.asm.jump_if(Reg::R8, 0);
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
        program.asm.set(Reg::R1, 0).end_if(Reg::R1, 0).land(no_socket)?;
        program.name(file)?;
        program.put(1 + NAME / 8, meta_at, &seq);
        Some((program.asm.finish()?, of_socket))
    }

    /// Loads from an object of this type, or a pointer to it, to the number that these members lead to.
    fn route(&self, ty: TypeId, members: &[&str]) -> Option<Vec<(Width, i16)>> {
        let ty = match self.btf.kind(ty)? {
            Kind::Pointer(to) => to,
            _ => ty,
        };
        self.btf.route(0, ty, members)
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

    /// The name of a regular file, behind its length or an error.
    fn name(&mut self, file: TypeId) -> Option<()> {
        let loads = self.route(file, &["f_inode", "i_mode"])?;
        let mut from = Reg::R7;
        for (width, offset) in loads {
            self.asm.load(width, Reg::R1, from, offset);
            from = Reg::R1;
        }
        self.asm.and(Reg::R1, TYPE as i32).end_unless(Reg::R1, REGULAR as i32);
        self.depth = 8 + NAME as i16;
        self.asm.set(Reg::R1, 0);
        for _ in 0..=NAME / 8 {
            self.store(Reg::R1);
        }
        let Kind::Pointer(file) = self.btf.kind(file)? else { return None };
        let path = self.btf.member(file, "f_path")?.offset;
        self.asm.mov(Reg::R1, Reg::R7).add(Reg::R1, path as i32);
        self.asm.mov(Reg::R2, Reg::R10).add(Reg::R2, -(NAME as i32)).set(Reg::R3, NAME as i32).call(NAME_OF);
        self.asm.store(Width::B8, Reg::R10, -8 - NAME as i16, Reg::R0);
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
