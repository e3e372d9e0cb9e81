//! Descriptors over a unix socket: SCM_RIGHTS, `unix(7)`.

#![allow(unsafe_code)]

use crate::remote::{Batch, DataRef, Executor, Outcome, RemoteError};
use crate::{Errno, Result};
use std::os::fd::{AsRawFd, BorrowedFd};

/// Descriptors that one message can carry (SCM_MAX_FD).
pub const MAX_FDS: usize = 253;

const HEADER: usize = 16; // struct cmsghdr, and CMSG_LEN counts from it

/// Sends up to [`MAX_FDS`] descriptors with one byte of data.
pub fn send(socket: BorrowedFd<'_>, fds: &[BorrowedFd<'_>]) -> Result<()> {
    assert!(fds.len() <= MAX_FDS, "the kernel takes {MAX_FDS} descriptors a message");
    let mut control = control(fds.len());
    for (room, fd) in control[HEADER..].chunks_exact_mut(4).zip(fds) {
        room.copy_from_slice(&fd.as_raw_fd().to_ne_bytes());
    }
    let mut byte = [0_u8];
    let mut iov = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
    // SAFETY: all-zero is a valid msghdr: null pointers with zero lengths.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut iov;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = control.len();
    // SAFETY: the message points at `iov` and `control`, which outlive the call; sendmsg(2) only reads them.
    match unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) } {
        -1 => Err(Errno::last()),
        _ => Ok(()),
    }
}

/// Receives one such message inside a process: the numbers that the descriptors got there, in order.
pub fn receive_in(inside: &mut impl Executor, socket: i32, count: usize) -> std::result::Result<Vec<i32>, RemoteError> {
    let mut batch = Batch::new();
    let receipt = Receipt::queue(&mut batch, socket, count);
    receipt.read(&inside.run(&batch)?)
}

/// Where in a batch the numbers of received descriptors will be.
#[derive(Clone, Copy, Debug)]
pub struct Receipt {
    room: DataRef,
    count: usize,
}

impl Receipt {
    /// Queues the receiving of one message.
    pub fn queue(batch: &mut Batch, socket: i32, count: usize) -> Self {
        let room = batch.data(&control(count));
        let byte = batch.room(1);
        let iov = batch.data(&[[0_u8; 8], 1_u64.to_ne_bytes()].concat());
        let len = control(count).len() as u64;
        let words: [u64; 7] = [0, 0, 0, 1, 0, len, 0]; // name, namelen, iov, iovlen, control, controllen, flags
        let header = batch.data(&words.map(u64::to_ne_bytes).concat());
        batch.point(iov, byte);
        batch.point(header.at(16), iov);
        batch.point(header.at(32), room);
        batch.call("recvmsg of descriptors", libc::SYS_recvmsg, &[socket.into(), header.into(), 0.into()]);
        Self { room, count }
    }

    /// The numbers, in order.
    pub fn read(self, outcome: &Outcome) -> std::result::Result<Vec<i32>, RemoteError> {
        let got = outcome.bytes(self.room);
        let len = u64::from_ne_bytes(got[..8].try_into().expect("eight bytes")) as usize;
        if len != HEADER + 4 * self.count {
            return Err(RemoteError::Step {
                step: "receiving descriptors (is RLIMIT_NOFILE too low?)",
                errno: Errno(libc::EMFILE),
            });
        }
        Ok(got[HEADER..len].chunks_exact(4).map(|b| i32::from_ne_bytes(b.try_into().expect("four bytes"))).collect())
    }
}

/// A control buffer whose header announces room for `count` descriptors.
fn control(count: usize) -> Vec<u8> {
    let mut buffer = vec![0; (HEADER + 4 * count).next_multiple_of(8)];
    buffer[..8].copy_from_slice(&(HEADER as u64 + 4 * count as u64).to_ne_bytes());
    buffer[8..12].copy_from_slice(&libc::SOL_SOCKET.to_ne_bytes());
    buffer[12..16].copy_from_slice(&libc::SCM_RIGHTS.to_ne_bytes());
    buffer
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::remote::{Arg, Memory};
    use std::os::fd::{AsFd, FromRawFd, OwnedFd};
    use std::os::unix::net::UnixStream;

    /// Makes the one call of a batch in this very process: the kernel judges the layout of the message.
    struct Here;
    impl Executor for Here {
        fn run(&mut self, batch: &Batch) -> std::result::Result<Outcome, RemoteError> {
            let mut data = batch.data.clone();
            let base = data.as_ptr() as u64;
            for &(place, target) in &batch.pointers {
                data[place as usize..][..8].copy_from_slice(&(base + u64::from(target)).to_ne_bytes());
            }
            let args = batch.calls[0].args.map(|arg| match arg {
                Arg::Value(v) => v,
                Arg::Data(d) => base + u64::from(d.offset),
                Arg::Result(_) => unreachable!("one call has no earlier one"),
            });
            // SAFETY: recvmsg writes into the buffers of `data`, at the addresses that were just put there.
            let r = unsafe { libc::syscall(batch.calls[0].nr, args[0], args[1], args[2]) };
            Ok(Outcome { results: vec![r], data })
        }
        fn memory(&self) -> &Memory {
            unreachable!("nobody asks for the memory")
        }
    }

    fn owned(numbers: &[i32]) -> Vec<OwnedFd> {
        // SAFETY: the numbers were just received and nobody else has them.
        numbers.iter().map(|n| unsafe { OwnedFd::from_raw_fd(*n) }).collect()
    }

    #[test]
    fn a_full_message_arrives_in_order() {
        let (a, b) = UnixStream::pair().unwrap();
        let null = std::fs::File::open("/dev/null").unwrap();
        let zero = std::fs::File::open("/dev/zero").unwrap();
        let mut fds = vec![null.as_fd(); MAX_FDS];
        fds[100] = zero.as_fd();
        send(a.as_fd(), &fds).unwrap();
        let got = owned(&receive_in(&mut Here, b.as_raw_fd(), fds.len()).unwrap());
        assert_eq!(got.len(), MAX_FDS);
        let dir = crate::proc::ProcDir::own().unwrap();
        for (i, fd) in got.iter().enumerate() {
            assert_eq!(dir.link(&format!("fd/{}", fd.as_raw_fd())).unwrap() == b"/dev/zero", i == 100);
        }
    }
}
