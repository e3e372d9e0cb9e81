//! `/proc/PID/fdinfo/FD`: what the kernel tells of an open file description, `proc_pid_fdinfo(5)`.
//!
//! Which lines there are depends on the kind of file, and a kind with nothing in it (an epoll that watches nothing)
//! prints none of its own: the kind itself is told by the link in `fd/`. Lines that are not known here are kept in
//! [`More::others`], so that nothing is lost unseen. Sockets, unless `scm_fds` is there, print nothing of their own.

use super::text::{At, dec, device_kernel, hex, hex_bytes, lines, split_once, words};
use super::{FileLock, Parsed, ProcDir, ProcResult, parse_lock};
use crate::Pid;
use std::os::fd::RawFd;

/// What an fdinfo file says: what every one says, and behind that what few do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FdInfo {
    /// File offset.
    pub pos: u64,
    /// `O_*` flags of the description, and `O_CLOEXEC` of the descriptor.
    pub flags: u32,
    /// The mount it was opened on, as in `mountinfo`; None where fdinfo was not asked.
    pub mnt_id: Option<i64>,
    /// Its inode (Linux 5.14).
    pub ino: Option<u64>,
    /// How many descriptors lie in the receive queue of a unix socket (Linux 5.10).
    pub scm_fds: Option<u64>,
    /// All else, where there is something.
    more: Option<Box<More>>,
}

/// What only some fdinfo files say; it is reached through [`FdInfo`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct More {
    /// Locks and leases that are held through it (Linux 4.1).
    pub locks: Vec<FileLock>,
    /// Set for an eventfd (Linux 3.8).
    pub eventfd: Option<EventFdInfo>,
    /// Set for a timerfd (Linux 3.17).
    pub timerfd: Option<TimerFdInfo>,
    /// The signals that a signalfd reads; bit 0 is signal 1 (Linux 3.8).
    pub sigmask: Option<u64>,
    /// What an epoll watches, in the kernel's order (Linux 3.8; `pos`, `ino`, `sdev` 4.13).
    pub epoll: Vec<EpollTarget>,
    /// What an inotify watches (Linux 3.8).
    pub inotify: Vec<InotifyWatch>,
    /// Set for a fanotify group (Linux 3.8).
    pub fanotify: Option<FanotifyInfo>,
    /// Set for a pidfd (Linux 5.2).
    pub pidfd: Option<PidFdInfo>,
    /// The number of the slave, for the master of a pseudo-terminal (Linux 5.7).
    pub tty_index: Option<u32>,
    /// Set for a userfaultfd (Linux 4.3).
    pub userfaultfd: Option<UserfaultFdInfo>,
    /// All other lines, as `(name, value)`: io_uring, tun, bpf, perf and what newer kernels add.
    pub others: Vec<(Vec<u8>, Vec<u8>)>,
}

static NOTHING_MORE: More = More {
    locks: Vec::new(),
    eventfd: None,
    timerfd: None,
    sigmask: None,
    epoll: Vec::new(),
    inotify: Vec::new(),
    fanotify: None,
    pidfd: None,
    tty_index: None,
    userfaultfd: None,
    others: Vec::new(),
};

impl std::ops::Deref for FdInfo {
    type Target = More;
    fn deref(&self) -> &More {
        self.more.as_deref().unwrap_or(&NOTHING_MORE)
    }
}

impl std::ops::DerefMut for FdInfo {
    fn deref_mut(&mut self) -> &mut More {
        self.more.get_or_insert_default()
    }
}

impl FdInfo {
    /// One that says no more than this; `scm_fds` of a unix socket.
    pub fn plain(pos: u64, flags: u32, ino: u64, scm_fds: Option<u64>) -> Self {
        Self { pos, flags, ino: Some(ino), scm_fds, ..Self::default() }
    }
    /// Whether the descriptor is closed by execve.
    pub fn is_cloexec(&self) -> bool {
        self.flags & libc::O_CLOEXEC as u32 != 0
    }
    /// The flags that belong to the description: without `O_CLOEXEC`.
    pub fn description_flags(&self) -> u32 {
        self.flags & !(libc::O_CLOEXEC as u32)
    }
    /// The value of a line that has no field of its own.
    pub fn other(&self, name: &[u8]) -> Option<&[u8]> {
        self.others.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_slice())
    }
}

