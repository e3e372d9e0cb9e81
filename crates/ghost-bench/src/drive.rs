//! Starting a program, running the `ghost` command on it, and waiting for what must be seen.

use serde_json::Value;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What a step of a measurement returns; the text says what went wrong.
pub type Res<T = ()> = Result<T, String>;

/// Milliseconds, for tables.
pub fn ms(d: Duration) -> f64 {
    d.as_secs_f64() * 1e3
}

/// The middle one of some measurements.
pub fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    match all.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => all[n / 2],
        n => f64::midpoint(all[n / 2 - 1], all[n / 2]),
    }
}

/// How the `ghost` command is run.
pub struct Ghost {
    /// The command.
    pub path: PathBuf,
}

/// What a `ghost` command took and told.
pub struct Told {
    /// From its start to its end.
    pub wall_ms: f64,
    /// Its answer.
    pub json: Value,
    /// The most memory it had, as far as it was seen, in KiB.
    pub peak_kib: u64,
}

impl Told {
    /// A number of the answer.
    pub fn number(&self, name: &str) -> f64 {
        self.json[name].as_f64().unwrap_or(f64::NAN)
    }
}

impl Ghost {
    /// The command, to be run with these words.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.path);
        command.arg("--json").args(words).stdin(Stdio::null());
        command
    }

    /// Runs it, and takes the time and the answer.
    pub fn run(&self, words: &[&str]) -> Res<Told> {
        let mut command = self.command(words);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let began = Instant::now();
        let child = command.spawn().map_err(|e| format!("{}: {e}", self.path.display()))?;
        let watch = PeakWatch::of(child.id());
        let out = child.wait_with_output().map_err(|e| format!("waiting for ghost: {e}"))?;
        let wall_ms = ms(began.elapsed());
        let peak_kib = watch.end();
        if !out.status.success() {
            return Err(format!(
                "ghost {}: {}\n{}",
                words.join(" "),
                out.status,
                String::from_utf8_lossy(&out.stderr).trim()
            ));
        }
        let last = String::from_utf8_lossy(&out.stdout).lines().last().unwrap_or("null").to_owned();
        let json =
            serde_json::from_str(&last).map_err(|e| format!("ghost {}: no JSON in {last:?}: {e}", words.join(" ")))?;
        Ok(Told { wall_ms, json, peak_kib })
    }

    /// Checkpoints to a path, replacing what is there.
    pub fn checkpoint(&self, pid: i32, to: &Path, more: &[&str]) -> Res<Told> {
        let (pid, to) = (pid.to_string(), to.display().to_string());
        self.run(&[&["checkpoint", &pid, "-o", &to, "--replace"][..], more].concat())
    }

    /// Restarts, so that it outlives the command.
    pub fn restart(&self, from: &Path) -> Res<Told> {
        self.run(&["restart", &from.display().to_string(), "--detach"])
    }
}

/// Looks at the peak of a process's memory until it ends: it cannot be asked for afterwards.
struct PeakWatch {
    stop: std::sync::mpsc::Sender<()>,
    thread: std::thread::JoinHandle<u64>,
}

impl PeakWatch {
    fn of(pid: u32) -> Self {
        let (stop, stopped) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let mut peak = 0;
            while matches!(
                stopped.recv_timeout(Duration::from_millis(5)),
                Err(std::sync::mpsc::RecvTimeoutError::Timeout)
            ) {
                peak = status_kib(pid as i32, "VmHWM:").unwrap_or(peak).max(peak);
            }
            peak
        });
        Self { stop, thread }
    }
    fn end(self) -> u64 {
        drop(self.stop);
        self.thread.join().unwrap_or(0)
    }
}

/// A line of `/proc/PID/status` that is in kB.
pub fn status_kib(pid: i32, name: &str) -> Option<u64> {
    kib_line(&std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?, name)
}

/// The value of a line `Name:   123 kB`.
pub fn kib_line(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|l| l.strip_prefix(name))?.trim().strip_suffix("kB")?.trim().parse().ok()
}

/// A running program of [`crate::work`].
pub struct Program {
    /// Its pid, also after restarts.
    pub pid: i32,
    /// The directory that it writes into.
    pub dir: PathBuf,
    /// Only the first one is our child.
    child: Option<Child>,
}

