//! A process that is not below the victim: what it shares with the victim leads outside of the tree.
use super::{Res, fd, task};
use crate::Ctx;

/// The command name of every such process.
pub const NAME: &str = "outsider";

/// Starts one: an orphan in a session of its own, which runs `f`, says so, and ends after the word to go.
pub fn outsider(c: &Ctx, f: impl FnOnce() -> Res) -> Res {
    let (up, go, dir) = (c.path("outsider.up"), c.path("go"), c.dir().to_owned());
    let there = |p: &str| std::path::Path::new(p).exists();
    let Some(between) = task::fork()? else {
        if let Ok(None) = task::fork() {
            crate::call!(setsid());
            let name = crate::sys::c(NAME);
            crate::call!(prctl(libc::PR_SET_NAME, name.as_ptr()));
            if f().is_ok() {
                let _ = fd::open(&up, libc::O_RDWR | libc::O_CREAT).and_then(fd::close);
                let end = crate::sys::now_ns() + 120_000_000_000;
                while there(&dir) && !there(&go) && crate::sys::now_ns() < end {
                    crate::sys::sleep_ms(2);
                }
            }
        }
        task::exit(0)
    };
    task::wait(between, 0)?;
    c.until("the process outside is ready", || there(&up));
    Ok(())
}
