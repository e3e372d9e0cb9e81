//! Marks: the members of a socket in which the kernel keeps its options ([`ghost_sys::bpf::file`]), and whether those are all of them.
//!
//! Two unix sockets with the same mark need not both be asked for some fifty options. That the marks are complete is not taken for granted: it is tried out
//! on sockets of our own, each with one option that is not as usual. An option that cannot be changed here cannot have
//! been by a program with less privilege than ours.

use super::{AF_UNIX, STREAM, options};
use ghost_sys::bpf::file::Files;
use ghost_sys::{sock, sockopt};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// Whether every option of a unix socket that can be changed shows in its mark.
pub(crate) fn are_known(files: &Files) -> bool {
    let make = || sock::socket(AF_UNIX as i32, STREAM as i32, 0);
    let (Ok(fresh), known) = (make(), options::Known::default()) else { return false };
    let Ok(all) = known.usual((AF_UNIX, STREAM, 0)) else { return false };
    let mut changed = Vec::with_capacity(all.len());
    for (level, name, usual) in all {
        let Ok(socket) = make() else { return false };
        if change(&socket, level, name, usual.as_deref().unwrap_or_default()) {
            changed.push(socket);
        }
    }
    let Ok(rows) = files.read(rustix::thread::gettid().as_raw_nonzero().get()) else { return false };
    let mark = |socket: &OwnedFd| {
        let row = rows.iter().find(|row| row.fd == socket.as_raw_fd())?;
        row.socket.as_ref().map(|s| &s.options[..])
    };
    let Some(usual) = mark(&fresh) else { return false };
    // Of those that can be changed there are more, on any kernel.
    changed.len() > 12 && changed.iter().all(|socket| mark(socket).is_some_and(|mark| mark != usual))
}

/// Gives an option another value than the usual one, if there is one that the kernel takes.
fn change(socket: &OwnedFd, level: i32, name: i32, usual: &[u8]) -> bool {
    let ones: Vec<u8> = 1_i32.to_ne_bytes().into_iter().cycle().take(usual.len()).collect();
    let one: Vec<u8> = ones.iter().enumerate().map(|(i, b)| if i < 4 { *b } else { 0 }).collect();
    let large: Vec<u8> = 20_000_i32.to_ne_bytes().into_iter().cycle().take(usual.len()).collect();
    let tried: [&[u8]; 4] = [&ones, &one, &large, b"lo\0"];
    tried.into_iter().any(|value| {
        sockopt::set(socket.as_fd(), level, name, value).is_ok()
            && sockopt::get(socket.as_fd(), level, name, 256).is_ok_and(|now| now != usual)
    })
}
