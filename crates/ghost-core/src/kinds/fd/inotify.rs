//! inotify: watches on files, and events not yet read, `inotify(7)`.
//!
//! Read: fdinfo (watches with inode, device and file handle; Linux 3.8), FIONREAD. The kernel tells inodes, not names: each
//! is opened through its handle to learn a name of it. Rebuilt: `inotify_add_watch(2)` through `/proc/self/fd`. Watch
//! descriptors are given out in ascending order, so that watches on nothing are made and removed up to the next one.
//! Privileges: CAP_DAC_READ_SEARCH.
//!
//! Refused: events in the queue, which could only be read by taking them from the program. Lost: what happens to the files
//! between the checkpoint and the restart; a watch on a file that is gone since (noted).

use super::class::Refusal;
use super::{note, path, regular};
use crate::error::{Context, KindError};
use crate::export::ExportCx;
use crate::import::ImportCx;
use crate::view::FdView;
use ghost_image::record as rec;
use ghost_sys::fdops;
use ghost_sys::proc::InotifyWatch;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::fs::{CWD, MemfdFlags, Mode, OFlags};
use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// `FILEID_USER_FLAGS_MASK`: bits of the type that are no part of it.
const HANDLE_FLAGS: i32 = !0xffff;
/// More watch descriptors than this are not counted through.
const MOST: i32 = 20_000_000;

/// Refuses what can't be seen whole.
pub fn check(fd: &FdView) -> Option<Refusal> {
    let waiting = fdops::readable_bytes(fd.ours.as_fd()).unwrap_or(0);
    if waiting > 0 {
        return Some(Refusal::passing(
            "inotify",
            format!("{waiting} bytes of events wait to be read, which can't be copied without taking them"),
            "the program has read them, or lose them with --accept inotify",
        ));
    }
    let mut mounts = HashMap::new();
    fd.info.inotify.iter().find(|w| locate(w, &mut mounts).is_none()).map(|w| {
        Refusal::new(
            "inotify",
            format!("watch {} is on inode {} of device {:#x}, to which ghost finds no way", w.wd, w.ino, w.dev),
            "run ghost as root in the mount namespace of the process, or remove the watch with --accept inotify",
        )
    })
}

/// The watched file, opened, and its name; None when there is no way to it.
fn locate(watch: &InotifyWatch, mounts: &mut HashMap<u64, Option<OwnedFd>>) -> Option<(OwnedFd, Vec<u8>)> {
    let handle = watch.handle.as_ref()?;
    let mount = mounts.entry(watch.dev).or_insert_with(|| mount_of(watch.dev)).as_ref()?;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let fd = fdops::open_by_handle(mount.as_fd(), handle.kind & !HANDLE_FLAGS, &handle.bytes, flags.bits()).ok()?;
    let link = link_of(fd.as_fd()).ok()?;
    Some((fd, link))
}

/// What `/proc/self/fd` prints for a descriptor of ours.
pub(crate) fn link_of(fd: BorrowedFd<'_>) -> Result<Vec<u8>, rustix::io::Errno> {
    Ok(rustix::fs::readlinkat(CWD, format!("/proc/self/fd/{}", fd.as_raw_fd()), Vec::new())?.into_bytes())
}

