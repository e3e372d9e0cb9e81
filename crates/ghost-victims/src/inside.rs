//! Threads that sit inside a system call while something happens to them.
use crate::{Ctx, must, proc, raw};
use std::thread::JoinHandle;

/// A thread inside a system call, and what it will come back with.
pub struct Inside<T> {
    handle: JoinHandle<T>,
    name: String,
}

/// Starts a thread that runs `f`, and returns when it sleeps in system call `nr` (one of `nrs`).
///
/// `name` (at most 15 bytes, unlike all other names in the victim) finds the thread again where its tid may have changed.
pub fn enter<T: Send + 'static>(v: &Ctx, name: &str, nrs: &[i64], f: impl FnOnce() -> T + Send + 'static) -> Inside<T> {
    let own = name.to_owned();
    let handle = std::thread::spawn(move || {
        let text = crate::sys::c(&own);
        must!(prctl(libc::PR_SET_NAME, text.as_ptr()));
        f()
    });
    let inside = Inside { handle, name: name.to_owned() };
    v.until(&format!("thread {name} is in system call {nrs:?}"), || {
        inside.handle.is_finished() || nrs.iter().any(|nr| inside.syscall().starts_with(&format!("{nr} ")))
    });
    v.need(&format!("thread {name} sleeps in its system call"), !inside.handle.is_finished());
    inside
}

impl<T> Inside<T> {
    /// Its tid as of now.
    pub fn tid(&self) -> Option<i32> {
        let tasks = std::fs::read_dir("/proc/self/task").ok()?;
        tasks
            .flatten()
            .find(|t| proc::read(&t.path().join("comm").to_string_lossy()).trim_end() == self.name)
            .and_then(|t| t.file_name().to_str()?.parse().ok())
    }

    /// The text of its `/proc/…/syscall`.
    pub fn syscall(&self) -> String {
        self.tid().map_or(String::new(), |t| proc::read(&format!("/proc/self/task/{t}/syscall")))
    }

    /// Whether it has come back.
    pub fn is_back(&self) -> bool {
        self.handle.is_finished()
    }

    /// Sends it a signal of its own.
    pub fn signal(&self, sig: i32) -> Result<i64, i32> {
        raw!(libc::SYS_tgkill, std::process::id(), self.tid().unwrap_or(0), sig)
    }

    /// Waits for it, at most `limit_ms`; the error says where it still is.
    pub fn end(self, limit_ms: i64) -> Result<T, String> {
        let end = crate::sys::now_ns() + limit_ms * 1_000_000;
        while !self.is_back() {
            if crate::sys::now_ns() > end {
                return Err(format!("thread {} did not come back; it is in: {}", self.name, self.syscall().trim()));
            }
            crate::sys::sleep_ms(2);
        }
        self.handle.join().map_err(|_| "the thread died".to_owned())
    }
}
