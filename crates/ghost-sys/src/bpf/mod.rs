//! BPF programs that look at kernel objects from inside and tell what no file of procfs tells: `bpf(2)`, `BPF_TRACE_ITER`.
//!
//! An **iterator** is a program that the kernel runs once for each object of a sort (a mapping, a descriptor, a thread) when somebody
//! reads a certain file; what it writes is what is read (Linux 5.8; of one process or thread alone: Linux 6.1). Ghost writes
//! such programs itself ([`asm`]), takes the offsets of members from the kernel's own description of its types ([`btf`]), and has
//! them write rows of numbers ([`iter`]). Uses: the flags of mappings ([`vma`]), threads that are alike ([`threads`]).
//!
//! It needs CAP_BPF and CAP_PERFMON (or CAP_SYS_ADMIN) in the first user namespace, a kernel that describes its types, and no lockdown.
//! Nobody may rely on it: whoever uses it has another way to know the same.
//!
//! A program only reads; it is never attached to anything that runs by itself, and is gone when the last descriptor is closed.

#![allow(unsafe_code)]

pub mod asm;
pub mod btf;
pub mod file;
pub mod iter;
mod reader;
pub mod threads;
pub mod vma;

use crate::{Pid, Result, errno::cvt};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

const PROG_LOAD: i32 = 5;
const LINK_CREATE: i32 = 28;
const ITER_CREATE: i32 = 33;
/// `BPF_PROG_TYPE_TRACING`
const TRACING: u32 = 26;
/// `BPF_TRACE_ITER`
const TRACE_ITER: u32 = 28;

/// Gives a command its attributes; what is behind those that it has must be zero.
fn command<T>(number: i32, attributes: &T) -> Result<OwnedFd> {
    let at = std::ptr::from_ref(attributes);
    // SAFETY: the kernel reads `size_of::<T>()` bytes there, plain numbers without padding (asserted below); the pointers among them are to
    // what the callers borrow beyond the call. None of the commands used here writes through them.
    let fd = cvt(unsafe { libc::syscall(libc::SYS_bpf, number, at, size_of::<T>()) })?;
    // SAFETY: each of the commands used here returns a new descriptor (close-on-exec), which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// What BPF_PROG_LOAD takes, up to `attach_btf_id` and the word behind it.
#[repr(C)]
#[derive(Default)]
struct LoadAttributes {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
    prog_btf_fd: u32,
    func_info_rec_size: u32,
    func_info: u64,
    func_info_cnt: u32,
    line_info_rec_size: u32,
    line_info: u64,
    line_info_cnt: u32,
    attach_btf_id: u32,
    attach_prog_fd: u32,
    core_relo_cnt: u32,
}
const _: () = assert!(size_of::<LoadAttributes>() == 120 && std::mem::offset_of!(LoadAttributes, attach_btf_id) == 108);

/// Loads an iterator program for the function of this number in the kernel's description of its types.
fn load_iterator(code: &[u64], function: btf::TypeId) -> Result<OwnedFd> {
    let mut prog_name = [0; 16];
    prog_name[..10].copy_from_slice(b"ghost_iter");
    let attributes = LoadAttributes {
        prog_type: TRACING,
        insn_cnt: code.len() as u32,
        insns: code.as_ptr() as u64,
        // The helper that writes rows is for programs that say so.
        license: c"Dual MIT/GPL".as_ptr() as u64,
        prog_name,
        expected_attach_type: TRACE_ITER,
        attach_btf_id: function,
        ..LoadAttributes::default()
    };
    command(PROG_LOAD, &attributes)
}

/// Which objects an iterator visits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// Those of one thread, by its tid as the caller sees it.
    Thread(Pid),
    /// Those of all threads of a process that differ from those of its leader.
    Process(Pid),
}

/// `union bpf_iter_link_info`, of tasks (Linux 6.1): tid, pid, pidfd.
type LinkInfo = [u32; 3];

#[repr(C)]
struct LinkAttributes {
    prog_fd: u32,
    target_fd: u32,
    attach_type: u32,
    flags: u32,
    iter_info: u64,
    iter_info_len: u32,
    zero: u32,
}
const _: () = assert!(size_of::<LinkAttributes>() == 32);

/// A file that runs the program as it is read.
fn open_iterator(program: BorrowedFd<'_>, of: Of) -> Result<OwnedFd> {
    let info: LinkInfo = match of {
        Of::Thread(tid) => [tid as u32, 0, 0],
        Of::Process(pid) => [0, pid as u32, 0],
    };
    let attributes = LinkAttributes {
        prog_fd: program.as_raw_fd() as u32,
        target_fd: 0,
        attach_type: TRACE_ITER,
        flags: 0,
        iter_info: std::ptr::from_ref(&info) as u64,
        iter_info_len: size_of::<LinkInfo>() as u32,
        zero: 0,
    };
    let link = command(LINK_CREATE, &attributes)?;
    // The file keeps the link.
    command(ITER_CREATE, &[link.as_raw_fd() as u32, 0])
}
