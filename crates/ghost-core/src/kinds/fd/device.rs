//! Devices that keep nothing for a description (null, zero, full, random), and terminals that belong to the caller.
//!
//! A terminal whose master side is outside of the tree is the caller's: at the restart it is the terminal of the restorer,
//! whatever its name; without one, its standard input and output. One that has hung up (its window is closed) is nobody's any more: it
//! comes back as one that has hung up. Settings of the terminal (`termios(3)`) stay with the
//! terminal. One whose master is inside of the tree travels with it: see [`pty`](super::pty).

use super::{external, note, path, pty, regular};
use crate::error::{Context, KindError};
use crate::import::ImportCx;
use crate::names::Sort;
use crate::view::FdView;
use ghost_image::record as rec;
use ghost_sys::nr;
use ghost_sys::remote::Batch;
use rustix::fs::{CWD, FileType, Mode, OFlags};
use std::os::fd::{AsFd, OwnedFd};

/// What is written of a description of a device.
pub fn export(fd: &FdView) -> rec::Device {
    rec::Device { path: Some(path::of(&fd.link, &fd.stat)), rdev: fd.stat.st_rdev, block: false }
}

/// Opens the device by its name and looks whether it is the same one.
pub fn import(cx: &mut ImportCx<'_>, file: &rec::File, device: &rec::Device) -> Result<OwnedFd, KindError> {
    let Some(at) = device.path.as_ref() else {
        return Err(KindError::conflict("opening a device", "the ghost does not say which"));
    };
    let flags = file.flags & !(regular::NOT_AGAIN | regular::ASYNC);
    let fd = if at.deleted { nameless(cx, at, flags, device.rdev)? } else { path::open(cx, at, flags, 0)? };
    let stat = rustix::fs::fstat(&fd).step("looking at the device")?;
    if stat.st_rdev != device.rdev {
        let (want, got) = (device.rdev, stat.st_rdev);
        return Err(KindError::conflict(
            format!("opening {}", String::from_utf8_lossy(&at.path)),
            format!(
                "it was device {}:{} and is {}:{} now",
                rustix::fs::major(want),
                rustix::fs::minor(want),
                rustix::fs::major(got),
                rustix::fs::minor(got)
            ),
        )
        .advise("name the device here with --map-file OLD=NEW"));
    }
    Ok(fd)
}

/// A device by a node whose name is gone: it has one again for a moment. Whoever may not make nodes opens the one in `/dev`.
fn nameless(cx: &mut ImportCx<'_>, at: &rec::Path, flags: u32, rdev: u64) -> Result<OwnedFd, KindError> {
    let old = path::mapped(cx, &at.path);
    let text = || format!("making the deleted device {} for a moment", String::from_utf8_lossy(&old));
    let flags = OFlags::from_bits_retain(flags) | OFlags::CLOEXEC | OFlags::NOCTTY;
    let hidden = [old.as_slice(), format!(".ghost-{}", std::process::id()).as_bytes()].concat();
    let name = if rustix::fs::lstat(old.as_slice()).is_ok() { hidden.as_slice() } else { old.as_slice() };
    let ticket = cx.names.intend(name, Sort::Device);
    let mode = Mode::from_raw_mode(at.mode & 0o7777);
    if let Err(e) = rustix::fs::mknodat(CWD, name, FileType::CharacterDevice, mode, rdev) {
        cx.names.gone(ticket);
        let (_, usual) =
            USUAL.iter().find(|u| rustix::fs::makedev(1, u.0) == rdev).ok_or_else(|| KindError::new(text(), e))?;
        let fd = rustix::fs::open(*usual, flags, Mode::empty()).step(format!("opening {usual}"))?;
        cx.notes.push(note(
            0,
            "device",
            String::from_utf8_lossy(&old),
            format!("deleted device: is {usual} now ({e})"),
        ));
        return Ok(fd);
    }
    cx.names.made(ticket);
    crate::failpoint::hit("import.momentary")?;
    let fd = rustix::fs::open(name, flags, Mode::empty());
    rustix::fs::unlink(name).step(text())?;
    cx.names.gone(ticket);
    fd.step(text())
}

