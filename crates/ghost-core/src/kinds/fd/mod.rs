//! Descriptor tables, and the open file descriptions behind them.
//!
//! A table maps numbers to descriptions; a description (the kernel's `struct file`) has flags and an offset and may be in
//! many tables, or twice in one. Each description is written once, told apart by [`crate::shared`]. At import ghost opens
//! every description itself, in ordinary Rust with ordinary errors, hands them to the processes and lets each give them
//! their numbers (see [`table`]). Read: `/proc/PID/fd`, `/proc/PID/fdinfo`, `pidfd_getfd(2)` (Linux 5.6), `kcmp(2)`.
//!
//! Which sort of file a descriptor is, and which sorts are refused, is decided in [`class`]; each sort has a file here with
//! its export and import side by side.

pub mod class;
pub mod content;
pub mod device;
pub mod epoll;
pub mod eventfd;
pub mod external;
pub mod inodes;
pub mod inotify;
pub mod lock;
pub mod ns;
pub mod outside;
pub mod path;
pub mod pidfd;
pub mod pipe;
pub mod procfile;
pub mod pty;
pub mod regular;
pub mod signalfd;
pub mod table;
pub mod timerfd;

#[cfg(test)]
pub(crate) mod testing;

pub use path::path_of_link;
pub use regular::{export_exe, export_mapping};

use crate::error::{Blocker, Context, KindError};
use crate::export::ExportCx;
use crate::import::ImportCx;
use crate::kinds::memory::secret;
use crate::kinds::socket;
use crate::view::{FdView, ProcessView, TreeView};
use class::Class;
use ghost_image::record as rec;
use rec::file::Object;
use std::os::fd::OwnedFd;

/// Names the descriptors that cannot travel.
pub fn check(view: &TreeView, out: &mut Vec<Blocker>) {
    for (_, process, fds) in view.tables() {
        for fd in fds {
            out.extend(refusals(view, fd).into_iter().map(|r| Blocker {
                pid: process.pid,
                comm: process.comm(),
                kind: r.kind,
                subject: subject(fd),
                why: r.why,
                advice: r.advice,
                passes: r.passes,
            }));
        }
    }
}

/// What stands in the way of one descriptor.
fn refusals(view: &TreeView, fd: &FdView) -> Vec<class::Refusal> {
    if external::name(view, fd).is_some() {
        return Vec::new();
    }
    let (own, shared) = match class::of(fd) {
        Class::Refused(refusal) => (Some(refusal), None),
        Class::Pipe => (pipe::check(view, fd), None),
        Class::Directory if lock::is_notified(fd) => (Some(lock::refuse_notified()), None),
        Class::Regular | Class::Directory => (
            regular::check(fd).or_else(|| lock::check_lease(fd)),
            outside::check_lock(view, fd).or_else(|| outside::check_content(view, fd)),
        ),
        Class::Secret => {
            (Some(class::Refusal::new(secret::KIND, secret::WHY, secret::ADVICE)), outside::check_shared(view, fd))
        }
        Class::Socket => (socket::check(view, fd), None),
        Class::EventFd => (eventfd::check(fd), outside::check_shared(view, fd)),
        Class::Epoll => (epoll::check(view, fd), outside::check_shared(view, fd)),
        Class::Inotify => (inotify::check(fd), outside::check_shared(view, fd)),
        Class::TimerFd | Class::SignalFd => (None, outside::check_shared(view, fd)),
        Class::PidFd => (pidfd::check(view, fd), None),
        Class::Proc => (procfile::check(view, fd), None),
        Class::Namespace => (ns::check(fd), None),
        Class::Master => (pty::check_master(view, fd), outside::check_shared(view, fd)),
        Class::Terminal => (pty::check_slave(view, fd), None),
        Class::Device => (None, None),
    };
    own.into_iter().chain(shared).collect()
}

