//! Regular files, directories, memfds, and whatever was opened with O_PATH.
//!
//! Read: `/proc/PID/fd/N` (the name), `fstat`, fdinfo (offset, flags). Rebuilt: `open(2)` of the name with the flags of
//! then, without those that create or cut; `lseek(2)`. A file without a name travels with its content (see
//! [`content`](super::content)). Privileges: those that opening the file takes; export of mappings reads
//! `/proc/PID/map_files` (CAP_CHECKPOINT_RESTORE), or the name where that is refused.
//!
//! Not carried: O_NOFOLLOW of a description whose file had no name; which hard link of several it was opened by.

use super::class::Refusal;
use super::{content, path};
use crate::error::{Context, KindError};
use crate::export::ExportCx;
use crate::import::ImportCx;
use crate::view::FdView;
use ghost_image::record as rec;
use ghost_sys::fdops;
use ghost_sys::proc::{Perms, Smap, VmFlags};
use rec::file::Object;
use rustix::fs::{CWD, FileType, Mode, OFlags, SeekFrom};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// Flags that only matter in the call that makes a file, or belong to the descriptor.
pub const NOT_AGAIN: u32 =
    OFlags::CREATE.bits() | OFlags::EXCL.bits() | OFlags::TRUNC.bits() | OFlags::NOCTTY.bits() | OFlags::CLOEXEC.bits();
/// `O_ASYNC`: only set once its owner is known.
pub const ASYNC: u32 = 0o20000;
/// The bit of O_TMPFILE that is not O_DIRECTORY.
pub const TMPFILE: u32 = 0o20000000;

/// Refuses a file that is still there but that its path does not reach: something is mounted over it, or it belongs to
/// another mount namespace.
pub fn check(fd: &FdView) -> Option<Refusal> {
    if fd.told.is_named {
        return None;
    }
    let at = path::of(&fd.link, &fd.stat);
    if is_memfd(&fd.link) || path::names(&at.path, &fd.stat) {
        return None;
    }
    if fd.link == path::TOO_LONG && fd.stat.st_nlink > 0 && fdops::file_handle(fd.ours.as_fd()).is_err() {
        let why = "procfs does not show a path longer than a page, and its file system has no handles to find it by";
        return Some(Refusal::new("file", why, "close it before the checkpoint"));
    }
    let sort = FileType::from_raw_mode(fd.stat.st_mode);
    if at.deleted && matches!(sort, FileType::RegularFile | FileType::Directory) {
        return None;
    }
    if at.deleted || !at.path.starts_with(b"/") {
        let why = format!("a {} that no name reaches is held by O_PATH", path::sort(sort));
        return Some(Refusal::new("file", why, "close it before the checkpoint"));
    }
    Some(Refusal::new(
        "mount",
        "its path leads to another file here: something is mounted over it, or it lies in another mount namespace",
        "unmount what covers it, or run ghost in the mount namespace of the process",
    ))
}

fn is_memfd(link: &[u8]) -> bool {
    link.starts_with(b"/memfd:")
}

/// What is written of a description of a file.
pub fn export(cx: &mut ExportCx<'_>, fd: &FdView) -> Result<rec::Regular, KindError> {
    record(cx, &fd.link, &fd.stat, fd.ours.as_fd(), fd.info.flags)
}

fn record(
    cx: &mut ExportCx<'_>,
    link: &[u8],
    stat: &rustix::fs::Stat,
    ours: BorrowedFd<'_>,
    flags: u32,
) -> Result<rec::Regular, KindError> {
    let mut regular = rec::Regular {
        path: Some(path::of(link, stat)),
        directory: FileType::from_raw_mode(stat.st_mode) == FileType::Directory,
        tmpfile: flags & TMPFILE != 0,
        ..rec::Regular::default()
    };
    if is_memfd(link) {
        content::export_memfd(cx, &mut regular, link, stat, ours)?;
    } else if regular.path.as_ref().is_some_and(|p| p.deleted) {
        content::export_nameless(cx, &mut regular, link, stat, ours)?;
    }
    Ok(regular)
}

/// Writes a description for the executable of the process at `index`: its content travels when its name is gone.
///
/// `exe` is what is known of it: one that others have, too, need not be opened.
pub fn export_exe(cx: &mut ExportCx<'_>, index: usize, exe: &rec::Path) -> Result<u32, KindError> {
    if let Some(&id) = cx.shared.opened.get(&(exe.device, exe.inode, OFlags::RDONLY.bits())) {
        return Ok(id);
    }
    let process = &cx.view.processes[index];
    let what = || "its executable".to_owned();
    let link = process.dir.link("exe").step_on(process.pid, what, "reading the link")?;
    let how = quietly(&link, OFlags::RDONLY);
    let ours = process.dir.open_file("exe", how.bits() as i32).step_on(process.pid, what, "opening it")?;
    made_up(cx, &link, ours, OFlags::RDONLY.bits())
}

/// How ghost opens a file that it only looks at: in a way that nobody hears who watches it. A memfd is asked for its seals.
fn quietly(link: &[u8], access: OFlags) -> OFlags {
    if is_memfd(link) { access } else { OFlags::PATH }
}