/// An eventfd.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventFdInfo {
    /// Its counter.
    pub count: u64,
    /// Which eventfd it is: equal for descriptors of one object (Linux 5.2).
    pub id: Option<u32>,
    /// Made with EFD_SEMAPHORE (Linux 6.7); None where the kernel does not say.
    pub semaphore: Option<bool>,
}

/// A timerfd.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TimerFdInfo {
    /// `CLOCK_*`.
    pub clock: i32,
    /// Expirations that were not read yet.
    pub ticks: u64,
    /// The flags it was last set with: TFD_TIMER_ABSTIME, TFD_TIMER_CANCEL_ON_SET.
    pub settime_flags: u32,
    /// Time until it expires next, in nanoseconds; 0 when disarmed. Always relative, whatever the flags.
    pub value_ns: u64,
    /// Its period in nanoseconds.
    pub interval_ns: u64,
}

/// A file that an epoll watches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EpollTarget {
    /// The descriptor by which it was added; by now it may be closed, or be another file.
    pub fd: RawFd,
    /// `EPOLL*`; after a one-shot event only the modifier bits are left.
    pub events: u32,
    /// The user's data.
    pub data: u64,
    /// Offset of the file.
    pub pos: u64,
    /// Inode of the file; 0 when the kernel does not say.
    pub ino: u64,
    /// Device of the file as `stat(2)` has it.
    pub dev: u64,
}

/// The handle of a file, as `open_by_handle_at(2)` takes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct FileHandle {
    /// `handle_type`; the flag 0x80 of weak handles, that can be compared and not opened, included.
    pub kind: i32,
    /// `f_handle`.
    pub bytes: Vec<u8>,
}

/// A watch of an inotify.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InotifyWatch {
    /// The watch descriptor.
    pub wd: i32,
    /// The inode watched.
    pub ino: u64,
    /// Its device as `stat(2)` has it.
    pub dev: u64,
    /// `IN_*`.
    pub mask: u32,
    /// Its handle; None when the file system has none.
    pub handle: Option<FileHandle>,
}

/// A fanotify group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FanotifyInfo {
    /// `FAN_CLASS_*` and other flags of fanotify_init.
    pub flags: u32,
    /// `O_*` flags of the descriptors it makes.
    pub event_flags: u32,
    /// Its marks.
    pub marks: Vec<FanotifyMark>,
}

/// A mark of a fanotify group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FanotifyMark {
    /// What is marked.
    pub on: FanotifyObject,
    /// `FAN_MARK_*` that stay.
    pub mark_flags: u32,
    /// `FAN_*` asked for.
    pub mask: u64,
    /// `FAN_*` ignored.
    pub ignored_mask: u64,
}

/// What a fanotify mark is on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum FanotifyObject {
    /// An inode, with its device (as `stat(2)` has it) and its handle.
    Inode {
        /// The inode.
        ino: u64,
        /// Its device.
        dev: u64,
        /// Its handle, where there is one.
        handle: Option<FileHandle>,
    },
    /// A mount, by its id in `mountinfo`.
    Mount(i64),
    /// A file system, by its device (Linux 4.20).
    FileSystem(u64),
    /// A mount namespace, by its number (Linux 6.15).
    MountNamespace(u64),
    /// Something newer.
    #[default]
    Unknown,
}

/// A pidfd.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PidFdInfo {
    /// The process in the pid namespace of procfs; -1 once it is reaped, 0 when outside.
    pub pid: Pid,
    /// Its numbers from that namespace inwards.
    pub ns_pids: Vec<Pid>,
}

/// A userfaultfd.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UserfaultFdInfo {
    /// Faults that nobody has read.
    pub pending: u64,
    /// Faults that wait for an answer.
    pub total: u64,
    /// The API version, `0xaa`.
    pub api: u64,
    /// Features that were enabled.
    pub features: u64,
    /// All features of the kernel.
    pub all_features: u64,
}

