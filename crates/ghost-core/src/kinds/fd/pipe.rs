//! Pipes and FIFOs: the buffer, and the descriptions of its ends.
//!
//! Read: `tee(2)` into a pipe of ours, which takes nothing from the buffer and keeps its boundaries, then `read(2)` there;
//! F_GETPIPE_SZ. Rebuilt: `pipe2(2)`, F_SETPIPE_SZ, `write(2)`; further descriptions of an end by `/proc/self/fd`. A FIFO is
//! opened by its name. A pipe whose other end is outside of the tree stays behind ([`external`](super::external)) or is
//! refused. Privileges: none; a pipe larger than pipe-max-size needs CAP_SYS_RESOURCE.
//!
//! Not carried: how the bytes of a stream lay in the slots of the buffer, which only shows in how much more fits in.

use super::class::Refusal;
use super::{external, inodes, note, outside, path, regular};
use crate::error::{Context, KindError};
use crate::export::ExportCx;
use crate::import::ImportCx;
use crate::names::{Names, Sort};
use crate::view::{FdView, TreeView};
use ghost_image::record as rec;
use ghost_sys::fdops;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{Mode, OFlags};
use rustix::pipe::{PipeFlags, SpliceFlags};
use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

const ACCESS: u32 = 3;
/// What tells a description that was opened by a link of `/proc` from an end that `pipe2` made.
const LARGEFILE: u32 = 0o100000;
/// Packet mode of a pipe.
const DIRECT: u32 = OFlags::DIRECT.bits();

/// Refuses a pipe that leads out of the tree; whoever is to hand over another one has named it before this is asked.
pub fn check(view: &TreeView, fd: &FdView) -> Option<Refusal> {
    if is_fifo(fd) && external::outside(view).holders(&fd.link).is_empty() || !is_fifo(fd) && !leads_out(view, fd) {
        return None;
    }
    let holders = external::outside(view).holders(&fd.link);
    let who = if holders.is_empty() {
        "a process that can't be seen from here".to_owned()
    } else {
        outside::in_words(holders)
    };
    let link = String::from_utf8_lossy(&fd.link);
    Some(Refusal::new(
        "pipe",
        format!("its other end is outside of the tree: {who}"),
        format!(
            "checkpoint a process above both, or leave it behind with --external {link} and hand over another with --inherit-fd at the restart"
        ),
    ))
}

fn is_fifo(fd: &FdView) -> bool {
    !fd.link.starts_with(b"pipe:")
}

/// Whether somebody outside of the tree can read what is written to this pipe, or write to it.
pub fn leads_out(view: &TreeView, fd: &FdView) -> bool {
    if !external::outside(view).holders(&fd.link).is_empty() {
        return true;
    }
    // Nobody that we can see. An end that is missing has been closed, or is held by somebody that we can't see:
    // the kernel tells which.
    let ends = inodes::inodes(view).pipe(fd);
    let both_ends_here = ends.reader.is_some() && ends.writes;
    let flying = || crate::kinds::socket::facts(view).flying.contains(&fd.stat.st_ino);
    !both_ends_here && !flying() && !is_widowed(fd.ours.as_fd())
}

/// Whether the other end of this pipe is closed.
fn is_widowed(end: BorrowedFd<'_>) -> bool {
    let mut polled = [PollFd::new(&end, PollFlags::IN | PollFlags::OUT)];
    rustix::event::poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok()
        && polled[0].revents().intersects(PollFlags::HUP | PollFlags::ERR)
}

