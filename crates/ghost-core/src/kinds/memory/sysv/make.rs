//! The segments of a tree that is being built: found, or made anew, and taken back when the import fails.

use super::attached_by;
use crate::error::{Context, KindError};
use crate::import::ImportCx;
use crate::kinds::memory::pages_out;
use crate::options::Pids;
use crate::view::TreeView;
use ghost_image::record as rec;
use ghost_sys::proc::{ShmSegment, read_sysvipc_shm};
use ghost_sys::remote::{Batch, Slot};
use ghost_sys::{Errno, nr, shm};
use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

/// What sets the id of the next segment.
const NEXT_ID: &str = "/proc/sys/kernel/shm_next_id";

/// The segments of a tree that is being built. Dropping it takes back what was made and what was changed.
#[derive(Debug, Default)]
pub struct Segments {
    /// Their inodes, by the record's id.
    pub files: HashMap<u32, OwnedFd>,
    /// Their ids here.
    pub(super) ids: HashMap<u32, i32>,
    /// Keeps those that are removed until their processes have them.
    pub(super) held: Vec<shm::Attached>,
    made: Vec<i32>,
    reused: Vec<Reused>,
}

/// A segment that was there, and what it was like.
#[derive(Debug)]
struct Reused {
    was: ShmSegment,
    inode: OwnedFd,
    bytes: OwnedFd,
}

impl Segments {
    /// They stay as they are: programs run on them.
    pub fn keep(&mut self) {
        self.made.clear();
        self.reused.clear();
    }
}

impl Drop for Segments {
    fn drop(&mut self) {
        for id in &self.made {
            // What cannot be removed stays behind, and the next restart takes it for what it is.
            let _ = shm::remove(*id);
        }
        for reused in &self.reused {
            let ShmSegment { shmid, uid, gid, mode, .. } = reused.was;
            let _ = shm::set_owner(shmid, uid, gid, mode);
            let _ = replace(&reused.bytes, &reused.inode, reused.was.size);
        }
    }
}

/// Makes `to` what `from` is.
fn replace(from: &OwnedFd, to: &OwnedFd, size: u64) -> Result<(), KindError> {
    empty(to, size)?;
    let mut buf = vec![0; 1 << 20];
    for (start, len) in pages_out::extents(from, size)? {
        let end = (start + len).min(size);
        let mut at = start;
        while at < end {
            let want = buf.len().min((end - at) as usize);
            let got = rustix::io::pread(from, &mut buf[..want], at).step("reading a segment")?;
            if got == 0 {
                break;
            }
            at += rustix::io::pwrite(to, &buf[..got], at).step("writing a segment")? as u64;
        }
    }
    Ok(())
}

/// Makes it read as zeros.
fn empty(inode: &OwnedFd, size: u64) -> Result<(), KindError> {
    use rustix::fs::FallocateFlags;
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(inode, flags, 0, size.next_multiple_of(4096)).step("emptying a segment")
}

/// Makes the segments, or finds them.
pub fn import(cx: &mut ImportCx<'_>, first_user: &HashMap<u32, usize>) -> Result<(), KindError> {
    let model = cx.model;
    for segment in &model.sysv_shms {
        let user = model.mms.iter().find(|mm| mm.vmas.iter().any(|v| v.sysv_id == segment.id));
        let Some(&user) = user.and_then(|mm| first_user.get(&mm.id)) else { continue };
        let maker = model.processes.iter().position(|p| p.pid == segment.creator && p.zombie.is_none());
        import_one(cx, maker.unwrap_or(user), segment)
            .map_err(|e| if e.pid == 0 { e.on(model.processes[user].pid, subject(segment)) } else { e })?;
    }
    Ok(())
}

fn subject(segment: &rec::SysvShm) -> String {
    format!("shared memory segment {} (key {:#010x})", segment.shmid, segment.key)
}

