//! `--pid ns`: the same pids in a pid namespace of their own, `pid_namespaces(7)`.
//!
//! A pid namespace begins with a pid 1 that reaps what is left to it and whose end is the end of all. Ghost is that process: the
//! command starts itself anew as pid 1 of a new pid namespace, with a `/proc` that belongs to it, and does its work there. It stays
//! until the program has ended. The caller gets to know the pid that the program has outside.

use crate::args::{Cli, Making};
use crate::fail::Fail;
use crate::restart::Forward;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::{Command, ExitCode};

/// By which the command knows itself again: the number of the descriptor that is told the pid.
const MARK: &str = "GHOST_INIT_READY_FD";

/// Whether this is pid 1 of a namespace made here.
pub fn inside() -> bool {
    std::process::id() == 1 && std::env::var_os(MARK).is_some()
}

fn words(step: &'static str) -> impl FnOnce(std::io::Error) -> Fail {
    move |e| {
        Fail::Words(format!(
            "restart failed: {step}\n  why:   {e}\n  try:   a pid namespace needs CAP_SYS_ADMIN; or use --pid new\n  state: nothing was left behind; the ghost is as it was"
        ))
    }
}

/// Starts the command anew inside, and is its parent.
pub fn enter(cli: &Cli, making: &Making) -> Result<ExitCode, Fail> {
    let (read, write) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|e| words("making a pipe")(e.into()))?;
    // A descriptor that the new command inherits: its number is told in the environment.
    let inherited: OwnedFd = rustix::io::dup(&write).map_err(|e| words("making a pipe")(e.into()))?;
    drop(write);
    let signals = if making.detach { None } else { Some(Forward::start()?) };
    ghost_sys::process::unshare(libc::CLONE_NEWPID).map_err(|e| words("making a pid namespace")(e.into()))?;
    let me = std::env::current_exe().map_err(words("finding the ghost command"))?;
    let child = Command::new(me)
        .args(std::env::args_os().skip(1))
        .env(MARK, inherited.as_raw_fd().to_string())
        .spawn()
        .map_err(words("starting in the pid namespace"))?;
    drop(inherited);
    let init = child.id() as i32;
    let mut told = String::new();
    // A line when it runs; the end, when the new command has ended without it.
    let _ = BufReader::new(File::from(read)).read_line(&mut told);
    let Some(root) = told.trim().parse().ok().and_then(|pid| outside(init, pid)) else {
        // It has said why on stderr.
        return match signals {
            Some(signals) => signals.until_end(init),
            None => Ok(ended(child)),
        };
    };
    crate::restart::tell(cli, making, root, None)?;
    signals.map_or(Ok(ExitCode::SUCCESS), |signals| signals.until_end(init))
}

fn ended(mut child: std::process::Child) -> ExitCode {
    let code = child.wait().ok().and_then(|s| s.code()).unwrap_or(1);
    ExitCode::from(if code == 0 { 1 } else { code as u8 })
}

/// The pid outside of the process that has this pid inside.
fn outside(init: i32, pid: i32) -> Option<i32> {
    let mut queue = vec![init];
    while let Some(here) = queue.pop() {
        let dir = ghost_sys::proc::ProcDir::open(here).ok()?;
        if ghost_sys::proc::read_status(&dir).is_ok_and(|s| s.ns_pid.len() > 1 && s.innermost_pid() == pid) {
            return Some(here);
        }
        let threads = ghost_sys::proc::read_threads(&dir).ok()?;
        queue.extend(ghost_sys::proc::read_children(&dir, &threads).ok()?);
    }
    None
}

/// Makes the new namespace fit to live in: its own `/proc`.
pub fn settle() -> Result<(), Fail> {
    // Our mounts must not appear outside.
    ghost_sys::process::unshare(libc::CLONE_NEWNS).map_err(|e| words("making a mount namespace")(e.into()))?;
    let private = ghost_sys::namespace::mount(None, c"/", None, libc::MS_REC | libc::MS_PRIVATE, None);
    private.map_err(|e| words("leaving the mounts of the caller alone")(e.into()))?;
    let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    let proc = ghost_sys::namespace::mount(Some(c"proc"), c"/proc", Some(c"proc"), flags, None);
    proc.map_err(|e| words("mounting /proc")(e.into()))
}

/// Tells the parent the pid of the program, as it is inside.
pub fn ready(pid: i32) -> Result<(), Fail> {
    let number = std::env::var(MARK).ok().and_then(|n| n.parse().ok()).unwrap_or(-1);
    let me = ghost_sys::pidfd::open(std::process::id() as i32);
    let told = me.and_then(|me| ghost_sys::pidfd::getfd(me.as_fd(), number)).map_err(std::io::Error::from);
    let told = told.and_then(|fd| File::from(fd).write_all(format!("{pid}\n").as_bytes()));
    told.map_err(words("telling the pid"))
}

/// Lets go of what the caller gave us: whoever reads its output to the end must not wait for the end of the program.
pub fn let_go() -> Result<(), Fail> {
    let null = File::options().read(true).write(true).open("/dev/null").map_err(words("opening /dev/null"))?;
    let all = rustix::stdio::dup2_stdin(&null)
        .and_then(|()| rustix::stdio::dup2_stdout(&null))
        .and_then(|()| rustix::stdio::dup2_stderr(&null));
    all.map_err(|e| words("letting go of the caller's descriptors")(e.into()))?;
    // The end of a session of the caller's must not be the end of the program.
    let _ = rustix::process::setsid();
    Ok(())
}

/// What a pid 1 is for: takes those that nobody else waits for.
pub fn reap_others(root: rustix::process::Pid) {
    use rustix::process::{WaitId, WaitIdOptions, WaitOptions, waitid, waitpid};
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    while let Ok(Some(_)) = waitid(WaitId::All, look) {
        // Which one ended is told by children that are dead; the root's status is for its own wait.
        let Some(orphan) = dead_child(root.as_raw_nonzero().get()) else { return };
        let _ = waitpid(rustix::process::Pid::from_raw(orphan), WaitOptions::NOHANG);
    }
}

/// A child of ours other than the root that has ended.
fn dead_child(root: i32) -> Option<i32> {
    let all = ghost_sys::proc::children(1, 1).ok()?;
    all.into_iter().filter(|&pid| pid != root).find(|&pid| ghost_sys::proc::state(pid, pid) == Some(b'Z'))
}
