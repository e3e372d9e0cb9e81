//! Batches in many threads of one process.
//!
//! The first thread maps one scratch area and unmaps it in the end; every other one runs its program in a part of it, and then needs two
//! awakenings only: one to run, one to stop. As many are inside as there are blocks for, in two groups: while one runs, ghost brings
//! the other home and sends the next in its place. What is written or read for a group is so in one call, and who waits for its last
//! finds the others there already.
//!
//! While guests are inside the owner is in a ptrace stop, so that it cannot run out of patience. If ghost dies all are let go at the same
//! time: the owner waits until the programs of all armed blocks are done ([`crate::arch`]), and unmaps then. A block is armed
//! after its thread has been sent to the gate with all signals blocked, and before it runs:
//!
//! | if ghost dies | the guest | the owner |
//! |---|---|---|
//! | before the guest's first SETREGS | goes on: only its block was written | does not wait for it |
//! | after that, before its block is armed | finds the gate shut and goes home | does not wait for it |
//! | after that | runs its program, sleeps and goes home, touching the area no more | waits until the program is done |
//! | after it is home again | goes on | finds the program done |
//!
//! A block that is used again is written without its arm before the next program overwrites the end of the last. To arm the blocks
//! of a group all of them are written once more as they are, since they are in one page and so are armed all or none. After the last
//! guest all are disarmed, since the next scratch area is not theirs.

use super::aborts;
use super::program::{self, Program};
use super::puppet::step;
use super::{Batch, Entered, Executor, Outcome, Puppet, RemoteAddr, RemoteError};
use crate::ptrace::{Stop, Stopped};
use crate::{Errno, arch};
use std::collections::VecDeque;
use std::ops::Range;

/// A thread that runs a program in a part of the scratch area.
struct Guest<'p, 'w> {
    entered: Entered<'p>,
    batch: &'w Batch,
    /// Which part.
    part: usize,
    /// Its place in the work.
    index: usize,
    /// How far it came: an error, or as far as all others of its group.
    state: Result<(), RemoteError>,
}

impl Guest<'_, '_> {
    /// Goes on with it, if nothing has gone wrong so far.
    fn then(&mut self, next: impl FnOnce(&mut Self) -> Result<(), RemoteError>) {
        if self.state.is_ok() {
            self.state = next(self);
        }
    }

    /// Waits for the end of its program.
    fn wait(&mut self, parts: &Parts<'_>) {
        self.then(|guest| guest.entered.wait_until_done(parts.program(guest.part)));
    }
}

/// Guests that are sent in and brought home together, in parts that follow each other.
struct Group<'p, 'w> {
    parts: Range<usize>,
    guests: Vec<Guest<'p, 'w>>,
}

impl Group<'_, '_> {
    /// The same for all of them, in one step.
    fn then(&mut self, all: impl FnOnce(&mut Self) -> Result<(), RemoteError>) -> bool {
        let Err(e) = all(self) else { return true };
        for guest in &mut self.guests {
            guest.then(|_| Err(step("running a batch in many threads")(e.errno().unwrap_or(Errno(libc::EIO)))));
        }
        false
    }
}

/// What came of each thread but the first.
type Answers = Vec<Option<Result<Outcome, RemoteError>>>;

/// The programs of the parts. Mostly all threads are asked the same, so that a part gets the same program again and again.
struct Parts<'w> {
    base: u64,
    len: u64,
    programs: Vec<Option<(&'w Batch, Program)>>,
}

impl<'w> Parts<'w> {
    fn prepare(&mut self, part: usize, batch: &'w Batch) -> &Program {
        let at = self.base + part as u64 * self.len;
        let place = &mut self.programs[part];
        if !place.as_ref().is_some_and(|(of, _)| std::ptr::eq(*of, batch)) {
            *place = Some((batch, Program::new(batch, at)));
        }
        &place.as_ref().expect("it was just put there").1
    }
    fn program(&self, part: usize) -> &Program {
        &self.programs[part].as_ref().expect("a guest has a program").1
    }
}