/// Some directory on this device.
pub(crate) fn mount_of(dev: u64) -> Option<OwnedFd> {
    let own = ghost_sys::proc::ProcDir::own().ok()?;
    let mounts = ghost_sys::proc::read_mountinfo(&own).ok()?;
    mounts.iter().find_map(|m| {
        let fd = rustix::fs::open(m.mount_point.as_slice(), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
        // Something else may be mounted over it.
        (rustix::fs::fstat(&fd).ok()?.st_dev == dev).then_some(fd)
    })
}

/// What is written of it.
pub fn export(cx: &mut ExportCx<'_>, fd: &FdView) -> rec::Inotify {
    let mut mounts = HashMap::new();
    let mut watches = Vec::with_capacity(fd.info.inotify.len());
    // Without that word none waited at the check: what waits now has come of ghost's own looking at deleted files.
    if cx.options.accept.contains("inotify") && fdops::readable_bytes(fd.ours.as_fd()).unwrap_or(0) > 0 {
        cx.notes.push(note(0, "inotify", super::subject(fd), "events that wait to be read are lost, as accepted"));
    }
    for watch in &fd.info.inotify {
        let Some((file, link)) = locate(watch, &mut mounts) else {
            let text = format!("the watch {} is lost, as accepted", watch.wd);
            cx.notes.push(note(0, "inotify", super::subject(fd), text));
            continue;
        };
        let Ok(stat) = rustix::fs::fstat(&file) else { continue };
        let mut at = path::of(&link, &stat);
        if let Some(handle) = &watch.handle {
            (at.handle_type, at.handle) = (handle.kind & !HANDLE_FLAGS, handle.bytes.clone());
        }
        watches.push(rec::Watch { wd: watch.wd, mask: watch.mask, path: Some(at) });
    }
    watches.sort_unstable_by_key(|w| w.wd);
    rec::Inotify { watches, queued: Vec::new() }
}

/// Makes it, as yet without a watch: what ghost itself does to the files should not be heard.
pub fn import() -> Result<OwnedFd, KindError> {
    inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).step("making an inotify")
}

/// Adds the watches of all, once every file is open.
pub fn finish(cx: &mut ImportCx<'_>) -> Result<(), KindError> {
    let model = cx.model;
    for file in &model.files {
        if let Some(rec::file::Object::Inotify(record)) = &file.object
            && let Some(fd) = cx.files.remove(&file.id)
        {
            let done = watch(cx, &fd, file, record);
            cx.files.insert(file.id, fd);
            done.map_err(|e| e.on(0, super::describe(model, file)))?;
        }
    }
    Ok(())
}

/// Gives it its watches under their numbers.
fn watch(cx: &mut ImportCx<'_>, fd: &OwnedFd, file: &rec::File, record: &rec::Inotify) -> Result<(), KindError> {
    let nothing = rustix::fs::memfd_create("ghost", MemfdFlags::CLOEXEC).step("making a file to watch")?;
    let mut next = 1;
    for watch in &record.watches {
        if watch.wd > MOST {
            return Err(KindError::conflict(
                "adding a watch",
                format!("watch descriptor {} is out of reach", watch.wd),
            ));
        }
        while next < watch.wd {
            let wd = add(fd, nothing.as_fd(), WatchFlags::DELETE_SELF).step("counting through watch descriptors")?;
            inotify::remove_watch(fd, wd).step("counting through watch descriptors")?;
            next = wd + 1;
            // Each removal leaves an event, and the queue is not long.
            if next % 1000 == 0 {
                drain(fd)?;
            }
        }
        let Some(at) = watch.path.as_ref() else { continue };
        let name = String::from_utf8_lossy(&at.path).into_owned();
        let Some(target) = find(cx, at) else {
            cx.notes.push(note(0, "inotify", name, "is gone: nothing will be heard of it"));
            continue;
        };
        let wd = add(fd, target.as_fd(), WatchFlags::from_bits_retain(watch.mask)).step(format!("watching {name}"))?;
        if wd != watch.wd {
            return Err(KindError::conflict(
                format!("watching {name}"),
                format!("it got the watch descriptor {wd} and not {}", watch.wd),
            ));
        }
        next = wd + 1;
    }
    drain(fd)?;
    regular::set_flags(fd.as_fd(), file.flags)
}

fn add(inotify: &OwnedFd, target: BorrowedFd<'_>, mask: WatchFlags) -> Result<i32, rustix::io::Errno> {
    inotify::add_watch(inotify, format!("/proc/self/fd/{}", target.as_raw_fd()), mask)
}

