//! `ghost demo`: the main job shown on a real program, each step checked.
//!
//! Two processes play it. The *outer* one, which the user started, makes pid, mount, network, ipc and uts namespaces and waits.
//! The *inner* one is pid 1 in there and tells the story; the program, its copies and every `ghost` command live below it.
//! So nothing on the machine can be disturbed, and the end of pid 1, for whatever reason, ends everything: the kernel
//! kills what is in the pid namespace and gives the network and the mounts back. On Ctrl-C the outer one kills pid 1; if the outer
//! one itself is killed, the inner one reads the end of its stdin and leaves. What remains is one directory, which either removes.

mod link;
mod program;
mod screen;
mod story;

use crate::args::{Cli, Demo};
use crate::fail::Fail;
use ghost_sys::namespace;
use signal_hook::consts as sig;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus, Stdio};

/// Runs it.
pub fn run(cli: &Cli, args: &Demo) -> Result<ExitCode, Fail> {
    match &args.inside {
        Some(directory) => inside(cli, directory),
        None => outside(),
    }
}

/// A directory that is gone with the value.
struct Place(PathBuf);

impl Place {
    fn make() -> Result<Self, Fail> {
        let path = PathBuf::from(format!("/var/tmp/ghost-demo-{}", std::process::id()));
        let made = std::fs::DirBuilder::new().mode(0o700).create(&path);
        made.map(|()| Self(path.clone())).map_err(|e| Fail::Words(format!("{}: {e}", path.display())))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn outside() -> Result<ExitCode, Fail> {
    if !rustix::process::geteuid().is_root() {
        return Err(Fail::Words("the demo makes namespaces and gives pids: run it as root".to_owned()));
    }
    let exe = std::env::current_exe().map_err(|e| Fail::Words(format!("the ghost binary: {e}")))?;
    let mut signals =
        signal_hook::iterator::Signals::new([sig::SIGINT, sig::SIGTERM, sig::SIGHUP, sig::SIGQUIT, sig::SIGCHLD])
            .map_err(|e| Fail::Words(format!("signal handlers cannot be set: {e}")))?;
    let place = Place::make()?;
    let flags = libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
    let mut stopped_by = None;
    let ended: io::Result<ExitStatus> = namespace::run_in_new(flags, || {
        // A process group of its own: Ctrl-C on the terminal is for the outer one alone. Its stdin is the leash.
        let mut inner = Command::new(&exe)
            .args(["demo", "--inside"])
            .arg(&place.0)
            .stdin(Stdio::piped())
            .process_group(0)
            .spawn()?;
        'wait: loop {
            if let Some(status) = inner.try_wait()? {
                return Ok(status);
            }
            for signal in signals.wait() {
                if signal != sig::SIGCHLD {
                    stopped_by = Some(signal);
                    inner.kill()?;
                    break 'wait;
                }
            }
        }
        // Returns when the last process in there has been reaped, not before.
        inner.wait()
    })
    .map_err(|e| Fail::Words(format!("namespaces cannot be made ({e}): CAP_SYS_ADMIN is missing here")))?;
    let left = place.0.clone();
    drop(place);
    if left.exists() {
        return Err(Fail::Words(format!("{} could not be removed", left.display())));
    }
    let status = ended.map_err(|e| Fail::Words(format!("{}: {e}", exe.display())))?;
    if let Some(signal) = stopped_by {
        crate::talk!("ghost: demo stopped; its processes, namespaces and files are gone");
        return Ok(ExitCode::from((128 + signal) as u8));
    }
    match (status.code(), status.signal()) {
        (Some(0), _) => {
            crate::answer!("The processes, the namespaces and the files of the demo are gone.")?;
            Ok(ExitCode::SUCCESS)
        }
        (Some(code), _) => Ok(ExitCode::from(code as u8)),
        (None, signal) => Err(Fail::Words(format!("the demo itself was killed by signal {}", signal.unwrap_or(0)))),
    }
}

/// Pid 1 of the demo's world.
fn inside(cli: &Cli, directory: &Path) -> Result<ExitCode, Fail> {
    if std::process::id() != 1 {
        return Err(Fail::Usage("--inside is for the demo itself".to_owned()));
    }
    // What the caller left open is not the program's: a pipe to the outside would be refused, and rightly.
    let _ = ghost_sys::fdops::close_on_exec_from(3);
    let leash = directory.to_path_buf();
    std::thread::spawn(move || {
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        let _ = std::fs::remove_dir_all(leash);
        std::process::exit(1);
    });
    let words = |what: &str, e: ghost_sys::Errno| Fail::Words(format!("{what}: {e}"));
    namespace::mount(None, c"/", None, libc::MS_REC | libc::MS_PRIVATE, None)
        .map_err(|e| words("private mounts", e))?;
    let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    namespace::mount(Some(c"proc"), c"/proc", Some(c"proc"), flags, None).map_err(|e| words("/proc", e))?;
    story::tell(cli, directory)
}
