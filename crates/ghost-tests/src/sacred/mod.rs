//! A process being exported is sacred: cases in which ghost fails, dies or is refused, and nothing may be harmed or left.
//!
//! Each case is a function here, run in a pid and mount namespace of its own; [`CASES`] is the table.
pub mod failpoints;
pub mod kills;
pub mod peers;
pub mod refusals;

use crate::nest::{Outcome, in_namespaces};
use crate::programs::{self, Programs};
use crate::run::{Done, Runner, Running, describe, pids};
use crate::snapshot::Snapshot;
use rustix::process::{Pid, Signal, kill_process};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A case: its name and what it plays.
pub type Row = (&'static str, fn(&mut Play) -> Result<(), String>);

/// All cases, in the order in which they are shown.
pub const CASES: &[&[Row]] = &[failpoints::CASES, kills::CASES, refusals::CASES, peers::CASES];

/// How many times something is killed at a random instant: `GHOST_KILLS`, 500 unless said otherwise.
pub fn kills() -> u64 {
    std::env::var("GHOST_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(500)
}

fn seconds() -> u64 {
    90 + kills()
}

/// Runs a case in its own namespaces. `dir` must not exist; it is removed when the case passed.
pub fn outside(programs: &Programs, name: &str, dir: &Path) -> Outcome {
    match in_namespaces(programs, &[name], dir, seconds() + 20) {
        Ok(outcome @ Outcome::Failed(_)) => outcome,
        Ok(outcome) => {
            let _ = std::fs::remove_dir_all(dir);
            outcome
        }
        Err(e) => Outcome::Failed(e),
    }
}

/// The inner half: called with the words after `--case`; returns the exit status.
pub fn inside(args: &[String]) -> i32 {
    let [name, dir] = args else { return 2 };
    let Some((_, play)) = CASES.iter().copied().flatten().find(|(n, _)| n == name) else { return 2 };
    let programs = match programs::find() {
        Ok(p) => p,
        Err(e) => {
            println!("{e}");
            return 1;
        }
    };
    let dir = PathBuf::from(dir);
    let runner = Runner::new(&dir, Instant::now() + Duration::from_secs(seconds()));
    let mut p = Play { programs, runner, dir, made: 0, before: pids(), seed: 0 };
    p.seed = std::env::var("GHOST_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(|| {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since.map_or(1, |d| d.as_nanos() as u64)
    });
    let seed = p.seed;
    match play(&mut p).and_then(|()| p.nobody_left()) {
        Ok(()) => 0,
        Err(e) => {
            println!("{e}\nGHOST_SEED={seed}\n--- the last commands\n{}", tail(&p.runner.story(), 60));
            for pid in pids().into_iter().filter(|q| !p.before.contains(q)).take(8) {
                println!("{}", describe(pid));
            }
            1
        }
    }
}

fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// A case at work.
pub struct Play {
    programs: Programs,
    runner: Runner,
    dir: PathBuf,
    made: usize,
    /// The processes of the harness itself.
    before: Vec<u32>,
    seed: u64,
}

/// A victim at work.
#[derive(Clone, Debug)]
pub struct Victim {
    /// Its root process.
    pub pid: u32,
    /// Its directory.
    pub dir: PathBuf,
}

impl Play {
    /// Starts a victim and waits until it is ready.
    pub fn victim(&mut self, name: &str) -> Result<Victim, String> {
        use std::os::unix::fs::PermissionsExt as _;
        self.made += 1;
        let dir = self.dir.join(format!("v{}", self.made));
        let text = |e: std::io::Error| format!("{name}: {e}");
        std::fs::create_dir(&dir).map_err(text)?;
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o777)).map_err(text)?;
        let mut child = Command::new(&self.programs.victim)
            .args([Path::new(name), &dir])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(text)?;
        let v = Victim { pid: child.id(), dir };
        std::thread::spawn(move || child.wait());
        self.until(&format!("{name} is ready"), 40, || v.dir.join("ready").exists() || v.dir.join("skip").exists())?;
        if v.dir.join("skip").exists() {
            return Err(format!("{name} cannot run here: {}", read(&v.dir.join("skip"))));
        }
        Ok(v)
    }

    /// Lets a victim verify itself; `pids` are all under which it runs now, and all must say OK and end.
    pub fn verify(&mut self, v: &Victim, all: &[u32]) -> Result<(), String> {
        std::fs::write(v.dir.join("go"), "").map_err(|e| e.to_string())?;
        for pid in all {
            let result = v.dir.join(format!("result.{pid}"));
            let there = || result.exists() || !alive(*pid);
            self.until(&format!("pid {pid} gives its verdict"), 40, there)?;
            match read(&result).trim() {
                "OK" => {}
                "" => return Err(format!("pid {pid} ended without a verdict")),
                bad => return Err(format!("pid {pid}: {bad}")),
            }
            self.until(&format!("pid {pid} ends"), 5, || !alive(*pid))?;
        }
        Ok(())
    }

    /// Starts ghost, with a failpoint or nothing.
    pub fn start(&mut self, fail: Option<&str>, args: &[&str]) -> Result<Running, String> {
        let wish = format!("GHOST_FAIL={}", fail.unwrap_or_default());
        let ghost = self.programs.ghost.to_string_lossy().into_owned();
        let words: Vec<&str> = [wish.as_str(), ghost.as_str()].into_iter().chain(args.iter().copied()).collect();
        self.runner.start(Path::new("/usr/bin/env"), &words, Stdio::null(), None)
    }

    /// Runs ghost; it must exit with this.
    pub fn ghost(&mut self, code: i32, args: &[&str]) -> Result<Done, String> {
        let running = self.start(None, args)?;
        self.runner.expect_of(code, running)
    }

    /// Runs ghost with a failpoint, which must be what it fails or dies of.
    pub fn ghost_fails_at(&mut self, point: &str, kill: bool, args: &[&str]) -> Result<(), String> {
        if self.ghost_fails_before(point, kill, None, args)? {
            Ok(())
        } else {
            Err(format!("{point}: ghost did not come by and did its work"))
        }
    }

    /// The same, but it may also not come by the point: then it fails at `last`, or does its work if there is none, and this is false.
    pub fn ghost_fails_before(
        &mut self,
        point: &str,
        kill: bool,
        last: Option<&str>,
        args: &[&str],
    ) -> Result<bool, String> {
        let mut wish = format!("{point}={}", if kill { "kill" } else { "error" });
        if let Some(last) = last {
            wish = format!("{wish},{last}=error");
        }
        let running = self.start(Some(&wish), args)?;
        let done = self.runner.finish(running)?;
        let name = point.split('#').next().unwrap_or(point);
        let is_last = |l: &str| done.status.code() == Some(1) && done.stderr.contains(l) && !done.stderr.contains(name);
        if last.map_or(done.status.success(), is_last) {
            return Ok(false);
        }
        let met = if kill { done.status.signal() == Some(9) } else { done.status.code() == Some(1) };
        if !met {
            return Err(format!("{wish}: ghost ended with {}", done.status));
        }
        if !kill && !done.stderr.contains(name) {
            return Err(format!("{wish}: the message does not name it: {}", done.stderr));
        }
        Ok(true)
    }

    /// Directories are as they were, at once or after a moment: what a killed ghost leaves is taken away at once, not before.
    pub fn files_are(&self, before: &Snapshot, look: &[PathBuf]) -> Result<(), String> {
        let mut difference = None;
        for _ in 0..200 {
            difference = before.difference(&Snapshot::of_directories(look));
            if difference.is_none() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Err(format!("files are not as they were:\n{}", difference.unwrap_or_default()))
    }

    /// The failpoints whose names begin with one of these.
    pub fn points(&mut self, groups: &[&str]) -> Result<Vec<String>, String> {
        let all = self.ghost(0, &["failpoints"])?.stdout;
        let found: Vec<String> =
            all.lines().filter(|l| groups.iter().any(|g| l.starts_with(g))).map(str::to_owned).collect();
        if found.is_empty() { Err(format!("no failpoint begins with {groups:?}")) } else { Ok(found) }
    }

    /// A path of this case.
    pub fn file(&self, name: &str) -> String {
        self.dir.join(name).to_string_lossy().into_owned()
    }

    /// Makes a directory of this case.
    pub fn make_dir(&self, name: &str) -> Result<PathBuf, String> {
        let d = self.dir.join(name);
        std::fs::create_dir(&d).map_err(|e| format!("{}: {e}", d.display()))?;
        Ok(d)
    }

    /// The tree is as it was, at once or after a moment: what is on its way home when ghost dies arrives by itself.
    pub fn undisturbed(&self, v: &Victim, before: &Snapshot) -> Result<(), String> {
        let mut difference = None;
        for _ in 0..200 {
            difference = before.difference(&Snapshot::of_tree(v.pid));
            if difference.is_none() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Err(format!("pid {} is not as it was:\n{}", v.pid, difference.unwrap_or_default()))
    }

    /// Ends every process but those of the harness.
    pub fn end_all(&self) {
        pids().into_iter().filter(|p| !self.before.contains(p)).for_each(|p| signal(p, Signal::KILL));
    }

    /// No process but those of the harness is left.
    pub fn nobody_left(&self) -> Result<(), String> {
        let left = || pids().into_iter().filter(|p| !self.before.contains(p) && alive(*p)).collect::<Vec<_>>();
        self.until("no process is left", 5, || left().is_empty())
            .map_err(|_| format!("processes are left: {:?}", left()))
    }

    /// Waits until something holds.
    pub fn until(&self, what: &str, limit_s: u64, done: impl Fn() -> bool) -> Result<(), String> {
        let end = (Instant::now() + Duration::from_secs(limit_s)).min(self.runner.deadline());
        while !done() {
            if Instant::now() > end {
                return Err(format!("after {limit_s} s it is still not so that {what}"));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// A number below `limit` that follows from the seed.
    pub fn random(&mut self, limit: u64) -> u64 {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.seed >> 33) % limit.max(1)
    }
}

/// Whether a process exists and is no zombie.
pub fn alive(pid: u32) -> bool {
    let status = read(Path::new(&format!("/proc/{pid}/status")));
    !status.is_empty() && !status.contains("State:\tZ") && !status.contains("State:\tX")
}

/// Whether its first thread is in a job-control stop.
pub fn stopped(pid: u32) -> bool {
    read(Path::new(&format!("/proc/{pid}/status"))).contains("State:\tT")
}

/// Sends a signal to one process.
pub fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid as i32) {
        let _ = kill_process(pid, signal);
    }
}

fn read(path: &Path) -> String {
    std::fs::read(path).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default()
}