/// Parses an fdinfo file.
pub fn parse_fdinfo(text: &[u8]) -> Parsed<FdInfo> {
    let at = At("fdinfo");
    let mut info = FdInfo::default();
    let mut seen = 0;
    for line in lines(text) {
        let first = line.iter().position(|&b| b == b' ' || b == b':').unwrap_or(0);
        match &line[..first] {
            b"inotify" => {
                info.inotify.push(inotify(line)?);
                continue;
            }
            b"fanotify" => {
                fanotify(line, info.fanotify.get_or_insert_default())?;
                continue;
            }
            b"tfd" => {
                info.epoll.push(epoll(line)?);
                continue;
            }
            _ => {}
        }
        let Some((key, value)) = split_once(line, b':') else {
            info.others.push((line.to_vec(), Vec::new()));
            continue;
        };
        let value = value.trim_ascii();
        match key {
            b"pos" => {
                // Printed as a signed number: directories and drivers do go below zero.
                info.pos = at.signed("pos", value)? as u64;
                seen += 1;
            }
            b"flags" => {
                info.flags = at.oct("flags", value)? as u32;
                seen += 1;
            }
            b"mnt_id" => info.mnt_id = Some(at.signed("mnt_id", value)?),
            b"ino" => info.ino = Some(at.dec("ino", value)?),
            b"lock" => info.locks.push(parse_lock(value)?),
            b"eventfd-count" => info.eventfd.get_or_insert_default().count = at.hex("eventfd-count", value)?,
            b"eventfd-id" => info.eventfd.get_or_insert_default().id = Some(at.narrow("eventfd-id", value)?),
            b"eventfd-semaphore" => {
                info.eventfd.get_or_insert_default().semaphore = Some(at.dec("eventfd-semaphore", value)? != 0);
            }
            b"clockid" => info.timerfd.get_or_insert_default().clock = at.narrow("clockid", value)?,
            b"ticks" => info.timerfd.get_or_insert_default().ticks = at.dec("ticks", value)?,
            b"settime flags" => {
                info.timerfd.get_or_insert_default().settime_flags = at.oct("settime flags", value)? as u32;
            }
            b"it_value" => info.timerfd.get_or_insert_default().value_ns = nanoseconds(at, value)?,
            b"it_interval" => info.timerfd.get_or_insert_default().interval_ns = nanoseconds(at, value)?,
            b"sigmask" => info.sigmask = Some(at.hex("sigmask", value)?),
            b"Pid" => info.pidfd.get_or_insert_default().pid = at.narrow("Pid", value)?,
            b"NSpid" => info.pidfd.get_or_insert_default().ns_pids = at.list("NSpid", value)?,
            b"tty-index" => info.tty_index = Some(at.narrow("tty-index", value)?),
            b"scm_fds" => info.scm_fds = Some(at.dec("scm_fds", value)?),
            b"pending" => info.userfaultfd.get_or_insert_default().pending = at.dec("pending", value)?,
            b"total" => info.userfaultfd.get_or_insert_default().total = at.dec("total", value)?,
            b"API" => {
                let u = info.userfaultfd.get_or_insert_default();
                let mut parts = value.split(|&b| b == b':').map(|part| at.hex("API", part));
                let mut next = || parts.next().unwrap_or_else(|| at.error("API", value));
                (u.api, u.features, u.all_features) = (next()?, next()?, next()?);
            }
            _ => info.others.push((key.to_vec(), value.to_vec())),
        }
    }
    if seen == 2 { Ok(info) } else { at.error("pos and flags", text) }
}

/// Reads what is known of one descriptor of a process.
pub fn read_fdinfo(dir: &ProcDir, fd: RawFd) -> ProcResult<FdInfo> {
    dir.parse(&format!("fdinfo/{fd}"), parse_fdinfo)
}

/// `(seconds, nanoseconds)`.
fn nanoseconds(at: At, value: &[u8]) -> Parsed<u64> {
    let inner = value.strip_prefix(b"(").and_then(|v| v.strip_suffix(b")")).and_then(|v| split_once(v, b','));
    let ns =
        inner.and_then(|(s, ns)| dec(s.trim_ascii())?.checked_mul(1_000_000_000)?.checked_add(dec(ns.trim_ascii())?));
    ns.map_or_else(|| at.error("time", value), Ok)
}

