//! One victim under one mechanism, inside a pid and mount namespace that ends with the case.
//!
//! The test process starts `victim ns … TEST-BINARY --case VICTIM MECHANISM FLAGS DIR`; what [`inside`] prints there is
//! the failure's text.
use crate::catalogue::Victim;
use crate::mechanism::Mechanism;
pub use crate::nest::Outcome;
use crate::nest::in_namespaces;
use crate::programs::Programs;
use crate::run::{Done, Runner, Running, describe, pids};
use rustix::fs::{Mode, OFlags};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// Runs a case in its own namespaces. `dir` must not exist; it is removed when the case passed.
pub fn outside(programs: &Programs, victim: &Victim, mechanism: Mechanism, dir: &Path) -> Outcome {
    match outside_inner(programs, victim, mechanism, dir) {
        Ok(outcome) => {
            let _ = std::fs::remove_dir_all(dir);
            outcome
        }
        Err(e) => Outcome::Failed(e),
    }
}

fn outside_inner(programs: &Programs, victim: &Victim, mechanism: Mechanism, dir: &Path) -> Result<Outcome, String> {
    let words = [victim.name.as_str(), mechanism.name(), &victim.flags.join("\t")];
    in_namespaces(programs, &words, dir, victim.seconds() + 20)
}

/// The inner half: called with the words after `--case`; returns the exit status.
pub fn inside(args: &[String]) -> i32 {
    let [name, mechanism, flags, dir] = args else { return 2 };
    let dir = PathBuf::from(dir);
    let flags = flags.split('\t').filter(|f| !f.is_empty()).map(str::to_owned).collect();
    let victim = Victim { name: name.clone(), flags };
    let result = crate::programs::find().and_then(|programs| {
        let mechanism = Mechanism::named(mechanism).ok_or("no such mechanism")?;
        Ok((programs, mechanism))
    });
    let (programs, mechanism) = match result {
        Ok(all) => all,
        Err(e) => {
            println!("{e}");
            return 1;
        }
    };
    let deadline = Instant::now() + Duration::from_secs(victim.seconds());
    let terminal = match victim.has("terminal").then(terminal).transpose() {
        Ok(t) => t,
        Err(e) => {
            println!("no terminal: {e}");
            return 1;
        }
    };
    let runner = Runner::new(&dir, deadline);
    let mut case = Case { programs, victim, runner, dir, pid: 0, witnesses: BTreeMap::new(), terminal };
    match case.play(mechanism) {
        Ok(None) => 0,
        Ok(Some(reason)) => {
            println!("{reason}");
            77
        }
        Err(what) => {
            println!("{}", case.whole_story(&what));
            1
        }
    }
}

/// An end, as wait(2) tells it.
#[derive(Clone, Copy, Debug)]
struct Ending {
    code: Option<i32>,
    signal: Option<i32>,
}

impl From<ExitStatus> for Ending {
    fn from(s: ExitStatus) -> Ending {
        Ending { code: s.code(), signal: s.signal() }
    }
}

/// Who learns how a process ended.
enum Witness {
    /// It is our child: a thread of ours waits for it.
    Child(Receiver<ExitStatus>, Option<ExitStatus>),
    /// It was restarted or cloned: init reaps it and notes its status, after so many earlier ones of that pid.
    Init(usize),
}

/// A case at work.
pub struct Case {
    programs: Programs,
    victim: Victim,
    runner: Runner,
    dir: PathBuf,
    pid: u32,
    witnesses: BTreeMap<u32, Witness>,
    /// For a victim that wants one: master and slave of a terminal that lasts as long as the case.
    terminal: Option<(OwnedFd, OwnedFd)>,
}

/// A new pseudo-terminal, which becomes nobody's controlling terminal by being opened.
fn terminal() -> std::io::Result<(OwnedFd, OwnedFd)> {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let name = ptsname(&master, Vec::new())?;
    let slave = rustix::fs::open(name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())?;
    Ok((master, slave))
}