/// What is written of an end, and of its pipe when it is the first end of it.
pub fn export(cx: &mut ExportCx<'_>, fd: &FdView) -> Result<rec::PipeEnd, KindError> {
    let identity = (fd.stat.st_dev, fd.stat.st_ino);
    let (id, new) = cx.shared.pipes.get(identity);
    if new {
        let view = cx.view;
        let ends = inodes::inodes(view).pipe(fd);
        let size = rustix::pipe::fcntl_getpipe_size(&fd.ours).step("asking for the size of the pipe")?;
        let packets = match ends.reader {
            Some((t, f)) => cx.shared.glass.peek(view.table(t)[f].ours.as_fd(), size)?,
            None if is_widowed(fd.ours.as_fd()) => unread(cx, fd, size)?,
            None => Vec::new(),
        };
        cx.model.pipes.push(rec::Pipe {
            id,
            size: size as u32,
            packet_mode: ends.packets || packets.len() > 1,
            packets,
            mode: fd.stat.st_mode,
            uid: fd.stat.st_uid,
            gid: fd.stat.st_gid,
        });
    }
    if fd.info.flags & (ACCESS | OFlags::PATH.bits()) != OFlags::WRONLY.bits() {
        // A reader that is only in flight: no descriptor of the tree could look into the pipe.
        let place = cx.model.pipes.binary_search_by_key(&id, |p| p.id);
        if let Some(pipe) = place.ok().map(|at| &mut cx.model.pipes[at]).filter(|p| p.packets.is_empty()) {
            pipe.packets = cx.shared.glass.peek(fd.ours.as_fd(), pipe.size as usize)?;
            pipe.packet_mode |= pipe.packets.len() > 1;
        }
    }
    let fifo = is_fifo(fd);
    let reads = fd.info.flags & (ACCESS | OFlags::PATH.bits()) == OFlags::RDONLY.bits();
    let no_writer_yet = fifo && reads && !inodes::inodes(cx.view).pipe(fd).writes && !is_widowed(fd.ours.as_fd());
    Ok(rec::PipeEnd { pipe_id: id, fifo, path: fifo.then(|| path::of(&fd.link, &fd.stat)), no_writer_yet })
}

/// What lies in a pipe whose last reader has gone: a writer may open it for reading again, by `/proc`. So does ghost.
///
/// Of a FIFO that would let others go that wait for a reader, and when ghost closes it, the kernel sends a signal to a writer that has asked
/// for one: there it is a loss that is noted.
fn unread(cx: &mut ExportCx<'_>, fd: &FdView, size: usize) -> Result<Vec<Vec<u8>>, KindError> {
    let waiting = fdops::readable_bytes(fd.ours.as_fd()).step("asking how much lies in the pipe")?;
    if waiting == 0 {
        return Ok(Vec::new());
    }
    if is_fifo(fd) || fd.info.flags & regular::ASYNC != 0 {
        let text = format!("{waiting} bytes that nobody had read before its last reader went are lost");
        cx.notes.push(note(0, "pipe", super::subject(fd), text));
        return Ok(Vec::new());
    }
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let reader = regular::reopen(fd.ours.as_fd(), flags.bits()).step("opening a pipe without a reader")?;
    cx.shared.glass.peek(reader.as_fd(), size)
}

/// A pipe of ours through which others are looked at, kept for the next.
#[derive(Debug, Default)]
pub(crate) struct Glass(Option<(OwnedFd, OwnedFd, usize)>);

impl Glass {
    /// What lies in a pipe, without taking it: one entry for a stream, one for each packet in packet mode.
    fn peek(&mut self, reader: BorrowedFd<'_>, size: usize) -> Result<Vec<Vec<u8>>, KindError> {
        let waiting = fdops::readable_bytes(reader).step("asking how much lies in the pipe")?;
        if waiting == 0 {
            return Ok(Vec::new());
        }
        // Kept only if it is empty again in the end.
        let (out, into, room) = if let Some(kept) = self.0.take() {
            kept
        } else {
            let flags = PipeFlags::CLOEXEC | PipeFlags::NONBLOCK;
            let (out, into) = rustix::pipe::pipe_with(flags).step("making a pipe to look through")?;
            let room = rustix::pipe::fcntl_getpipe_size(&into).step("asking for the size of a pipe")?;
            (out, into, room)
        };
        // As many slots as the original has, at least: each is copied as it is.
        let room = if room < size {
            rustix::pipe::fcntl_setpipe_size(&into, size).step("giving a pipe its size")?
        } else {
            room
        };
        let copied = rustix::pipe::tee(reader, &into, size.max(waiting), SpliceFlags::NONBLOCK)
            .step("copying what lies in the pipe")?;
        if copied != waiting {
            return Err(KindError::conflict(
                "copying what lies in the pipe",
                format!("{copied} bytes of {waiting} came"),
            ));
        }
        let mut packets = Vec::new();
        let mut buf = vec![0_u8; waiting];
        let mut read = 0;
        while read < copied {
            let n = rustix::io::read(&out, buf.as_mut_slice()).step("reading the copy")?;
            read += n;
            packets.push(buf[..n].to_vec());
        }
        self.0 = Some((out, into, room));
        Ok(packets)
    }
}

/// A pipe that has been made again: both of its ends, as long as descriptions are made from them.
struct Made {
    read: End,
    write: End,
}

