//! The steps of the demo, told from pid 1 of its own namespaces.

use super::link::{self, ADDRESSES, DEVICE};
use super::program::{self, Line, Program};
use super::screen::Screen;
use crate::args::Cli;
use crate::fail::Fail;
use crate::say::size;
use rustix::process::{Pid, Signal, WaitOptions, kill_process, wait};
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(10);
const PORT: u16 = 7077;

struct Story<'a> {
    screen: Screen,
    exe: PathBuf,
    directory: &'a Path,
    program: Program,
    log: PathBuf,
    pid: i32,
    copy: Option<i32>,
}

/// Tells it; the exit code says whether every check held.
pub fn tell(_cli: &Cli, directory: &Path) -> Result<ExitCode, Fail> {
    let program = program::choose().ok_or_else(|| Fail::Words("neither python3, perl nor sh works here".to_owned()))?;
    let exe = std::env::current_exe().map_err(|e| Fail::Words(format!("the ghost binary: {e}")))?;
    let log = directory.join("counter.log");
    let mut story = Story { screen: Screen::new(), exe, directory, program, log, pid: 0, copy: None };
    story.all().map_err(|what| Fail::Words(format!("demo failed: {what}")))?;
    story.screen.end();
    Ok(ExitCode::SUCCESS)
}