fn import_one(cx: &mut ImportCx<'_>, maker: usize, segment: &rec::SysvShm) -> Result<(), KindError> {
    let is_removed = segment.mode & shm::DEST != 0;
    let found = find(cx, segment)?;
    let reused = found.clone().filter(|_| !is_removed);
    let shmid = if let Some(found) = &reused { found.shmid } else { make(cx, maker, segment, found.is_some())? };
    let held = shm::Attached::new(shmid, segment.size).step("attaching it")?;
    if is_removed {
        // From here on it ends with ghost, should ghost end.
        shm::remove(shmid).step("marking it for removal")?;
        cx.sysv.made.retain(|id| *id != shmid);
    }
    let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC;
    let inode = rustix::fs::open(held.map_file(), flags, rustix::fs::Mode::empty())
        .step("opening it through map_files (CAP_CHECKPOINT_RESTORE)")?;
    if let Some(was) = reused {
        let memfd = rustix::fs::memfd_create("segment", rustix::fs::MemfdFlags::CLOEXEC).step("memfd_create")?;
        rustix::fs::ftruncate(&memfd, was.size).step("making room for what a segment had")?;
        replace(&inode, &memfd, was.size)?;
        let ours = rustix::io::fcntl_dupfd_cloexec(inode.as_fd(), 0).step("dup of a segment")?;
        cx.sysv.reused.push(Reused { was, inode: ours, bytes: memfd });
        empty(&inode, segment.size)?;
    }
    if is_removed && shmid != segment.shmid {
        cx.notes.push(rec::Note {
            pid: segment.creator,
            kind: "sysv shm".into(),
            subject: subject(segment),
            text: format!("it is removed and its id is taken here: it has the id {shmid} now"),
        });
    }
    if (segment.uid, segment.gid) != (segment.cuid, segment.cgid) || found.is_some_and(|_| !is_removed) {
        shm::set_owner(shmid, segment.uid, segment.gid, segment.mode).step("giving it to its owner")?;
    }
    if segment.mode & shm::LOCKED != 0 {
        shm::lock(shmid).step("locking it")?;
    }
    cx.sysv.files.insert(segment.id, inode);
    cx.sysv.ids.insert(segment.id, shmid);
    cx.sysv.held.push(held);
    Ok(())
}

