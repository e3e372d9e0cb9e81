//! A real program under one mode, inside a pid and mount namespace that ends with the case.
//!
//! The undisturbed run is the reference. Then the program is taken away at random instants and brought back, and what comes
//! out must be the same to the byte.
use crate::programs::Programs;
use crate::real::Program;
use crate::run::{Runner, pids};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
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
const SERVER_TIME: Duration = Duration::from_millis(500);
/// How many leaving checkpoints are taken.
const LEFT: u32 = 10;

/// The directories that come first in PATH: distributions' programs, not wrappers of version managers.
fn path_variable() -> String {
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

fn read(path: &Path) -> String {
    fs::read(path).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default()
}

type Outputs = BTreeMap<&'static str, Vec<u8>>;

struct Case {
    ghost: PathBuf,
    victim: PathBuf,
    p: &'static Program,
    dir: PathBuf,
    runner: Runner,
    seed: u64,
    before: Vec<u32>,
}

impl Case {
    fn work(&self) -> PathBuf {
        self.dir.join("work")
    }

    fn file(&self, name: &str) -> String {
        self.dir.join(name).to_string_lossy().into_owned()
    }

    /// Processes of this namespace that are neither init nor the case.
    fn left(&self) -> Vec<u32> {
        pids().into_iter().filter(|p| !self.before.contains(p)).collect()
    }

    /// A random part of 1, in thousandths.
    fn thousandths(&mut self) -> u32 {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        (self.seed.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 40) as u32 % 1000
    }

    fn shell(&mut self, script: &str) -> Result<(), String> {
        if script.is_empty() {
            return Ok(());
        }
        let out = Command::new("timeout")
            .args(["120", "sh", "-c", script])
            .current_dir(self.work())
            .env("PATH", path_variable())
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .output()
            .map_err(|e| format!("sh: {e}"))?;
        if out.status.success() {
            return Ok(());
        }
        Err(format!("`{script}`: {}\n{}", out.status, String::from_utf8_lossy(&out.stderr)))
    }

    /// Makes the program's directory as it is before every run, and keeps a copy.
    fn prepare(&mut self) -> Result<(), String> {
        let work = self.work();
        fs::create_dir(&work).map_err(|e| e.to_string())?;
        for (name, content) in self.p.files {
            fs::write(work.join(name), content).map_err(|e| format!("{name}: {e}"))?;
        }
        self.shell(self.p.prepare)?;
        // Temporary files are kept with the rest.
        fs::create_dir_all(work.join("tmp")).map_err(|e| e.to_string())?;
        copy(&work, &self.dir.join("base"))
    }

    /// Starts the program in a fresh directory, leader of a session of its own.
    fn start(&mut self) -> Result<Child, String> {
        let work = self.work();
        fs::remove_dir_all(&work).map_err(|e| e.to_string())?;
        copy(&self.dir.join("base"), &work)?;
        let file = |n: &str| fs::File::create(work.join(n)).map_err(|e| format!("{n}: {e}"));
        let child = Command::new(&self.victim)
            .arg("bare")
            .args(self.p.run)
            .current_dir(&work)
            .env("PATH", path_variable())
            .env("LC_ALL", "C")
            .env("HOME", &work)
            .env("TMPDIR", work.join("tmp"))
            .env("PERL_HASH_SEED", "0")
            .stdin(Stdio::null())
            .stdout(file("out")?)
            .stderr(file("err")?)
            .spawn()
            .map_err(|e| format!("{}: {e}", self.p.run.join(" ")))?;
        self.shell(self.p.after_start)?;
        Ok(child)
    }

    /// Waits for the end of a program that is our child; it must exit with 0.
    fn ends(&self, child: &mut Child) -> Result<(), String> {
        loop {
            match child.try_wait() {
                Ok(Some(s)) if s.success() => return Ok(()),
                Ok(Some(s)) => return Err(format!("the program ended with {s}")),
                Ok(None) if Instant::now() > self.runner.deadline() => {
                    return Err("the program did not end in time".into());
                }
                Ok(None) => std::thread::sleep(Duration::from_millis(2)),
                Err(e) => return Err(format!("wait: {e}")),
            }
        }
    }

    /// Everything that must be the same.
    fn outputs(&self) -> Result<Outputs, String> {
        let standard = self.p.says_the_same.then_some("out");
        let names = self.p.outputs.iter().copied().chain(standard);
        names.map(|n| fs::read(self.work().join(n)).map(|b| (n, b)).map_err(|e| format!("{n}: {e}"))).collect()
    }

    fn same(&self, when: &str, expected: &Outputs) -> Result<(), String> {
        let found = self.outputs()?;
        for (name, bytes) in expected {
            let other = &found[name];
            if bytes != other {
                let at = bytes.iter().zip(other).take_while(|(a, b)| a == b).count();
                let (a, b) = (bytes.len(), other.len());
                return Err(format!(
                    "{when}: {name} differs from the undisturbed run: {b} bytes, not {a}; first at byte {at}"
                ));
            }
        }
        let end = Instant::now() + Duration::from_secs(2);
        while !self.left().is_empty() {
            if Instant::now() > end {
                return Err(format!("{when}: processes are left behind"));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// An undisturbed run: its outputs, and how long it took.
    fn reference(&mut self) -> Result<(Outputs, Duration), String> {
        let mut child = self.start()?;
        let begin = Instant::now();
        if !self.p.finish.is_empty() {
            std::thread::sleep(SERVER_TIME);
            self.shell(self.p.finish)?;
        }
        self.ends(&mut child).map_err(|e| format!("undisturbed: {e}"))?;
        let time = begin.elapsed();
        Ok((self.outputs()?, time))
    }

    fn play(&mut self, mode: Mode) -> Result<(), String> {
        self.prepare()?;
        let (expected, time) = self.reference()?;
        match mode {
            Mode::Alone => {
                self.reference()?;
                self.same("a second undisturbed run", &expected)
            }
            Mode::Kill => self.kill(&expected, time),
            Mode::Leave => self.leave(&expected, time),
        }
    }

    fn kill(&mut self, expected: &Outputs, time: Duration) -> Result<(), String> {
        let mut done = 0;
        let mut tries = 0;
        while done < instants() {
            tries += 1;
            if tries > 3 * instants() + 5 {
                return Err(format!("in {tries} tries the program was mostly over before its instant came"));
            }
            let part = self.thousandths();
            let when = format!("killed at {part}/1000 of {} ms", time.as_millis());
            let mut child = self.start()?;
            std::thread::sleep(time * part / 1000);
            if child.try_wait().map_err(|e| e.to_string())?.is_some() {
                continue;
            }
            let image = self.file(&format!("{done}.ghost"));
            let pid = child.id().to_string();
            let taken = self.ghost(0, &["checkpoint", &pid, "-o", &image, "--kill"]);
            if let Err(e) = taken {
                // A program that came to its end just then is no failure of ghost.
                if child.try_wait().map_err(|e| e.to_string())?.is_some_and(|s| s.success()) {
                    continue;
                }
                return Err(format!("{when}: {e}"));
            }
            let status = child.wait().map_err(|e| e.to_string())?;
            if std::os::unix::process::ExitStatusExt::signal(&status) != Some(9) {
                return Err(format!("{when}: the parent was told {status}, not SIGKILL"));
            }
            if done % 2 == 0 { self.restart(&image) } else { self.restart_detached(&image) }
                .map_err(|e| format!("{when}: {e}"))?;
            self.same(&when, expected)?;
            let _ = fs::remove_file(&image);
            done += 1;
        }
        Ok(())
    }

    fn leave(&mut self, expected: &Outputs, time: Duration) -> Result<(), String> {
        let mut child = self.start()?;
        let mut taken = Vec::new();
        for n in 0..LEFT {
            std::thread::sleep(time / (LEFT + 2));
            if child.try_wait().map_err(|e| e.to_string())?.is_some() {
                break;
            }
            let image = self.file(&format!("{n}.ghost"));
            let pid = child.id().to_string();
            if n % 2 == 1 {
                // Left running, and the image only read: by the time of a restart its files would be those of later.
                let live = self.file(&format!("{n}.live.ghost"));
                let done = self.ghost(0, &["checkpoint", &pid, "-o", &live]);
                if let Err(e) = done.and_then(|_| self.ghost(0, &["verify", &live])) {
                    if over(&mut child) {
                        break;
                    }
                    return Err(e);
                }
                let _ = fs::remove_file(live);
            }
            // Left stopped for as long as its files are copied: the copy is of that very instant.
            if let Err(e) = self.ghost(0, &["checkpoint", &pid, "-o", &image, "--stop"]) {
                if over(&mut child) {
                    break;
                }
                return Err(e);
            }
            let snap = self.dir.join(format!("snap{n}"));
            copy(&self.work(), &snap)?;
            for p in self.left() {
                if let Some(p) = rustix::process::Pid::from_raw(p as i32) {
                    let _ = rustix::process::kill_process(p, rustix::process::Signal::CONT);
                }
            }
            taken.push((image, snap));
        }
        if taken.is_empty() {
            return Err("the program was over before the first checkpoint".into());
        }
        self.shell(self.p.finish)?;
        self.ends(&mut child).map_err(|e| format!("after {LEFT} checkpoints that leave it running: {e}"))?;
        self.same("after checkpoints that leave it running", expected)?;
        for (image, snap) in taken {
            put_back(&snap, &self.work())?;
            self.restart(&image).map_err(|e| format!("restart of {image}: {e}"))?;
            self.same(&format!("restart of {image}"), expected)?;
        }
        Ok(())
    }

    fn ghost(&mut self, code: i32, args: &[&str]) -> Result<crate::run::Done, String> {
        let ghost = self.ghost.clone();
        self.runner.expect(code, &ghost, args)
    }

    /// Restart in the foreground: it exits as the program does.
    fn restart(&mut self, image: &str) -> Result<(), String> {
        let ghost = self.ghost.clone();
        let running = self.runner.start(&ghost, &["restart", image], Stdio::null(), None)?;
        if !self.p.finish.is_empty() {
            std::thread::sleep(SERVER_TIME);
            self.shell(self.p.finish)?;
        }
        self.runner.expect_of(0, running).map(drop)
    }

    /// Restart that leaves the program to init, whose note tells how it ended.
    fn restart_detached(&mut self, image: &str) -> Result<(), String> {
        let pidfile = self.file("pidfile");
        let _ = fs::remove_file(&pidfile);
        let reaped = |case: &Case| read(&case.dir.join("reaped"));
        let earlier = reaped(self).lines().count();
        self.ghost(0, &["restart", image, "--detach", "--pidfile", &pidfile])?;
        let pid = read(Path::new(&pidfile)).trim().to_owned();
        self.shell(self.p.finish)?;
        loop {
            let text = reaped(self);
            if let Some(l) = text.lines().skip(earlier).find(|l| l.starts_with(&format!("{pid} "))) {
                return if l.ends_with(" 0x0") { Ok(()) } else { Err(format!("init was told of the program: {l}")) };
            }
            if Instant::now() > self.runner.deadline() {
                return Err(format!("the program (pid {pid}) did not end in time"));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Copies a directory: regular files with mode, owner and times, and directories; nothing else.
fn copy(from: &Path, to: &Path) -> Result<(), String> {
    let text = |e: std::io::Error| format!("{}: {e}", from.display());
    fs::create_dir_all(to).map_err(text)?;
    same_owner_and_mode(from, to)?;
    for entry in fs::read_dir(from).map_err(text)? {
        let entry = entry.map_err(text)?;
        let (path, kind) = (to.join(entry.file_name()), entry.file_type().map_err(text)?);
        if kind.is_dir() {
            copy(&entry.path(), &path)?;
        } else if kind.is_file() {
            put_back_file(&entry.path(), &path)?;
        }
    }
    Ok(())
}

/// Makes the files of a directory what they were, in their old inodes where these are still there.
fn put_back(from: &Path, to: &Path) -> Result<(), String> {
    let text = |e: std::io::Error| format!("{}: {e}", to.display());
    for entry in fs::read_dir(to).map_err(text)? {
        let entry = entry.map_err(text)?;
        let kind = entry.file_type().map_err(text)?;
        let there = from.join(entry.file_name()).exists();
        match (kind.is_dir(), there) {
            (true, true) => put_back(&from.join(entry.file_name()), &entry.path())?,
            (true, false) => fs::remove_dir_all(entry.path()).map_err(text)?,
            (false, true) => {}
            (false, false) => fs::remove_file(entry.path()).map_err(text)?,
        }
    }
    copy(from, to)
}

fn put_back_file(from: &Path, to: &Path) -> Result<(), String> {
    let text = |e: std::io::Error| format!("{}: {e}", to.display());
    let bytes = fs::read(from).map_err(text)?;
    let meta = fs::metadata(from).map_err(text)?;
    fs::write(to, bytes).map_err(text)?;
    same_owner_and_mode(from, to)?;
    let times = fs::FileTimes::new().set_modified(meta.modified().map_err(text)?);
    fs::File::options().write(true).open(to).and_then(|f| f.set_times(times)).map_err(text)
}

fn same_owner_and_mode(from: &Path, to: &Path) -> Result<(), String> {
    use std::os::unix::fs::MetadataExt as _;
    let text = |e: std::io::Error| format!("{}: {e}", to.display());
    let meta = fs::metadata(from).map_err(text)?;
    std::os::unix::fs::chown(to, Some(meta.uid()), Some(meta.gid())).map_err(text)?;
    fs::set_permissions(to, meta.permissions()).map_err(text)
}

/// Whether the program came to its end by itself while a checkpoint was looking at it: then that checkpoint rightly failed.
fn over(child: &mut Child) -> bool {
    std::thread::sleep(Duration::from_millis(500));
    matches!(child.try_wait(), Ok(Some(_)))
}
