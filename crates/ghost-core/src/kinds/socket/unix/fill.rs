//! What lay in unix sockets put back, and what comes after it.

use super::super::{AF_UNIX, SOCKET, all, on, options, urgent};
use super::make::{Later, address_of};
use super::{DGRAM, DONTWAIT};
use crate::error::{Context, KindError};
use crate::import::ImportCx;
use crate::kinds::fd::note;
use ghost_image::record as rec;
use ghost_sys::message::{self, Credentials};
use ghost_sys::{Errno, sock, sockopt};
use rec::socket::SocketState;
use rustix::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

const SO_SNDBUF: i32 = 7;
const SO_SNDBUFFORCE: i32 = 32;

/// Fills the queues, connects what is connected one way, and takes leave of peers that are gone.
pub fn fill(cx: &mut ImportCx<'_>, later: &Later) -> Result<(), KindError> {
    if !later.any {
        return Ok(());
    }
    let model = cx.model;
    for (file, socket) in all(model).filter(|(_, s)| s.family == AF_UNIX) {
        fill_one(cx, later, file, socket).map_err(|e| on(cx, file, e))?;
    }
    for (file, socket) in all(model).filter(|(_, s)| s.family == AF_UNIX) {
        complete(cx, later, file, socket).map_err(|e| on(cx, file, e))?;
    }
    Ok(())
}

/// Puts what lay in a socket back into it.
fn fill_one(cx: &ImportCx<'_>, later: &Later, file: &rec::File, socket: &rec::Socket) -> Result<(), KindError> {
    if socket.queue.is_empty() {
        return Ok(());
    }
    let late: Vec<_> = socket.options.iter().filter(|o| o.name == options::SO_PASSCRED).cloned().collect();
    options::import(cx.files.get(&file.id).ok_or_else(missing)?.as_fd(), &late);
    let peer = match later.far.get(&file.id) {
        Some(far) => Some(far),
        None if socket.state() == SocketState::Connected && model_mutual(cx, file.id, socket) => {
            Some(cx.files.get(&socket.peer_file_id).ok_or_else(missing)?)
        }
        None => None,
    };
    let to = if peer.is_none() { later.reach.get(&file.id).map(address_of).unwrap_or_default() } else { Vec::new() };
    for message in &socket.queue {
        let apart = if peer.is_none() { Some(sender(cx, &message.from)?) } else { None };
        let sender = peer.or(apart.as_ref()).ok_or_else(missing)?;
        let fds: Option<Vec<_>> = message.file_ids.iter().map(|id| cx.files.get(id).map(AsFd::as_fd)).collect();
        let fds = fds.ok_or_else(missing)?;
        let who = message.cred.as_ref().map(|c| Credentials { pid: cx.pid(c.pid), uid: c.uid, gid: c.gid });
        let exists = who.is_some_and(|w| {
            w.pid != 0
                && rustix::process::test_kill_process(rustix::process::Pid::from_raw(w.pid).expect("not 0")).is_ok()
        });
        let who = who.filter(|_| exists);
        for (data, flags) in urgent::parts(socket, message) {
            send(sender.as_fd(), data, &to, &fds, who, flags)?;
        }
    }
    Ok(())
}

fn missing() -> KindError {
    KindError::conflict("filling a socket", "the ghost names a description that it does not have")
}

fn model_mutual(cx: &ImportCx<'_>, id: u32, socket: &rec::Socket) -> bool {
    match cx.model.file(socket.peer_file_id).and_then(|f| f.object.as_ref()) {
        // One that is connected to itself has no second end: it gets there by its name.
        Some(rec::file::Object::Socket(peer)) => peer.peer_file_id == id && socket.peer_file_id != id,
        _ => false,
    }
}

