//! Asleep inside system calls: they go on, or end as a signal would end them; what is left of their time is right.
//!
//! By signal(7) a stop and continue makes some calls return EINTR (epoll_wait, sigtimedwait, io_getevents, sockets with a
//! timeout); the same is allowed here, and only there: such a call is made again with what is left of its time.
use crate::Victim;

mod blocked;
mod crowd;
mod timed;

/// The tables of this area's files.
pub const TABLES: &[&[Victim]] = &[timed::VICTIMS, crowd::VICTIMS, blocked::VICTIMS];
