//! Descriptors of a frozen tree told by a program in the kernel ([`ghost_sys::bpf::file`]), where they are many.
//!
//! The program has to be made first, which takes as long as reading procfs for some hundred descriptors; that is done on another CPU while
//! the tree is being frozen. Where it cannot be had, procfs tells all.
//!
//! `GHOST_DESCRIPTORS=procfs` and `=bpf` choose one way for tests: never the program, or always.

use crate::kinds::socket;
use crate::room;
use ghost_sys::Pid;
use ghost_sys::bpf::file::{Files, Row};
use ghost_sys::proc::ProcDir;
use std::sync::OnceLock;
use std::thread::JoinHandle;

/// Descriptors from which on the program is worth its making.
const MANY: u64 = 192;

/// Who tells; perhaps still on the way.
#[derive(Debug, Default)]
pub(crate) struct Teller(Option<JoinHandle<Option<Loaded>>>);

/// A loaded program.
#[derive(Debug)]
struct Loaded {
    files: Files,
    /// Whether sockets with the same marks have the same options.
    marks: bool,
}

impl Loaded {
    fn load() -> Option<Self> {
        let files = Files::load().ok()?;
        let marks = socket::marks::are_known(&files);
        Some(Self { files, marks })
    }
}

impl Teller {
    /// Sends for one, if the process has many descriptors.
    ///
    /// Our own table gets its room before there is a second thread ([`room::make`]).
    pub(crate) fn of(root: Pid) -> Self {
        let wish = std::env::var("GHOST_DESCRIPTORS");
        // How many there are is its size (Linux 6.2).
        let count = ProcDir::open(root).and_then(|dir| dir.stat("fd")).map_or(0, |stat| stat.st_size as u64);
        let is_wanted = match wish.as_deref() {
            Ok("procfs") => false,
            Ok("bpf") => true,
            _ => count >= MANY,
        };
        if !is_wanted {
            return Self(None);
        }
        room::make((count as usize).clamp(64, 1 << 16));
        Self(std::thread::Builder::new().spawn(Loaded::load).ok())
    }

    /// What there is to tell of each table of the tree; waits until it has come.
    pub(super) fn arrive(self) -> Told {
        Told(self.0.and_then(|thread| thread.join().ok()).flatten())
    }
}

/// What can be told.
pub(super) struct Told(Option<Loaded>);

impl Told {
    /// All descriptors of a frozen thread, in ascending order; none if nobody knows.
    pub(super) fn rows(&self, tid: Pid) -> Vec<Row> {
        let Some(Loaded { files, marks }) = &self.0 else { return Vec::new() };
        let mut rows = files.read(tid).unwrap_or_default();
        if !marks {
            rows.iter_mut().filter_map(|row| row.socket.as_mut()).for_each(|s| s.options = [].into());
        }
        rows
    }
}

/// The device that all pipes without a name are on.
pub(super) fn device_of_pipes() -> Option<u64> {
    static DEVICE: OnceLock<Option<u64>> = OnceLock::new();
    *DEVICE.get_or_init(|| {
        let (end, _) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).ok()?;
        Some(rustix::fs::fstat(end).ok()?.st_dev)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::socket::options::Known;
    use crate::view::{FdView, TreeView};
    use std::process::{Command, Stdio};

    /// A view by procfs and one by the program of the same process say the same.
    #[test]
    fn rows_say_what_procfs_says() {
        let Some(loaded) = Loaded::load() else {
            eprintln!("skipped: no iterator of descriptors");
            return;
        };
        assert!(loaded.marks, "options of unix sockets have places that are known");
        let script =
            "exec 5</etc/passwd 6<>/dev/null 7>>/dev/zero 8</proc/self/status; read -r x <&5; flock 5; exec sleep 60";
        let mut child =
            Command::new("bash").args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(300));
        let told = Told(Some(loaded));
        let view = TreeView::of_running(child.id() as Pid).unwrap();
        let process = &view.processes[0];
        let rows = told.rows(process.live);
        let known = Known::default();
        let fds = |rows: &[Row]| -> Vec<FdView> {
            let numbers: Vec<i32> = process.fds.iter().map(|fd| fd.fd).collect();
            let of = (process.pid, &process.pidfd, &process.dir);
            super::super::descriptor::look(of, &numbers, &known, rows, |_| None).unwrap()
        };
        let (by_procfs, by_rows) = (fds(&[]), fds(&rows));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(rows.len(), by_procfs.len());
        for (a, b) in by_procfs.iter().zip(&by_rows) {
            let mut info = a.info.clone();
            info.mnt_id = b.info.mnt_id;
            assert_eq!((a.fd, &a.link, &info), (b.fd, &b.link, &b.info));
        }
        assert_eq!(by_rows.iter().find(|fd| fd.fd == 5).unwrap().info.locks.len(), 1);
    }
}