impl Case {
    /// What the victim and whoever restarts it have as standard input: its terminal, or nothing.
    pub fn stdin(&self) -> Result<Stdio, String> {
        match &self.terminal {
            Some((_, slave)) => slave.try_clone().map(Stdio::from).map_err(|e| format!("the terminal: {e}")),
            None => Ok(Stdio::null()),
        }
    }

    /// The pid of the victim's root.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// A file of this case.
    pub fn file(&self, name: &str) -> String {
        self.dir.join(name).to_string_lossy().into_owned()
    }

    /// A number that no other case has at this time: pids and ports are those of namespaces of its own.
    pub fn number(&self) -> Result<u64, String> {
        let dir = std::fs::metadata(&self.dir).map_err(|e| format!("{}: {e}", self.dir.display()))?;
        Ok(std::os::unix::fs::MetadataExt::ino(&dir))
    }

    /// The kind that must be refused.
    pub fn refused_kind(&self) -> &str {
        self.victim.value("refuse").unwrap_or("")
    }

    /// Whether its refusal only shows once the process is asked.
    pub fn is_asked(&self) -> bool {
        self.victim.has("asked")
    }

    /// A TCP port of 127.0.0.1 that is free now.
    pub fn port(&self) -> Result<u16, String> {
        let l = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr());
        l.map(|a| a.port()).map_err(|e| format!("a free port: {e}"))
    }

    /// Runs ghost; it must succeed.
    pub fn ghost(&mut self, args: &[&str]) -> Result<Done, String> {
        self.ghost_expect(0, args)
    }

    /// Runs ghost and wants this exit status.
    pub fn ghost_expect(&mut self, code: i32, args: &[&str]) -> Result<Done, String> {
        let running = self.start(args, self.stdin()?, None)?;
        self.runner.expect_of(code, running)
    }

    /// Starts ghost.
    pub fn start(&mut self, args: &[&str], stdin: Stdio, stdout: Option<Stdio>) -> Result<Running, String> {
        let ghost = self.programs.ghost.clone();
        let mut args = args.to_vec();
        if let (Some("checkpoint" | "migrate" | "duplicate"), Some(kind)) =
            (args.first().copied(), self.victim.value("accept"))
        {
            args.extend(["--accept", kind]);
        }
        self.runner.start(&ghost, &args, stdin, stdout)
    }

    /// Waits for the two ends of a transfer; both must succeed. What the first said.
    pub fn both(&mut self, out: Running, into: Running) -> Result<Done, String> {
        let (a, b) = (self.runner.expect_of(0, out), self.runner.expect_of(0, into));
        match (a, b) {
            (Err(a), Err(b)) => Err(format!("{a}\n{b}")),
            (a, b) => a.and_then(|a| b.map(|_| a)),
        }
    }

    /// Waits until something listens at `tcp://127.0.0.1:PORT`, without connecting.
    pub fn listens(&self, url: &str) -> Result<(), String> {
        let port: u16 = url.rsplit(':').next().and_then(|p| p.parse().ok()).ok_or("no port")?;
        let wanted = format!(":{port:04X} ");
        self.until(&format!("nobody listens at {url}"), Duration::from_secs(10), || {
            ["/proc/self/net/tcp", "/proc/self/net/tcp6"]
                .iter()
                .any(|f| read(Path::new(f)).lines().any(|l| l.contains(&wanted) && l.contains(" 0A ")))
        })
    }

    /// Restarts the victim from a URL, under its old pid.
    pub fn restart(&mut self, url: &str) -> Result<(), String> {
        let pidfile = self.file("pidfile");
        let _ = std::fs::remove_file(&pidfile);
        self.ghost(&["restart", url, "--detach", "--pidfile", &pidfile])?;
        self.came_back()
    }

    /// The pid in the pidfile runs and is the old one; its verdict is awaited.
    pub fn came_back(&mut self) -> Result<(), String> {
        let text = read(Path::new(&self.file("pidfile")));
        let pid: u32 = text.trim().parse().map_err(|_| format!("no pid in the pidfile: {text:?}"))?;
        if pid != self.pid {
            return Err(format!("restarted as pid {pid}, not under its own pid {}", self.pid));
        }
        self.also(pid)
    }

    /// A verdict of this pid, which init reaps, is awaited, too.
    pub fn also(&mut self, pid: u32) -> Result<(), String> {
        if !Path::new(&format!("/proc/{pid}")).exists() {
            return Err(format!("pid {pid} does not run{}", self.how_it_ended(pid)));
        }
        let earlier = self.reaped(pid).len();
        self.witnesses.insert(pid, Witness::Init(earlier));
        Ok(())
    }

    /// Stops every process of the victim by SIGSTOP, and continues all of them.
    pub fn stop_and_continue(&self) -> Result<(), String> {
        use rustix::process::{Pid, Signal, kill_process};
        let ready = read(&self.dir.join("v/ready"));
        let tree = ready.lines().find_map(|l| l.strip_prefix("tree ")).ok_or("no tree in DIR/ready")?;
        for signal in [Signal::STOP, Signal::CONT] {
            for pid in tree.split_whitespace() {
                let pid = pid.parse().ok().and_then(Pid::from_raw).ok_or_else(|| format!("no pid: {pid}"))?;
                kill_process(pid, signal).map_err(|e| format!("{signal:?} to {pid:?}: {e}"))?;
            }
            std::thread::sleep(Duration::from_millis(60));
        }
        Ok(())
    }

    /// The victim was left running.
    pub fn still_runs(&mut self) -> Result<(), String> {
        let state = read(Path::new(&format!("/proc/{}/status", self.pid)));
        let of = |f: &str| state.lines().find_map(|l| l.strip_prefix(f)).unwrap_or("none").trim().to_owned();
        let (run, tracer) = (of("State:"), of("TracerPid:"));
        if run.starts_with(['R', 'S', 'D']) && tracer == "0" {
            return Ok(());
        }
        Err(format!("the victim was not left running: State {run}, TracerPid {tracer}"))
    }

    /// The victim is gone, and its parent was told that SIGKILL ended it.
    pub fn is_killed(&mut self) -> Result<(), String> {
        let pid = self.pid;
        let ending = self.ending(pid, Duration::from_secs(1));
        self.witnesses.remove(&pid);
        match ending {
            Some(Ending { signal: Some(9), .. }) => Ok(()),
            Some(e) => Err(format!("--kill: the parent was told {e:?}, not signal 9")),
            None => Err("--kill: the victim still runs after the command returned 0".into()),
        }
    }

    /// The statuses with which init reaped this pid, in order.
    fn reaped(&self, pid: u32) -> Vec<Ending> {
        let text = read(&self.dir.join("reaped"));
        text.lines()
            .filter_map(|l| i32::from_str_radix(l.strip_prefix(&format!("{pid} 0x"))?, 16).ok())
            .map(|raw| Ending::from(ExitStatus::from_raw(raw)))
            .collect()
    }

    fn how_it_ended(&self, pid: u32) -> String {
        self.reaped(pid).last().map(|e| format!(" (it ended: {e:?})")).unwrap_or_default()
    }

    fn until(&self, otherwise: &str, limit: Duration, done: impl Fn() -> bool) -> Result<(), String> {
        let end = (Instant::now() + limit).min(self.runner.deadline());
        while !done() {
            if Instant::now() > end {
                return Err(otherwise.to_owned());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// The whole case: `Some` reason when the victim cannot run here.
    fn play(&mut self, mechanism: Mechanism) -> Result<Option<String>, String> {
        let v = self.dir.join("v");
        let before = pids();
        let mut child = Command::new(&self.programs.victim)
            .args([Path::new(&self.victim.name), &v])
            .stdin(self.stdin()?)
            .stdout(self.stdin()?)
            .stderr(self.stdin()?)
            .spawn()
            .map_err(|e| format!("start the victim: {e}"))?;
        self.pid = child.id();
        let (tell, ended) = channel();
        // Its own thread waits, so that the pid is free as soon as the victim is gone.
        std::thread::spawn(move || child.wait().map(|s| tell.send(s)));
        self.witnesses.insert(self.pid, Witness::Child(ended, None));
        let (ready, skip, result) = (v.join("ready"), v.join("skip"), v.join(format!("result.{}", self.pid)));
        self.until("the victim did not get ready", Duration::from_secs(40), || {
            ready.exists() || skip.exists() || result.exists()
        })?;
        if skip.exists() {
            return Ok(Some(read(&skip)));
        }
        if !ready.exists() {
            return Err(format!("the victim's set-up failed: {}", read(&result)));
        }
        mechanism.act(self)?;
        std::fs::write(v.join("go"), "").map_err(|e| format!("go: {e}"))?;
        let awaited: Vec<u32> = self.witnesses.keys().copied().collect();
        let mut bad = String::new();
        for pid in awaited {
            if let Err(e) = self.verdict(pid) {
                let _ = writeln!(bad, "pid {pid}{}: {e}", if pid == self.pid { "" } else { " (the clone)" });
            }
        }
        let mine = |p: &u32| before.contains(p) || *p == std::process::id();
        let left = || pids().into_iter().filter(|p| !mine(p)).collect::<Vec<_>>();
        if bad.is_empty() && self.until("left", Duration::from_secs(2), || left().is_empty()).is_err() {
            let _ = writeln!(bad, "all verdicts are OK, but processes are left behind: {:?}", left());
        }
        if bad.is_empty() { Ok(None) } else { Err(bad) }
    }

    /// One process's verdict must be OK, and its status 0.
    fn verdict(&mut self, pid: u32) -> Result<(), String> {
        let result = self.dir.join("v").join(format!("result.{pid}"));
        let end = self.runner.deadline();
        while !result.exists() {
            if Instant::now() > end {
                return Err("no verdict in time".into());
            }
            if !Path::new(&format!("/proc/{pid}")).exists() && !result.exists() {
                return Err(format!("it ended without a verdict: {:?}", self.ending(pid, Duration::from_secs(1))));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        let text = read(&result);
        if text.trim() != "OK" {
            return Err(text.trim().to_owned());
        }
        match self.ending(pid, Duration::from_secs(3)) {
            Some(Ending { code: Some(0), .. }) => Ok(()),
            other => Err(format!("the verdict is OK, but the parent was not told exit status 0: {other:?}")),
        }
    }

    /// How a process ended, as its parent learnt it; none when it has not within `limit`.
    fn ending(&mut self, pid: u32, limit: Duration) -> Option<Ending> {
        match self.witnesses.get_mut(&pid) {
            Some(Witness::Child(ended, known)) => {
                *known = known.or_else(|| ended.recv_timeout(limit).ok());
                known.map(Ending::from)
            }
            Some(Witness::Init(earlier)) => {
                let earlier = *earlier;
                let _ = self.until("", limit, || self.reaped(pid).len() > earlier);
                self.reaped(pid).into_iter().nth(earlier)
            }
            None => None,
        }
    }

    fn whole_story(&self, what: &str) -> String {
        let mut s = what.trim_end().to_owned();
        let story = self.runner.story();
        if !story.is_empty() {
            let _ = write!(s, "\n--- commands\n{story}");
        }
        let me = std::process::id();
        let left: Vec<u32> = pids().into_iter().filter(|&p| p != 1 && p != me).collect();
        if !left.is_empty() {
            let _ = write!(s, "\n--- processes left ({})", left.len());
            for p in left.iter().take(12) {
                let _ = write!(s, "\n{}", describe(*p));
            }
        }
        s
    }
}

fn read(path: &Path) -> String {
    std::fs::read(path).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default()
}
