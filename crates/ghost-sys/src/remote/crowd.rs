//! Batches in many threads of one process.
//!
//! The first thread maps one scratch area and unmaps it in the end; every other one runs its program in a part of it, and then needs two
//! awakenings only: one to run, one to stop. As many are inside as there are blocks for; while one runs, ghost starts the
//! next and brings an earlier one home.
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
//! A block that is used again is written without its arm before the next program overwrites the end of the last. After the last guest all
//! are disarmed, since the next scratch area is not theirs.

use super::aborts;
use super::program::{self, Program};
use super::puppet::step;
use super::{Batch, Entered, Executor, Outcome, Puppet, RemoteError};
use crate::ptrace::{Stop, Stopped};
use crate::{Errno, arch};
use std::collections::VecDeque;

/// A thread that runs a program in a part of the scratch area.
struct Guest<'p, 'w> {
    entered: Entered<'p>,
    batch: &'w Batch,
    /// Which part.
    part: usize,
    /// Its place in the work.
    index: usize,
    /// It has been asked to stop, or could not even be started.
    halted: Result<bool, RemoteError>,
}

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

impl Guest<'_, '_> {
    /// Waits for the end of its program, once.
    fn halt(&mut self, parts: &Parts<'_>) {
        if matches!(self.halted, Ok(false)) {
            self.halted = self.entered.halt_when_done(parts.program(self.part)).map(|()| true);
        }
    }

    /// Brings it home, and gives its part to others if that is certain.
    fn end(mut self, parts: &Parts<'_>, answers: &mut [Option<Result<Outcome, RemoteError>>], free: &mut Vec<usize>) {
        self.halt(parts);
        let outcome = self.halted.and_then(|_| self.entered.end(self.batch, parts.program(self.part)));
        let left = self.entered.go_home();
        if matches!(left, Ok(()) | Err(RemoteError::Died(_))) {
            free.push(self.part);
        }
        answers[self.index] = Some(outcome.and_then(|outcome| left.map(|()| outcome)));
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
        let mut free: Vec<usize> = (1..=places).collect();
        let mut answers: Vec<Option<Result<Outcome, RemoteError>>> = others.iter().map(|_| None).collect();
        let mut guests: VecDeque<Guest<'_, '_>> = VecDeque::with_capacity(places);
        let stopped: Vec<&Stopped> = others.iter().map(|(thread, _)| *thread).collect();
        let mut aborts = aborts(&self.memory, &stopped).into_iter();
        for (index, &(thread, batch)) in others.iter().enumerate() {
            let abort = aborts.next();
            if free.is_empty()
                && let Some(guest) = guests.pop_front()
            {
                guest.end(&parts, &mut answers, &mut free);
            }
            let Some(&part) = free.last() else { break };
            let at_rest = matches!(thread.stop_kind(), Stop::Trap | Stop::Group(_));
            let mut entered = match self.enter_block(thread, part) {
                Ok(entered) => entered,
                Err(e) => {
                    answers[index] = Some(Err(e));
                    continue;
                }
            };
            free.pop();
            // What it was before it had to be brought to rest is not known any more.
            entered.abort = abort.filter(|_| at_rest);
            let halted = entered.start_as_guest(parts.prepare(part, batch)).map(|()| false);
            guests.push_back(Guest { entered, batch, part, index, halted });
            // One that was started a while ago is asked to stop, so that nobody has to wait for its stop later.
            if let Some(earlier) = guests.len().checked_sub(1 + places.div_ceil(2)) {
                guests[earlier].halt(&parts);
            }
        }
        guests.iter_mut().for_each(|guest| guest.halt(&parts));
        for guest in guests {
            guest.end(&parts, &mut answers, &mut free);
        }
        let mut results = Vec::with_capacity(others.len() + 1);
        results.push(own);
        results.extend(answers.into_iter().map(|answer| answer.unwrap_or_else(|| Err(not_entered()))));
        let all_home = free.len() == places;
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
}

/// Stands for the error of the first thread.
fn not_entered() -> RemoteError {
    step("entering a thread")(Errno(libc::ESRCH))
}
