//! `/proc/sysvipc/shm` and `sem`: the System V shared memory segments and semaphore sets of ghost's own ipc namespace,
//! `proc_sysvipc(5)`, `shmctl(2)`, `semctl(2)`. They are listed whether the caller may use them or not.

use super::text::{At, ParseError, lines, words};
use super::{Parsed, ProcError, ProcResult};
use crate::Pid;

/// A segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShmSegment {
    /// What `shmget(2)` finds it by; 0 for IPC_PRIVATE and for one that is removed.
    pub key: i32,
    /// What `shmat(2)` finds it by.
    pub shmid: i32,
    /// Permissions, with SHM_DEST (01000: gone with its last user) and SHM_LOCKED (02000).
    pub mode: u32,
    /// Bytes, as they were asked for.
    pub size: u64,
    /// Who made it, as a pid of the procfs that was read.
    pub creator: Pid,
    /// How many mappings it has in all processes.
    pub attached: u64,
    /// Owner.
    pub uid: u32,
    /// Owner's group.
    pub gid: u32,
    /// Creator's effective user.
    pub cuid: u32,
    /// Creator's effective group.
    pub cgid: u32,
    /// When it was made or its owner or mode changed, in seconds.
    pub changed: i64,
}

/// Parses `/proc/sysvipc/shm`.
pub fn parse_sysvipc_shm(text: &[u8]) -> Parsed<Vec<ShmSegment>> {
    lines(text).skip(1).map(line).collect()
}

/// Reads the segments of the ipc namespace of the caller.
pub fn read_sysvipc_shm() -> ProcResult<Vec<ShmSegment>> {
    Ok(parse_sysvipc_shm(&read("/proc/sysvipc/shm")?)?)
}

/// A set of semaphores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SemaphoreSet {
    /// Its identifier, as semop(2) takes it.
    pub id: i32,
    /// How many semaphores it has.
    pub len: u32,
    /// When somebody last operated on it, in seconds since 1970; 0 for never.
    pub operated: u64,
}

/// Parses `/proc/sysvipc/sem`.
pub fn parse_sysvipc_sem(text: &[u8]) -> Parsed<Vec<SemaphoreSet>> {
    lines(text).skip(1).map(set).collect()
}

/// Reads the semaphore sets of the ipc namespace of the caller.
pub fn read_sysvipc_sem() -> ProcResult<Vec<SemaphoreSet>> {
    Ok(parse_sysvipc_sem(&read("/proc/sysvipc/sem")?)?)
}

fn read(path: &str) -> ProcResult<Vec<u8>> {
    std::fs::read(path).map_err(|e| ProcError::Kernel { path: path.into(), errno: e.into() })
}

/// key, semid, perms, nsems, uid, gid, cuid, cgid, otime, ctime
fn set(line: &[u8]) -> Parsed<SemaphoreSet> {
    let at = At("sysvipc/sem");
    let fields: Vec<&[u8]> = words(line).collect();
    let field = |nth: usize, name| fields.get(nth).copied().ok_or_else(|| ParseError::new("sysvipc/sem", name, line));
    Ok(SemaphoreSet {
        id: at.narrow("semid", field(1, "semid")?)?,
        len: at.narrow("nsems", field(3, "nsems")?)?,
        operated: at.dec("otime", field(8, "otime")?)?,
    })
}

/// key, shmid, perms, size, cpid, lpid, nattch, uid, gid, cuid, cgid, atime, dtime, ctime, rss, swap
fn line(line: &[u8]) -> Parsed<ShmSegment> {
    let at = At("sysvipc/shm");
    let fields: Vec<&[u8]> = words(line).collect();
    let field = |nth: usize, name| fields.get(nth).copied().ok_or_else(|| ParseError::new("sysvipc/shm", name, line));
    Ok(ShmSegment {
        key: at.narrow("key", field(0, "key")?)?,
        shmid: at.narrow("shmid", field(1, "shmid")?)?,
        mode: at.oct("perms", field(2, "perms")?)? as u32,
        size: at.dec("size", field(3, "size")?)?,
        creator: at.narrow("cpid", field(4, "cpid")?)?,
        attached: at.dec("nattch", field(6, "nattch")?)?,
        uid: at.narrow("uid", field(7, "uid")?)?,
        gid: at.narrow("gid", field(8, "gid")?)?,
        cuid: at.narrow("cuid", field(9, "cuid")?)?,
        cgid: at.narrow("cgid", field(10, "cgid")?)?,
        changed: at.signed("ctime", field(13, "ctime")?)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn real_sets() {
        let text = b"       key      semid perms      nsems   uid   gid  cuid  cgid      otime      ctime
         0         28   600          1     0     0     0     0 1795605922 1795605923
";
        assert_eq!(parse_sysvipc_sem(text), Ok(vec![SemaphoreSet { id: 28, len: 1, operated: 1_795_605_922 }]));
        assert!(parse_sysvipc_sem(b"key\n 0 1 600 2 0 0\n").is_err());
    }

    #[test]
    fn real_lines() {
        let text = b"       key      shmid perms                  size  cpid  lpid nattch   uid   gid  cuid  cgid      atime      dtime      ctime                   rss                  swap
         0    1234567  1600                  4096 18052 18053      1     0     1     2     3 1795613240          0 1795613241                     0                     0
  -1234567          2   640                    56    77    78      7   104   111   104   111          0          0          5                  4096                     0
";
        let s = parse_sysvipc_shm(text).unwrap();
        assert_eq!((s[0].shmid, s[0].mode, s[0].creator, s[0].attached), (1_234_567, 0o1600, 18052, 1));
        assert_eq!((s[0].uid, s[0].gid, s[0].cuid, s[0].cgid, s[0].changed), (0, 1, 2, 3, 1_795_613_241));
        assert_eq!((s[1].key, s[1].size, s[1].attached, s[1].uid), (-1_234_567, 56, 7, 104));
        assert!(parse_sysvipc_shm(b"key\n1 2 3\n").is_err());
    }
}
