//! The kernel, typed: every unsafe line of ghost, and every raw interface it speaks.
//!
//! The nouns: a [`ptrace::Stopped`] thread can be read, changed and let go, which makes it [`ptrace::Running`];
//! a [`remote::RemoteAddr`] is an address in another process, read and written through [`remote::Memory`];
//! a [`remote::Batch`] is a list of system calls to be made *inside* another process, which a
//! [`remote::Executor`] runs in one round trip: the [`remote::Puppet`] inside a living program, with a
//! dead-man's switch, or the [`remote::Stub`] inside a process that is being built.
//! [`proc`] parses what procfs prints, relative to a [`proc::ProcDir`] that stays with one process; [`pagemap`],
//! [`sock_diag`], [`message`] and [`pipe`] look into memory, sockets and pipes and take nothing away; [`namespace`] works
//! inside other namespaces, [`bpf`] has the kernel itself tell what stands in no file, and [`features`] says what of all this is to be had here.
//!
//! This crate knows nothing of ghosts. It does not decide, it only asks and tells.

pub mod arch;
pub mod bpf;
pub mod clock;
pub mod clone3;
pub mod cpu;
pub mod errno;
pub mod fdops;
pub mod features;
pub mod file;
pub mod huge;
mod inject;
pub mod kcmp;
pub mod keyring;
pub mod landlock;
pub mod message;
pub mod mortal;
pub mod namespace;
pub mod nr;
pub mod pagemap;
pub mod pidfd;
pub mod pipe;
pub mod plugin;
pub mod prctl_mm;
pub mod proc;
pub mod process;
pub mod ptrace;
pub mod remote;
pub mod sched;
pub mod scm;
pub mod secret;
pub mod sem;
pub mod shm;
pub mod signal;
pub mod sock;
pub mod sock_diag;
pub mod sockopt;
pub mod tty;
pub mod uffd;
pub mod undertaker;
pub mod witness;

pub use errno::Errno;
/// The result of a system call.
pub type Result<T> = std::result::Result<T, Errno>;
/// A process id as the kernel writes it, in the pid namespace of the caller.
pub type Pid = i32;
