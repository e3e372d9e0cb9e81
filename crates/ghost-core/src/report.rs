//! What an action took: time by stage, bytes, notes.

use ghost_image::record as rec;
use std::time::{Duration, Instant};

/// Times of one action by stage, in order, and what moved.
#[derive(Clone, Debug)]
pub struct Report {
    began: Instant,
    last: Instant,
    /// (stage, how long it took).
    pub stages: Vec<(&'static str, Duration)>,
    /// Processes.
    pub processes: usize,
    /// Of an export: their pids, the root first.
    pub pids: Vec<ghost_sys::Pid>,
    /// Threads.
    pub threads: usize,
    /// Bytes of memory that were looked at.
    pub bytes_read: u64,
    /// Bytes of pages that went into or came out of the ghost.
    pub page_bytes: u64,
    /// Bytes of the whole ghost.
    pub ghost_bytes: u64,
    /// What was lost or is worth saying.
    pub notes: Vec<rec::Note>,
}

impl Report {
    /// Starts the clock.
    pub fn start() -> Self {
        let now = Instant::now();
        Self {
            began: now,
            last: now,
            stages: Vec::new(),
            processes: 0,
            pids: Vec::new(),
            threads: 0,
            bytes_read: 0,
            page_bytes: 0,
            ghost_bytes: 0,
            notes: Vec::new(),
        }
    }
    /// Ends a stage.
    pub fn stage(&mut self, name: &'static str) {
        let now = Instant::now();
        self.stages.push((name, now - self.last));
        self.last = now;
    }
    /// Time since the start.
    pub fn total(&self) -> Duration {
        self.last - self.began
    }
    /// Time during which the program did not run, of an export.
    pub fn frozen(&self) -> Duration {
        self.total()
            .checked_sub(self.stages.first().map_or(Duration::ZERO, |s| if s.0 == "freeze" { s.1 / 2 } else { s.1 }))
            .unwrap()
    }
    /// Time of one stage, zero if it did not happen.
    pub fn of(&self, name: &str) -> Duration {
        self.stages.iter().filter(|s| s.0 == name).map(|s| s.1).sum()
    }
}
