//! System V shared memory segments, as their owner handles them: `shmat(2)`, `shmdt(2)`, `shmctl(2)`.
//!
//! A segment is attached here only to hold it and to reach its inode, never to be read or written through a pointer.

#![allow(unsafe_code)]

use crate::{Errno, Result, errno::cvt};

/// `SHM_DEST` of a mode: removed, and gone with its last user.
pub const DEST: u32 = 0o1000;
/// `SHM_LOCKED` of a mode: kept out of swap.
pub const LOCKED: u32 = 0o2000;

/// A segment attached to ghost: it is there for as long as this is.
#[derive(Debug)]
pub struct Attached {
    address: usize,
    len: u64,
}

impl Attached {
    /// Attaches a segment of `size` bytes somewhere. CAP_IPC_OWNER, or read and write permission.
    pub fn new(shmid: i32, size: u64) -> Result<Self> {
        // SAFETY: without SHM_REMAP and an address of ours the kernel chooses a range that is free (shmat(2)).
        let at = unsafe { libc::shmat(shmid, std::ptr::null(), 0) };
        if at as isize == -1 {
            return Err(Errno::last());
        }
        Ok(Self { address: at as usize, len: size.next_multiple_of(4096) })
    }
    /// The mapping's name in `/proc/self/map_files`, where its inode can be opened.
    pub fn map_file(&self) -> String {
        format!("/proc/self/map_files/{:x}-{:x}", self.address, self.address as u64 + self.len)
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        // SAFETY: the range is our attachment, and nobody was given a pointer into it.
        unsafe { libc::shmdt(self.address as *const libc::c_void) };
    }
}

/// Marks it for removal: it is gone with its last user. IPC_RMID.
pub fn remove(shmid: i32) -> Result<()> {
    // SAFETY: this command takes no buffer (shmctl(2)).
    cvt(i64::from(unsafe { libc::shmctl(shmid, libc::IPC_RMID, std::ptr::null_mut()) })).map(drop)
}

/// Keeps it out of swap. SHM_LOCK.
pub fn lock(shmid: i32) -> Result<()> {
    const SHM_LOCK: i32 = 11;
    // SAFETY: this command takes no buffer (shmctl(2)).
    cvt(i64::from(unsafe { libc::shmctl(shmid, SHM_LOCK, std::ptr::null_mut()) })).map(drop)
}

/// Gives it an owner and permissions. IPC_SET.
pub fn set_owner(shmid: i32, uid: u32, gid: u32, mode: u32) -> Result<()> {
    // SAFETY: a structure of numbers for which zeros are a value.
    let mut wanted: libc::shmid_ds = unsafe { std::mem::zeroed() };
    (wanted.shm_perm.uid, wanted.shm_perm.gid, wanted.shm_perm.mode) = (uid, gid, (mode & 0o777) as _);
    // SAFETY: the command reads one `shmid_ds` (shmctl(2)), which outlives the call.
    cvt(i64::from(unsafe { libc::shmctl(shmid, libc::IPC_SET, &raw mut wanted) })).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proc::read_sysvipc_shm;

    #[test]
    fn a_removed_segment_lives_while_it_is_attached() {
        // SAFETY: takes numbers only.
        let id = unsafe { libc::shmget(libc::IPC_PRIVATE, 5000, libc::IPC_CREAT | 0o600) };
        if id == -1 {
            return; // a kernel without them
        }
        let attached = Attached::new(id, 5000);
        let removed = set_owner(id, 0, 0, 0o640).and_then(|()| remove(id));
        let listed = || read_sysvipc_shm().unwrap().into_iter().find(|s| s.shmid == id);
        let seen = listed();
        let opened = attached.as_ref().map(|a| std::fs::metadata(a.map_file()).map(|m| m.len()).ok());
        assert_eq!(opened, Ok(Some(5000)));
        drop(attached);
        removed.unwrap();
        let seen = seen.unwrap();
        assert_eq!((seen.mode, seen.attached, seen.size), (DEST | 0o640, 1, 5000));
        assert_eq!(listed(), None);
    }
}
