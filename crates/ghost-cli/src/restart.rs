//! `ghost restart`: detached, or as the parent of what it made.

use crate::args::{Cli, Making, PidChoice, Restart};
use crate::fail::Fail;
use crate::{nsinit, places, say, stdio};
use ghost::{ImportOptions, Pids, Progress, Report, Restored};
use signal_hook::consts as sig;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::ExitCode;
use std::sync::Arc;

/// Runs it.
pub fn run(cli: &Cli, args: &Restart) -> Result<ExitCode, Fail> {
    let inside = nsinit::inside();
    if matches!(args.making.pid, PidChoice::Ns) && !inside {
        return nsinit::enter(cli, &args.making);
    }
    let taken = if args.url == "-" { Some(stdio::take_stdin()?) } else { None };
    let from = match &taken {
        Some(file) => places::source(cli, &format!("fd:{}", file.as_raw_fd()))?,
        None => places::source(cli, &args.url)?,
    };
    let mut options = options(&args.making)?;
    options.replace = args.replace;
    let progress = Arc::new(Progress::default());
    options.progress = Some(Arc::clone(&progress));
    // Before anything runs: a signal that comes early is kept for it.
    let signals = if args.making.detach && !inside { None } else { Some(Forward::start()?) };
    let bar = say::Bar::watch(cli, "restart", &progress);
    let done = ghost::restart(from, &options);
    drop(bar);
    let restored = done?;
    announce(cli, &args.making, &restored)?;
    match signals {
        None => Ok(ExitCode::SUCCESS),
        Some(signals) => signals.until_end(restored.root),
    }
}

/// Tells the pid: in the pidfile, on stdout when detached.
pub fn announce(cli: &Cli, making: &Making, restored: &Restored) -> Result<(), Fail> {
    say::report(cli, &restored.report);
    if nsinit::inside() {
        let told = nsinit::ready(restored.root);
        return if making.detach { told.and_then(|()| nsinit::let_go()) } else { told };
    }
    tell(cli, making, restored.root, Some(&restored.report))
}

/// Tells the pid as the caller sees it.
pub fn tell(cli: &Cli, making: &Making, root: i32, report: Option<&Report>) -> Result<(), Fail> {
    if let Some(path) = &making.pidfile {
        let written = std::fs::write(path, format!("{root}\n"));
        if let Err(e) = written {
            return Err(Fail::Words(format!("it runs as pid {root}, but {} cannot be written: {e}", path.display())));
        }
    }
    if making.detach {
        if cli.json {
            let mut object = report.map_or_else(|| serde_json::json!({}), say::json);
            object["pid"] = root.into();
            crate::answer!("{object}")?;
        } else if !cli.quiet {
            crate::answer!("{root}")?;
        }
    }
    Ok(())
}

/// The options that restart and receive share.
pub fn options(making: &Making) -> Result<ImportOptions, Fail> {
    if let Some(path) = &making.pidfile {
        let is_new = !path.exists();
        let tried = std::fs::File::options().append(true).create(true).open(path);
        tried.map_err(|e| {
            let path = path.display();
            Fail::Words(format!(
                "the pidfile {path} cannot be written: {e}\n  try:   name a file in a directory that you may write\n  state: nothing was touched"
            ))
        })?;
        if is_new {
            let _ = std::fs::remove_file(path);
        }
    }
    let mut map_files = Vec::new();
    for text in &making.map_file {
        let Some((old, new)) = text.split_once('=') else {
            return Err(Fail::Usage(format!("--map-file takes OLD=NEW, not {text}")));
        };
        map_files.push((old.as_bytes().to_vec(), new.as_bytes().to_vec()));
    }
    let mut inherit = Vec::new();
    for text in &making.inherit_fd {
        let parsed = text.rsplit_once('=').and_then(|(name, fd)| Some((name.to_owned(), fd.parse::<i32>().ok()?)));
        let Some((name, fd)) = parsed else {
            return Err(Fail::Usage(format!("--inherit-fd takes NAME=FD, not {text}")));
        };
        inherit.push((name, own(fd)?));
    }
    Ok(ImportOptions {
        pids: match making.pid {
            PidChoice::Same => Pids::Same,
            PidChoice::New => Pids::New,
            // Inside a new namespace they are free.
            PidChoice::Ns => Pids::Same,
        },
        map_files,
        inherit,
        accept: making.accept.iter().cloned().collect(),
        detach: making.detach,
        wait_for_pids_ms: 10_000,
        ..ImportOptions::default()
    })
}