/// A socket with this name to send from: that of the tree which has it, or one made for the purpose.
fn sender(cx: &ImportCx<'_>, from: &[u8]) -> Result<OwnedFd, KindError> {
    let known = all(cx.model).find(|(_, s)| s.r#type == DGRAM && !from.is_empty() && s.local == from);
    if let Some(fd) = known.and_then(|(f, _)| cx.files.get(&f.id)) {
        return fd.try_clone().step("keeping a socket");
    }
    let fd = sock::socket(AF_UNIX as i32, DGRAM as i32, 0).step("making a sender")?;
    if from.len() > 2 {
        match sock::unix_path(from) {
            Some(_) => drop(sock::bind_hidden(fd.as_fd(), from).step("naming a sender that is gone")?),
            None => sock::bind(fd.as_fd(), from).step("naming a sender that is gone")?,
        }
    }
    Ok(fd)
}

/// Sends without waiting; a send buffer that is too small for what is in flight is widened for the moment.
fn send(
    from: BorrowedFd<'_>,
    data: &[u8],
    to: &[u8],
    fds: &[BorrowedFd<'_>],
    who: Option<Credentials>,
    flags: i32,
) -> Result<(), KindError> {
    let before = sockopt::get_i32(from, SOCKET, SO_SNDBUF).step("reading SO_SNDBUF")?;
    let mut sent = 0;
    let mut widened = false;
    let done = loop {
        let fds = if sent == 0 { fds } else { &[] };
        match message::send(from, &data[sent..], to, fds, who, flags | DONTWAIT) {
            Ok(n) => {
                sent += n;
                if sent >= data.len() {
                    break Ok(());
                }
            }
            Err(Errno(11 | 90 | 105)) if !widened => {
                // EAGAIN, EMSGSIZE, ENOBUFS
                widened = true;
                let size = (data.len() as i32).saturating_mul(2).saturating_add(before).saturating_add(1 << 22);
                if let Err(e) = sockopt::set_i32(from, SOCKET, SO_SNDBUFFORCE, size) {
                    break Err(e);
                }
            }
            Err(e) => break Err(e),
        }
    };
    if widened {
        sockopt::set_i32(from, SOCKET, SO_SNDBUFFORCE, before / 2).step("putting SO_SNDBUF back")?;
    }
    done.step("putting what lay in the socket back")
}

/// What comes after the data: late options, one-way connections, shutdown halves, peers that are gone.
fn complete(cx: &mut ImportCx<'_>, later: &Later, file: &rec::File, socket: &rec::Socket) -> Result<(), KindError> {
    let files = std::mem::take(&mut cx.files);
    let done = match files.get(&file.id) {
        Some(own) => complete_with(cx, later, file, socket, own.as_fd()),
        None => Err(missing()),
    };
    cx.files = files;
    done
}

fn complete_with(
    cx: &mut ImportCx<'_>,
    later: &Later,
    file: &rec::File,
    socket: &rec::Socket,
    own: BorrowedFd<'_>,
) -> Result<(), KindError> {
    let one_way = socket.r#type == DGRAM
        && socket.state() == SocketState::Connected
        && !later.far.contains_key(&file.id)
        && !model_mutual(cx, file.id, socket);
    if one_way {
        let to = later.reach.get(&socket.peer_file_id).map_or_else(|| socket.peer.clone(), address_of);
        if let Err(e) = sock::connect(own, &to) {
            let name = String::from_utf8_lossy(socket.peer.get(2..).unwrap_or_default()).into_owned();
            cx.notes.push(note(0, "unix", name, format!("could not be connected to again ({e})")));
        }
    }
    if later.far.contains_key(&file.id) && socket.error != 0 {
        // A peer that closes (its last descriptor goes with `later`) with something unread is why this end is told of a
        // reset.
        message::send(own, b"x", &[], &[], None, DONTWAIT).step("making ready for the reset")?;
    }
    let how = match socket.shutdown {
        _ if later.far.contains_key(&file.id) => None, // its peer's end does that
        1 => Some(Shutdown::Read),
        2 => Some(Shutdown::Write),
        3 => Some(Shutdown::Both),
        _ => None,
    };
    if let Some(how) = how {
        rustix::net::shutdown(own, how)
            .or_else(|e| if e == rustix::io::Errno::NOTCONN { Ok(()) } else { Err(e) })
            .step("shutting a half down")?;
    }
    let late: Vec<_> = socket.options.iter().filter(|o| options::is_late(o)).cloned().collect();
    let failed = options::import(own, &late);
    if !failed.is_empty() {
        cx.notes.push(note(
            0,
            "unix",
            crate::kinds::fd::describe(cx.model, file),
            format!("could not be given {}", failed.join(", ")),
        ));
    }
    Ok(())
}
