//! Inodes that no name reaches any more, and memfds: their bytes travel in the ghost.
//!
//! At import a nameless file is made with O_TMPFILE (Linux 3.11) where it was, so that it never has a name, not for a
//! moment: ghost may die at any time and leaves nothing. Where the file system can't, another one or a memfd takes its
//! place, which is noted. A nameless directory must have a name while it is made; it is removed in the
//! next call, and by an undertaker if ghost dies between the two ([`crate::names`]).
//! An inode that lives on under another name (a hard link) is not copied: it is found again by that name or by its handle
//! (`name_to_handle_at(2)`).

use super::{note, path, regular};
use crate::error::{Context, KindError};
use crate::export::{ExportCx, PageSource};
use crate::import::ImportCx;
use crate::kinds::thread::name;
use crate::names::{Names, Sort};
use ghost_image::record as rec;
use ghost_sys::fdops;
use rustix::fs::{FileType, IFlags, MemfdFlags, Mode, OFlags, SealFlags, Stat, XattrFlags};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// `PageHead.owner` of a content.
const OWNER_CONTENT: u32 = 2;
const HUGETLBFS_MAGIC: i64 = 0x9584_58f6;

/// Fills in what a memfd is, and puts its bytes on the list.
pub fn export_memfd(
    cx: &mut ExportCx<'_>,
    regular: &mut rec::Regular,
    link: &[u8],
    stat: &Stat,
    ours: BorrowedFd<'_>,
) -> Result<(), KindError> {
    let name = link.strip_prefix(b"/memfd:").unwrap_or(link);
    let name = name.strip_suffix(b" (deleted)").unwrap_or(name);
    regular.memfd = true;
    (regular.memfd_name, regular.memfd_name_bytes) = name::apart(name);
    regular.seals = rustix::fs::fcntl_get_seals(ours).step("reading its seals")?.bits();
    if rustix::fs::fstatfs(ours).step("looking at its file system")?.f_type as i64 == HUGETLBFS_MAGIC {
        let shift = (stat.st_blksize as u64).trailing_zeros();
        regular.memfd_flags = MemfdFlags::HUGETLB.bits() | shift << 26;
    }
    regular.content_id = export(cx, stat, ours, Vec::new())?;
    Ok(())
}

/// Fills in how a file whose name is gone is found again: by another name, or by its bytes in the ghost.
pub fn export_nameless(
    cx: &mut ExportCx<'_>,
    regular: &mut rec::Regular,
    link: &[u8],
    stat: &Stat,
    ours: BorrowedFd<'_>,
) -> Result<(), KindError> {
    let Some(at) = regular.path.as_mut() else { return Ok(()) };
    if link == path::TOO_LONG && stat.st_nlink > 0 {
        (at.handle_type, at.handle) = fdops::file_handle(ours).step("asking for its handle")?;
        return Ok(());
    }
    let parent = parent(&at.path).to_vec();
    if stat.st_nlink > 0 && !regular.directory {
        if let Ok((kind, bytes)) = fdops::file_handle(ours) {
            (at.handle_type, at.handle, at.mount) = (kind, bytes, parent.clone());
        }
        regular.link_path = other_name(&parent, stat).unwrap_or_default();
        if !regular.link_path.is_empty() || !at.handle.is_empty() {
            return Ok(());
        }
        let name = String::from_utf8_lossy(&at.path).into_owned();
        cx.notes.push(note(
            0,
            "file",
            name,
            "its name is gone and its other names can't be found: restarted as a copy of its own",
        ));
    }
    let hint = if regular.directory { at.path.clone() } else { Vec::new() };
    regular.content_id = export(cx, stat, ours, hint)?;
    Ok(())
}

fn export(cx: &mut ExportCx<'_>, stat: &Stat, ours: BorrowedFd<'_>, directory_hint: Vec<u8>) -> Result<u32, KindError> {
    let (id, new) = cx.shared.contents.get((stat.st_dev, stat.st_ino));
    if !new {
        return Ok(id);
    }
    let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    let size = if is_file { stat.st_size as u64 } else { 0 };
    let source = if is_file { Some(readable(ours).step("opening it for reading")?) } else { None };
    cx.model.contents.push(rec::Content {
        id,
        size,
        mode: stat.st_mode,
        uid: stat.st_uid,
        gid: stat.st_gid,
        atime_ns: stat.st_atime * 1_000_000_000 + stat.st_atime_nsec as i64,
        mtime_ns: path::mtime_ns(stat),
        xattrs: source.as_ref().map(|s| xattrs(s.as_fd())).unwrap_or_default(),
        directory_hint,
        write_hint: source.as_ref().and_then(|s| fdops::write_hint(s.as_fd()).ok()).unwrap_or(0),
        attributes: source.as_ref().map_or(0, |s| attributes(s.as_fd())),
    });
    if let Some(file) = source.filter(|_| size > 0) {
        cx.pages.push(PageSource::Inode { owner: OWNER_CONTENT, id, file, size });
    }
    Ok(id)
}