/// The description of a memfd as `memfd_create(2)` gave it, if the tree has it. What is mapped of it may be run too, which no
/// other description that could write allows.
fn as_made(cx: &ExportCx<'_>, dev: u64, inode: u64) -> Option<u32> {
    let is_it = |f: &&rec::File| match &f.object {
        Some(Object::Regular(r)) if r.memfd && f.flags & content::NOT_AS_MADE == OFlags::RDWR.bits() => {
            r.path.as_ref().is_some_and(|p| (p.device, p.inode) == (dev, inode))
        }
        _ => false,
    };
    cx.model.files.iter().find(is_it).map(|f| f.id)
}

/// Writes a description for a file mapping of the process at `index`, one for each inode and access; returns its id.
pub fn export_mapping(cx: &mut ExportCx<'_>, index: usize, vma: &Smap) -> Result<u32, KindError> {
    let process = &cx.view.processes[index];
    let m = &vma.mapping;
    // Shared in the kernel's sense: what is mapped was open for writing, even if seals forbid it now.
    let write = m.perms.contains(Perms::SHARED) && vma.flags.contains(VmFlags::SHARED);
    let access = if write { OFlags::RDWR } else { OFlags::RDONLY };
    if let Some(&id) = cx.shared.opened.get(&(m.dev, m.inode, access.bits())) {
        return Ok(id);
    }
    if let Some(id) = as_made(cx, m.dev, m.inode).filter(|_| write) {
        cx.shared.opened.insert((m.dev, m.inode, access.bits()), id);
        return Ok(id);
    }
    let what = || format!("mapping {:#x}-{:#x} of {}", m.start, m.end, String::from_utf8_lossy(&m.name));
    let name = format!("map_files/{:x}-{:x}", m.start, m.end);
    let how = quietly(&m.name, access);
    let ours = match process.dir.open_file(&name, how.bits() as i32) {
        Ok(ours) => ours,
        // Without CAP_CHECKPOINT_RESTORE: by its name, if that still leads to the same file.
        Err(first) => match rustix::fs::open(m.name.as_slice(), how | OFlags::CLOEXEC, Mode::empty()) {
            Ok(ours) if rustix::fs::fstat(&ours).is_ok_and(|s| (s.st_dev, s.st_ino) == (m.dev, m.inode)) => ours,
            _ => {
                return Err(KindError::new("opening the mapped file", first)
                    .on(process.pid, what())
                    .advise("run ghost as root or with CAP_CHECKPOINT_RESTORE"));
            }
        },
    };
    made_up(cx, &m.name, ours, access.bits()).map_err(|e| if e.pid == 0 { e.on(process.pid, what()) } else { e })
}

/// A description that no process has, made for a mapping or an executable.
fn made_up(cx: &mut ExportCx<'_>, link: &[u8], ours: OwnedFd, flags: u32) -> Result<u32, KindError> {
    let stat = rustix::fs::fstat(&ours).step("looking at the file")?;
    let key = (stat.st_dev, stat.st_ino, flags);
    if let Some(&id) = cx.shared.opened.get(&key) {
        return Ok(id);
    }
    let regular = record(cx, link, &stat, ours.as_fd(), flags)?;
    let id = cx.shared.fresh_file();
    cx.shared.opened.insert(key, id);
    cx.model.files.push(rec::File { id, flags, object: Some(Object::Regular(regular)), ..rec::File::default() });
    Ok(id)
}

/// Opens the file and puts its offset back.
pub fn import(cx: &mut ImportCx<'_>, file: &rec::File, regular: &rec::Regular) -> Result<OwnedFd, KindError> {
    let flags = file.flags & !(NOT_AGAIN | ASYNC);
    let missing = || KindError::conflict("opening a file", "the ghost does not say which");
    let at = regular.path.as_ref().ok_or_else(missing)?;
    let fd = if regular.content_id != 0 {
        content::import(cx, regular, flags)?
    } else if at.deleted {
        content::import_other_name(cx, regular, flags)?
    } else {
        path::open(cx, at, flags, if flags & OFlags::PATH.bits() == 0 && !regular.directory { file.offset } else { 0 })?
    };
    if flags & OFlags::PATH.bits() == 0 && file.offset != 0 {
        rustix::fs::seek(&fd, SeekFrom::Start(file.offset)).step("putting its offset back")?;
    }
    Ok(fd)
}

/// Another description of the same inode with these flags, through a descriptor of ours.
pub fn reopen(fd: BorrowedFd<'_>, flags: u32) -> Result<OwnedFd, rustix::io::Errno> {
    // Through a link of /proc these two would refuse what they are meant to allow.
    let not_by_link = OFlags::NOFOLLOW.bits() | TMPFILE;
    let flags = OFlags::from_bits_retain(flags & !not_by_link) | OFlags::CLOEXEC | OFlags::NOCTTY;
    rustix::fs::openat(CWD, format!("/proc/self/fd/{}", fd.as_raw_fd()), flags, Mode::empty())
}

/// Gives a description that was opened otherwise the status flags that can be changed later.
pub fn set_flags(fd: BorrowedFd<'_>, flags: u32) -> Result<(), KindError> {
    fdops::set_flags(fd, flags & !(NOT_AGAIN | ASYNC)).step("setting its status flags")
}
