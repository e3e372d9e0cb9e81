//! One batch in each of many processes, at the same time.
//!
//! Each visit is what [`Puppet::run_in`] does: map, run, unmap, home. Each of these is an awakening and a stop, which another CPU can
//! see to while ghost is busy with the next process. So all are sent off before the first is waited for, step by step. Every process has
//! its own code and scratch area, and should ghost die, each goes home by itself, as from any visit.

use super::program::{self, Program};
use super::{Batch, Entered, Outcome, Puppet, RemoteError};
use crate::ptrace::Stopped;

/// Visits at the same time, at most: what is inside must not lose its patience before ghost comes back to it.
const AT_ONCE: usize = 64;

/// What is to be run, and where. No two of these processes may share their memory.
#[derive(Debug)]
pub struct Visit<'a> {
    /// Of the process.
    pub puppet: &'a mut Puppet,
    /// A thread of it.
    pub thread: &'a Stopped,
    /// What it runs.
    pub batch: &'a Batch,
}

/// A visit under way.
struct Guest<'p> {
    entered: Entered<'p>,
    batch: &'p Batch,
    program: Option<Program>,
    outcome: Option<Outcome>,
}

/// What a step has come to: the first error stays, and the guest goes home with it.
struct State<'p> {
    guest: Option<Guest<'p>>,
    failed: Option<RemoteError>,
    /// Whether what was begun by the last step is to be seen from outside.
    begun: bool,
}

impl<'p> State<'p> {
    fn step(&mut self, step: impl FnOnce(&mut Guest<'p>, &mut bool) -> Result<(), RemoteError>) {
        if let (Some(guest), None) = (&mut self.guest, &self.failed) {
            self.failed = step(guest, &mut self.begun).err();
        }
    }
}

/// Runs each batch in its process and puts each thread back as it was; the results are in the same order.
pub fn visit_all(visits: &mut [Visit<'_>]) -> Vec<Result<Outcome, RemoteError>> {
    visits.chunks_mut(AT_ONCE).flat_map(visit_some).collect()
}

fn visit_some(visits: &mut [Visit<'_>]) -> Vec<Result<Outcome, RemoteError>> {
    let mut states: Vec<State<'_>> = visits.iter_mut().map(enter).collect();
    let all = &mut states;
    // A new process has no scratch area yet, so that what was begun is a mapping for all of it.
    each(all, |guest, begun| {
        *begun = guest.entered.start_mapping(program::size(guest.batch))?;
        Ok(())
    });
    each(all, |guest, begun| guest.entered.halt_mapping(*begun));
    each(all, |guest, begun| {
        guest.entered.end_mapping(program::size(guest.batch), *begun)?;
        let program = Program::new(guest.batch, guest.entered.scratch()?);
        guest.entered.start(&program)?;
        guest.program = Some(program);
        Ok(())
    });
    each(all, |guest, _| guest.entered.halt_when_done(guest.program.as_ref().expect("it was started")));
    // From here on everybody goes home, whatever has happened.
    let mut leaving = Vec::with_capacity(states.len());
    for state in &mut states {
        state.step(|guest, _| {
            guest.outcome = Some(guest.entered.end(guest.batch, guest.program.as_ref().expect("it was started"))?);
            Ok(())
        });
        leaving.push(state.guest.as_mut().map(|guest| guest.entered.start_leaving()));
    }
    for (state, started) in states.iter_mut().zip(&mut leaving) {
        if let (Some(guest), Some(begun)) = (&mut state.guest, started.take()) {
            *started = Some(guest.entered.halt_leaving(begun));
        }
    }
    let homes = states.into_iter().zip(leaving).map(|(mut state, halted)| {
        let left = match (&mut state.guest, halted) {
            (Some(guest), Some(halted)) => guest.entered.end_leaving(halted),
            _ => Ok(()),
        };
        let outcome = state.guest.and_then(|guest| guest.outcome);
        match (state.failed, outcome) {
            (None, Some(outcome)) => left.map(|()| outcome),
            (Some(e), _) => Err(e),
            (None, None) => unreachable!("a visit has an outcome or has failed"),
        }
    });
    homes.collect()
}

fn enter<'p>(visit: &'p mut Visit<'_>) -> State<'p> {
    match visit.puppet.enter(visit.thread) {
        Ok(entered) => State {
            guest: Some(Guest { entered, batch: visit.batch, program: None, outcome: None }),
            failed: None,
            begun: false,
        },
        Err(e) => State { guest: None, failed: Some(e), begun: false },
    }
}

fn each<'p>(states: &mut [State<'p>], step: impl Fn(&mut Guest<'p>, &mut bool) -> Result<(), RemoteError>) {
    for state in states {
        state.step(&step);
    }
}
