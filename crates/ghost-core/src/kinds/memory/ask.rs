//! What only a process itself can tell of its memory, asked by the puppet together with the rest (see [`crate::inquiry`]).
//!
//! - Whether mappings to come are locked (`mlockall(2)`, MCL_FUTURE): nothing in procfs says so. One page is mapped for a
//!   moment: of a locked one MADV_DONTNEED is refused, and it is there at once unless locked on fault (`mincore(2)`).
//! - The NUMA policy of each mapping (`get_mempolicy(2)`, MPOL_F_ADDR): `numa_maps` shows it too, but walks all page tables.
//!   The mode is asked of all of which it is not known already that they have none, the nodes of those few that have one.
//! - Whether a ring of `io_setup(2)` still has its context: `io_getevents(2)` for no event says so and takes none.

use super::{ldt, secret, vma};
use ghost_image::record::vma::Special;
use ghost_sys::nr;
use ghost_sys::proc::Smap;
use ghost_sys::remote::{Batch, DataRef, Outcome, Slot};

/// What the memory of a process is, from inside.
#[derive(Clone, Debug, Default)]
pub struct MemoryAnswers {
    /// Mappings to come are locked.
    pub lock_future: bool,
    /// They are locked page by page, as they are touched.
    pub lock_onfault: bool,
    /// Mappings with a NUMA policy of their own: first address, policy as in the record.
    pub policies: Vec<(u64, Vec<u8>)>,
    /// First addresses of AIO rings whose context is this process's.
    pub rings: Vec<u64>,
    /// Its local descriptor table, as in the record.
    pub ldt: Vec<u8>,
    /// Hidden memory that nobody else could read.
    pub secrets: Vec<secret::Told>,
}

impl MemoryAnswers {
    /// The policy of the mapping that begins there; empty for the default.
    pub fn policy(&self, start: u64) -> Vec<u8> {
        let found = self.policies.binary_search_by_key(&start, |p| p.0);
        found.map(|i| self.policies[i].1.clone()).unwrap_or_default()
    }
}

const MPOL_F_ADDR: u64 = 2;
/// Nodes that a mask has room for: as many as any kernel is built for.
const NODES: u32 = 1024;
const PAGE: u64 = 4096;

/// Where in a batch the answers will be.
pub struct MemoryQuestions {
    probe: Probe,
    starts: Vec<u64>,
    modes: Option<(Slot, DataRef)>,
    rings: Vec<(u64, Slot)>,
    ldt: Slot,
}

struct Probe {
    page: Slot,
    resident: DataRef,
    advised: Slot,
}

impl MemoryQuestions {
    /// Queues the questions.
    pub fn queue(batch: &mut Batch, smaps: &[Smap]) -> Self {
        let rings = smaps.iter().filter(|s| vma::special(s) == Special::AioRing).map(|s| s.mapping.start);
        let rings = rings.map(|at| {
            let args = [at.into(), 0.into(), 0.into(), 0.into(), 0.into()];
            (at, batch.try_call("io_getevents", libc::SYS_io_getevents, &args))
        });
        let rings = rings.collect();
        let may_have_one = |s: &&Smap| s.has_policy != Some(false) && vma::special(s) == Special::None;
        let starts: Vec<u64> = smaps.iter().filter(may_have_one).map(|s| s.mapping.start).collect();
        let mut modes = None;
        if !starts.is_empty() {
            let room = batch.room(starts.len() * 4);
            for (i, start) in starts.iter().enumerate() {
                let args = [room.at(i as u32 * 4).into(), 0.into(), 0.into(), (*start).into(), MPOL_F_ADDR.into()];
                let slot = batch.try_call("get_mempolicy", libc::SYS_get_mempolicy, &args);
                modes.get_or_insert((slot, room));
            }
        }
        Self { probe: Probe::queue(batch), starts, modes, rings, ldt: ldt::ask(batch) }
    }

    /// Whether it has a local descriptor table, which is then to be read: [`ldt::read`].
    pub fn has_ldt(&self, outcome: &Outcome) -> bool {
        outcome.result(self.ldt).is_ok_and(|len| len > 0)
    }

