//! Ending those that were only needed for building, and those that are zombies in the ghost.

use super::{Builder, Helper, make};
use crate::error::{Context, KindError};
use crate::import::remote;
use crate::kinds::thread::name;
use ghost_image::record as rec;
use ghost_sys::ptrace::{Stop, Waited};
use ghost_sys::remote::{Batch, Executor, RemoteError, Stub};
use ghost_sys::{Pid, nr};

impl Builder<'_, '_> {
    pub(super) fn end_helpers(&mut self) -> Result<(), KindError> {
        for helper in std::mem::take(&mut self.helpers) {
            self.end_helper(helper)?;
        }
        Ok(())
    }

    pub(super) fn end_helper(&mut self, helper: Helper) -> Result<(), KindError> {
        let (pid, sid) = (helper.stub.pid, helper.sid);
        end_with(helper.stub, sid, 0)?;
        if let Some(parent) = helper.parent {
            let stub = self.stubs[parent].as_mut().expect("it forked the helper");
            // Its SIGCHLD is taken back when the signals are put in order.
            make(stub, self.records[parent].pid, "waiting for a helper", nr::WAIT4, &[pid as u64, 0, 0, 0])?;
        }
        Ok(())
    }

    pub(super) fn end_zombies(&mut self) -> Result<(), KindError> {
        for (i, record) in self.records.iter().enumerate() {
            let Some(zombie) = &record.zombie else { continue };
            let stub = self.stubs[i].take().expect("all are born");
            if let Some(thread) = record.threads.first() {
                rename(stub, record.pid, thread).and_then(|stub| end_with(stub, record.pid, zombie.status))?;
            } else {
                end_with(stub, record.pid, zombie.status)?;
            }
            if zombie.status & 0x80 != 0 {
                self.cx.notes.push(rec::Note {
                    pid: record.pid,
                    kind: "zombie".into(),
                    subject: "wait status".into(),
                    text: "wait no longer says that a core was dumped".into(),
                });
            }
        }
        Ok(())
    }
}

/// Gives a process that is about to end its name and its user.
fn rename(mut stub: Stub, old: Pid, thread: &rec::Thread) -> Result<Stub, KindError> {
    let mut batch = Batch::new();
    name::give(&mut batch, thread);
    if let Some(cred) = thread.cred.as_ref().filter(|c| !c.uid.is_empty() && !c.gid.is_empty()) {
        // Who waits for it is told its real user. Without the right to that it stays that of ghost.
        let keep = u64::MAX;
        batch.try_call("setresgid", nr::SETRESGID, &[cred.gid[0].into(), keep.into(), keep.into()]);
        batch.try_call("setresuid", nr::SETRESUID, &[cred.uid[0].into(), keep.into(), keep.into()]);
    }
    stub.run(&batch).map_err(|e| remote(old, e))?;
    Ok(stub)
}

/// Ends a process so that `wait(2)` reports this status, less the flag for a core.
fn end_with(mut stub: Stub, old: Pid, status: u32) -> Result<(), KindError> {
    let signal = (status & 0x7f) as i32;
    let on = |e: KindError| e.on(old, format!("wait status {status:#x}"));
    if signal == 0 {
        let mut batch = Batch::new();
        batch.call("exit_group", nr::EXIT_GROUP, &[((status >> 8) & 0xff).into()]);
        return match stub.run(&batch) {
            Err(RemoteError::Died(_)) => Ok(()),
            Ok(_) => Err(on(KindError::conflict("ending it", "it did not end"))),
            Err(e) => Err(on(KindError::new("ending it", e))),
        };
    }
    if !(1..=64).contains(&signal) || is_harmless(signal) {
        return Err(on(KindError::conflict("ending it", "no process can end with this status")));
    }
    // A limit of one byte means no core, even where cores go to a program.
    // It does so itself: it may have another user than ghost by now.
    let mut batch = Batch::new();
    let limit = batch.data(&[1_u64.to_ne_bytes(); 2].concat());
    batch.call("forbidding its core", nr::PRLIMIT64, &[0.into(), libc::RLIMIT_CORE.into(), limit.into(), 0.into()]);
    stub.run(&batch).map_err(|e| remote(old, e))?;
    let pid = stub.pid;
    let thread = stub.into_thread().step("ending it").map_err(on)?;
    thread.set_signal_mask(0).step("ending it").map_err(on)?;
    crate::freeze::signal(pid, signal).step("ending it").map_err(on)?;
    let mut running = thread.resume(0).step("ending it").map_err(on)?;
    loop {
        match running.wait().step("ending it").map_err(on)? {
            Waited::Gone(_) => return Ok(()),
            Waited::Stopped(s, Stop::Signal(held)) => running = s.resume(held).step("ending it").map_err(on)?,
            Waited::Stopped(s, _) => running = s.resume(0).step("ending it").map_err(on)?,
        }
    }
}

/// Signals that end nothing by themselves.
fn is_harmless(signal: i32) -> bool {
    matches!(
        signal,
        libc::SIGCHLD
            | libc::SIGCONT
            | libc::SIGURG
            | libc::SIGWINCH
            | libc::SIGSTOP
            | libc::SIGTSTP
            | libc::SIGTTIN
            | libc::SIGTTOU
    )
}