impl Puppet {
    /// Runs one batch in each of many threads and puts each back as it was; the results are in the same order.
    pub fn run_each(&mut self, work: &[(&Stopped, &Batch)]) -> Vec<Result<Outcome, RemoteError>> {
        let puppet = &*self;
        let Some((&(first, batch), others)) = work.split_first() else { return Vec::new() };
        if others.is_empty() || puppet.blocks() < 2 {
            return work.iter().map(|(thread, batch)| puppet.run_alone(thread, batch)).collect();
        }
        match puppet.run_crowd(first, batch, others) {
            Ok(results) => results,
            // Nobody but the first was touched.
            Err(e) => std::iter::once(Err(e)).chain(others.iter().map(|_| Err(not_entered()))).collect(),
        }
    }

    /// Runs one batch in a thread and puts it back as it was.
    pub fn run_in(&mut self, thread: &Stopped, batch: &Batch) -> Result<Outcome, RemoteError> {
        self.run_alone(thread, batch)
    }

    fn run_alone(&self, thread: &Stopped, batch: &Batch) -> Result<Outcome, RemoteError> {
        let mut inside = self.enter_block(thread, 0)?;
        let outcome = inside.run(batch);
        let left = inside.go_home();
        outcome.and_then(|outcome| left.map(|()| outcome))
    }

    fn run_crowd(
        &self,
        first: &Stopped,
        batch: &Batch,
        others: &[(&Stopped, &Batch)],
    ) -> Result<Vec<Result<Outcome, RemoteError>>, RemoteError> {
        let places = (self.blocks() - 1).min(others.len());
        let largest = others.iter().map(|(_, batch)| program::size(batch)).max().unwrap_or(0);
        // The owner's own program is done before the first guest comes, and needs no part.
        let len = largest.next_multiple_of(64) as u64;
        let mut owner = self.enter_block(first, 0)?;
        owner.reserve(program::size(batch).max(len as usize * (places + 1)))?;
        let own = match owner.run(batch) {
            own @ (Ok(_) | Err(RemoteError::Call { .. })) => own,
            Err(e) => return Err(e),
        };
        let len32 = u32::try_from(len).map_err(|_| step("fitting a batch into its part")(Errno(libc::E2BIG)))?;
        self.write_code(self.at(arch::slot_part_at()), &len32.to_ne_bytes())?;
        let programs = (0..=places).map(|_| None).collect();
        let mut parts = Parts { base: owner.scratch()?, len, programs };
        let mut answers: Answers = others.iter().map(|_| None).collect();
        let stopped: Vec<&Stopped> = others.iter().map(|(thread, _)| *thread).collect();
        let mut aborts = aborts(&self.memory, &stopped).into_iter();
        let half = places.div_ceil(2);
        let mut free: VecDeque<Range<usize>> = [1..1 + half, 1 + half..1 + places].into_iter().collect();
        free.retain(|parts| !parts.is_empty());
        let mut inside: VecDeque<Group<'_, '_>> = VecDeque::new();
        let (mut next, mut all_home) = (0, true);
        while next < others.len() || !inside.is_empty() {
            if all_home
                && next < others.len()
                && let Some(place) = free.pop_front()
            {
                let first = next;
                next = others.len().min(first + place.len());
                let work =
                    others[first..next].iter().enumerate().map(|(i, &(thread, batch))| (first + i, thread, batch));
                let mut guests = Vec::with_capacity(place.len());
                for ((index, thread, batch), part) in work.zip(place.clone()) {
                    let abort = aborts.next();
                    // What it was before it had to be brought to rest is not known any more.
                    let at_rest = matches!(thread.stop_kind(), Stop::Trap | Stop::Group(_));
                    match self.enter_block(thread, part) {
                        Ok(mut entered) => {
                            entered.abort = abort.filter(|_| at_rest);
                            guests.push(Guest { entered, batch, part, index, state: Ok(()) });
                        }
                        Err(e) => answers[index] = Some(Err(e)),
                    }
                }
                let mut group = Group { parts: place, guests };
                self.send(&mut group, &mut parts);
                inside.push_back(group);
            } else if let Some(group) = inside.pop_front() {
                free.push_back(group.parts.clone());
                all_home &= self.fetch(group, &parts, &mut answers);
            } else {
                break;
            }
        }
        let mut results = Vec::with_capacity(others.len() + 1);
        results.push(own);
        results.extend(answers.into_iter().map(|answer| answer.unwrap_or_else(|| Err(not_entered()))));
        if all_home {
            self.disarm(places)?;
        } else {
            owner.leak_scratch();
        }
        let left = owner.go_home();
        if results[0].is_ok()
            && let Err(e) = left
        {
            results[0] = Err(e);
        }
        Ok(results)
    }

