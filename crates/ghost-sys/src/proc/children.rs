//! Threads, children and descriptors of a process: `task/`, `task/TID/children` (Linux 4.2, CONFIG_PROC_CHILDREN), `fd/`.

use super::text::{At, words};
use super::{Parsed, ProcDir, ProcResult};
use crate::Pid;
use std::os::fd::RawFd;

/// The tids of its threads, ascending. The leader comes first unless the numbers have wrapped around.
///
/// The links of the directory tell how many there are ([`thread_count`]; kernel `proc_task_getattr`): one alone has the number of its
/// process, and the directory, which takes four calls, need not be read.
pub fn read_threads(dir: &ProcDir) -> ProcResult<Vec<Pid>> {
    match dir.number() {
        Some(pid) if thread_count(dir)? == 1 => Ok(vec![pid]),
        _ => dir.numbers("task"),
    }
}

/// How many threads it has, a leader that is dead among them: the links of `task/` but for `.` and `..`.
pub fn thread_count(dir: &ProcDir) -> ProcResult<u64> {
    Ok(dir.stat("task")?.st_nlink.saturating_sub(2))
}

/// The descriptors that are open, ascending.
pub fn read_fds(dir: &ProcDir) -> ProcResult<Vec<RawFd>> {
    dir.numbers("fd")
}

/// Parses `/proc/PID/task/TID/children`: pids, in the order in which they were born.
pub fn parse_children(text: &[u8]) -> Parsed<Vec<Pid>> {
    At("task/TID/children").list("pid", words_only(text)?)
}

/// The children of one thread. Reliable only while they are frozen: one that ends meanwhile may hide another.
pub fn read_children_of_thread(dir: &ProcDir, tid: Pid) -> ProcResult<Vec<Pid>> {
    dir.parse(&format!("task/{tid}/children"), parse_children)
}

/// The children of all threads (given as [`read_threads`] found them), those of each thread in order of birth.
///
/// A thread that is gone has left its children to another thread of the process.
pub fn read_children(dir: &ProcDir, threads: &[Pid]) -> ProcResult<Vec<Pid>> {
    let mut all = Vec::new();
    for &tid in threads {
        match read_children_of_thread(dir, tid) {
            Ok(some) => all.extend(some),
            Err(e) if e.is_gone() && threads.len() > 1 => {}
            Err(e) => return Err(e),
        }
    }
    Ok(all)
}

/// The pids of all processes that procfs shows, as it lists them.
pub fn pids() -> impl Iterator<Item = Pid> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// The tids of a process by its pid, ascending: [`read_threads`] for who looks only once.
pub fn tasks(pid: Pid) -> ProcResult<Vec<Pid>> {
    read_threads(&ProcDir::open(pid)?)
}

/// The children of one thread by its pid and tid, in order of birth.
pub fn children(pid: Pid, tid: Pid) -> ProcResult<Vec<Pid>> {
    read_children_of_thread(&ProcDir::open(pid)?, tid)
}

/// The state of a thread, `R`, `S`, `Z` and so on ([`super::Stat::state`]); None when there is no such thread.
pub fn state(pid: Pid, tid: Pid) -> Option<u8> {
    let dir = ProcDir::open(pid).and_then(|dir| dir.thread(tid)).ok()?;
    super::read_stat(&dir).ok().map(|s| s.state)
}

/// Who traces a thread, 0 for nobody; None when there is no such thread.
pub fn tracer(pid: Pid, tid: Pid) -> Option<Pid> {
    let dir = ProcDir::open(pid).and_then(|dir| dir.thread(tid)).ok()?;
    super::read_status(&dir).ok().map(|s| s.tracer_pid)
}

/// The text itself, when it holds nothing but numbers and blanks.
fn words_only(text: &[u8]) -> Parsed<&[u8]> {
    match words(text).find(|w| !w.iter().all(u8::is_ascii_digit)) {
        Some(bad) => At("task/TID/children").error("pid", bad),
        None => Ok(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;
    use std::process::Command;

    #[test]
    fn real_text() {
        assert_eq!(parse_children(b"4799 5130 "), Ok(vec![4799, 5130]));
        assert_eq!(parse_children(b""), Ok(vec![]));
        assert!(parse_children(b"12 -3").is_err());
        assert!(parse_children(b"99999999999").is_err());
    }

    #[test]
    fn one_thread_is_counted_and_several_are_listed() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let dir = ProcDir::open(child.id() as Pid).unwrap();
        assert_eq!(dir.stat("task").unwrap().st_nlink, 3);
        assert_eq!(read_threads(&dir).unwrap(), dir.numbers("task").unwrap());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(read_threads(&dir).unwrap_err().is_gone());
        let own = ProcDir::open(std::process::id() as Pid).unwrap();
        std::thread::scope(|s| {
            s.spawn(|| assert!(read_threads(&own).unwrap().len() > 1));
        });
    }

    #[test]
    fn a_child_of_another_thread_is_found() {
        let file = std::fs::File::open("/dev/null").unwrap();
        let dir = ProcDir::own().unwrap();
        assert!(read_fds(&dir).unwrap().contains(&file.as_raw_fd()));
        std::thread::scope(|s| {
            s.spawn(|| {
                let mut child = Command::new("sleep").arg("60").spawn().unwrap();
                let threads = read_threads(&dir).unwrap();
                assert!(threads.contains(&(std::process::id() as Pid)));
                let found = read_children(&dir, &threads).unwrap();
                let own = std::process::id() as Pid;
                let again: Vec<Pid> =
                    tasks(own).unwrap().iter().flat_map(|&t| children(own, t).unwrap_or_default()).collect();
                let pid = child.id() as Pid;
                assert!(matches!(state(pid, pid), Some(b'R' | b'S' | b'D')));
                assert_eq!(tracer(pid, pid), Some(0));
                child.kill().unwrap();
                child.wait().unwrap();
                assert!(found.contains(&pid) && again.contains(&pid));
                assert_eq!(state(pid, pid), None);
            });
        });
    }
}
