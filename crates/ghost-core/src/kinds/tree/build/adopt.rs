//! Children whose session their parent is not in: somebody who has died since forked them.

use super::{Builder, Forker, Helper, PR_SET_CHILD_SUBREAPER, SIGCHLD, make};
use crate::error::KindError;
use crate::import::remote;
use crate::options::Pids;
use ghost_sys::nr;

impl Builder<'_, '_> {
    /// As the kernel once did it: a member of the session forks a process that forks the child and dies.
    pub(super) fn orphan(&mut self, parent: usize, member: usize, child: usize) -> Result<(), KindError> {
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
