//! Which sort of file a descriptor stands for, and by which name a sort is refused that can't travel.
//!
//! Told by `fstat(2)`, the file system's magic number (`fstatfs(2)`) and, for what the kernel keeps in one anonymous inode,
//! by the name that `/proc/PID/fd` prints. A name that is not known here is refused by that very name: never guessed.

use crate::error::again_once;
use crate::view::FdView;
use rustix::fs::{FileType, OFlags};

/// A sort of file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Class {
    /// A regular file of some file system, a memfd, or anything that was opened with O_PATH.
    Regular,
    /// A directory.
    Directory,
    /// Memory hidden from the kernel.
    Secret,
    /// A pipe or a FIFO.
    Pipe,
    /// `/dev/null` and others that keep nothing for a description.
    Device,
    /// A terminal.
    Terminal,
    /// The master side of a pseudo-terminal.
    Master,
    /// A file of `/proc`.
    Proc,
    /// A namespace that is held open.
    Namespace,
    /// A socket.
    Socket,
    /// An eventfd.
    EventFd,
    /// A timerfd.
    TimerFd,
    /// A signalfd.
    SignalFd,
    /// An epoll.
    Epoll,
    /// An inotify.
    Inotify,
    /// A pidfd.
    PidFd,
    /// Something that can't travel.
    Refused(Refusal),
}

/// Why a sort can't travel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// As `--accept` names it.
    pub kind: &'static str,
    /// Why.
    pub why: String,
    /// What the user can do.
    pub advice: String,
    /// As [`Blocker::passes`](crate::error::Blocker::passes).
    pub passes: bool,
}

impl Refusal {
    /// A refusal in words.
    pub fn new(kind: &'static str, why: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { kind, why: why.into(), advice: advice.into(), passes: false }
    }
    /// One that goes away by itself when this has happened.
    pub fn passing(kind: &'static str, why: impl Into<String>, once: &str) -> Self {
        Self { kind, why: why.into(), advice: again_once(once), passes: true }
    }
}

fn refused(kind: &'static str, why: impl Into<String>, advice: &str) -> Class {
    Class::Refused(Refusal::new(kind, why, advice))
}

const PROC_MAGIC: i64 = 0x9fa0;
const NSFS_MAGIC: i64 = 0x6e73_6673;
const HUGETLBFS_MAGIC: i64 = 0x9584_58f6;
const MQUEUE_MAGIC: i64 = 0x1980_0202;
const CGROUP2_MAGIC: i64 = 0x6367_7270;
const SECRETMEM_MAGIC: i64 = 0x5345_434d;

/// The sort of file behind a descriptor.
pub fn of(fd: &FdView) -> Class {
    fd.class.get_or_init(|| tell(fd)).clone()
}

fn tell(fd: &FdView) -> Class {
    if fd.info.flags & OFlags::PATH.bits() != 0 {
        return Class::Regular;
    }
    match FileType::from_raw_mode(fd.stat.st_mode) {
        FileType::Fifo => Class::Pipe,
        FileType::CharacterDevice => character(fd),
        FileType::BlockDevice => refused(
            "device",
            "a block device is open, whose driver may hold state for it",
            "close it before the checkpoint",
        ),
        FileType::Socket => Class::Socket,
        FileType::Directory => on_file_system(fd, Class::Directory),
        FileType::RegularFile => on_file_system(fd, Class::Regular),
        _ => anonymous(fd),
    }
}

