//! In which order processes are born, so that each is born into the right session.
//!
//! A process gets its session from its parent at birth and can only ever change it by leading one of its own. So the
//! moment of birth counts: children that are in the session which their parent had *before* it became a leader are born
//! first, the others after. A process that was given to another parent when its own died is born in its session and then
//! given away in the same manner (see [`super::build`]).

use ghost_image::record as rec;
use ghost_sys::Pid;
use std::collections::{HashMap, HashSet};

/// What one process needs of its birth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Birth {
    /// Any session will do: it will lead its own.
    Any,
    /// This session, by the number it has in the ghost; 0 is that of the restorer.
    Into(Pid),
}

/// The sessions and groups of a tree, with those outside of it called 0.
#[derive(Debug)]
pub(super) struct Plan {
    /// Index of each process's parent; None for the root.
    pub parents: Vec<Option<usize>>,
    /// Indices of each process's children.
    pub children: Vec<Vec<usize>>,
    /// Session of each process.
    pub sids: Vec<Pid>,
    /// Group of each process.
    pub pgids: Vec<Pid>,
    /// What each needs of its birth.
    pub births: Vec<Birth>,
    /// Leaders that have died: sessions, then groups within a session that has other members.
    pub dead_sessions: Vec<Pid>,
    /// (group, session that it is in).
    pub dead_groups: Vec<(Pid, Pid)>,
    /// Processes that some other process names as its group.
    pub group_founders: HashSet<Pid>,
}

impl Plan {
    /// Makes the plan. Parents come before their children in a ghost; the error names what does not fit.
    pub fn new(processes: &[rec::Process]) -> Result<Self, String> {
        let index: HashMap<Pid, usize> = processes.iter().enumerate().map(|(i, p)| (p.pid, i)).collect();
        if index.len() != processes.len() {
            return Err("two processes of the ghost have the same pid".into());
        }
        let mut parents = Vec::with_capacity(processes.len());
        let mut children = vec![Vec::new(); processes.len()];
        for (i, p) in processes.iter().enumerate() {
            let parent = match (i, index.get(&p.ppid)) {
                (0, _) => None,
                (_, Some(&parent)) if parent < i && processes[parent].zombie.is_none() => {
                    children[parent].push(i);
                    Some(parent)
                }
                _ => return Err(format!("process {} has no parent {} before it in the ghost", p.pid, p.ppid)),
            };
            parents.push(parent);
        }
        let sids: Vec<Pid> = processes.iter().map(|p| if p.sid_outside { 0 } else { p.sid }).collect();
        let pgids: Vec<Pid> = processes.iter().map(|p| if p.pgid_outside { 0 } else { p.pgid }).collect();
        let mut members: HashMap<Pid, Vec<usize>> = HashMap::new();
        for (i, &sid) in sids.iter().enumerate() {
            members.entry(sid).or_default().push(i);
        }
        let group_founders = pgids.iter().copied().filter(|g| index.contains_key(g)).collect();
        let births = vec![Birth::Any; processes.len()];
        let (dead_sessions, dead_groups) = (Vec::new(), Vec::new());
        let mut plan = Self { parents, children, sids, pgids, births, dead_sessions, dead_groups, group_founders };
        // Children come later in the list, so what they need is known first when going backwards.
        for i in (0..processes.len()).rev() {
            let own = plan.sids[i];
            plan.births[i] = if own == processes[i].pid {
                let early = plan.children[i].iter().find_map(|&c| match plan.births[c] {
                    Birth::Into(sid) if sid != own && plan.could_inherit(i, sid, &index, &members) => Some(sid),
                    _ => None,
                });
                early.map_or(Birth::Any, Birth::Into)
            } else {
                Birth::Into(own)
            };
        }
        let mut seen = HashSet::new();
        for &sid in &plan.sids {
            if sid != 0 && !index.contains_key(&sid) && seen.insert(sid) {
                plan.dead_sessions.push(sid);
            }
        }
        for (&pgid, &sid) in plan.pgids.iter().zip(&plan.sids) {
            if pgid != 0 && !index.contains_key(&pgid) && seen.insert(pgid) {
                plan.dead_groups.push((pgid, sid));
            }
        }
        Ok(plan)
    }

    /// Whether the process at `i` is `ancestor`, or below it.
    pub fn is_below(&self, i: usize, ancestor: usize) -> bool {
        let mut at = Some(i);
        // Parents come before their children.
        while let Some(a) = at.filter(|a| *a > ancestor) {
            at = self.parents[a];
        }
        at == Some(ancestor)
    }

    /// Whether the process at `i` can have had this session before it led its own: an ancestor has it, or had it at birth; or
    /// all of the session is elsewhere, and whoever forked `i` has died.
    fn could_inherit(
        &self,
        i: usize,
        sid: Pid,
        index: &HashMap<Pid, usize>,
        members: &HashMap<Pid, Vec<usize>>,
    ) -> bool {
        let mut at = self.parents[i];
        while let Some(p) = at {
            if self.sids[p] == sid {
                return true;
            }
            at = self.parents[p];
        }
        // Above the root is the restorer's session.
        let led_below = || index.get(&sid).is_some_and(|&leader| self.is_below(leader, i));
        let elsewhere = || members.get(&sid).is_some_and(|m| m.iter().any(|&m| !self.is_below(m, i)));
        sid == 0 || (i != 0 && !led_below() && elsewhere())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: Pid, ppid: Pid, pgid: Pid, sid: Pid) -> rec::Process {
        rec::Process { pid, ppid, pgid, sid, ..rec::Process::default() }
    }

    #[test]
    fn a_child_from_before_setsid_asks_for_the_older_session() {
        // 10 leads 10; its child 11 became a leader after it had forked 12.
        let plan = Plan::new(&[process(10, 0, 10, 10), process(11, 10, 11, 11), process(12, 11, 10, 10)]).unwrap();
        assert_eq!(plan.births, [Birth::Any, Birth::Into(10), Birth::Into(10)]);
        assert!(plan.dead_sessions.is_empty());
    }

    #[test]
    fn dead_leaders_are_found_once() {
        let plan = Plan::new(&[process(10, 0, 9, 9), process(11, 10, 8, 9), process(12, 10, 8, 9)]).unwrap();
        assert_eq!(plan.dead_sessions, [9]);
        assert_eq!(plan.dead_groups, [(8, 9)]);
    }

    #[test]
    fn what_is_outside_is_the_restorers() {
        let mut root = process(10, 0, 7, 7);
        (root.sid_outside, root.pgid_outside) = (true, true);
        let plan = Plan::new(&[root, process(11, 10, 11, 11)]).unwrap();
        assert_eq!((plan.sids[0], plan.pgids[0]), (0, 0));
        assert_eq!(plan.births[0], Birth::Into(0));
        assert!(plan.dead_sessions.is_empty());
    }

    #[test]
    fn a_ghost_that_makes_no_tree_is_refused() {
        assert!(Plan::new(&[process(10, 0, 10, 10), process(11, 99, 10, 10)]).unwrap_err().contains("no parent 99"));
        assert!(Plan::new(&[process(10, 0, 10, 10), process(10, 10, 10, 10)]).is_err());
        let mut zombie = process(11, 10, 10, 10);
        zombie.zombie = Some(rec::Zombie { status: 0 });
        assert!(Plan::new(&[process(10, 0, 10, 10), zombie, process(12, 11, 10, 10)]).is_err());
    }
}