/// An end of it that is ours.
enum End {
    /// As `pipe2(2)` made it: the first description that can be it becomes it.
    Fresh(OwnedFd),
    /// It has become the description with this id.
    Given(u32),
}

impl End {
    fn get<'f>(&'f self, files: &'f HashMap<u32, OwnedFd>) -> Result<BorrowedFd<'f>, KindError> {
        match self {
            Self::Fresh(fd) => Some(fd),
            Self::Given(id) => files.get(id),
        }
        .map(AsFd::as_fd)
        .ok_or_else(|| KindError::conflict("opening an end of a pipe", "its first description is gone"))
    }
}

/// The pipes of a ghost while its descriptions are opened.
pub struct Pipes {
    made: HashMap<u32, Made>,
}

impl Pipes {
    /// Makes every pipe with what lay in it.
    pub fn import(cx: &mut ImportCx<'_>) -> Result<Self, KindError> {
        let model = cx.model;
        let mut names = HashMap::new();
        let mut used = std::collections::HashSet::new();
        for file in &model.files {
            if let Some(rec::file::Object::Pipe(end)) = &file.object {
                used.insert(end.pipe_id);
                if let Some(path) = end.path.as_ref().filter(|_| end.fifo) {
                    names.entry(end.pipe_id).or_insert(path);
                }
            }
        }
        let mut made = HashMap::new();
        for pipe in model.pipes.iter().filter(|p| used.contains(&p.id)) {
            let name = names.get(&pipe.id).copied();
            let both = match name {
                Some(path) => open_fifo(cx, pipe, path),
                None => make(pipe),
            }
            .map_err(|e| e.on(0, format!("pipe {}", pipe.id)))?;
            made.insert(pipe.id, both);
        }
        Ok(Self { made })
    }