fn on_file_system(fd: &FdView, usual: Class) -> Class {
    // A running program may have lost the file system under it; then opening it again will say so.
    let asked = || rustix::fs::fstatfs(&fd.ours).map_or(0, |s| s.f_type);
    let magic = fd.told.magic.map_or_else(asked, |magic| magic as i64);
    match magic {
        PROC_MAGIC | CGROUP2_MAGIC if is_pressure(fd) => refused(
            "pressure",
            "a file of pressure stall information is open for writing: a trigger that was set by it shows nowhere",
            "close it before the checkpoint, or open it to read only",
        ),
        PROC_MAGIC => Class::Proc,
        NSFS_MAGIC => Class::Namespace,
        MQUEUE_MAGIC => refused(
            "mqueue",
            "a POSIX message queue is open: its messages and its notification are not carried yet",
            "close it before the checkpoint",
        ),
        HUGETLBFS_MAGIC => {
            refused("hugetlb", "a file in huge pages is open", "let the program use transparent huge pages instead")
        }
        SECRETMEM_MAGIC => Class::Secret,
        _ if fd.link.starts_with(b"anon_inode:") => anonymous(fd),
        _ if fd.link.starts_with(b"pidfd:") => Class::PidFd,
        _ => usual,
    }
}

/// Whether it is a file by which a trigger may have been set, `/proc/pressure/cpu` or `memory.pressure` of a cgroup.
///
/// `poll(2)` would tell, but takes the event of one that has gone off.
fn is_pressure(fd: &FdView) -> bool {
    let named = fd.link.starts_with(b"/proc/pressure/") || fd.link.ends_with(b".pressure");
    named && fd.info.flags & OFlags::RWMODE.bits() != OFlags::RDONLY.bits()
}

/// Devices of major 1 that keep nothing for a description: null, zero, full, random, urandom.
const PLAIN: [u32; 5] = [3, 5, 7, 8, 9];

fn character(fd: &FdView) -> Class {
    let (major, minor) = (rustix::fs::major(fd.stat.st_rdev), rustix::fs::minor(fd.stat.st_rdev));
    match (major, minor) {
        (1, n) if PLAIN.contains(&n) => Class::Device,
        (5, 2) => Class::Master,
        (128..=135, _) => refused(
            "pty",
            "the master side of a pseudo-terminal of the old sort (BSD) is open",
            "leave the terminal program (script, tmux, sshd) out of the tree: checkpoint what runs inside of it",
        ),
        (4 | 136..=143, _) | (5, 0 | 1) => Class::Terminal,
        (10, 232) => refused("kvm", "a virtual machine of the kernel (KVM) is open", "stop the virtual machine first"),
        _ => refused(
            "device",
            format!("character device {major}:{minor} is open, whose driver may hold state for it"),
            "close it before the checkpoint",
        ),
    }
}

/// What lives in the kernel's one anonymous inode, by its printed name.
fn anonymous(fd: &FdView) -> Class {
    let link = String::from_utf8_lossy(&fd.link);
    let name = link.strip_prefix("anon_inode:").unwrap_or(&link).trim_matches(['[', ']']);
    match name {
        "eventfd" => Class::EventFd,
        "timerfd" => Class::TimerFd,
        "signalfd" => Class::SignalFd,
        "eventpoll" => Class::Epoll,
        "inotify" => Class::Inotify,
        "pidfd" => Class::PidFd,
        "io_uring" => refused(
            "io_uring",
            "requests in its rings can't be carried",
            "run the program with io_uring switched off (many have a setting; kernel.io_uring_disabled=2 refuses it to all)",
        ),
        "userfaultfd" => refused("userfaultfd", "the program handles its own page faults", "let it finish that first"),
        "perf_event" => refused("perf_event", "performance counters are open", "stop the profiler first"),
        "fanotify" => refused("fanotify", "a fanotify group is open", "stop the file monitor first"),
        "seccomp notify" => refused(
            "seccomp notify",
            "it supervises the system calls of another process",
            "checkpoint without its supervisor",
        ),
        "landlock-ruleset" => {
            refused("landlock", "a landlock ruleset is open", "let the program finish its set-up first")
        }
        n if n.starts_with("bpf") => refused("bpf", format!("a BPF object is open ({n})"), "unload it first"),
        n if n.starts_with("kvm") => {
            refused("kvm", "a virtual machine of the kernel (KVM) is open", "stop the virtual machine first")
        }
        n => refused("unknown", format!("ghost does not know what `{n}` is"), "close it before the checkpoint"),
    }
}