/// The kind under which the user accepts that this descriptor is lost. What loses only a part comes along without it.
fn accepted_loss(cx: &ExportCx<'_>, fd: &FdView) -> Option<&'static str> {
    if cx.options.accept.is_empty() {
        return None;
    }
    let class = class::of(fd);
    let in_part = matches!(class, Class::Epoll | Class::Inotify | Class::EventFd | Class::Secret);
    let shared = |kind: &str| class == Class::Regular && kind == "outside";
    let mut kinds = refusals(cx.view, fd).into_iter().map(|r| r.kind);
    kinds.find(|kind| !in_part && !shared(kind) && cx.options.accept.contains(*kind))
}

/// How a descriptor is called in messages: `fd 7, pipe:[123]`.
pub fn subject(fd: &FdView) -> String {
    format!("fd {}, {}", fd.fd, String::from_utf8_lossy(&fd.link))
}

/// Writes the descriptor tables and every description in them.
pub fn export(cx: &mut ExportCx<'_>) -> Result<(), KindError> {
    table::export(cx)?;
    epoll::resolve(cx);
    pty::resolve(cx);
    socket::unix::resolve(cx)
}

/// Writes the description behind this descriptor, unless it has a record already; returns its id.
pub fn export_description(cx: &mut ExportCx<'_>, process: &ProcessView, fd: &FdView) -> Result<u32, KindError> {
    let (id, new) =
        cx.shared.description(fd).step_on(process.pid, || subject(fd), "telling open file descriptions apart")?;
    if new {
        // Its place is taken before it is filled: what it holds (descriptors in flight) gets its records after it.
        let place = cx.model.files.len();
        cx.model.files.push(rec::File { id, flags: fd.info.description_flags(), ..rec::File::default() });
        let object =
            export_object(cx, process, fd).map_err(|e| if e.pid == 0 { e.on(process.pid, subject(fd)) } else { e })?;
        let file = &mut cx.model.files[place];
        file.offset = fd.info.pos;
        file.object = Some(object);
        crate::failpoint::hit("export.description")?;
        if fd.info.flags & rustix::fs::OFlags::PATH.bits() == 0 {
            lock::export(fd, file)
                .and_then(|()| lock::export_owner(fd, file))
                .map_err(|e| e.on(process.pid, subject(fd)))?;
        }
    }
    Ok(id)
}

fn export_object(cx: &mut ExportCx<'_>, process: &ProcessView, fd: &FdView) -> Result<Object, KindError> {
    if let Some(external) = external::export(cx, process, fd) {
        return Ok(Object::External(external));
    }
    match class::of(fd) {
        Class::Regular | Class::Directory => regular::export(cx, fd).map(Object::Regular),
        Class::Secret => secret::export(cx, fd).map(Object::Regular),
        Class::Pipe => pipe::export(cx, fd).map(Object::Pipe),
        Class::Device => Ok(Object::Device(device::export(fd))),
        Class::Terminal if pty::pair(cx.view, fd).is_some() => pty::export_slave(cx, fd).map(Object::Tty),
        Class::Terminal => Ok(Object::Tty(device::export_terminal(fd))),
        Class::Master => pty::export_master(fd).map(Object::Tty),
        Class::Socket => socket::export(cx, fd).map(Object::Socket),
        Class::EventFd => Ok(Object::Eventfd(eventfd::export(fd))),
        Class::TimerFd => timerfd::export(fd).map(Object::Timerfd),
        Class::SignalFd => Ok(Object::Signalfd(signalfd::export(fd))),
        Class::Epoll => Ok(Object::Epoll(epoll::export(cx, fd))),
        Class::Inotify => Ok(Object::Inotify(inotify::export(cx, fd))),
        Class::PidFd => Ok(Object::Pidfd(pidfd::export(cx, fd))),
        Class::Proc => Ok(procfile::export(cx.view, fd)),
        Class::Namespace => Ok(Object::Ns(ns::export(fd))),
        // Every refusal was a blocker before the tree was touched; what is left was accepted as a loss, or has appeared since.
        Class::Refused(r) => Err(KindError::conflict("exporting a descriptor", format!("{}: {}", r.kind, r.why))),
    }
}

/// Opens every description, ours until the processes have them.
pub fn import(cx: &mut ImportCx<'_>) -> Result<(), KindError> {
    let model = cx.model;
    crate::kinds::thread::apart::import(cx)?;
    let mut made = None;
    // A process that makes pairs of sockets takes its time, in which pipes can be made here.
    let mut make_pipes = |cx: &mut ImportCx<'_>| {
        if made.is_none() {
            made = Some(pipe::Pipes::import(cx)?);
        }
        Ok(())
    };
    let mut sockets = socket::Sockets::import(cx, &mut make_pipes)?;
    make_pipes(cx)?;
    let mut pipes = made.expect("they have just been made");
    let mut dead = pidfd::Dead::default();
    for file in &model.files {
        let fd = import_object(cx, &mut pipes, &mut sockets, &mut dead, file).map_err(|e| {
            if e.subject.is_empty() {
                e.on(holder(model, file.id).map_or(0, |h| h.0), describe(model, file))
            } else {
                e
            }
        })?;
        cx.files.insert(file.id, fd);
        crate::failpoint::hit("import.description")?;
    }
    pipes.finish(cx)?;
    sockets.fill(cx)
}

