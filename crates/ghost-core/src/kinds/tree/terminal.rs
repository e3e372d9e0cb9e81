//! The controlling terminal of a session, and which process group is in front: `ioctl_tty(2)`.
//!
//! Read: `tty_nr` and `tpgid` of `/proc/PID/stat`. Rebuilt by the session's leader as soon as it leads, `TIOCSCTTY`: only its
//! later children have the terminal, too. The group in front is chosen when all groups exist, `TIOCSPGRP`.
//!
//! One whose master is in the tree is made before the tree (see [`pty`](crate::kinds::fd::pty)). Any other is that of the restorer, and a terminal controls one session only. It is taken where no session has it, and
//! from ghost itself where ghost leads the session that does (`CAP_SYS_ADMIN`). It is never taken from a shell, which would
//! end with its terminal: the program runs on without a controlling terminal then, and a note says so.

use crate::error::{Context, KindError};
use crate::import::ImportCx;
use crate::kinds::fd;
use crate::view::ProcessView;
use ghost_image::record as rec;
use ghost_sys::remote::{Batch, Executor, Stub};
use ghost_sys::{Pid, nr, scm};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Stands for the terminal of whoever restarts, in place of a file's id.
pub(crate) const CALLERS: i32 = -1;

/// Notes the terminal of the session that this process leads.
pub(super) fn export(process: &ProcessView, record: &mut rec::Process) {
    let stat = &process.stat;
    if stat.tty_nr != 0 && stat.sid == process.pid && !process.is_zombie() {
        record.tty_file_id = CALLERS;
        record.tty_foreground_pgid = stat.tpgid.max(0);
    }
}

/// Whether this process leads a session that a terminal controlled.
pub(super) fn wanted(record: &rec::Process) -> bool {
    record.tty_file_id != 0 && record.zombie.is_none()
}

/// The terminal that controls the session of this leader; None when the restorer has none to give.
pub(super) fn of(cx: &ImportCx<'_>, record: &rec::Process) -> Result<Option<OwnedFd>, KindError> {
    if record.tty_file_id == CALLERS { Ok(own()) } else { fd::pty::controlling(cx, record).map(Some) }
}

/// The terminal that ghost has among its standard descriptors.
pub(crate) fn own() -> Option<OwnedFd> {
    let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let own = [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()];
    own.into_iter().find(|fd| rustix::termios::isatty(*fd))?.try_clone_to_owned().ok()
}

/// Makes the terminal the controlling one of the session that this stub leads; or says why not.
pub(super) fn control(
    stub: &mut Stub,
    control: (BorrowedFd<'_>, i32),
    tty: Option<OwnedFd>,
    old: Pid,
) -> Result<Option<rec::Note>, KindError> {
    let note = |text: String| rec::Note { pid: old, kind: "tty".into(), subject: "controlling terminal".into(), text };
    let Some(tty) = tty else {
        return Ok(Some(note("it has none now: the restart has no terminal".into())));
    };
    // The kernel tells the session only to those that it controls: what is refused here is not ours.
    let ours = ghost_sys::tty::session(tty.as_fd()).is_ok_and(|sid| sid == std::process::id() as Pid);
    let mut batch = Batch::new();
    let fd = give(stub, control, tty.as_fd(), old)?;
    let args = [fd.into(), (libc::TIOCSCTTY as i64).into(), i32::from(ours).into()];
    let taken = batch.try_call("TIOCSCTTY", nr::IOCTL, &args);
    batch.call("close of the terminal", nr::CLOSE, &[fd.into()]);
    let outcome = stub.run(&batch).map_err(|e| crate::import::remote(old, e))?;
    Ok(outcome.result(taken).err().map(|e| {
        note(format!(
            "it has none now: the terminal of the restart belongs to another session ({e}); a terminal of its own is \
             given by script(1): script -qc 'ghost restart ...' /dev/null"
        ))
    }))
}

/// Puts this group in front, as the session's leader. False: the session has no terminal.
pub(super) fn put_in_front(
    stub: &mut Stub,
    control: (BorrowedFd<'_>, i32),
    (tty, group): (Option<OwnedFd>, Pid),
    old: Pid,
) -> Result<bool, KindError> {
    let Some(tty) = tty else { return Ok(false) };
    let fd = give(stub, control, tty.as_fd(), old)?;
    let mut batch = Batch::new();
    let pgid = batch.data(&group.to_ne_bytes());
    // Its signals wait, SIGTTOU too: whoever is behind may do this.
    let args = [fd.into(), (libc::TIOCSPGRP as i64).into(), pgid.into()];
    let done = batch.try_call("TIOCSPGRP", nr::IOCTL, &args);
    batch.call("close of the terminal", nr::CLOSE, &[fd.into()]);
    Ok(stub.run(&batch).map_err(|e| crate::import::remote(old, e))?.result(done).is_ok())
}

fn give(stub: &mut Stub, control: (BorrowedFd<'_>, i32), tty: BorrowedFd<'_>, old: Pid) -> Result<i32, KindError> {
    scm::send(control.0, &[tty]).step_on(old, String::new, "handing the terminal over")?;
    let numbers = scm::receive_in(stub, control.1, 1).map_err(|e| crate::import::remote(old, e))?;
    Ok(numbers[0])
}
