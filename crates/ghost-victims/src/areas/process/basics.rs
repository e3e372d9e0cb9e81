//! What a process inherits and rarely changes: umask, personality, cwd, names.
use crate::{Victim, call, must, proc, victim};

pub(super) const VICTIMS: &[Victim] = &[victim("umask", |v| {
    must!(umask(0o137));
    v.keep("umask in status", || proc::status("Umask"));
    v.wait();
    v.eq("umask", 0o137, call!(umask(0)));
})];