fn import_object(
    cx: &mut ImportCx<'_>,
    pipes: &mut pipe::Pipes,
    sockets: &mut socket::Sockets,
    dead: &mut pidfd::Dead,
    file: &rec::File,
) -> Result<OwnedFd, KindError> {
    match &file.object {
        Some(Object::Regular(r)) => regular::import(cx, file, r),
        Some(Object::Pipe(p)) => pipes.end(cx, file, p),
        Some(Object::Device(d)) => device::import(cx, file, d),
        Some(Object::Tty(t)) if t.callers => device::import_terminal(cx, file, t),
        Some(Object::Tty(t)) => pty::import(cx, file, t),
        Some(Object::External(e)) => external::import(cx, file, e),
        Some(Object::Eventfd(e)) => eventfd::import(file, e),
        Some(Object::Timerfd(t)) => timerfd::import(file, t),
        Some(Object::Signalfd(s)) => signalfd::import(file, s),
        Some(Object::Epoll(e)) => epoll::import(file, e),
        Some(Object::Inotify(_)) => inotify::import(),
        Some(Object::Pidfd(p)) => pidfd::import(cx, dead, file, p),
        Some(Object::ProcFile(p)) => procfile::import(cx, file, p),
        Some(Object::Ns(n)) => ns::import(file, n),
        Some(Object::Socket(_)) => sockets.take(file),
        None => Err(KindError::conflict("opening a description", "this version of ghost does not know its sort")
            .advise("use the ghost that made the image, or a newer one")),
    }
}

/// The first process that has this description, for messages.
pub(crate) fn holder(model: &crate::model::Model, id: u32) -> Option<(i32, u32)> {
    model.fd_tables.iter().find_map(|t| {
        let fd = t.fds.iter().find(|f| f.file_id == id)?;
        let has = |p: &&rec::Process| p.fd_table_id == t.id || p.threads.iter().any(|h| h.fd_table_id == t.id);
        let process = model.processes.iter().find(has)?;
        Some((process.pid, fd.fd))
    })
}
/// How a description is called in messages of an import: `fd 7, /var/log/x`.
pub fn describe(model: &crate::model::Model, file: &rec::File) -> String {
    let name = match &file.object {
        Some(Object::Regular(r)) => {
            r.path.as_ref().map_or_else(String::new, |p| String::from_utf8_lossy(&p.path).into_owned())
        }
        Some(Object::Pipe(p)) => format!("pipe {}", p.pipe_id),
        Some(Object::Device(d)) => {
            d.path.as_ref().map_or_else(String::new, |p| String::from_utf8_lossy(&p.path).into_owned())
        }
        Some(Object::Tty(t)) if t.callers => "terminal".into(),
        Some(Object::Tty(t)) if t.master => format!("master of pseudo-terminal {}", t.pty_index),
        Some(Object::Tty(t)) => format!("pseudo-terminal {}", t.pty_index),
        Some(Object::External(e)) => e.label.clone(),
        Some(Object::Eventfd(_)) => "eventfd".into(),
        Some(Object::Timerfd(_)) => "timerfd".into(),
        Some(Object::Signalfd(_)) => "signalfd".into(),
        Some(Object::Epoll(_)) => "epoll".into(),
        Some(Object::Inotify(_)) => "inotify".into(),
        Some(Object::Pidfd(p)) => format!("pidfd of {}", p.pid),
        Some(Object::Socket(_)) => "socket".into(),
        Some(Object::ProcFile(p)) => format!("/proc/{}/{}", p.pid, String::from_utf8_lossy(&p.rest)),
        Some(Object::Ns(n)) => format!("{} namespace", n.name),
        None => "a file".into(),
    };
    holder(model, file.id).map_or_else(|| name.clone(), |(_, fd)| format!("fd {fd}, {name}"))
}

/// Gives descriptors their numbers and completes what needs them.
pub fn finish(cx: &mut ImportCx<'_>) -> Result<(), KindError> {
    content::finish(cx)?;
    crate::kinds::memory::import_sealed(cx)?;
    inotify::finish(cx)?;
    table::finish(cx)?;
    epoll::finish(cx)?;
    // The process's own locks: closing any descriptor of the file would drop them, so nothing is closed after this.
    for (table, index) in table::owners(cx) {
        lock::finish_posix(cx, table, index);
    }
    lock::finish(cx)?;
    timerfd::finish(cx)?;
    cx.flush_all()
}

/// A remark that goes with the ghost or the restart.
pub fn note(pid: i32, kind: &str, subject: impl Into<String>, text: impl Into<String>) -> rec::Note {
    rec::Note { pid, kind: kind.into(), subject: subject.into(), text: text.into() }
}