/// A descriptor of our own for an inherited number.
fn own(fd: i32) -> Result<OwnedFd, Fail> {
    let path = std::path::PathBuf::from(format!("/proc/self/fd/{fd}"));
    let me = ghost_sys::pidfd::open(std::process::id() as i32);
    let copy = me.and_then(|me| ghost_sys::pidfd::getfd(std::os::fd::AsFd::as_fd(&me), fd));
    copy.map_err(|e| Fail::Usage(format!("descriptor {fd} ({}): {e}", path.display())))
}

/// Signals that a terminal or a supervisor sends to ghost and means for the program.
const PASSED_ON: &[i32] = &[
    sig::SIGHUP,
    sig::SIGINT,
    sig::SIGQUIT,
    sig::SIGTERM,
    sig::SIGUSR1,
    sig::SIGUSR2,
    sig::SIGCONT,
    sig::SIGWINCH,
    sig::SIGALRM,
];

/// Keeps signals and hands them on.
pub struct Forward {
    signals: signal_hook::iterator::Signals,
}

impl Forward {
    /// Begins to keep them.
    pub fn start() -> Result<Self, Fail> {
        let all = PASSED_ON.iter().copied().chain([sig::SIGCHLD]);
        match signal_hook::iterator::Signals::new(all) {
            Ok(signals) => Ok(Self { signals }),
            Err(e) => Err(Fail::Words(format!("signal handlers cannot be set: {e}"))),
        }
    }

    /// Hands signals on until the program ends; ends as it did.
    pub fn until_end(mut self, pid: i32) -> Result<ExitCode, Fail> {
        let child = rustix::process::Pid::from_raw(pid).expect("a pid is positive");
        let handle = ghost_sys::pidfd::open(pid).ok();
        let mut terminal = Foreground::lend(pid);
        loop {
            if nsinit::inside() {
                nsinit::reap_others(child);
            }
            match rustix::process::waitpid(Some(child), rustix::process::WaitOptions::NOHANG) {
                Ok(Some((_, status))) => {
                    drop(terminal.take());
                    if let Some(code) = status.exit_status() {
                        return Ok(ExitCode::from(code as u8));
                    }
                    if let Some(signal) = status.terminating_signal() {
                        return Ok(die_of(signal));
                    }
                }
                Ok(None) => {}
                Err(e) => return Err(Fail::Words(format!("waiting for pid {pid}: {e}"))),
            }
            for signal in self.signals.wait() {
                if signal != sig::SIGCHLD
                    && let Some(handle) = &handle
                {
                    let _ = ghost_sys::pidfd::signal(std::os::fd::AsFd::as_fd(handle), signal);
                }
            }
        }
    }
}

/// Ends as the program did: by the same signal, without a core of ghost's own.
fn die_of(signal: i32) -> ExitCode {
    if std::process::id() == 1 {
        return ExitCode::from((128 + signal) as u8); // nothing kills pid 1 from within
    }
    use rustix::process::{Resource, Rlimit, setrlimit};
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    let _ = signal_hook::low_level::emulate_default_handler(signal);
    ExitCode::from((128 + signal) as u8)
}

/// The terminal lent to the program's process group, if it has one of its own, and taken back at the end.
struct Foreground {
    ours: rustix::process::Pid,
}

impl Foreground {
    fn lend(pid: i32) -> Option<Self> {
        let stdin = rustix::stdio::stdin();
        // Asked first: where there is no terminal, our own group may lie outside of the pid namespace, without a number.
        let front = rustix::termios::tcgetpgrp(stdin).ok()?;
        let ours = rustix::process::getpgrp();
        let theirs = rustix::process::getpgid(rustix::process::Pid::from_raw(pid)).ok()?;
        if theirs == ours || front != ours {
            return None;
        }
        rustix::termios::tcsetpgrp(stdin, theirs).ok()?;
        Some(Self { ours })
    }
}

impl Drop for Foreground {
    fn drop(&mut self) {
        // A background process that sets the foreground group is stopped by SIGTTOU unless it is blocked or handled.
        let _ = signal_hook::flag::register(sig::SIGTTOU, Arc::default());
        let _ = rustix::termios::tcsetpgrp(rustix::stdio::stdin(), self.ours);
    }
}
