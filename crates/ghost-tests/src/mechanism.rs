//! The mechanisms: how a victim leaves its system and comes back, as `ghost` commands.
use crate::case::Case;
use crate::catalogue::Victim;
use std::process::Stdio;

/// One way to disturb a victim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mechanism {
    /// Nothing happens: what fails here is the victim's own fault.
    Alone,
    /// Stopped and continued by signals: the least that any mechanism does to it.
    Stop,
    /// Checkpointed, and left running.
    Leave,
    /// Checkpointed to a file, killed, restarted.
    Disk,
    /// The same through the memory store.
    Memory,
    /// A checkpoint piped into a restart.
    Pipe,
    /// A checkpoint sent over TCP to a restart that listens.
    Network,
    /// `ghost migrate` to `ghost receive`.
    Migrate,
    /// A second one beside it.
    Duplicate,
    /// Left running, then killed and restarted, and that once more.
    Twice,
    /// Must be refused, without harm.
    Refuse,
}

use Mechanism::{Alone, Disk, Duplicate, Leave, Memory, Migrate, Network, Pipe, Refuse, Stop, Twice};

impl Mechanism {
    /// All of them.
    pub const ALL: &[Mechanism] = &[Alone, Stop, Leave, Disk, Memory, Pipe, Network, Migrate, Duplicate, Twice, Refuse];

    /// Its name in a test's name.
    pub fn name(self) -> &'static str {
        match self {
            Alone => "alone",
            Stop => "stop",
            Leave => "leave",
            Disk => "disk",
            Memory => "memory",
            Pipe => "pipe",
            Network => "network",
            Migrate => "migrate",
            Duplicate => "duplicate",
            Twice => "twice",
            Refuse => "refuse",
        }
    }

    /// The mechanism of this name.
    pub fn named(name: &str) -> Option<Mechanism> {
        Mechanism::ALL.iter().copied().find(|m| m.name() == name)
    }

    /// Whether a victim with these flags goes through it at all.
    pub fn concerns(self, victim: &Victim) -> bool {
        let refused = victim.value("refuse").is_some();
        match self {
            Alone => true,
            Refuse => refused,
            // What restarts from a pipe has no terminal on its standard input.
            Pipe => !refused && !victim.has("terminal"),
            _ => !refused,
        }
    }

    /// Disturbs the ready victim of `case`; on return exactly the pids told to the case are to give a verdict.
    pub fn act(self, case: &mut Case) -> Result<(), String> {
        let (pid, file) = (case.pid().to_string(), case.file("image.ghost"));
        let disk = format!("disk:{file}");
        match self {
            Alone => std::thread::sleep(std::time::Duration::from_millis(50)),
            Stop => case.stop_and_continue()?,
            Leave => {
                case.ghost(&["checkpoint", &pid, "-o", &disk])?;
                case.still_runs()?;
                if std::fs::metadata(&file).map_or(0, |m| m.len()) == 0 {
                    return Err(format!("the checkpoint is done, but {file} is not there or empty"));
                }
                case.ghost(&["verify", &file])?;
            }
            Disk => {
                case.ghost(&["checkpoint", &pid, "-o", &file, "--kill"])?;
                case.is_killed()?;
                case.restart(&file)?;
            }
            Memory => {
                let name = format!("mem:ghost-tests-{}", case.number()?);
                case.ghost(&["checkpoint", &pid, "-o", &name, "--kill"])?;
                case.is_killed()?;
                let restarted = case.restart(&name);
                let removed = case.ghost(&["remove", &name]);
                restarted.and(removed.map(drop))?;
            }
            Pipe => {
                let (reader, writer) = std::io::pipe().map_err(|e| format!("pipe: {e}"))?;
                let pidfile = case.file("pidfile");
                let out = case.start(&["checkpoint", &pid, "-o", "-", "--kill"], Stdio::null(), Some(writer.into()))?;
                let into = case.start(&["restart", "-", "--detach", "--pidfile", &pidfile], reader.into(), None)?;
                case.both(out, into)?;
                case.is_killed()?;
                case.came_back()?;
            }
            Network => {
                let url = format!("tcp://127.0.0.1:{}", case.port()?);
                let pidfile = case.file("pidfile");
                let into = case.start(&["restart", &url, "--detach", "--pidfile", &pidfile], case.stdin()?, None)?;
                case.listens(&url)?;
                let out = case.start(&["checkpoint", &pid, "-o", &url, "--kill"], Stdio::null(), None)?;
                case.both(out, into)?;
                case.is_killed()?;
                case.came_back()?;
            }
            Migrate => {
                let url = format!("tcp://127.0.0.1:{}", case.port()?);
                let pidfile = case.file("pidfile");
                let into = case.start(&["receive", &url, "--detach", "--pidfile", &pidfile], case.stdin()?, None)?;
                case.listens(&url)?;
                let out = case.start(&["migrate", &pid, &url, "--json"], Stdio::null(), None)?;
                let said = case.both(out, into)?.stdout;
                if !said.contains(&format!("\"pid_there\":{pid}")) {
                    return Err(format!("migrate does not say that it runs as pid {pid} there: {said}"));
                }
                case.is_killed()?;
                case.came_back()?;
            }
            Duplicate => {
                let said = case.ghost(&["duplicate", &pid])?.stdout;
                let clone = said.trim().parse().map_err(|_| format!("`ghost duplicate` printed no pid: {said:?}"))?;
                case.still_runs()?;
                case.also(clone)?;
            }
            Twice => {
                case.ghost(&["checkpoint", &pid, "-o", &case.file("first.ghost")])?;
                case.still_runs()?;
                for name in ["second.ghost", "third.ghost"] {
                    let file = case.file(name);
                    case.ghost(&["checkpoint", &pid, "-o", &file, "--kill"])?;
                    case.is_killed()?;
                    case.restart(&file)?;
                }
            }
            Refuse => {
                let kind = case.refused_kind().to_owned();
                let commands = [vec!["check", &pid], vec!["checkpoint", &pid, "-o", &file]];
                for args in commands.into_iter().skip(case.is_asked().into()) {
                    let done = case.ghost_expect(3, &args)?;
                    if !(done.stdout + &done.stderr).to_lowercase().contains(&kind.to_lowercase()) {
                        return Err(format!("`ghost {}` refuses, but does not name `{kind}`", args.join(" ")));
                    }
                }
                if std::path::Path::new(&file).exists() {
                    return Err(format!("the refused checkpoint left {file} behind"));
                }
                case.still_runs()?;
            }
        }
        Ok(())
    }
}
