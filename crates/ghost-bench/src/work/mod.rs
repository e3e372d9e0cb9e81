//! The programs that are measured: `ghost-bench work NAME N DIR`.
//!
//! Each sets N of something up, writes its pid into `DIR/pid` when it is ready, and then beats: a counter in `DIR/beat`, every
//! 5 ms. SIGUSR1 makes it check itself and write `OK` or `BAD` into `DIR/verify`; SIGTERM ends it.

pub mod mgs;
mod plain;
mod tree;

use ghost_victims::kit::{Res, fd, task};
use std::path::PathBuf;

/// Runs the program of this name until it is told to end.
pub fn run(name: &str, n: usize, rounds: u64, dir: PathBuf) -> Res {
    match name {
        "small" => plain::memory(Life::begin(dir)?, 1 << 17),
        "mem" => plain::memory(Life::begin(dir)?, n << 17),
        "thp" => plain::huge(Life::begin(dir)?, n),
        "threads" => plain::threads(Life::begin(dir)?, n),
        "fds" => plain::fds(Life::begin(dir)?, n),
        "vmas" => plain::vmas(Life::begin(dir)?, n),
        "tree" => tree::run(Life::begin(dir)?, n),
        "mgs" => mgs::run(Life::begin(dir)?, n, rounds),
        _ => Err(format!("no program is called {name}")),
    }
}

/// What all programs do: say ready, beat, answer, end.
pub struct Life {
    /// The directory that it writes into.
    pub dir: PathBuf,
    beat: i32,
    beats: u64,
}

const ASKED: [i32; 2] = [libc::SIGUSR1, libc::SIGTERM];

impl Life {
    fn begin(dir: PathBuf) -> Res<Self> {
        // What the bench itself inherited is not part of the program.
        for number in fd::numbers()? {
            if number > 2 {
                let _ = fd::close(number);
            }
        }
        let _ = rustix::process::setsid();
        task::block(&ASKED)?;
        let beat = fd::open(dir.join("beat"), libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC)?;
        Ok(Self { dir, beat, beats: 0 })
    }

    /// Counts one on.
    pub fn beat(&mut self) -> Res {
        self.beats += 1;
        fd::pwrite(self.beat, format!("{:>19}\n", self.beats).as_bytes(), 0)?;
        Ok(())
    }

    /// Says that everything is set up.
    pub fn ready(&mut self) -> Res {
        self.beat()?;
        let said = |e: std::io::Error| format!("saying ready: {e}");
        std::fs::write(self.dir.join("pid.new"), format!("{}\n", task::pid())).map_err(said)?;
        std::fs::rename(self.dir.join("pid.new"), self.dir.join("pid")).map_err(said)
    }

    /// Beats until it is told to end; `sum` must be `expected` whenever somebody asks.
    pub fn live(mut self, expected: u64, mut sum: impl FnMut() -> Res<u64>) -> Res {
        self.ready()?;
        loop {
            match task::take_signal(&ASKED, 5) {
                Some((libc::SIGTERM, ..)) => return Ok(()),
                Some(_) => {
                    let found = sum();
                    let verdict =
                        if found == Ok(expected) { "OK".into() } else { format!("BAD {found:?}, expected {expected}") };
                    std::fs::write(self.dir.join("verify"), verdict).map_err(|e| format!("saying the verdict: {e}"))?;
                }
                None => self.beat()?,
            }
        }
    }
}

/// A number that looks like chance.
pub fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    x = (x ^ (x >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    x ^ (x >> 33)
}