/// `tfd:        4 events:       19 data:                4  pos:0 ino:40e sdev:10`: all but tfd and pos hexadecimal.
fn epoll(line: &[u8]) -> Parsed<EpollTarget> {
    let at = At("fdinfo");
    let mut target = EpollTarget::default();
    let mut rest = line;
    while let Some((key, tail)) = split_once(rest, b':') {
        let tail = tail.trim_ascii_start();
        let end = tail.iter().position(|&b| b == b' ').unwrap_or(tail.len());
        let value = &tail[..end];
        match key.trim_ascii() {
            b"tfd" => target.fd = at.narrow("tfd", value)?,
            b"events" => target.events = at.hex("events", value)? as u32,
            b"data" => target.data = at.hex("data", value)?,
            b"pos" => target.pos = at.signed("pos", value)? as u64,
            b"ino" => target.ino = at.hex("ino", value)?,
            b"sdev" => target.dev = device_kernel(at.hex("sdev", value)?),
            _ => {}
        }
        rest = &tail[end..];
    }
    Ok(target)
}

/// The `key:value` words of a line.
fn pairs(line: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    words(line).filter_map(|w| split_once(w, b':'))
}

fn inotify(line: &[u8]) -> Parsed<InotifyWatch> {
    let at = At("fdinfo");
    let mut watch = InotifyWatch { wd: -1, ..InotifyWatch::default() };
    for (key, value) in pairs(line) {
        match key {
            b"wd" => watch.wd = at.narrow("wd", value)?,
            b"ino" => watch.ino = at.hex("ino", value)?,
            b"sdev" => watch.dev = device_kernel(at.hex("sdev", value)?),
            b"mask" => watch.mask = at.hex("mask", value)? as u32,
            _ => {}
        }
    }
    watch.handle = handle(line)?;
    if watch.wd < 0 { at.error("wd", line) } else { Ok(watch) }
}

fn fanotify(line: &[u8], info: &mut FanotifyInfo) -> Parsed<()> {
    let at = At("fdinfo");
    let (mut ino, mut dev, mut mark) = (None, None, FanotifyMark::default());
    for (key, value) in pairs(line) {
        let number = hex(value).map_or_else(|| at.error("fanotify", line), Ok);
        match key {
            b"flags" => info.flags = number? as u32,
            b"event-flags" => {
                info.event_flags = number? as u32;
                return Ok(());
            }
            b"ino" => ino = Some(number?),
            b"sdev" => dev = Some(device_kernel(number?)),
            b"mnt_id" => mark.on = FanotifyObject::Mount(number? as i64),
            b"mnt_ns" => mark.on = FanotifyObject::MountNamespace(at.dec("mnt_ns", value)?),
            b"mflags" => mark.mark_flags = number? as u32,
            b"mask" => mark.mask = number?,
            b"ignored_mask" => mark.ignored_mask = number?,
            _ => {}
        }
    }
    match (ino, dev) {
        (Some(ino), Some(dev)) => mark.on = FanotifyObject::Inode { ino, dev, handle: handle(line)? },
        (None, Some(dev)) => mark.on = FanotifyObject::FileSystem(dev),
        _ => {}
    }
    info.marks.push(mark);
    Ok(())
}

/// `fhandle-bytes:8 fhandle-type:1 f_handle:a7c4030000000000`
fn handle(line: &[u8]) -> Parsed<Option<FileHandle>> {
    let at = At("fdinfo");
    let (mut len, mut kind, mut bytes) = (None, None, None);
    for (key, value) in pairs(line) {
        match key {
            b"fhandle-bytes" => len = Some(at.hex("fhandle-bytes", value)? as usize),
            b"fhandle-type" => kind = Some(at.hex("fhandle-type", value)? as i32),
            b"f_handle" => bytes = Some(hex_bytes(value).map_or_else(|| at.error("f_handle", value), Ok)?),
            _ => {}
        }
    }
    match (len, kind, bytes) {
        (Some(len), Some(kind), Some(bytes)) if bytes.len() == len => Ok(Some(FileHandle { kind, bytes })),
        (None, None, None) => Ok(None),
        _ => at.error("f_handle", line),
    }
}

#[cfg(test)]
#[path = "fdinfo_tests.rs"]
mod tests;