impl Program {
    /// Starts one and waits until it is ready.
    pub fn start(words: &[&str], dir: &Path) -> Res<Self> {
        let _ = std::fs::remove_dir_all(dir);
        std::fs::create_dir_all(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        let out = File::create(dir.join("out")).map_err(|e| format!("its output: {e}"))?;
        let me = std::env::current_exe().map_err(|e| format!("my own path: {e}"))?;
        let mut command = Command::new(me);
        command.arg("work").args(words).arg("--dir").arg(dir);
        command.stdin(Stdio::null()).stderr(out.try_clone().map_err(|e| format!("its output: {e}"))?).stdout(out);
        let child = command.spawn().map_err(|e| format!("starting {}: {e}", words.join(" ")))?;
        let pid = child.id() as i32;
        let mut program = Self { pid, dir: dir.to_owned(), child: Some(child) };
        let ready = until(Duration::from_secs(120), || dir.join("pid").exists() || !alive(pid));
        if !ready || !alive(pid) {
            let said = std::fs::read_to_string(dir.join("out")).unwrap_or_default();
            program.end();
            return Err(format!("{} did not get ready: {}", words.join(" "), said.trim()));
        }
        Ok(program)
    }

    /// Its counter.
    pub fn beat(&self) -> u64 {
        std::fs::read_to_string(self.dir.join("beat")).ok().and_then(|t| t.trim().parse().ok()).unwrap_or(0)
    }

    /// How long it takes until the counter moves.
    pub fn next_beat(&self, from: u64) -> Res<Duration> {
        let began = Instant::now();
        if until(Duration::from_secs(60), || self.beat() != from) {
            Ok(began.elapsed())
        } else {
            Err(format!("pid {} does not go on", self.pid))
        }
    }

    /// Makes it check itself.
    pub fn verify(&self) -> Res {
        let path = self.dir.join("verify");
        let _ = std::fs::remove_file(&path);
        signal(self.pid, rustix::process::Signal::USR1)?;
        let verdict = || std::fs::read_to_string(&path).unwrap_or_default();
        if until(Duration::from_secs(120), || !verdict().is_empty()) && verdict() == "OK" {
            Ok(())
        } else {
            Err(format!("pid {}: after the restart it says {:?}", self.pid, verdict()))
        }
    }

    /// Waits until nothing of it is left, so that its pids are free.
    pub fn gone(&mut self) -> Res {
        if let Some(mut child) = self.child.take() {
            let _ = child.wait();
        }
        let only_us = || {
            reap();
            others().is_empty()
        };
        if until(Duration::from_secs(20), only_us) { Ok(()) } else { Err(format!("pids {:?} do not end", others())) }
    }

    /// It lives in another namespace now, or has ended there: nothing of it is ours to end.
    pub fn moved(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.wait();
        }
        self.pid = 0;
    }

    /// Ends it.
    pub fn end(&mut self) {
        if self.pid == 0 {
            return;
        }
        if let Some(child) = &mut self.child {
            let _ = child.kill();
        } else {
            let _ = signal(self.pid, rustix::process::Signal::KILL);
        }
        let _ = self.gone();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.end();
    }
}

/// Whether a process lives and is no zombie.
pub fn alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

/// Everything in our pid namespace but the bench itself and its helpers, which it marks by [`spare`].
fn others() -> Vec<i32> {
    let spared = SPARED.lock().map(|s| s.clone()).unwrap_or_default();
    let pids = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|e| e.file_name().to_str().and_then(|n| n.parse::<i32>().ok()));
    pids.filter(|p| *p != std::process::id() as i32 && !spared.contains(p)).collect()
}

static SPARED: std::sync::Mutex<Vec<i32>> = std::sync::Mutex::new(Vec::new());

/// A helper of the bench that lives on while programs come and go.
pub fn spare(pid: i32) {
    if let Ok(mut all) = SPARED.lock() {
        all.push(pid);
    }
}

/// Waits for orphans: the bench is pid 1 of its namespace. Its own children are waited for by whoever started them.
fn reap() {
    for pid in others() {
        let Some(pid) = rustix::process::Pid::from_raw(pid) else { continue };
        let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::NOHANG);
    }
}

/// Sends a signal.
pub fn signal(pid: i32, signal: rustix::process::Signal) -> Res {
    let to = rustix::process::Pid::from_raw(pid).ok_or("pid 0")?;
    rustix::process::kill_process(to, signal).map_err(|e| format!("signalling pid {pid}: {e}"))
}

/// Waits for something, at most this long; says whether it came.
pub fn until(at_most: Duration, mut done: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + at_most;
    loop {
        if done() {
            return true;
        }
        if Instant::now() > end {
            return false;
        }
        std::thread::sleep(Duration::from_micros(200));
    }
}
