//! Who forks whom, step by step, found out before a single process is made: at the checkpoint it tells whether the tree can
//! be made again at all, and at the restart it is what [`super::build`] does.

use super::plan::{Birth, Plan};
use super::{CLONE_FILES, CLONE_FS, CLONE_PARENT, CLONE_SIGHAND, CLONE_VM};
use ghost_image::record as rec;
use ghost_sys::Pid;
use std::collections::HashMap;

/// Which process forks another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Forker {
    Process(usize),
    /// A helper, by its place among all [`Step::Lead`].
    Helper(usize),
}

/// One act of making a tree.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Ghost makes the root.
    Root,
    /// A helper becomes the leader of a session whose own has died; its parent, or ghost, makes it.
    Lead { parent: Option<usize>, sid: Pid },
    /// A process is forked, with these flags.
    Fork { forker: Forker, child: usize, flags: u64 },
    /// A process forks several, each with its flags, in one batch.
    Together { parent: usize, children: Vec<(usize, u64)> },
    /// A process leads its own session from now on.
    Setsid(usize),
    /// A member of the session forks a process that forks the child and dies, so that the parent gets it.
    Orphan { parent: usize, member: usize, child: usize },
}

/// What no order can make: the process, and why.
pub(super) type Impossible = (Pid, String);

struct Order<'a> {
    plan: &'a Plan,
    records: &'a [rec::Process],
    born: Vec<bool>,
    /// The session that each is in by then, by its number in the ghost.
    sids: Vec<Pid>,
    /// Parent and session of each helper.
    helpers: Vec<(Option<usize>, Pid)>,
    /// First process with each shared object, by sort and id.
    owners: [HashMap<u32, usize>; 4],
    steps: Vec<Step>,
}

/// What a process may share, with the clone flag of each.
fn objects(p: &rec::Process) -> [(u64, u32); 4] {
    [(CLONE_VM, p.mm_id), (CLONE_FILES, p.fd_table_id), (CLONE_FS, p.fs_id), (CLONE_SIGHAND, p.sighand_id)]
}

/// The steps that make this tree.
pub(super) fn of(plan: &Plan, records: &[rec::Process]) -> Result<Vec<Step>, Impossible> {
    let mut owners: [HashMap<u32, usize>; 4] = Default::default();
    for (i, process) in records.iter().enumerate().filter(|(_, p)| p.zombie.is_none()) {
        for (map, (_, id)) in owners.iter_mut().zip(objects(process)) {
            map.entry(id).or_insert(i);
        }
    }
    let (born, sids) = (vec![false; records.len()], vec![0; records.len()]);
    let mut order = Order { plan, records, born, sids, helpers: Vec::new(), owners, steps: Vec::new() };
    order.root()?;
    order.births()?;
    Ok(order.steps)
}

