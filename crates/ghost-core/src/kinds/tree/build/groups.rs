//! Process groups, and which of them is in front of a terminal, once all processes are there.

use super::{Builder, Helper, SIGCHLD, make, retry, terminal};
use crate::error::KindError;
use crate::import::remote;
use ghost_image::record as rec;
use ghost_sys::remote::{Batch, Stub};
use ghost_sys::{Pid, nr};
use std::os::fd::AsFd;

impl Builder<'_, '_> {
    /// Puts every process into its group; founders first, so that the groups exist, and those that moved on last.
    pub(super) fn groups(&mut self) -> Result<(), KindError> {
        let founders: Vec<usize> = (0..self.records.len())
            .filter(|&i| {
                self.plan.group_founders.contains(&self.records[i].pid) && self.plan.sids[i] != self.records[i].pid
            })
            .collect();
        self.set_groups(&founders, |_, _| 0)?;
        for (pgid, sid) in self.plan.dead_groups.clone() {
            let Some(member) = (0..self.records.len()).find(|&i| self.plan.pgids[i] == pgid) else { continue };
            let wanted = self.wanted(pgid);
            let from = self.stubs[member].as_mut().expect("all are born");
            let mut stub = retry(pgid, self.deadline, || from.fork(wanted, 0, SIGCHLD))?;
            make(&mut stub, pgid, "setpgid for a group whose leader has died", nr::SETPGID, &[0, 0])?;
            self.cx.pids.insert(pgid, stub.pid);
            self.helpers.push(Helper { stub, parent: Some(member), sid });
        }
        let moves = |b: &Self, i: usize| {
            let own = b.records[i].pid;
            b.plan.pgids[i] != 0 && b.plan.pgids[i] != own && b.plan.sids[i] != own
        };
        let (last, first): (Vec<usize>, Vec<usize>) =
            (0..self.records.len()).filter(|&i| moves(self, i)).partition(|i| founders.contains(i));
        for part in [first, last] {
            self.set_groups(&part, |b, i| b.cx.pid(b.plan.pgids[i]))?;
        }
        Ok(())
    }

    /// Puts the group in front of each terminal that was there.
    pub(super) fn in_front(&mut self) -> Result<(), KindError> {
        for i in std::mem::take(&mut self.in_control) {
            let record = &self.records[i];
            let group = self.cx.pid(record.tty_foreground_pgid);
            let tty = terminal::of(self.cx, record)?;
            let stub = self.stubs[i].as_mut().expect("it leads its session");
            let control = (self.cx.control.as_fd(), self.cx.control_fd);
            if group == 0 || !terminal::put_in_front(stub, control, (tty, group), record.pid)? {
                self.cx.notes.push(rec::Note {
                    pid: record.pid,
                    kind: "tty".into(),
                    subject: "foreground group".into(),
                    text: "the group that was in front of the terminal has no process any more".into(),
                });
            }
        }
        Ok(())
    }

    fn set_groups(&mut self, who: &[usize], group: impl Fn(&Self, usize) -> Pid) -> Result<(), KindError> {
        let batches: Vec<(usize, Batch)> = who
            .iter()
            .map(|&i| {
                let mut batch = Batch::new();
                let pgid = group(self, i);
                batch.call(format!("setpgid to {pgid}"), nr::SETPGID, &[0.into(), pgid.into()]);
                (i, batch)
            })
            .collect();
        let mut wanted = batches.iter().peekable();
        let mut work = Vec::with_capacity(who.len());
        for (i, stub) in self.stubs.iter_mut().enumerate() {
            if let (Some((_, batch)), Some(stub)) = (wanted.next_if(|(w, _)| *w == i), stub.as_mut()) {
                work.push((stub, batch));
            }
        }
        for (result, i) in Stub::run_all(&mut work).into_iter().zip(who) {
            result.map_err(|e| remote(self.records[*i].pid, e))?;
        }
        Ok(())
    }
}