/// What has the segment's id here: the segment itself, if that is what it is and nobody uses it, or whatever stands in the way
/// of one that is removed and needs no id of its own.
fn find(cx: &ImportCx<'_>, segment: &rec::SysvShm) -> Result<Option<ShmSegment>, KindError> {
    let is_removed = segment.mode & shm::DEST != 0;
    let same_boot =
        !cx.model.host.boot_id.is_empty() && crate::host::record_of_host(0).boot_id == cx.model.host.boot_id;
    let is_it = |s: &ShmSegment| {
        same_boot
            && (s.key, s.size) == (segment.key, segment.size)
            && is_maker(s, segment)
            && (s.cuid, s.cgid) == (segment.cuid, segment.cgid)
    };
    // The memory of a process that has just been ended may take a moment to go.
    let deadline = Instant::now() + Duration::from_secs(2);
    loop {
        let all = read_sysvipc_shm().step("listing the segments of this host")?;
        let found = all.iter().find(|s| s.shmid == segment.shmid);
        let in_the_way = |words: String, id: i32| {
            Err(KindError::refusal("taking its id", words).advise(format!(
                "once nobody needs that one: ipcrm -m {id}; or restart it in an ipc namespace of its own"
            )))
        };
        match found {
            Some(s) if is_removed && s.attached > 0 && is_it_removed(s, segment) && cx.options.pids == Pids::Same => {
                if Instant::now() >= deadline {
                    return Ok(found.cloned());
                }
            }
            _ if is_removed => return Ok(found.cloned()),
            Some(s) if is_it(s) && s.attached == 0 => return Ok(Some(s.clone())),
            Some(s) if is_it(s) => {
                if cx.options.pids != Pids::Same || Instant::now() >= deadline {
                    let users = attached_by(s.shmid, &TreeView::default());
                    return in_the_way(format!("it is in use here: {users}"), s.shmid);
                }
            }
            Some(s) => return in_the_way("another segment has its id here".to_owned(), s.shmid),
            None => {
                if let Some(s) = all.iter().find(|s| s.key != 0 && s.key == segment.key) {
                    return in_the_way(format!("segment {} has its key here", s.shmid), s.shmid);
                }
                return Ok(None);
            }
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Whether this is what is left of a removed segment, on its way out with the program that was killed.
fn is_it_removed(s: &ShmSegment, segment: &rec::SysvShm) -> bool {
    s.mode & shm::DEST != 0 && s.size == segment.size && is_maker(s, segment)
}

/// Whether the same process made both; in a pid namespace of its own a restart reads 0 for whoever is outside of that.
fn is_maker(s: &ShmSegment, segment: &rec::SysvShm) -> bool {
    s.creator == segment.creator || s.creator == 0
}

/// Makes a segment in the process that made it then.
fn make(cx: &mut ImportCx<'_>, maker: usize, segment: &rec::SysvShm, id_taken: bool) -> Result<i32, KindError> {
    let is_removed = segment.mode & shm::DEST != 0;
    let mut named = Ok(());
    let mut key = segment.key;
    // Somebody else's shmget may come between the choice of the id and its use.
    for _ in 0..16 {
        if !id_taken {
            named = std::fs::write(NEXT_ID, segment.shmid.to_string());
        }
        let (batch, slot) = shmget(key, segment);
        let got = cx.run(maker, &batch)?.result(slot);
        let shmid = match got {
            Ok(id) => id as i32,
            Err(e) => {
                if !id_taken && named.is_ok() {
                    let _ = std::fs::write(NEXT_ID, "-1");
                }
                if e == Errno(libc::EEXIST) && is_removed && key != libc::IPC_PRIVATE {
                    // Nobody finds it by its key: only the name of its mappings will be another.
                    key = libc::IPC_PRIVATE;
                    continue;
                }
                return Err(KindError::new("shmget", e));
            }
        };
        cx.sysv.made.push(shmid);
        if shmid == segment.shmid || is_removed {
            return Ok(shmid);
        }
        shm::remove(shmid).step("removing a segment with the wrong id")?;
        cx.sysv.made.retain(|id| *id != shmid);
        if named.is_err() {
            break;
        }
    }
    let why = named.map_or_else(|e| format!("{NEXT_ID}: {e}"), |()| "others take ids at the same time".to_owned());
    Err(KindError::conflict("taking its id", why)
        .advise("choosing an id needs CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN"))
}

/// The call that makes it, by the user that made it then.
fn shmget(key: i32, segment: &rec::SysvShm) -> (Batch, Slot) {
    const SAME: u32 = u32::MAX;
    let (euid, egid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let mut batch = Batch::new();
    let become_ = |batch: &mut Batch, nr: i64, id: u32| {
        batch.call(format!("becoming its maker {id}"), nr, &[SAME.into(), id.into(), SAME.into()]);
    };
    if segment.cgid != egid {
        become_(&mut batch, nr::SETRESGID, segment.cgid);
    }
    if segment.cuid != euid {
        become_(&mut batch, nr::SETRESUID, segment.cuid);
    }
    let flags = libc::IPC_CREAT | libc::IPC_EXCL | (segment.mode & 0o777) as i32;
    let slot = batch.try_call("shmget", libc::SYS_shmget, &[key.into(), segment.size.into(), flags.into()]);
    if segment.cuid != euid {
        become_(&mut batch, nr::SETRESUID, euid);
    }
    if segment.cgid != egid {
        become_(&mut batch, nr::SETRESGID, egid);
    }
    (batch, slot)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_segment_had_comes_back_with_its_holes() {
        let make = |bytes: &[(u64, &[u8])]| {
            let file = rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
            rustix::fs::ftruncate(&file, 0x5001).unwrap();
            for (at, part) in bytes {
                rustix::io::pwrite(&file, part, *at).unwrap();
            }
            file
        };
        let (from, to) = (make(&[(5, b"five"), (0x5000, b"!")]), make(&[(0x2000, b"other"), (7, b"x")]));
        replace(&from, &to, 0x5001).unwrap();
        let read = |file: &OwnedFd| {
            let mut all = vec![0; 0x6000];
            let n = rustix::io::pread(file, &mut all, 0).unwrap();
            all.truncate(n);
            all
        };
        assert_eq!(read(&from), read(&to));
        assert_eq!(pages_out::extents(&to, 0x5001).unwrap().len(), 2);
    }
}