    /// Opens those again that nobody has written to since they were opened, now that nobody has them open for writing: not even ghost, who
    /// had until now.
    pub fn finish(self, cx: &mut ImportCx<'_>) -> Result<(), KindError> {
        drop(self);
        for file in &cx.model.files {
            let Some(rec::file::Object::Pipe(end)) = &file.object else { continue };
            let (Some(at), true, true) = (&end.path, end.fifo, end.no_writer_yet) else { continue };
            let flags = file.flags & !(regular::NOT_AGAIN | regular::ASYNC);
            let waits = flags & OFlags::NONBLOCK.bits() == 0;
            let first = cx.files.get(&file.id).map(AsFd::as_fd);
            let first = first.ok_or_else(|| KindError::conflict("opening a FIFO", "it was not opened before"))?;
            // A child of ghost that is to remove names closes what it has inherited in its own time.
            for _ in 0..1000 {
                if is_widowed(first) {
                    break;
                }
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            let fd = if at.deleted {
                regular::reopen(first, flags | OFlags::NONBLOCK.bits()).step("opening a FIFO")?
            } else {
                path::open(cx, at, flags | OFlags::NONBLOCK.bits(), 0)?
            };
            if waits {
                regular::set_flags(fd.as_fd(), flags)?;
            }
            // The first one goes only now: what lies in a FIFO goes with the last who has it open.
            cx.files.insert(file.id, fd);
        }
        Ok(())
    }

    /// A description of an end.
    pub fn end(&mut self, cx: &mut ImportCx<'_>, file: &rec::File, end: &rec::PipeEnd) -> Result<OwnedFd, KindError> {
        let pipe = self.made.get_mut(&end.pipe_id).ok_or_else(|| {
            KindError::conflict("opening an end of a pipe", format!("the ghost has no pipe {}", end.pipe_id))
        })?;
        let flags = file.flags & !(regular::NOT_AGAIN | regular::ASYNC);
        if end.fifo {
            if end.path.as_ref().is_some_and(|p| p.deleted) {
                let fd = regular::reopen(pipe.read.get(&cx.files)?, flags | OFlags::NONBLOCK.bits())
                    .step("opening a FIFO")?;
                regular::set_flags(fd.as_fd(), flags)?;
                return Ok(fd);
            }
            let at = end
                .path
                .as_ref()
                .ok_or_else(|| KindError::conflict("opening a FIFO", "the ghost does not say which"))?;
            // Both ends are open by now, so that this waits for nobody.
            let fd = path::open(cx, at, flags, 0)?;
            return Ok(fd);
        }
        let (ours, one_way) = match file.flags & ACCESS {
            0 => (&mut pipe.read, true),
            1 => (&mut pipe.write, true),
            _ => (&mut pipe.read, false),
        };
        // The ends that pipe2 makes lack a flag that every open sets.
        if one_way
            && flags & LARGEFILE == 0
            && matches!(ours, End::Fresh(_))
            && let End::Fresh(fd) = std::mem::replace(ours, End::Given(file.id))
        {
            regular::set_flags(fd.as_fd(), flags)?;
            return Ok(fd);
        }
        // Packets can be asked for of one that is open; opening one for them is refused.
        let fd = regular::reopen(ours.get(&cx.files)?, flags & !DIRECT | OFlags::NONBLOCK.bits())
            .step("opening an end of the pipe again")?;
        regular::set_flags(fd.as_fd(), flags)?;
        Ok(fd)
    }
}

fn make(pipe: &rec::Pipe) -> Result<Made, KindError> {
    // Not to wait, whatever the ghost wants to put in; the descriptions get flags of their own.
    let mut how = PipeFlags::CLOEXEC | PipeFlags::NONBLOCK;
    how.set(PipeFlags::DIRECT, pipe.packet_mode);
    let (read, write) = rustix::pipe::pipe_with(how).step("making the pipe")?;
    resize(write.as_fd(), pipe)?;
    fill(write.as_fd(), pipe)?;
    let stat = rustix::fs::fstat(&read).step("looking at the pipe")?;
    if (stat.st_uid, stat.st_gid) != (pipe.uid, pipe.gid) {
        let owner = (rustix::fs::Uid::from_raw(pipe.uid), rustix::fs::Gid::from_raw(pipe.gid));
        // Only tells who may open it by /proc; an unprivileged restorer keeps it.
        let _ = rustix::fs::fchown(&read, Some(owner.0), Some(owner.1));
    }
    if stat.st_mode & 0o7777 != pipe.mode & 0o7777 {
        let _ = rustix::fs::fchmod(&read, Mode::from_raw_mode(pipe.mode & 0o7777));
    }
    Ok(Made { read: End::Fresh(read), write: End::Fresh(write) })
}

fn resize(end: BorrowedFd<'_>, pipe: &rec::Pipe) -> Result<(), KindError> {
    let now = rustix::pipe::fcntl_getpipe_size(end).step("asking for the size of the pipe")?;
    if pipe.size != 0 && now != pipe.size as usize {
        rustix::pipe::fcntl_setpipe_size(end, pipe.size as usize)
            .step(format!("giving the pipe its size of {} bytes", pipe.size))
            .map_err(|e| e.advise("raise fs.pipe-max-size or fs.pipe-user-pages-soft, or run ghost as root"))?;
    }
    Ok(())
}

/// Writes what lay in the pipe, which was opened not to wait, and for packets where there were some.
fn fill(write: BorrowedFd<'_>, pipe: &rec::Pipe) -> Result<(), KindError> {
    if pipe.packets.is_empty() {
        return Ok(());
    }
    for packet in &pipe.packets {
        let n = rustix::io::write(write, packet).step("filling the pipe")?;
        if n != packet.len() {
            return Err(KindError::conflict("filling the pipe", format!("{n} bytes of {} went in", packet.len())));
        }
    }
    Ok(())
}

/// A FIFO whose name is gone: it must have one while it is made. That of then, if it is free.
fn nameless_fifo(names: &mut Names, old: &[u8], mode: u32) -> Result<OwnedFd, KindError> {
    let text = || format!("making a deleted FIFO at {}", String::from_utf8_lossy(old));
    let hidden = [old, format!(".ghost-{}", std::process::id()).as_bytes()].concat();
    let mode = Mode::from_raw_mode(mode & 0o7777);
    let name = if rustix::fs::lstat(old).is_ok() { hidden.as_slice() } else { old };
    let ticket = names.intend(name, Sort::Fifo);
    if let Err(e) = rustix::fs::mkfifoat(rustix::fs::CWD, name, mode) {
        names.gone(ticket);
        return Err(KindError::new(text(), e));
    }
    names.made(ticket);
    crate::failpoint::hit("import.momentary")?;
    let fd = rustix::fs::open(name, OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty());
    rustix::fs::unlink(name).step(text())?;
    names.gone(ticket);
    fd.step(text())
}

fn open_fifo(cx: &mut ImportCx<'_>, pipe: &rec::Pipe, path: &rec::Path) -> Result<Made, KindError> {
    let keeper = if path.deleted {
        let old = path::mapped(cx, &path.path);
        nameless_fifo(&mut cx.names, &old, path.mode)?
    } else {
        path::open(cx, path, (OFlags::RDWR | OFlags::NONBLOCK).bits(), 0)?
    };
    let busy = fdops::readable_bytes(keeper.as_fd()).step("looking into the FIFO")?;
    let name = || String::from_utf8_lossy(&path.path).into_owned();
    if busy == 0 {
        resize(keeper.as_fd(), pipe)?;
        let packets = if pipe.packet_mode { DIRECT } else { 0 };
        let before = fdops::flags(keeper.as_fd()).step("reading the flags of the pipe")?;
        fdops::set_flags(keeper.as_fd(), before | packets).step("setting the flags of the pipe")?;
        fill(keeper.as_fd(), pipe)?;
        fdops::set_flags(keeper.as_fd(), before).step("setting the flags of the pipe")?;
    } else if !pipe.packets.is_empty() {
        cx.notes.push(note(0, "pipe", name(), "somebody else uses this FIFO: what lay in it is not put in again"));
    }
    let write = keeper.try_clone().step("keeping the FIFO open")?;
    Ok(Made { read: End::Fresh(keeper), write: End::Fresh(write) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::fd::testing::importing;

    fn filled(flags: PipeFlags, parts: &[&[u8]]) -> (OwnedFd, OwnedFd) {
        let (r, w) = rustix::pipe::pipe_with(flags | PipeFlags::CLOEXEC).unwrap();
        for part in parts {
            rustix::io::write(&w, part).unwrap();
        }
        (r, w)
    }

    #[test]
    fn looking_takes_nothing_and_keeps_packets() {
        let (r, _w) = filled(PipeFlags::DIRECT, &[b"one", b"two", b"three"]);
        let mut glass = Glass::default();
        for _ in 0..2 {
            let seen = glass.peek(r.as_fd(), 65536).unwrap();
            assert_eq!(seen, [b"one".to_vec(), b"two".to_vec(), b"three".to_vec()]);
        }
        let (r, _w) = filled(PipeFlags::empty(), &[b"one", b"two"]);
        assert_eq!(glass.peek(r.as_fd(), 65536).unwrap(), [b"onetwo".to_vec()]);
        let big = vec![7_u8; 65536];
        let (r, _w) = filled(PipeFlags::empty(), &[&big]);
        assert_eq!(glass.peek(r.as_fd(), 65536).unwrap(), [big]);
    }

    #[test]
    fn a_pipe_made_again_holds_the_same() {
        let record = rec::Pipe {
            id: 1,
            size: 131072,
            packets: vec![b"a".to_vec(), b"bc".to_vec()],
            packet_mode: true,
            mode: 0o10600,
            ..rec::Pipe::default()
        };
        let mut pipes = Pipes { made: HashMap::from([(1, make(&record).unwrap())]) };
        let end = rec::PipeEnd { pipe_id: 1, ..rec::PipeEnd::default() };
        importing(|cx| {
            let mut describe = |cx: &mut ImportCx<'_>, id, flags| {
                let file = rec::File { id, flags, ..rec::File::default() };
                let fd = pipes.end(cx, &file, &end).unwrap();
                assert_eq!(fdops::flags(fd.as_fd()).unwrap() & !LARGEFILE, flags);
                cx.files.insert(id, fd);
            };
            describe(cx, 1, 0);
            assert_eq!(rustix::pipe::fcntl_getpipe_size(&cx.files[&1]).unwrap(), 131072);
            assert_eq!(Glass::default().peek(cx.files[&1].as_fd(), 131072).unwrap(), record.packets);
            // The end that pipe2 made, a second description of it, and both ends in one.
            describe(cx, 2, OFlags::WRONLY.bits());
            describe(cx, 3, OFlags::WRONLY.bits() | DIRECT | OFlags::NONBLOCK.bits());
            describe(cx, 4, OFlags::RDWR.bits());
            assert_eq!(fdops::flags(cx.files[&2].as_fd()).unwrap(), OFlags::WRONLY.bits());
            let inode = |id| rustix::fs::fstat(&cx.files[&id]).unwrap().st_ino;
            assert!([2, 3, 4].iter().all(|id| inode(*id) == inode(1)));
        });
    }

    #[test]
    fn a_widow_knows_it() {
        let (r, w) = filled(PipeFlags::empty(), &[]);
        assert!(!is_widowed(r.as_fd()) && !is_widowed(w.as_fd()));
        drop(r);
        assert!(is_widowed(w.as_fd()));
    }
}