/// The same inode by its name or its handle; else what has its name now, which is noted.
fn find(cx: &mut ImportCx<'_>, at: &rec::Path) -> Option<OwnedFd> {
    // A file without a name that the ghost brings along.
    let brought = cx.model.files.iter().find_map(|f| match &f.object {
        Some(rec::file::Object::Regular(r)) if r.content_id != 0 => {
            let p = r.path.as_ref()?;
            ((p.device, p.inode) == (at.device, at.inode)).then_some(f.id)
        }
        _ => None,
    });
    if let Some(fd) = brought.and_then(|id| cx.files.get(&id)) {
        return fd.try_clone().ok();
    }
    let name = path::mapped(cx, &at.path);
    let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let by_name = rustix::fs::open(name.as_slice(), flags, Mode::empty()).ok();
    let is_it = |fd: &OwnedFd| rustix::fs::fstat(fd).is_ok_and(|s| (s.st_dev, s.st_ino) == (at.device, at.inode));
    if let Some(fd) = by_name.as_ref().filter(|fd| is_it(fd)) {
        return fd.try_clone().ok();
    }
    let by_handle = mount_of(at.device)
        .and_then(|m| fdops::open_by_handle(m.as_fd(), at.handle_type, &at.handle, flags.bits()).ok())
        .filter(&is_it);
    if by_handle.is_none() && by_name.is_some() {
        let text = "another file has this name now: that one is watched";
        cx.notes.push(note(0, "inotify", String::from_utf8_lossy(&name), text));
    }
    by_handle.or(by_name)
}

/// Those of a ghost, for [`drain`] right before their programs run: until then ghost closes files that they watch.
pub fn all(cx: &ImportCx<'_>) -> Result<Vec<OwnedFd>, KindError> {
    let ours = cx.model.files.iter().filter(|f| matches!(f.object, Some(rec::file::Object::Inotify(_))));
    ours.filter_map(|f| cx.files.get(&f.id)).map(|fd| fd.try_clone().step("keeping an inotify")).collect()
}

/// Empties each; one that cannot be emptied keeps what it has.
pub fn drain_all(inotifies: &[OwnedFd]) {
    for fd in inotifies {
        let _ = drain(fd);
    }
}

/// Reads what waits, also of one that would let its reader wait.
fn drain(inotify: &OwnedFd) -> Result<(), KindError> {
    let step = "emptying the queue of an inotify";
    let mut buf = vec![0_u8; 64 << 10];
    while fdops::readable_bytes(inotify.as_fd()).step(step)? > 0 {
        rustix::io::read(inotify, buf.as_mut_slice()).step(step)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::fd::testing::{self, view_of};

    #[test]
    fn watches_come_back_under_their_numbers() {
        let dir = testing::Dir::new("inotify");
        let (a, b) = (dir.file("a", b""), dir.file("b", b""));
        let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).unwrap();
        let first = inotify::add_watch(&fd, &a, WatchFlags::MODIFY).unwrap();
        inotify::remove_watch(&fd, first).unwrap();
        let second = inotify::add_watch(&fd, &b, WatchFlags::MODIFY | WatchFlags::ONESHOT).unwrap();
        let third = inotify::add_watch(&fd, &a, WatchFlags::OPEN).unwrap();
        assert!(check(&view_of(fd.as_fd())).is_some(), "the event of the removal waits");
        drain(&fd).unwrap();
        let view = view_of(fd.as_fd());
        if check(&view).is_some() {
            return; // without CAP_DAC_READ_SEARCH, or on a file system without handles
        }
        let record = testing::exporting(|cx| export(cx, &view));
        assert_eq!(record.watches.iter().map(|w| w.wd).collect::<Vec<_>>(), [second, third]);
        let file = rec::File { flags: view.info.description_flags(), ..rec::File::default() };
        let again = import().unwrap();
        testing::importing(|cx| watch(cx, &again, &file, &record)).unwrap();
        let mut was: Vec<_> = view.info.inotify.iter().map(|w| (w.wd, w.mask, w.ino)).collect();
        let mut is: Vec<_> = view_of(again.as_fd()).info.inotify.iter().map(|w| (w.wd, w.mask, w.ino)).collect();
        was.sort_unstable();
        is.sort_unstable();
        assert_eq!(was, is);
        assert_eq!(fdops::readable_bytes(again.as_fd()).unwrap(), 0);
    }
}
