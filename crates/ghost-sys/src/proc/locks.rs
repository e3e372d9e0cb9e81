//! `/proc/locks`, and the `lock:` lines of `/proc/PID/fdinfo/FD` (Linux 4.1) that look the same: `proc_locks(5)`.
//!
//! `/proc/locks` lists the locks that are held on local files, and below each those who wait for it. A process that
//! is not in our pid namespace is not listed. fdinfo tells only what is held through that description or, for POSIX
//! locks, by that descriptor table: that is why export asks there, and here only who waits.

use super::text::{At, device_hex, lines, split_once, words};
use super::{Parsed, ProcError, ProcResult};
use crate::{Errno, Pid};

/// Who owns a lock, and what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LockKind {
    /// fcntl F_SETLK: owned by a process (its descriptor table) and an inode.
    Posix,
    /// fcntl F_OFD_SETLK: owned by an open file description.
    Ofd,
    /// flock(2): owned by an open file description.
    Flock,
    /// F_SETLEASE.
    Lease,
    /// A lease of the NFS server.
    Delegation,
    /// Mandatory or access locks of other file systems, by the name that the kernel prints.
    Other,
}

/// One lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileLock {
    /// What kind it is.
    pub kind: LockKind,
    /// Not held but waited for.
    pub waits: bool,
    /// For a lease: it is being broken.
    pub breaking: bool,
    /// Exclusive (F_WRLCK, LOCK_EX) rather than shared.
    pub write: bool,
    /// Neither read nor write: a lease broken down to nothing.
    pub unlock: bool,
    /// Who took it; -1 for OFD locks, 0 when that process is outside of our pid namespace.
    pub pid: Pid,
    /// The device as `stat(2)` has it; 0 when the kernel names no file.
    pub dev: u64,
    /// The inode.
    pub inode: u64,
    /// First byte.
    pub start: u64,
    /// Last byte, None up to the end of the file however it grows.
    pub end: Option<u64>,
}

/// Parses a line, without `lock:` in front: `1: POSIX  ADVISORY  WRITE 5439 fe:00:10010751 5 14`.
pub fn parse_lock(line: &[u8]) -> Parsed<FileLock> {
    let at = At("locks");
    let mut rest = words(line).skip(1).peekable();
    let waits = rest.next_if_eq(&&b"->"[..]).is_some();
    let mut next = |field| rest.next().map_or_else(|| at.error(field, line), Ok);
    let kind = match next("kind")? {
        b"POSIX" => LockKind::Posix,
        b"OFDLCK" => LockKind::Ofd,
        b"FLOCK" => LockKind::Flock,
        b"LEASE" => LockKind::Lease,
        b"DELEG" => LockKind::Delegation,
        _ => LockKind::Other,
    };
    let mode = next("mode")?;
    let access = next("access")?;
    let pid = at.narrow("pid", next("pid")?)?;
    let file = next("file")?;
    // `fe:00:123`, or `<none>:0` when the file is gone.
    let (dev, inode) = match file.iter().rposition(|&b| b == b':') {
        Some(colon) => (device_hex(&file[..colon]).unwrap_or(0), at.dec("inode", &file[colon + 1..])?),
        None => return at.error("file", file),
    };
    let start = at.dec("start", next("start")?)?;
    let end = match next("end")? {
        b"EOF" => None,
        number => Some(at.dec("end", number)?),
    };
    Ok(FileLock {
        kind,
        waits,
        breaking: matches!(mode, b"BREAKING" | b"BREAKER"),
        write: access == b"WRITE",
        unlock: access == b"UNLCK",
        pid,
        dev,
        inode,
        start,
        end,
    })
}

/// Parses `/proc/locks`.
pub fn parse_locks(text: &[u8]) -> Parsed<Vec<FileLock>> {
    lines(text).filter(|l| split_once(l, b':').is_some()).map(parse_lock).collect()
}

/// Reads the locks that processes of our pid namespace hold and wait for.
pub fn read_locks() -> ProcResult<Vec<FileLock>> {
    let path = "/proc/locks";
    let text = std::fs::read(path).map_err(|e| ProcError::Kernel { path: path.to_owned(), errno: Errno::from(e) })?;
    Ok(parse_locks(&text)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn real_lines() {
        let text = b"1: LEASE  ACTIVE    WRITE 6093 fe:00:10010878 0 EOF
2: POSIX  ADVISORY  WRITE 6093 fe:00:10010878 5 14
2: -> POSIX  ADVISORY  READ 6094 fe:00:10010878 5 14
4: FLOCK  ADVISORY  READ 6093 00:1a:77 0 EOF
5: OFDLCK ADVISORY  READ -1 fe:00:10133508 0 EOF
6: LEASE  BREAKING  UNLCK 5 <none>:0 0 EOF
";
        let l = parse_locks(text).unwrap();
        assert_eq!(l.iter().map(|l| l.waits).collect::<Vec<_>>(), [false, false, true, false, false, false]);
        assert_eq!((l[0].kind, l[0].write, l[0].end), (LockKind::Lease, true, None));
        assert_eq!((l[1].kind, l[1].pid, l[1].start, l[1].end), (LockKind::Posix, 6093, 5, Some(14)));
        assert_eq!((l[2].kind, l[2].write, l[2].pid), (LockKind::Posix, false, 6094));
        assert_eq!((l[3].kind, l[3].dev, l[3].inode), (LockKind::Flock, libc::makedev(0, 0x1a), 77));
        assert_eq!((l[4].kind, l[4].pid), (LockKind::Ofd, -1));
        assert!(l[5].breaking && l[5].unlock && l[5].dev == 0);
        assert!(parse_lock(b"1: POSIX  ADVISORY  WRITE 6093 fe:00:1").is_err());
    }

    #[test]
    fn own_lock_is_listed() {
        use std::os::unix::fs::MetadataExt;
        let file = tempfile();
        file.lock().unwrap();
        let inode = file.metadata().unwrap().ino();
        let found = read_locks().unwrap().into_iter().find(|l| l.inode == inode).unwrap();
        assert_eq!((found.kind, found.write, found.pid), (LockKind::Flock, true, std::process::id() as Pid));
    }

    fn tempfile() -> std::fs::File {
        use std::os::unix::fs::OpenOptionsExt;
        std::fs::File::options().read(true).write(true).custom_flags(libc::O_TMPFILE).open("/tmp").unwrap()
    }
}