/// Where the devices of major 1 are that travel.
const USUAL: [(u32, &str); 5] =
    [(3, "/dev/null"), (5, "/dev/zero"), (7, "/dev/full"), (8, "/dev/random"), (9, "/dev/urandom")];

/// What is written of a description of a terminal.
pub fn export_terminal(fd: &FdView) -> rec::Tty {
    rec::Tty {
        path: Some(path::of(&fd.link, &fd.stat)),
        rdev: fd.stat.st_rdev,
        callers: true,
        hung_up: pty::is_hung_up(fd),
        ..rec::Tty::default()
    }
}

/// The restorer's terminal, or what it has instead.
pub fn import_terminal(cx: &mut ImportCx<'_>, file: &rec::File, tty: &rec::Tty) -> Result<OwnedFd, KindError> {
    let flags = OFlags::from_bits_retain(file.flags & !(regular::NOT_AGAIN | regular::ASYNC))
        | OFlags::CLOEXEC
        | OFlags::NOCTTY;
    if tty.hung_up {
        return pty::hung_up(flags.bits());
    }
    let by_rule = tty.path.as_ref().is_some_and(|p| p.path == b"/dev/tty");
    if by_rule && let Some(fd) = in_session(cx, file, flags)? {
        return Ok(fd);
    }
    if by_rule && let Ok(fd) = rustix::fs::open("/dev/tty", flags, Mode::empty()) {
        return Ok(fd);
    }
    let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let own = [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()];
    for fd in own {
        if rustix::termios::isatty(fd)
            && let Ok(fd) = regular::reopen(fd, flags.bits())
        {
            return Ok(fd);
        }
    }
    if let Ok(fd) = rustix::fs::open("/dev/tty", flags, Mode::empty()) {
        return Ok(fd);
    }
    let number = super::holder(cx.model, file.id).map_or(0, |(_, fd)| fd.min(2) as usize);
    let name = tty.path.as_ref().map_or_else(|| "terminal".into(), |p| String::from_utf8_lossy(&p.path).into_owned());
    // Reading and writing by one description is only given by a terminal; a program without one mostly writes.
    let asked = if file.flags & 3 == OFlags::RDWR.bits() { one_way(file, number) } else { file.clone() };
    let (fd, text) = external::standard_import(&asked, number)?;
    let text = text.unwrap_or_default();
    cx.notes.push(note(0, "tty", name, format!("was the caller's terminal and {text}")));
    Ok(fd)
}

/// `/dev/tty` means the terminal of whoever opens it: opened by a process of the tree that has it and leads its own session.
fn in_session(cx: &mut ImportCx<'_>, file: &rec::File, flags: OFlags) -> Result<Option<OwnedFd>, KindError> {
    let Some((old, _)) = super::holder(cx.model, file.id) else { return Ok(None) };
    let Some(index) = cx.model.processes.iter().position(|p| p.pid == old) else { return Ok(None) };
    if cx.record(index).sid_outside {
        return Ok(None);
    }
    let mut batch = Batch::new();
    let name = batch.c_string(b"/dev/tty");
    let args = [libc::AT_FDCWD.into(), name.into(), flags.bits().into()];
    let opened = batch.try_call("open of /dev/tty", nr::OPENAT, &args);
    let Ok(number) = cx.run(index, &batch)?.result(opened) else { return Ok(None) };
    let pidfd = ghost_sys::pidfd::open(cx.building[index].pid).step("pidfd_open")?;
    let fd = ghost_sys::pidfd::getfd(pidfd.as_fd(), number as i32).step("fetching /dev/tty")?;
    cx.building[index].batch.call("close of /dev/tty", nr::CLOSE, &[number.into()]);
    Ok(Some(fd))
}

fn one_way(file: &rec::File, number: usize) -> rec::File {
    let access = if number == 0 { OFlags::RDONLY } else { OFlags::WRONLY };
    rec::File { flags: file.flags & !3 | access.bits(), ..file.clone() }
}
