//! Children whose session their parent is not in: somebody who has died since forked them.

use super::super::plan::Birth;
use super::{Builder, CLONE_PARENT, Forker, Helper, PR_SET_CHILD_SUBREAPER, SIGCHLD, make, objects, retry};
use crate::error::KindError;
use crate::import::remote;
use crate::options::Pids;
use ghost_sys::{Pid, nr};

impl Builder<'_, '_> {
    /// Makes a child whose session its parent is not in: it was forked by somebody who has died since.
    pub(super) fn adopt(&mut self, child: usize) -> Result<bool, KindError> {
        let Some(parent) = self.plan.parents[child] else { return Ok(false) };
        let sid = match self.plan.births[child] {
            Birth::Into(sid) => sid,
            Birth::Any => self.sids[parent],
        };
        if self.fork_by_sibling(parent, child, sid)? {
            return Ok(true);
        }
        if !self.shares_enough(parent, child) && self.shared_flags(parent, child) == 0 && self.must_share(child) {
            return Ok(false);
        }
        if self.plan.dead_sessions.contains(&sid) {
            let at = self.helpers.iter().position(|h| h.sid == sid && h.parent == Some(parent));
            let at = match at {
                Some(at) => at,
                // Its number is taken once by the helper of another parent: that one forks, and dies.
                None if self.helpers.iter().any(|h| h.sid == sid) => return Ok(false),
                None => {
                    let wanted = self.wanted(sid);
                    let from = self.stubs[parent].as_mut().expect("parents are born first");
                    let stub = retry(sid, self.deadline, || from.fork(wanted, 0, SIGCHLD))?;
                    self.lead(stub, Some(parent), sid)?
                }
            };
            self.fork(Forker::Helper(at), child, CLONE_PARENT)?;
            return Ok(true);
        }
        let Some(member) = self.descendant_in(parent, sid) else { return Ok(false) };
        self.orphan(parent, member, child)?;
        Ok(true)
    }

    fn must_share(&self, index: usize) -> bool {
        objects(&self.records[index])
            .iter()
            .zip(&self.owners)
            .any(|((_, id), owners)| *id != 0 && owners.get(id).is_some_and(|first| *first != index))
    }

    /// A process below `ancestor` that is in this session now.
    fn descendant_in(&self, ancestor: usize, sid: Pid) -> Option<usize> {
        (ancestor + 1..self.records.len()).find(|&i| {
            let mut at = Some(i);
            while let Some(a) = at.filter(|a| *a > ancestor) {
                at = self.plan.parents[a];
            }
            at == Some(ancestor) && self.sids[i] == sid && self.stubs[i].is_some()
        })
    }

    /// As the kernel once did it: a member of the session forks a process that forks the child and dies.
    fn orphan(&mut self, parent: usize, member: usize, child: usize) -> Result<(), KindError> {
        let old = self.records[child].pid;
        let reaper = self.stubs[parent].as_mut().expect("parents are born first");
        make(reaper, old, "PR_SET_CHILD_SUBREAPER", nr::PRCTL, &[PR_SET_CHILD_SUBREAPER as u64, 1])?;
        let sid = self.sids[member];
        let helper = loop {
            let from = self.stubs[member].as_mut().expect("it was found alive");
            let stub = from.fork(0, 0, SIGCHLD).map_err(|e| remote(old, e))?;
            let in_the_way = self.cx.options.pids != Pids::New && self.cx.pids.contains_key(&stub.pid);
            let helper = Helper { stub, parent: Some(member), sid };
            if !in_the_way {
                break helper;
            }
            // The kernel chose a pid that another process of the tree will need; the next one it chooses is higher.
            self.end_helper(helper)?;
        };
        self.helpers.push(helper);
        self.fork(Forker::Helper(self.helpers.len() - 1), child, 0)?;
        let helper = self.helpers.pop().expect("it was just put there");
        self.end_helper(helper)?;
        let reaper = self.stubs[parent].as_mut().expect("parents are born first");
        make(reaper, old, "PR_SET_CHILD_SUBREAPER", nr::PRCTL, &[PR_SET_CHILD_SUBREAPER as u64, 0])
    }
}