impl Story<'_> {
    fn all(&mut self) -> Result<(), String> {
        self.begin()?;
        self.checkpoint_and_restart()?;
        self.duplicate()?;
        self.migrate()
    }

    fn begin(&mut self) -> Result<(), String> {
        let Program { name, about, file, text, .. } = self.program;
        self.screen.step("1. A program counts.");
        Screen::say(&format!("It has {about}."));
        Screen::say("Each line of its log depends on all lines before, and ends with a checksum of its memory.");
        fs::write(self.directory.join(file), text).map_err(|e| format!("{file}: {e}"))?;
        // So that the pid is not one that a new pid namespace uses up for `ghost receive` itself.
        let _ = fs::write("/proc/sys/kernel/ns_last_pid", "1000");
        self.screen.command(&format!("{name} {file} counter.log &"));
        let errors = File::create(self.directory.join("counter.err")).map_err(|e| format!("counter.err: {e}"))?;
        let also = errors.try_clone().map_err(|e| e.to_string())?;
        let child = Command::new(name)
            .args([Path::new(file), &self.log])
            .current_dir(self.directory)
            .stdin(Stdio::null())
            .stdout(also)
            .stderr(errors)
            .spawn()
            .map_err(|e| format!("{name}: {e}"))?;
        self.pid = child.id() as i32;
        self.wait_for(self.pid, 10)?;
        let last = self.follow(self.pid, None)?;
        Screen::say(&format!("It runs as pid {}. Its last line: {}", self.pid, shown(last)));
        self.screen.passed("every line, and all of its memory, is what was computed here");
        Ok(())
    }

    fn checkpoint_and_restart(&mut self) -> Result<(), String> {
        let pid = self.pid.to_string();
        let threads = threads(self.pid);
        self.screen.step("2. It is checkpointed to disk and killed.");
        self.ghost(&["checkpoint", &pid, "--output", "counter.ghost", "--kill"])?;
        Self::gone(self.pid)?;
        let before = self.last(self.pid)?;
        std::thread::sleep(Duration::from_millis(200));
        self.screen.check(
            &format!("pid {pid} is gone, and its log stands still at {}", before.count),
            self.last(self.pid)? == before,
        )?;
        let len = fs::metadata(self.directory.join("counter.ghost")).map_err(|e| format!("counter.ghost: {e}"))?.len();
        self.screen.check(&format!("counter.ghost is there, {}", size(len)), len > 0)?;

        self.screen.step("3. It is restarted from the disk.");
        let said = self.ghost(&["restart", "counter.ghost", "--detach"])?;
        self.screen.check(&format!("it is pid {pid} again"), said.trim() == pid)?;
        self.wait_for(self.pid, 10)?;
        let last = self.follow(self.pid, None)?;
        Screen::say(&format!("Its last line: {}", shown(last)));
        let what = format!(
            "after {} came {}: no line is missing, none came twice, its memory is right",
            before.count,
            before.count + 1
        );
        self.screen.check(&what, last.count > before.count)?;
        self.screen.check(&format!("it has its {threads} thread(s)"), self::threads(self.pid) == threads)
    }

    fn duplicate(&mut self) -> Result<(), String> {
        let pid = self.pid.to_string();
        self.screen.step("4. It is duplicated in memory. Nothing touches the disk, the original runs on.");
        let said = self.ghost(&["duplicate", &pid])?;
        let copy: i32 = said.trim().parse().map_err(|_| format!("ghost duplicate answered {said:?}"))?;
        self.copy = Some(copy);
        self.wait_for(copy, 10)?;
        self.wait_for(self.pid, 3)?;
        let (own, its) = (self.follow(self.pid, None)?, self.follow(copy, Some(self.pid))?);
        Screen::say(&format!("The original, pid {pid}: {}", shown(own)));
        Screen::say(&format!("The copy, pid {copy}: {}", shown(its)));
        self.screen.passed("the copy went on where the original was, and both count without a gap");
        let lines = self.lines()?;
        let twin = |c: &Line| lines.iter().find(|o| o.pid == self.pid && o.count == c.count).copied();
        // The last count that both have reached: the first byte in which they differ may be the same by chance.
        let pair = lines.iter().filter(|l| l.pid == copy).rev().find_map(|c| Some((*c, twin(c)?)));
        let apart = pair.is_some_and(|(c, o)| c.chain != o.chain && (c.sum == 0 || c.sum != o.sum));
        self.screen.check("from the same count on they have diverged: each has memory of its own", apart)?;
        self.screen.command(&format!("kill {copy}"));
        Pid::from_raw(copy)
            .map(|p| kill_process(p, Signal::TERM))
            .transpose()
            .map_err(|e| format!("kill {copy}: {e}"))?;
        Self::gone(copy)
    }

    fn migrate(&mut self) -> Result<(), String> {
        let pid = self.pid.to_string();
        self.screen.step("5. It is migrated over TCP, into another network and another pid namespace.");
        let second = link::second().map_err(|e| format!("the second network namespace: {e}"))?;
        let [here, there] = ADDRESSES.map(std::net::Ipv4Addr::from);
        let host = if second.wired {
            Screen::say(&format!("Here is {here}, there is {there}; a veth pair is the wire between them."));
            there.to_string()
        } else {
            Screen::say(
                "This kernel has no veth: `ghost migrate` enters the other network and speaks to it on its loopback.",
            );
            "127.0.0.1".to_owned()
        };
        let url = format!("tcp://{host}:{PORT}");
        self.screen.command(&format!("ghost receive {url}        # there"));
        let said = self.directory.join("receive.log");
        let log = || File::options().create(true).append(true).open(&said);
        let started = ghost_sys::namespace::run_in(&[second.net.as_fd()], || {
            Command::new("unshare")
                .args(["--pid", "--fork", "--kill-child", "--mount-proc", "--"])
                .arg(&self.exe)
                .args(["receive", &url])
                .stdin(Stdio::null())
                .stdout(log()?)
                .stderr(log()?)
                .spawn()
        });
        let started: io::Result<_> = started.map_err(io::Error::from).and_then(|spawned| spawned);
        let node = started.map_err(|e| format!("unshare(1) of util-linux, to start ghost receive: {e}"))?;
        let before = self.last(self.pid)?;
        let args = ["migrate", &pid, &url];
        let moved = if second.wired { self.ghost(&args) } else { self.ghost_in(&args, Some(&second.net)) };
        moved.map_err(|e| format!("{e}\n{}", fs::read_to_string(&said).unwrap_or_default()))?;
        Self::gone(self.pid)?;
        self.wait_for_count(self.pid, before.count + 15)?;
        let last = self.follow(self.pid, None)?;
        Screen::say(&format!("Its last line: {}", shown(last)));
        self.screen
            .passed(&format!("pid {pid} is gone here; no line is missing, none came twice, its memory is right"));
        let found = there_as(self.pid).ok_or_else(|| format!("no process is pid {pid} in a pid namespace below"))?;
        self.screen.passed(&format!("there it is pid {pid} again (seen from here: {found})"));
        let net = |who: &str| fs::read_link(format!("/proc/{who}/ns/net")).ok();
        let (its, theirs, ours) = (net(&found.to_string()), net(&node.id().to_string()), net("self"));
        self.screen.check("its network namespace is the other one", its.is_some() && its == theirs && its != ours)?;
        let device = if second.wired { DEVICE } else { "lo" };
        let bytes = received(found, device);
        self.screen.check(&format!("{} have arrived there by TCP", size(bytes)), bytes > self.program.least_bytes())
    }

    /// Runs `ghost` as the user would; its answer, when it ends well.
    fn ghost(&self, args: &[&str]) -> Result<String, String> {
        self.ghost_in(args, None)
    }

    fn ghost_in(&self, args: &[&str], net: Option<&File>) -> Result<String, String> {
        let line = format!("ghost {}", args.join(" "));
        self.screen.command(&line);
        let began = Instant::now();
        let run = || Command::new(&self.exe).args(args).current_dir(self.directory).stdin(Stdio::null()).output();
        let output = match net {
            None => run(),
            Some(net) => ghost_sys::namespace::run_in(&[net.as_fd()], run).map_err(io::Error::from).and_then(|o| o),
        };
        let took = began.elapsed();
        let output = output.map_err(|e| format!("{line}: {e}"))?;
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if !output.status.success() {
            return Err(format!("{line}: {}\n{out}{err}", output.status));
        }
        self.screen.answer(&format!("{err}{out}"), took);
        Ok(out.into_owned())
    }

    fn follow(&self, pid: i32, parent: Option<i32>) -> Result<Line, String> {
        program::follow(&self.program, &self.lines()?, pid, parent)
    }

    fn lines(&self) -> Result<Vec<Line>, String> {
        let lines = program::read(&self.log)?;
        Ok(match self.copy {
            Some(copy) => program::without_echo(lines, self.pid, copy),
            None => lines,
        })
    }

    fn last(&self, pid: i32) -> Result<Line, String> {
        let lines = program::read(&self.log)?;
        lines.into_iter().rfind(|l| l.pid == pid).ok_or_else(|| format!("pid {pid} has written nothing"))
    }

    /// Waits for so many more lines.
    fn wait_for(&self, pid: i32, more: u64) -> Result<(), String> {
        let count = self.last(pid).map_or(0, |l| l.count);
        self.wait_for_count(pid, count + more)
    }

    fn wait_for_count(&self, pid: i32, count: u64) -> Result<(), String> {
        let last = || self.last(pid).map_or(0, |l| l.count);
        if until(|| last() >= count) {
            return Ok(());
        }
        let errors = fs::read_to_string(self.directory.join("counter.err")).unwrap_or_default();
        Err(format!("pid {pid} has stopped counting at {}, {count} was due\n{errors}", last()))
    }

    /// Sees a process out: as pid 1, the demo inherits and reaps it.
    fn gone(pid: i32) -> Result<(), String> {
        let gone = until(|| {
            while matches!(wait(WaitOptions::NOHANG), Ok(Some(_))) {}
            !Path::new(&format!("/proc/{pid}")).exists()
        });
        if gone { Ok(()) } else { Err(format!("pid {pid} is still there")) }
    }
}

fn until(mut done: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + PATIENCE;
    while !done() {
        if Instant::now() > end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    true
}

fn shown(line: Line) -> String {
    format!("count {}, chain {}, memory {:08x}", line.count, line.chain, line.sum)
}

fn threads(pid: i32) -> usize {
    fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count)
}

/// The process that has this pid in a pid namespace below ours: its pid here.
fn there_as(pid: i32) -> Option<i32> {
    let all = fs::read_dir("/proc").ok()?;
    all.flatten().find_map(|entry| {
        let here: i32 = entry.file_name().to_str()?.parse().ok()?;
        let status = fs::read_to_string(entry.path().join("status")).ok()?;
        let line = status.lines().find_map(|l| l.strip_prefix("NSpid:"))?;
        let pids: Vec<i32> = line.split_whitespace().filter_map(|p| p.parse().ok()).collect();
        (pids.len() > 1 && pids.last() == Some(&pid)).then_some(here)
    })
}

/// Bytes that a device in the network of this process has received.
fn received(pid: i32, device: &str) -> u64 {
    let table = fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap_or_default();
    let row = table.lines().find_map(|l| l.trim_start().strip_prefix(device)?.strip_prefix(':'));
    row.and_then(|r| r.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
