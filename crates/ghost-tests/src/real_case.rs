//! A real program under one mode, inside a pid and mount namespace that ends with the case.
//!
//! The undisturbed run is the reference. Then the program is taken away at random instants and brought back, and what comes
//! out must be the same to the byte.
use crate::programs::Programs;
use crate::real::Program;
use crate::real_play::Case;
use crate::run::{Runner, pids};

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What is done to the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Nothing, twice: it must be deterministic, else it can't be a judge.
    Alone,
    /// At `GHOST_INSTANTS` random instants: checkpoint --kill, restart, on to the end.
    Kill,
    /// Ten checkpoints in a row that do not end it, then a restart of each.
    Leave,
}

impl Mode {
    /// All modes.
    pub const ALL: [Mode; 3] = [Mode::Alone, Mode::Kill, Mode::Leave];

    /// Its name in a test's name.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Alone => "alone",
            Mode::Kill => "kill",
            Mode::Leave => "leave",
        }
    }
}

/// How long a server is left alone before it is asked for its state.
pub(crate) const SERVER_TIME: Duration = Duration::from_millis(500);
/// How many leaving checkpoints are taken.
pub(crate) const LEFT: u32 = 10;

/// The directories that come first in PATH: distributions' programs, not wrappers of version managers.
pub(crate) fn path_variable() -> String {
    // Debian keeps a database server of each version apart.
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let servers = versions.map(|v| format!("{}/bin:", v.path().display())).collect::<Vec<_>>().concat();
    format!("/usr/sbin:/usr/bin:/sbin:/bin:{servers}{}", std::env::var("PATH").unwrap_or_default())
}

/// The first command that is not installed.
pub fn missing(p: &Program) -> Option<&'static str> {
    let path = path_variable();
    p.needs.iter().copied().find(|c| !path.split(':').any(|d| Path::new(d).join(c).is_file()))
}

/// The number in an environment variable.
fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).ok().and_then(|v| v.parse().ok()).unwrap_or(otherwise)
}

/// How many random instants a program is killed at.
pub fn instants() -> u64 {
    number("GHOST_INSTANTS", 3)
}

/// Runs a case in its own namespaces: the failure's text, if it failed.
pub fn outside(programs: &Programs, p: &Program, mode: Mode, dir: &Path) -> Result<(), String> {
    let text = |e: std::io::Error| format!("{}: {e}", dir.display());
    fs::create_dir(dir).map_err(text)?;
    let said = dir.join("case.out");
    let out = fs::File::create(&said).map_err(text)?;
    let exe = std::env::current_exe().map_err(text)?;
    let mut child = Command::new(&programs.victim)
        .args(["ns", "--reaped"])
        .arg(dir.join("reaped"))
        .args(if p.own_net { OWN_NET } else { &[] })
        .arg(exe)
        .args(["--case", p.name, mode.name()])
        .arg(dir)
        .env("GHOST_BIN", &programs.ghost)
        .env("VICTIM_BIN", &programs.victim)
        .stdin(Stdio::null())
        .stdout(out.try_clone().map_err(text)?)
        .stderr(out)
        .spawn()
        .map_err(text)?;
    let hard = Instant::now() + limit() + Duration::from_secs(20);
    let status = loop {
        if let Some(status) = child.try_wait().map_err(text)? {
            break status;
        }
        if Instant::now() > hard {
            let _ = child.kill();
            let _ = child.wait();
            return Err(format!("the case itself hung\n{}", read(&said)));
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    if !status.success() {
        return Err(format!("{status}\n{}", read(&said)));
    }
    fs::remove_dir_all(dir).map_err(text)
}

/// Before the words of a command: gives it a network of its own.
const OWN_NET: &[&str] = &["unshare", "-n", "sh", "-c", "ip link set lo up && exec \"$@\"", "sh"];

/// What one case may take: more for more instants.
fn limit() -> Duration {
    Duration::from_secs(300 + 20 * instants())
}

/// The inner half: called with the words after `--case`; returns the exit status.
pub fn inside(args: &[String]) -> i32 {
    let [name, mode, dir] = args else { return 2 };
    let p = crate::real::named(name);
    let mode = Mode::ALL.into_iter().find(|m| m.name() == mode);
    let (Some(p), Some(mode)) = (p, mode) else { return 2 };
    let dir = PathBuf::from(dir);
    let programs = match crate::programs::find() {
        Ok(p) => p,
        Err(e) => {
            println!("{e}");
            return 1;
        }
    };
    let seed =
        number("GHOST_SEED", u64::from(std::process::id()) ^ Instant::now().elapsed().as_nanos() as u64 ^ clock());
    let runner = Runner::new(&dir, Instant::now() + limit());
    let mut case = Case { ghost: programs.ghost, victim: programs.victim, p, dir, runner, seed, before: pids() };
    match case.play(mode) {
        Ok(()) => 0,
        Err(what) => {
            println!("{what}\n(GHOST_SEED={seed})\n--- commands\n{}", case.runner.story());
            for f in ["work/out", "work/err"] {
                let said = read(&case.dir.join(f));
                let tail: Vec<&str> = said.lines().rev().take(10).collect();
                println!("--- end of {f}\n{}", tail.into_iter().rev().collect::<Vec<_>>().join("\n"));
            }
            for pid in case.left() {
                println!("{}", crate::run::describe(pid));
            }
            1
        }
    }
}

fn clock() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(1, |d| d.as_nanos() as u64)
}

pub(crate) fn read(path: &Path) -> String {
    fs::read(path).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default()
}