    /// Lets the guests of a group run their programs.
    fn send<'w>(&self, group: &mut Group<'_, 'w>, parts: &mut Parts<'w>) {
        let first = group.parts.start;
        let at = self.block_at(first);
        let len = arch::BLOCK_LEN as usize;
        let mut blocks = vec![0; group.parts.len() * len];
        // Blocks, which are not armed, before programs: the owner of the area does not look for the end of a program that nobody runs.
        for guest in &mut group.guests {
            guest.then(|guest| {
                let block = guest.entered.prepare()?;
                blocks[(guest.part - first) * len..][..len].copy_from_slice(&block);
                Ok(())
            });
        }
        let written = group.then(|group| {
            self.write_code(at, &blocks)?;
            let (mut ranges, mut bytes) = (Vec::new(), Vec::new());
            for guest in group.guests.iter().filter(|guest| guest.state.is_ok()) {
                let program = parts.prepare(guest.part, guest.batch);
                ranges.push((RemoteAddr(program.base()), program.bytes().len()));
                bytes.extend_from_slice(program.bytes());
            }
            self.memory.write_ranges(&ranges, &bytes).map_err(step("writing a batch"))
        });
        if !written {
            group.guests.iter_mut().for_each(|guest| guest.entered.stay());
            return;
        }
        for guest in &mut group.guests {
            guest.then(|guest| {
                guest.entered.send_as_guest(parts.program(guest.part))?;
                let armed = (guest.part - first) * len + arch::BLOCK_ARMED as usize;
                blocks[armed..armed + 4].copy_from_slice(&1_u32.to_ne_bytes());
                Ok(())
            });
        }
        group.then(|_| self.write_code(at, &blocks));
        group.guests.iter_mut().for_each(|guest| guest.then(|guest| guest.entered.go()));
    }

    /// Brings the guests of a group home; whether it is certain of all.
    fn fetch(&self, mut group: Group<'_, '_>, parts: &Parts<'_>, answers: &mut Answers) -> bool {
        // Mostly the last that began is the last to end.
        if let Some(last) = group.guests.iter_mut().rfind(|guest| guest.state.is_ok()) {
            last.wait(parts);
        }
        let running = || group.guests.iter().filter(|guest| guest.state.is_ok());
        let words: Vec<_> = running().map(|guest| (RemoteAddr(parts.program(guest.part).base()), 8)).collect();
        let mut done = vec![0; 8 * words.len()];
        // Not known of anybody: then each is looked at.
        let _ = self.memory.read_ranges(&words, &mut done);
        let running = group.guests.iter_mut().filter(|guest| guest.state.is_ok());
        for (guest, word) in running.zip(done.chunks_exact(8)) {
            if *word != 1_u64.to_ne_bytes() {
                guest.wait(parts);
            }
            guest.then(|guest| guest.entered.call_back());
        }
        for guest in group.guests.iter_mut().rev() {
            guest.then(|guest| guest.entered.stand());
        }
        let mut bytes = Vec::new();
        group.then(|group| {
            let there = group.guests.iter().filter(|guest| guest.state.is_ok());
            let ranges: Vec<_> = there.flat_map(|guest| parts.program(guest.part).answer(guest.batch)).collect();
            bytes.resize(ranges.iter().map(|r| r.1).sum(), 0);
            self.memory.read_ranges(&ranges, &mut bytes).map_err(step("reading the results of a batch"))
        });
        let mut bytes = &bytes[..];
        let mut all_home = true;
        for mut guest in group.guests {
            let outcome = guest.state.and_then(|()| {
                let program = parts.program(guest.part);
                let len = program.answer(guest.batch).iter().map(|part| part.1).sum();
                let (answer, others) = bytes.split_at(len);
                bytes = others;
                program.outcome_of(guest.batch, answer)
            });
            let left = guest.entered.go_home();
            all_home &= matches!(left, Ok(()) | Err(RemoteError::Died(_)));
            answers[guest.index] = Some(outcome.and_then(|outcome| left.map(|()| outcome)));
        }
        all_home
    }
}

/// Stands for the error of the first thread.
fn not_entered() -> RemoteError {
    step("entering a thread")(Errno(libc::ESRCH))
}