/// A descriptor of the same inode to read by, with an offset of its own: reading must not move that of the process.
fn readable(ours: BorrowedFd<'_>) -> Result<OwnedFd, rustix::io::Errno> {
    let quiet = OFlags::RDONLY | OFlags::NOATIME;
    regular::reopen(ours, quiet.bits()).or_else(|_| regular::reopen(ours, OFlags::RDONLY.bits()))
}

/// What `chattr(1)` has set of it, of what it sets: append only, immutable, no dump, no atime.
fn attributes(fd: BorrowedFd<'_>) -> u32 {
    let all = rustix::fs::ioctl_getflags(fd).unwrap_or(IFlags::empty());
    (all & (IFlags::APPEND | IFlags::IMMUTABLE | IFlags::NODUMP | IFlags::NOATIME)).bits()
}

fn xattrs(fd: BorrowedFd<'_>) -> Vec<rec::Xattr> {
    let mut names = vec![0_u8; 64 << 10];
    let Ok(len) = rustix::fs::flistxattr(fd, names.as_mut_slice()) else { return Vec::new() };
    let mut all = Vec::new();
    for name in names[..len].split(|b| *b == 0).filter(|n| !n.is_empty()) {
        let mut value = vec![0_u8; 64 << 10];
        if let Ok(n) = rustix::fs::fgetxattr(fd, name, value.as_mut_slice()) {
            value.truncate(n);
            all.push(rec::Xattr { name: String::from_utf8_lossy(name).into_owned(), value });
        }
    }
    all
}