    /// Reads what was answered; [`PolicyQuestions`] may be left.
    pub fn read(&self, outcome: &Outcome) -> MemoryAnswers {
        let (lock_future, lock_onfault) = self.probe.read(outcome);
        let has_mode = |i: usize| {
            // A kernel without NUMA answers none of these.
            let (first, room) = self.modes.as_ref()?;
            outcome.result(*first).ok().map(|_| outcome.u32(room.at(i as u32 * 4)) != 0)
        };
        let policies = self.starts.iter().enumerate().filter(|(i, _)| has_mode(*i) == Some(true));
        MemoryAnswers {
            lock_future,
            lock_onfault,
            policies: policies.map(|(_, start)| (*start, Vec::new())).collect(),
            rings: self.rings.iter().filter(|(_, s)| outcome.result(*s).is_ok()).map(|r| r.0).collect(),
            ldt: Vec::new(),
            secrets: Vec::new(),
        }
    }
}

impl Probe {
    fn queue(batch: &mut Batch) -> Self {
        let resident = batch.room(1);
        let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        let args = [0.into(), PAGE.into(), prot.into(), flags.into(), (-1).into(), 0.into()];
        let page = batch.try_call("mmap of one page", nr::MMAP, &args);
        batch.try_call("mincore of one page", libc::SYS_mincore, &[page.into(), PAGE.into(), resident.into()]);
        let args = [page.into(), PAGE.into(), libc::MADV_DONTNEED.into()];
        let advised = batch.try_call("MADV_DONTNEED of one page", nr::MADVISE, &args);
        batch.try_call("munmap of one page", nr::MUNMAP, &[page.into(), PAGE.into()]);
        Self { page, resident, advised }
    }

    fn read(&self, outcome: &Outcome) -> (bool, bool) {
        let future = match outcome.result(self.page) {
            Ok(_) => outcome.result(self.advised).is_err(),
            // Over RLIMIT_MEMLOCK: only locked memory counts there.
            Err(e) => e.0 == libc::EAGAIN,
        };
        let resident = outcome.bytes(self.resident)[0] & 1 != 0;
        (future, future && !resident && outcome.result(self.page).is_ok())
    }
}

/// The question for one policy with its nodes.
pub struct Policy {
    mode: DataRef,
    mask: DataRef,
    asked: Slot,
}

impl Policy {
    fn queue(batch: &mut Batch, address: u64, flags: u64) -> Self {
        let (mode, mask) = (batch.room(4), batch.room(NODES as usize / 8));
        let args = [mode.into(), mask.into(), (NODES + 1).into(), address.into(), flags.into()];
        Self { mode, mask, asked: batch.try_call("get_mempolicy", libc::SYS_get_mempolicy, &args) }
    }

    /// Asks for that of the thread.
    pub fn of_thread(batch: &mut Batch) -> Self {
        Self::queue(batch, 0, 0)
    }

    /// The policy as records have it: mode, then the nodes; empty for the default.
    pub fn read(&self, outcome: &Outcome) -> Vec<u8> {
        let mode = outcome.u32(self.mode);
        if outcome.result(self.asked).is_err() || mode == 0 {
            return Vec::new();
        }
        let mask = outcome.bytes(self.mask);
        let used = mask.iter().rposition(|b| *b != 0).map_or(0, |last| (last + 1).next_multiple_of(8));
        [&mode.to_le_bytes()[..], &mask[..used]].concat()
    }
}

/// The second round: the nodes of those mappings that have a policy.
pub struct PolicyQuestions(Vec<Policy>);

impl PolicyQuestions {
    /// Queues it, if there is anything to ask.
    pub fn queue(answers: &MemoryAnswers) -> Option<(Batch, Self)> {
        if answers.policies.is_empty() {
            return None;
        }
        let mut batch = Batch::new();
        let asked = answers.policies.iter().map(|(at, _)| Policy::queue(&mut batch, *at, MPOL_F_ADDR)).collect();
        Some((batch, Self(asked)))
    }

    /// Fills the answers in.
    pub fn read(&self, outcome: &Outcome, answers: &mut MemoryAnswers) {
        for (asked, (_, policy)) in self.0.iter().zip(&mut answers.policies) {
            *policy = asked.read(outcome);
        }
    }
}