impl Order<'_> {
    fn root(&mut self) -> Result<(), Impossible> {
        let Birth::Into(sid @ 1..) = self.plan.births[0] else {
            self.born[0] = true;
            self.steps.push(Step::Root);
            return Ok(());
        };
        if !self.plan.dead_sessions.contains(&sid) {
            let words = format!("its session {sid} is led by one of its own descendants");
            return Err((self.records[0].pid, words));
        }
        let helper = self.lead(None, sid);
        self.fork(Forker::Helper(helper), 0, CLONE_PARENT);
        Ok(())
    }

    fn lead(&mut self, parent: Option<usize>, sid: Pid) -> usize {
        self.steps.push(Step::Lead { parent, sid });
        self.helpers.push((parent, sid));
        self.helpers.len() - 1
    }

    fn fork(&mut self, forker: Forker, child: usize, flags: u64) {
        self.sids[child] = match forker {
            Forker::Process(i) => self.sids[i],
            Forker::Helper(i) => self.helpers[i].1,
        };
        self.born[child] = true;
        self.steps.push(Step::Fork { forker, child, flags });
    }

    /// All descendants of the root, each into its session.
    fn births(&mut self) -> Result<(), Impossible> {
        let mut ready = vec![0];
        let mut deferred = Vec::new();
        while let Some(i) = ready.pop() {
            self.settle(i, &mut ready, &mut deferred);
            while ready.is_empty() && !deferred.is_empty() {
                let before = deferred.len();
                let mut still = Vec::new();
                for child in std::mem::take(&mut deferred) {
                    if self.adopt(child) {
                        ready.push(child);
                    } else {
                        still.push(child);
                    }
                }
                if still.len() == before {
                    let record = &self.records[still[0]];
                    let words = format!("nobody below its parent can have its session {}", record.sid);
                    return Err((record.pid, words));
                }
                deferred = still;
            }
        }
        Ok(())
    }

    /// A process that was just born: its early children, its own session, its other children.
    fn settle(&mut self, i: usize, ready: &mut Vec<usize>, deferred: &mut Vec<usize>) {
        let own = self.records[i].pid;
        let leads = self.plan.sids[i] == own;
        let mut late = Vec::new();
        for &child in &self.plan.children[i] {
            let early = leads && self.plan.births[child] == Birth::Into(self.sids[i]);
            if early && self.fork_child(i, child) {
                ready.push(child);
            } else {
                late.push(child);
            }
        }
        if leads {
            self.steps.push(Step::Setsid(i));
            self.sids[i] = own;
        }
        let sid = self.sids[i];
        let here = |plan: &Plan, child: usize| [Birth::Any, Birth::Into(sid)].contains(&plan.births[child]);
        let plain = late.iter().filter(|&&c| here(self.plan, c) && self.shares_enough(i, c));
        let plain: Vec<(usize, u64)> = plain.map(|&c| (c, self.shared_flags(i, c))).collect();
        if plain.len() > 1 {
            for &(child, _) in &plain {
                self.sids[child] = sid;
                self.born[child] = true;
            }
            self.steps.push(Step::Together { parent: i, children: plain });
        }
        for child in late {
            if self.born[child] || (here(self.plan, child) && self.fork_child(i, child)) {
                ready.push(child);
            } else {
                deferred.push(child);
            }
        }
    }

    /// Whether `by` has all the objects that the process must share with an earlier one.
    fn shares_enough(&self, by: usize, index: usize) -> bool {
        objects(&self.records[index]).iter().zip(objects(&self.records[by])).zip(&self.owners).all(
            |((&(_, own), (_, theirs)), owners)| {
                own == 0 || own == theirs || owners.get(&own).is_none_or(|&first| first == index)
            },
        )
    }

    fn shared_flags(&self, by: usize, index: usize) -> u64 {
        let pairs = objects(&self.records[index]).into_iter().zip(objects(&self.records[by]));
        pairs.filter(|((_, own), (_, theirs))| *own != 0 && own == theirs).map(|((flag, _), _)| flag).sum()
    }

    /// Forks a child by its parent, or by a sibling that has what it must share. False: not now.
    fn fork_child(&mut self, parent: usize, child: usize) -> bool {
        if self.shares_enough(parent, child) {
            self.fork(Forker::Process(parent), child, self.shared_flags(parent, child));
            return true;
        }
        self.fork_by_sibling(parent, child, self.sids[parent])
    }

    fn fork_by_sibling(&mut self, parent: usize, child: usize, sid: Pid) -> bool {
        let fit = |s: &usize| {
            self.born[*s]
                && self.sids[*s] == sid
                && self.records[*s].exit_signal == self.records[child].exit_signal
                && self.shares_enough(*s, child)
        };
        let Some(sibling) = self.plan.children[parent].iter().copied().find(fit) else { return false };
        self.fork(Forker::Process(sibling), child, CLONE_PARENT | self.shared_flags(sibling, child));
        true
    }

    /// Makes a child whose session its parent is not in: it was forked by somebody who has died since.
    fn adopt(&mut self, child: usize) -> bool {
        let Some(parent) = self.plan.parents[child] else { return false };
        let sid = match self.plan.births[child] {
            Birth::Into(sid) => sid,
            Birth::Any => self.sids[parent],
        };
        if self.fork_by_sibling(parent, child, sid) {
            return true;
        }
        if !self.shares_enough(parent, child) && self.shared_flags(parent, child) == 0 && self.must_share(child) {
            return false;
        }
        if self.plan.dead_sessions.contains(&sid) {
            let at = match self.helpers.iter().position(|h| *h == (Some(parent), sid)) {
                Some(at) => at,
                // Its number is taken once by the helper of another parent.
                None if self.helpers.iter().any(|h| h.1 == sid) => return self.orphan(parent, sid, child),
                None => self.lead(Some(parent), sid),
            };
            self.fork(Forker::Helper(at), child, CLONE_PARENT);
            return true;
        }
        self.orphan(parent, sid, child)
    }

    fn orphan(&mut self, parent: usize, sid: Pid, child: usize) -> bool {
        let Some(member) = self.descendant_in(parent, sid) else { return false };
        self.sids[child] = sid;
        self.born[child] = true;
        self.steps.push(Step::Orphan { parent, member, child });
        true
    }

    fn must_share(&self, index: usize) -> bool {
        objects(&self.records[index])
            .iter()
            .zip(&self.owners)
            .any(|((_, id), owners)| *id != 0 && owners.get(id).is_some_and(|first| *first != index))
    }

    /// A process below `ancestor` that is in this session by then.
    fn descendant_in(&self, ancestor: usize, sid: Pid) -> Option<usize> {
        (ancestor + 1..self.records.len())
            .find(|&i| self.sids[i] == sid && self.born[i] && self.plan.is_below(i, ancestor))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: Pid, ppid: Pid, sid: Pid) -> rec::Process {
        rec::Process { pid, ppid, pgid: sid, sid, ..rec::Process::default() }
    }
    fn steps(records: &[rec::Process]) -> Result<Vec<Step>, Impossible> {
        of(&Plan::new(records).unwrap(), records)
    }
    fn fork(by: usize, child: usize, flags: u64) -> Step {
        Step::Fork { forker: Forker::Process(by), child, flags }
    }

    #[test]
    fn a_child_from_before_setsid_is_forked_first() {
        let tree = [process(10, 0, 10), process(11, 10, 11), process(12, 11, 10)];
        let wanted = [Step::Root, Step::Setsid(0), fork(0, 1, 0), fork(1, 2, 0), Step::Setsid(1)];
        assert_eq!(steps(&tree).unwrap(), wanted);
    }

    #[test]
    fn one_that_was_born_in_the_session_of_a_brother_is_forked_by_him() {
        // 12 led its own session after it had forked 13 in that of 11; who forked 12 has died.
        let tree = [process(10, 0, 10), process(11, 10, 11), process(12, 10, 12), process(13, 12, 11)];
        let made = steps(&tree).unwrap();
        let at = |step: &Step| made.iter().position(|s| s == step).unwrap_or_else(|| panic!("{step:?} in {made:?}"));
        assert!(at(&Step::Setsid(1)) < at(&fork(1, 2, CLONE_PARENT)));
        assert!(at(&fork(2, 3, 0)) < at(&Step::Setsid(2)));
    }

    #[test]
    fn a_dead_session_below_two_parents_has_one_helper() {
        // Nobody leads 9; 11 forked 12 in it and led its own then, and its brother 13 is still in it.
        let tree = [process(10, 0, 10), process(11, 10, 11), process(12, 11, 9), process(13, 10, 9)];
        let made = steps(&tree).unwrap();
        assert_eq!(made.iter().filter(|s| matches!(s, Step::Lead { .. })).count(), 1, "{made:?}");
    }

    #[test]
    fn a_session_that_is_led_elsewhere_cannot_be_had() {
        // 12 was never in the session of 11, and nobody below it is, but 13.
        let tree = [process(10, 0, 10), process(11, 10, 11), process(12, 10, 10), process(13, 12, 11)];
        assert_eq!(steps(&tree).unwrap_err().0, 13);
    }
}