/// Another name of this inode in the directory where it had the one that is gone.
pub(crate) fn other_name(parent: &[u8], stat: &Stat) -> Option<Vec<u8>> {
    let dir = rustix::fs::open(parent, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    for entry in rustix::fs::Dir::read_from(&dir).ok()? {
        let entry = entry.ok()?;
        if entry.ino() == stat.st_ino {
            let found = [parent, b"/", entry.file_name().to_bytes()].concat();
            if path::names(&found, stat) {
                return Some(found);
            }
        }
    }
    None
}

/// The directory of a path.
pub(crate) fn parent(path: &[u8]) -> &[u8] {
    match path.iter().rposition(|b| *b == b'/') {
        Some(0) | None => b"/",
        Some(slash) => &path[..slash],
    }
}

/// Flags that tell another description of a memfd from the one that it was made with. With O_APPEND ghost could not fill it.
pub const NOT_AS_MADE: u32 =
    OFlags::RWMODE.bits() | OFlags::PATH.bits() | OFlags::APPEND.bits() | OFlags::DIRECT.bits();

/// Opens a description of an inode that is in the ghost; the first one makes the inode.
pub fn import(cx: &mut ImportCx<'_>, regular: &rec::Regular, flags: u32) -> Result<OwnedFd, KindError> {
    let id = regular.content_id;
    if regular.secret {
        return secret(cx, id, flags);
    }
    if regular.tmpfile && !cx.contents.contains_key(&id) {
        // The very call that made it, so that its flags are those of then.
        if let Some(fd) = first_tmpfile(cx, regular, flags)? {
            return Ok(fd);
        }
    }
    let flags = if regular.tmpfile { flags & !OFlags::DIRECTORY.bits() } else { flags };
    if !cx.contents.contains_key(&id) {
        let content =
            cx.model.contents.iter().find(|c| c.id == id).ok_or_else(|| {
                KindError::conflict("making a nameless file", format!("the ghost has no content {id}"))
            })?;
        let inode = if FileType::from_raw_mode(content.mode) == FileType::Directory {
            let hint = path::mapped(cx, &content.directory_hint);
            directory(&mut cx.names, &hint, content.mode)?
        } else {
            let made = if regular.memfd { memfd(regular)? } else { nameless(cx, regular)? };
            rustix::fs::ftruncate(&made, content.size).step("giving a nameless file its size")?;
            made
        };
        // Who runs a memfd may hold it open for writing, but only as `memfd_create(2)` gave it: that one does not count as a writer.
        let first = regular.memfd && flags & NOT_AS_MADE == OFlags::RDWR.bits();
        let first = first.then(|| rustix::io::fcntl_dupfd_cloexec(&inode, 0));
        cx.contents.insert(id, inode);
        if let Some(first) = first {
            let first = first.step("opening a memfd")?;
            regular::set_flags(first.as_fd(), flags)?;
            return Ok(first);
        }
    }
    regular::reopen(cx.contents[&id].as_fd(), flags).step("opening a nameless file")
}

/// Hidden memory: nobody can open it a second time, so that there is one description.
fn secret(cx: &mut ImportCx<'_>, id: u32, flags: u32) -> Result<OwnedFd, KindError> {
    if !cx.contents.contains_key(&id) {
        let content = cx.model.contents.iter().find(|c| c.id == id);
        let content = content
            .ok_or_else(|| KindError::conflict("making hidden memory", format!("the ghost has no content {id}")))?;
        let made = ghost_sys::secret::create(content.size)
            .step("making hidden memory")
            .map_err(|e| e.advise("it takes memfd_secret(2): Linux 6.5, or secretmem.enable=1 at the boot"))?;
        cx.contents.insert(id, made);
    }
    let fd = rustix::io::fcntl_dupfd_cloexec(&cx.contents[&id], 3).step("opening hidden memory")?;
    if flags & !OFlags::RWMODE.bits() & (OFlags::NONBLOCK | OFlags::APPEND).bits() != 0 {
        regular::set_flags(fd.as_fd(), flags)?;
    }
    Ok(fd)
}

fn first_tmpfile(cx: &mut ImportCx<'_>, regular: &rec::Regular, flags: u32) -> Result<Option<OwnedFd>, KindError> {
    let Some(at) = regular.path.as_ref() else { return Ok(None) };
    let Some(content) = cx.model.contents.iter().find(|c| c.id == regular.content_id) else { return Ok(None) };
    let flags = OFlags::from_bits_retain(flags) | OFlags::TMPFILE | OFlags::CLOEXEC;
    let name = path::mapped(cx, &at.path);
    let Ok(fd) = rustix::fs::open(parent(&name), flags, Mode::RUSR | Mode::WUSR) else { return Ok(None) };
    let inode = regular::reopen(fd.as_fd(), OFlags::RDWR.bits()).step("opening a nameless file")?;
    rustix::fs::ftruncate(&inode, content.size).step("giving a nameless file its size")?;
    cx.contents.insert(regular.content_id, inode);
    Ok(Some(fd))
}

fn memfd(regular: &rec::Regular) -> Result<OwnedFd, KindError> {
    /// `MFD_NOEXEC_SEAL`, `MFD_EXEC` (Linux 6.3)
    const NOEXEC_SEAL: u32 = 8;
    const EXEC: u32 = 16;
    /// `F_SEAL_EXEC`
    const SEAL_EXEC: u32 = 32;
    let mut flags = MemfdFlags::CLOEXEC.bits() | regular.memfd_flags;
    if regular.seals != SealFlags::SEAL.bits() {
        flags |= MemfdFlags::ALLOW_SEALING.bits();
    }
    let newer = if regular.seals & SEAL_EXEC == 0 { EXEC } else { NOEXEC_SEAL };
    let name = name::whole(&regular.memfd_name, &regular.memfd_name_bytes);
    let make = |flags| rustix::fs::memfd_create(name, MemfdFlags::from_bits_retain(flags));
    make(flags | newer).or_else(|_| make(flags)).step(format!("making memfd {}", regular.memfd_name))
}

/// Whether a process of the tree runs this.
fn is_executable(cx: &ImportCx<'_>, regular: &rec::Regular) -> bool {
    let content_of = |id| match cx.model.files.iter().find(|f| f.id == id).and_then(|f| f.object.as_ref()) {
        Some(rec::file::Object::Regular(r)) => r.content_id,
        _ => 0,
    };
    !regular.tmpfile && cx.model.mms.iter().any(|mm| content_of(mm.exe_file_id) == regular.content_id)
}

/// A new inode without a name, where the old one was if that can be.
fn nameless(cx: &mut ImportCx<'_>, regular: &rec::Regular) -> Result<OwnedFd, KindError> {
    let old = regular.path.as_ref().map_or(&b"/"[..], |p| p.path.as_slice());
    let name = path::mapped(cx, old);
    if is_executable(cx, regular)
        && let Ok(fd) = crate::kinds::memory::exe::deleted(&name)
    {
        return Ok(fd);
    }
    let mut flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
    if !regular.tmpfile {
        flags |= OFlags::EXCL; // no name can be given to it later, as none could be given to a deleted file
    }
    let make = |dir: &[u8]| rustix::fs::open(dir, flags, Mode::RUSR | Mode::WUSR);
    if let Ok(fd) = make(parent(&name)) {
        return Ok(fd);
    }
    let text = String::from_utf8_lossy(&name).into_owned();
    let places: [&[u8]; 4] = [parent(parent(&name)), b"/var/tmp", b"/tmp", b"/dev/shm"];
    for place in places {
        if let Ok(fd) = make(place) {
            let there = String::from_utf8_lossy(place);
            cx.notes.push(note(0, "file", text, format!("deleted file: lives on in {there} now")));
            return Ok(fd);
        }
    }
    cx.notes.push(note(0, "file", text, "deleted file: lives on in memory now, no file system here has O_TMPFILE"));
    rustix::fs::memfd_create("ghost", MemfdFlags::CLOEXEC).step("making a nameless file")
}

/// A directory that has no name any more; at `old`, or where that can't be, in the nearest directory above that exists.
pub fn directory(names: &mut Names, old: &[u8], mode: u32) -> Result<OwnedFd, KindError> {
    let mut place = parent(old);
    while place != b"/"
        && !rustix::fs::stat(place).is_ok_and(|s| FileType::from_raw_mode(s.st_mode) == FileType::Directory)
    {
        place = parent(place);
    }
    let text = || format!("making a deleted directory in {}", String::from_utf8_lossy(place));
    // First by the name of then, which procfs goes on to show.
    let names_left = (place == parent(old)).then(|| old.to_vec()).into_iter();
    let hidden = |n: u32| [place, format!("/.ghost-{}-{n}", std::process::id()).as_bytes()].concat();
    for name in names_left.chain((0..).map(hidden)) {
        let ticket = names.intend(&name, Sort::Directory);
        match rustix::fs::mkdir(name.as_slice(), Mode::RWXU) {
            Err(rustix::io::Errno::EXIST) => names.gone(ticket),
            Err(e) => {
                names.gone(ticket);
                return Err(KindError::new(text(), e));
            }
            Ok(()) => {
                names.made(ticket);
                crate::failpoint::hit("import.momentary")?;
                let fd = rustix::fs::open(
                    name.as_slice(),
                    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
                    Mode::empty(),
                );
                let removed = rustix::fs::rmdir(name.as_slice());
                let fd = fd.step(text())?;
                removed.step(text())?;
                names.gone(ticket);
                // No call on it can fail in a way that matters: it is empty and stays so.
                let _ = rustix::fs::fchmod(&fd, Mode::from_raw_mode(mode & 0o7777));
                return Ok(fd);
            }
        }
    }
    unreachable!("the loop ends only by return")
}

/// The nameless directory that the ghost brings along in the place of this one, if a description of it has made it.
pub fn made_directory<'a>(cx: &'a ImportCx<'_>, device: u64, inode: u64) -> Option<BorrowedFd<'a>> {
    cx.model.files.iter().find_map(|f| match &f.object {
        Some(rec::file::Object::Regular(r)) if r.directory && r.content_id != 0 => {
            let p = r.path.as_ref().filter(|p| (p.device, p.inode) == (device, inode));
            p.and_then(|_| cx.files.get(&f.id)).map(AsFd::as_fd)
        }
        _ => None,
    })
}

/// Opens an inode whose name of then is gone by another name of it, or by its handle.
pub fn import_other_name(cx: &mut ImportCx<'_>, regular: &rec::Regular, flags: u32) -> Result<OwnedFd, KindError> {
    let Some(at) = regular.path.as_ref() else {
        return Err(KindError::conflict("opening a file", "the ghost does not say which"));
    };
    let is_it = |fd: &OwnedFd| rustix::fs::fstat(fd).is_ok_and(|s| (s.st_dev, s.st_ino) == (at.device, at.inode));
    if !regular.link_path.is_empty() {
        let link = path::mapped(cx, &regular.link_path);
        let flags = OFlags::from_bits_retain(flags) | OFlags::CLOEXEC | OFlags::NOCTTY;
        let mapped = link != regular.link_path;
        if let Ok(fd) = rustix::fs::open(link.as_slice(), flags, Mode::empty())
            && (mapped || is_it(&fd))
        {
            return Ok(fd);
        }
    }
    let text = format!("opening {} by another of its names", String::from_utf8_lossy(&at.path));
    let mount = match super::inotify::mount_of(at.device).filter(|_| at.mount.is_empty()) {
        Some(mount) => mount,
        None => {
            rustix::fs::open(at.mount.as_slice(), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).step(text.clone())?
        }
    };
    let fd = fdops::open_by_handle(mount.as_fd(), at.handle_type, &at.handle, flags).step(text.clone());
    match fd {
        Ok(fd) if is_it(&fd) => Ok(fd),
        Ok(_) => Err(KindError::conflict(text, "its inode is another file now")),
        Err(e) => Err(e),
    }
    .map_err(|e| e.advise("the file had lost this name and lived under another, which is gone too or on another host"))
}

/// Gives nameless inodes their owner, mode, times and seals, once their bytes are there; lets go of them.
pub fn finish(cx: &mut ImportCx<'_>) -> Result<(), KindError> {
    for (id, inode) in std::mem::take(&mut cx.contents) {
        let Some(content) = cx.model.contents.iter().find(|c| c.id == id) else { continue };
        let owner = (Some(rustix::fs::Uid::from_raw(content.uid)), Some(rustix::fs::Gid::from_raw(content.gid)));
        if let Err(e) = rustix::fs::fchown(&inode, owner.0, owner.1) {
            let stat = rustix::fs::fstat(&inode).step("looking at a nameless file")?;
            if (stat.st_uid, stat.st_gid) != (content.uid, content.gid) {
                cx.notes.push(note(
                    0,
                    "file",
                    "a deleted file",
                    format!("is owned by you now and not by uid {} ({e})", content.uid),
                ));
            }
        }
        // After the owner: a change of it takes set-user-ID away.
        rustix::fs::fchmod(&inode, Mode::from_raw_mode(content.mode & 0o7777))
            .step("setting the mode of a nameless file")?;
        for x in &content.xattrs {
            if let Err(e) = rustix::fs::fsetxattr(&inode, x.name.as_str(), &x.value, XattrFlags::empty()) {
                cx.notes.push(note(0, "file", "a deleted file", format!("lost its attribute {} ({e})", x.name)));
            }
        }
        let time = |ns: i64| rustix::fs::Timespec {
            tv_sec: ns.div_euclid(1_000_000_000),
            tv_nsec: ns.rem_euclid(1_000_000_000) as _,
        };
        let times =
            rustix::fs::Timestamps { last_access: time(content.atime_ns), last_modification: time(content.mtime_ns) };
        rustix::fs::futimens(&inode, &times).step("setting the times of a nameless file")?;
        if content.write_hint != 0 {
            // It says where a disk would best put what is written. What the kernel does not take there, nobody needs there.
            let _ = fdops::set_write_hint(inode.as_fd(), content.write_hint);
        }
        if content.attributes != 0 {
            let now = rustix::fs::ioctl_getflags(&inode).unwrap_or(IFlags::empty());
            if let Err(e) = rustix::fs::ioctl_setflags(&inode, now | IFlags::from_bits_retain(content.attributes)) {
                let text = format!("lost its attributes {:#x} of chattr(1) ({e})", content.attributes);
                cx.notes.push(note(0, "file", "a deleted file", text));
            }
        }
        let memfd = cx.model.files.iter().find_map(|f| match &f.object {
            Some(rec::file::Object::Regular(r)) if r.memfd && r.content_id == id => Some(r),
            _ => None,
        });
        if let Some(memfd) = memfd {
            let has = rustix::fs::fcntl_get_seals(&inode).step("reading the seals of a memfd")?.bits();
            if memfd.seals & !has != 0 {
                let seals = SealFlags::from_bits_retain(memfd.seals & !has);
                rustix::fs::fcntl_add_seals(&inode, seals).step("sealing a memfd")?;
            }
        }
    }
    Ok(())
}
