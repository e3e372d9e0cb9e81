//! Stdin and stdout when they carry a ghost: taken away, so that a new process which inherits "the caller's stdio" does not
//! read or write in the middle of it.

use crate::fail::Fail;
use std::fs::File;
use std::os::fd::AsFd;

/// The descriptor behind stdin; stdin itself is /dev/null from now on.
pub fn take_stdin() -> Result<File, Fail> {
    let ours = own(rustix::stdio::stdin())?;
    let null = File::open("/dev/null").map_err(|e| Fail::Words(format!("/dev/null: {e}")))?;
    rustix::stdio::dup2_stdin(&null).map_err(|e| Fail::Words(format!("stdin: {e}")))?;
    Ok(ours)
}

/// The descriptor behind stdout; stdout itself is where stderr goes from now on.
pub fn take_stdout() -> Result<File, Fail> {
    let ours = own(rustix::stdio::stdout())?;
    rustix::stdio::dup2_stdout(rustix::stdio::stderr()).map_err(|e| Fail::Words(format!("stdout: {e}")))?;
    Ok(ours)
}

fn own(fd: impl AsFd) -> Result<File, Fail> {
    let copy = rustix::io::fcntl_dupfd_cloexec(fd, 3);
    copy.map(File::from).map_err(|e| Fail::Words(format!("standard descriptors: {e}")))
}
