//! Descriptions that stay behind: the other end is outside of the tree, and the restorer hands over another one.
//!
//! Two sorts. What the user names (`--external` at the checkpoint, `--inherit-fd` at the restart). And, without being asked,
//! the standard input, output and error of a program that were a pipe or a socket to somebody else, as a shell makes them:
//! at the restart they are the restorer's own.

use super::{note, outside, pipe, regular};
use crate::error::{Context, KindError};
use crate::export::ExportCx;
use crate::import::ImportCx;
use crate::kinds::socket;
use crate::view::{FdView, ProcessView, TreeView};
use ghost_image::record as rec;
use rustix::fs::{FileType, Mode, OFlags};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The names of the standard three, by number.
pub const STANDARD: [&str; 3] = ["stdin", "stdout", "stderr"];

/// The name under which this descriptor stays behind, if it does.
pub fn name(view: &TreeView, fd: &FdView) -> Option<String> {
    let link = String::from_utf8_lossy(&fd.link);
    if let Some(named) = view.external.iter().find(|e| **e == link) {
        return Some(named.clone());
    }
    let root = view.processes.first()?;
    let by_number = view.external.iter().find(|e| {
        let number = e.strip_prefix("fd:").and_then(|n| n.parse::<i32>().ok());
        number.is_some_and(|n| root.fds.iter().any(|r| r.fd == n && same(r, fd)))
    });
    if let Some(named) = by_number {
        return Some(named.clone());
    }
    let leads_out = match FileType::from_raw_mode(fd.stat.st_mode) {
        FileType::Fifo => fd.link.starts_with(b"pipe:") && pipe::leads_out(view, fd),
        FileType::Socket => socket_leads_out(view, fd),
        _ => false,
    };
    if leads_out { standard(view, fd).map(|n| STANDARD[n as usize].to_owned()) } else { None }
}

fn socket_leads_out(view: &TreeView, fd: &FdView) -> bool {
    !outside(view).holders(&fd.link).is_empty() || socket::unix::leads_out(view, fd) || socket::inet::is_connection(fd)
}

/// The holders outside, searched once for a view.
pub fn outside(view: &TreeView) -> &outside::Outside {
    view.outside.get_or_init(|| outside::Outside::of(view))
}

fn same(a: &FdView, b: &FdView) -> bool {
    (a.stat.st_dev, a.stat.st_ino, a.info.flags & 3) == (b.stat.st_dev, b.stat.st_ino, b.info.flags & 3)
}

/// The lowest of 0, 1, 2 by which some process of the tree has this end of this object.
fn standard(view: &TreeView, fd: &FdView) -> Option<i32> {
    view.fds().filter(|f| f.fd <= 2 && same(f, fd)).map(|f| f.fd).min()
}

/// What is written of a description that stays behind; None when it does not.
pub fn export(cx: &mut ExportCx<'_>, process: &ProcessView, fd: &FdView) -> Option<rec::External> {
    let name = name(cx.view, fd)?;
    let label = String::from_utf8_lossy(&fd.link).into_owned();
    let holders = outside(cx.view).holders(&fd.link);
    let to = if holders.is_empty() { String::new() } else { format!(" to {}", outside::in_words(holders)) };
    cx.notes.push(note(
        process.pid,
        "external",
        super::subject(fd),
        format!("leads out of the tree{to}: stays behind, the restart gives it as {name}"),
    ));
    Some(rec::External {
        name,
        original_fd: fd.fd as u32,
        device: fd.stat.st_dev,
        inode: fd.stat.st_ino,
        mode: fd.stat.st_mode,
        label,
    })
}

/// The description that the restorer hands over: by name, or its own standard three.
pub fn import(cx: &mut ImportCx<'_>, file: &rec::File, external: &rec::External) -> Result<OwnedFd, KindError> {
    if let Some((_, fd)) = cx.options.inherit.iter().find(|(name, _)| *name == external.name) {
        return fd.try_clone().step("taking the descriptor that was handed over");
    }
    let Some(number) = STANDARD.iter().position(|s| *s == external.name) else {
        return Err(KindError::conflict(
            "looking for a descriptor that leads out",
            format!("nobody has handed over `{}`", external.name),
        )
        .advise(format!("pass --inherit-fd {}=FD", external.name)));
    };
    let (fd, given) = standard_import(file, number)?;
    if let Some(text) = given {
        cx.notes.push(note(0, "external", external.label.clone(), text));
    }
    Ok(fd)
}

/// The restorer's own stdin, stdout or stderr, or `/dev/null` in its place; with what is to be said of it.
pub fn standard_import(file: &rec::File, number: usize) -> Result<(OwnedFd, Option<String>), KindError> {
    let name = STANDARD[number];
    let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let own: [BorrowedFd<'_>; 3] = [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()];
    let own = own[number];
    match rustix::fs::fcntl_getfl(own) {
        Ok(flags) if fits(flags, file.flags) => {
            Ok((with_flags(own, flags, file.flags)?, Some(format!("is the {name} of the restart now"))))
        }
        Ok(_) => {
            Ok((null(file)?, Some(format!("is /dev/null now: the {name} of the restart is not open the way it needs"))))
        }
        Err(_) => Ok((null(file)?, Some(format!("is /dev/null now: the restart has no {name}")))),
    }
}

fn fits(own: OFlags, wanted: u32) -> bool {
    own.bits() & 3 == OFlags::RDWR.bits() || own.bits() & 3 == wanted & 3
}

/// Status flags that a program sets and that may differ from those of the restorer's description.
const FREE: u32 = OFlags::NONBLOCK.bits() | OFlags::APPEND.bits();

/// The same description where the flags agree; else one of its own for the same pipe or terminal, so that a flag which the
/// program sets does not reach the shell.
fn with_flags(own: BorrowedFd<'_>, has: OFlags, wanted: u32) -> Result<OwnedFd, KindError> {
    if has.bits() & FREE != wanted & FREE {
        let sort = rustix::fs::fstat(own).map(|s| FileType::from_raw_mode(s.st_mode)).step("looking at it")?;
        if matches!(sort, FileType::Fifo | FileType::CharacterDevice)
            && let Ok(fd) = regular::reopen(own, wanted & (3 | FREE))
        {
            return Ok(fd);
        }
    }
    rustix::io::fcntl_dupfd_cloexec(own, 3).step("sharing it")
}

/// `/dev/null` with the access that the description had.
pub fn null(file: &rec::File) -> Result<OwnedFd, KindError> {
    let flags = OFlags::from_bits_retain(file.flags & (3 | FREE)) | OFlags::CLOEXEC;
    rustix::fs::open("/dev/null", flags, Mode::empty()).step("opening /dev/null")
}
