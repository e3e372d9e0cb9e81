//! Commands under a limit of time, with all they said kept for the failure's text.
use std::fmt::Write as _;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Runs commands and keeps their story.
pub struct Runner {
    dir: PathBuf,
    deadline: Instant,
    story: Vec<Entry>,
}

/// A command that was started, and how it ended.
struct Entry {
    words: String,
    out: PathBuf,
    err: PathBuf,
    end: Option<String>,
}

/// A command that runs.
pub struct Running {
    number: usize,
    child: Child,
    begin: Instant,
}

impl Running {
    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it as by `kill -KILL`, wherever it is; one that has ended already does not mind.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
    }
}

/// What a command left.
#[derive(Debug)]
pub struct Done {
    /// Its exit status.
    pub status: ExitStatus,
    /// Its standard output, unless that was a pipe.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Runner {
    /// A runner that keeps its files in `dir` and lets nothing run beyond `deadline`.
    pub fn new(dir: &Path, deadline: Instant) -> Runner {
        Runner { dir: dir.to_owned(), deadline, story: Vec::new() }
    }

    /// When this case must be over.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Starts a command; stdout and stderr go to files, so that what it leaves behind holds no pipe open.
    pub fn start(
        &mut self,
        program: &Path,
        args: &[&str],
        stdin: Stdio,
        stdout: Option<Stdio>,
    ) -> Result<Running, String> {
        let number = self.story.len();
        let name = program.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let words = format!("{name} {}", args.join(" "));
        let (out, err) = (self.dir.join(format!("{number}.out")), self.dir.join(format!("{number}.err")));
        let file = |p: &Path| File::create(p).map_err(|e| format!("{}: {e}", p.display()));
        let stdout = match stdout {
            Some(given) => given,
            None => file(&out)?.into(),
        };
        let child = Command::new(program)
            .args(args)
            .stdin(stdin)
            .stdout(stdout)
            .stderr(file(&err)?)
            .spawn()
            .map_err(|e| format!("{words}: {e}"))?;
        self.story.push(Entry { words, out, err, end: None });
        Ok(Running { number, child, begin: Instant::now() })
    }

    /// Waits for a command, at most until the deadline; kills it then.
    pub fn finish(&mut self, mut r: Running) -> Result<Done, String> {
        let (status, late) = loop {
            match r.child.try_wait() {
                Ok(Some(status)) => break (status, None),
                Ok(None) if Instant::now() > self.deadline => {
                    let was = describe(r.child.id());
                    let _ = r.child.kill();
                    break (r.child.wait().map_err(|e| format!("wait: {e}"))?, Some(was));
                }
                Ok(None) => std::thread::sleep(Duration::from_millis(2)),
                Err(e) => return Err(format!("wait: {e}")),
            }
        };
        let entry = &mut self.story[r.number];
        entry.end = Some(format!("{status}, {} ms", r.begin.elapsed().as_millis()));
        if let Some(was) = late {
            return Err(format!("`{}` did not end in time and was killed; it was\n{was}", entry.words));
        }
        Ok(Done { status, stdout: text(&entry.out), stderr: text(&entry.err) })
    }

    /// Runs a command to its end and wants this exit status.
    pub fn expect(&mut self, code: i32, program: &Path, args: &[&str]) -> Result<Done, String> {
        let running = self.start(program, args, Stdio::null(), None)?;
        self.expect_of(code, running)
    }

    /// Waits for a command and wants this exit status.
    pub fn expect_of(&mut self, code: i32, running: Running) -> Result<Done, String> {
        let number = running.number;
        let done = self.finish(running)?;
        if done.status.code() == Some(code) {
            return Ok(done);
        }
        let said =
            done.stderr.lines().map(str::trim).filter(|line| !line.is_empty()).take(4).collect::<Vec<_>>().join(" / ");
        Err(format!("`{}`: expected exit status {code}, found {}: {said}", self.story[number].words, done.status))
    }

    /// All commands in order, with how they ended and what they said.
    pub fn story(&self) -> String {
        let mut s = String::new();
        for e in &self.story {
            let _ = writeln!(s, "$ {} ({})", e.words, e.end.as_deref().unwrap_or("not waited for"));
            for (name, path) in [("stdout", &e.out), ("stderr", &e.err)] {
                let said = text(path);
                if !said.trim().is_empty() {
                    let _ = writeln!(s, "  {name}: {}", said.trim().replace('\n', "\n          "));
                }
            }
        }
        s
    }
}

fn text(path: &Path) -> String {
    let mut s = std::fs::read(path).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default();
    if let Some((at, _)) = s.char_indices().nth(6000) {
        s.truncate(at);
        s.push('…');
    }
    s
}

/// The state of a process: what it is, where it sleeps, its signals.
pub fn describe(pid: u32) -> String {
    const FIELDS: &[&str] =
        &["State", "PPid", "TracerPid", "Threads", "SigQ", "SigPnd", "ShdPnd", "SigBlk", "SigIgn", "SigCgt", "Seccomp"];
    let read = |f: &str| std::fs::read_to_string(format!("/proc/{pid}/{f}")).unwrap_or_default();
    let status = read("status");
    let mut s = format!("pid {pid}: {}", read("cmdline").replace('\0', " ").trim());
    for line in status.lines().filter(|l| FIELDS.iter().any(|f| l.starts_with(f))) {
        let _ = write!(s, "\n    {}", line.replace('\t', " "));
    }
    let mut tasks: Vec<String> = std::fs::read_dir(format!("/proc/{pid}/task"))
        .map(|d| d.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect())
        .unwrap_or_default();
    tasks.truncate(20);
    for t in tasks {
        let of = |f: &str| read(&format!("task/{t}/{f}")).trim().to_owned();
        let _ = write!(s, "\n    task {t}: {} wchan {} syscall {}", of("comm"), of("wchan"), of("syscall"));
    }
    s
}

/// All pids of this pid namespace.
pub fn pids() -> Vec<u32> {
    let mut all: Vec<u32> = std::fs::read_dir("/proc")
        .map(|d| d.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).collect())
        .unwrap_or_default();
    all.sort_unstable();
    all
}
