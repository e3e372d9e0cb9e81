//! Files by name: what a path named when the ghost was made, and opening what it names now.
//!
//! `/proc/PID/fd/N` gives the current name of the very file, across renames, with ` (deleted)` behind when the name is gone.
//! A program may choose a name that ends so; only a look at the path decides.

use super::note;
use crate::error::{Context, KindError};
use crate::import::ImportCx;
use ghost_image::record as rec;
use ghost_sys::Pid;
use ghost_sys::proc::ProcDir;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat};
use std::os::fd::OwnedFd;

/// What stands behind the name of a file that has none any more.
pub const DELETED: &[u8] = b" (deleted)";

/// Stands for a link that procfs does not show, since the path is longer than a page. Such a file is treated as one whose name is
/// gone: it is found again by its handle.
pub const TOO_LONG: &[u8] = b"(a path longer than a page) (deleted)";

/// What a link and the inode behind it say.
pub fn of(link: &[u8], stat: &Stat) -> rec::Path {
    let deleted = link.ends_with(DELETED) && !names(link, stat);
    rec::Path {
        path: if deleted { link[..link.len() - DELETED.len()].to_vec() } else { link.to_vec() },
        deleted,
        device: stat.st_dev,
        inode: stat.st_ino,
        mode: stat.st_mode,
        size: stat.st_size as u64,
        mtime_ns: mtime_ns(stat),
        uid: stat.st_uid,
        gid: stat.st_gid,
        ..rec::Path::default()
    }
}

/// Time of the last change of the content.
pub fn mtime_ns(stat: &Stat) -> i64 {
    stat.st_mtime * 1_000_000_000 + stat.st_mtime_nsec as i64
}

/// Whether this path leads to this inode now.
pub fn names(path: &[u8], stat: &Stat) -> bool {
    rustix::fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|now| (now.st_dev, now.st_ino) == (stat.st_dev, stat.st_ino))
}

/// What a link in `/proc/PID` names: `cwd`, `root`, `exe`.
pub fn path_of_link(pid: Pid, dir: &ProcDir, name: &str) -> Result<rec::Path, KindError> {
    let what = || format!("its {name}");
    let link = dir.link(name).step_on(pid, what, "reading the link")?;
    // Through the link itself, not by the path that it shows.
    let stat = rustix::fs::statat(dir, name, AtFlags::empty());
    Ok(of(&link, &stat.step_on(pid, what, "looking at the file")?))
}

/// The name that a file of the ghost has here: as the user mapped it (`--map-file OLD=NEW`, a file or a directory).
pub fn mapped(cx: &ImportCx<'_>, path: &[u8]) -> Vec<u8> {
    for (old, new) in &cx.options.map_files {
        if path == old.as_slice() {
            return new.clone();
        }
        if let Some(rest) = path.strip_prefix(old.as_slice()).filter(|r| r.starts_with(b"/")) {
            return [new.as_slice(), rest].concat();
        }
    }
    path.to_vec()
}

/// Opens what the path names now, and tells when it is not what it was.
///
/// `needed` is how long a regular file must be at least. Another type of file, or too short a one, is an error; a file
/// that was written since is a note.
pub fn open(cx: &mut ImportCx<'_>, path: &rec::Path, flags: u32, needed: u64) -> Result<OwnedFd, KindError> {
    let name = mapped(cx, &path.path);
    let text = String::from_utf8_lossy(&name).into_owned();
    let flags = OFlags::from_bits_retain(flags) | OFlags::CLOEXEC | OFlags::NOCTTY;
    let advice = "put the file back, or name another with --map-file OLD=NEW";
    let fd = rustix::fs::open(name.as_slice(), flags, Mode::empty())
        .map_err(|e| KindError::new(format!("opening {text}"), e).advise(advice))?;
    let stat = rustix::fs::fstat(&fd).step(format!("looking at {text}"))?;
    let (was, is) = (FileType::from_raw_mode(path.mode), FileType::from_raw_mode(stat.st_mode));
    if was != is {
        return Err(KindError::conflict(
            format!("opening {text}"),
            format!("it was a {} and is a {} now", sort(was), sort(is)),
        )
        .advise(advice));
    }
    if is == FileType::RegularFile {
        if (stat.st_size as u64) < needed && path.size >= needed {
            return Err(KindError::conflict(
                format!("opening {text}"),
                format!("it was {} bytes long and is {} now, {needed} are needed", path.size, stat.st_size),
            )
            .advise(advice));
        }
        let same_inode = (stat.st_dev, stat.st_ino) == (path.device, path.inode);
        let changed = stat.st_size as u64 != path.size || (same_inode && mtime_ns(&stat) != path.mtime_ns);
        // Asked of once per file: a program with many descriptors of one log should not flood the report.
        if changed && path.mtime_ns != 0 && !cx.notes.iter().any(|n| n.subject == text) {
            let why = if stat.st_size as u64 == path.size {
                "written since the ghost was made".to_owned()
            } else {
                format!("{} bytes long when the ghost was made, {} now", path.size, stat.st_size)
            };
            cx.notes.push(note(0, "file", text, why));
        }
    }
    Ok(fd)
}

/// A type of file in words.
pub fn sort(kind: FileType) -> &'static str {
    match kind {
        FileType::RegularFile => "regular file",
        FileType::Directory => "directory",
        FileType::Symlink => "symbolic link",
        FileType::Fifo => "FIFO",
        FileType::Socket => "socket",
        FileType::CharacterDevice => "character device",
        FileType::BlockDevice => "block device",
        FileType::Unknown => "file of a sort without a name",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_ends_in_deleted_is_only_a_name() {
        let dir = std::env::temp_dir().join(format!("ghost-path-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let odd = dir.join("odd (deleted)");
        std::fs::write(&odd, b"x").unwrap();
        let stat = rustix::fs::stat(&odd).unwrap();
        let link = odd.as_os_str().as_encoded_bytes().to_vec();
        assert!(!of(&link, &stat).deleted);
        std::fs::remove_file(&odd).unwrap();
        let gone = of(&link, &stat);
        assert!(gone.deleted);
        assert!(gone.path.ends_with(b"/odd"));
        std::fs::remove_dir(&dir).unwrap();
    }
}
