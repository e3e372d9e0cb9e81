//! Files of `/proc`.
//!
//! Files of a process of the tree are opened at the process that has its place now; those of a process that is gone, at a
//! child of ghost that is gone when the program runs, so that reading them fails as it did. What is not of one process
//! (`/proc/meminfo`) is opened by its name. Refused: files of a process outside of the tree.

use super::class::Refusal;
use super::{path, regular};
use crate::error::{Context, KindError};
use crate::import::ImportCx;
use crate::view::{FdView, TreeView};
use ghost_image::record as rec;
use ghost_sys::mortal::Mortal;
use ghost_sys::nr;
use rustix::fs::{FileType, Mode, OFlags, SeekFrom};
use std::os::fd::OwnedFd;

/// `/proc/12/task/13/status`: process 12, thread 13, `status`.
#[derive(Debug)]
pub(crate) struct Name {
    pid: i32,
    tid: i32,
    rest: Vec<u8>,
}

impl Name {
    /// The same of another process.
    pub(crate) fn of(&self, new: impl Fn(i32) -> i32) -> Vec<u8> {
        let mut name = format!("/proc/{}", new(self.pid)).into_bytes();
        if self.tid != 0 {
            name.extend(format!("/task/{}", new(self.tid)).into_bytes());
        }
        if !self.rest.is_empty() {
            name.push(b'/');
            name.extend(&self.rest);
        }
        name
    }
}

pub(crate) fn parse(link: &[u8]) -> Option<Name> {
    let link = link.strip_suffix(b" (deleted)").unwrap_or(link);
    let mut parts = link.strip_prefix(b"/proc/")?.splitn(2, |b| *b == b'/');
    let number = |text: &[u8]| std::str::from_utf8(text).ok()?.parse::<i32>().ok().filter(|n| *n > 0);
    let pid = number(parts.next()?)?;
    let rest = parts.next().unwrap_or_default();
    let mut inner = rest.strip_prefix(b"task/").unwrap_or_default().splitn(2, |b| *b == b'/');
    match inner.next().and_then(number) {
        Some(tid) => Some(Name { pid, tid, rest: inner.next().unwrap_or_default().to_vec() }),
        None => Some(Name { pid, tid: 0, rest: rest.to_vec() }),
    }
}

/// Refuses what belongs to a process outside.
pub fn check(view: &TreeView, fd: &FdView) -> Option<Refusal> {
    if !fd.link.starts_with(b"/proc") {
        return Some(Refusal::new(
            "proc",
            "lies in a procfs that is not mounted at /proc",
            "close it before the checkpoint",
        ));
    }
    let name = parse(&fd.link)?;
    if view.processes.iter().any(|p| p.pid == name.pid) || fd.link.ends_with(b" (deleted)") {
        return None;
    }
    std::path::Path::new(&format!("/proc/{}", name.pid)).exists().then(|| {
        Refusal::new(
            "proc",
            format!("belongs to process {}, which is outside of the tree", name.pid),
            "close it before the checkpoint, or checkpoint a process above both",
        )
    })
}

/// What is written of it.
pub fn export(view: &TreeView, fd: &FdView) -> rec::file::Object {
    let directory = FileType::from_raw_mode(fd.stat.st_mode) == FileType::Directory;
    match parse(&fd.link) {
        Some(name) => rec::file::Object::ProcFile(rec::ProcFile {
            dead: !view.processes.iter().any(|p| p.pid == name.pid),
            pid: name.pid,
            tid: name.tid,
            rest: name.rest,
            directory,
        }),
        None => rec::file::Object::Regular(rec::Regular {
            // Size and time of such a file say nothing.
            path: Some(rec::Path { size: 0, mtime_ns: 0, ..path::of(&fd.link, &fd.stat) }),
            directory,
            ..rec::Regular::default()
        }),
    }
}

/// Opens it at the process that has the place of the old one.
pub fn import(cx: &mut ImportCx<'_>, file: &rec::File, proc_file: &rec::ProcFile) -> Result<OwnedFd, KindError> {
    let mortal = if proc_file.dead { Some(Mortal::new().step("making a process to end")?) } else { None };
    let new = |old| mortal.as_ref().map_or_else(|| cx.pid(old), Mortal::pid);
    let name = Name { pid: proc_file.pid, tid: proc_file.tid, rest: proc_file.rest.clone() }.of(new);
    let flags = OFlags::from_bits_retain(file.flags & !(regular::NOT_AGAIN | regular::ASYNC)) | OFlags::CLOEXEC;
    let lent = if mortal.is_none() { lend(cx, proc_file)? } else { None };
    let fd = rustix::fs::open(name.as_slice(), flags, Mode::empty())
        .step(format!("opening {}", String::from_utf8_lossy(&name)))?;
    drop(mortal);
    if let Some((index, number)) = lent {
        cx.building[index].batch.call(format!("closing fd {number} again"), nr::CLOSE, &[number.into()]);
        cx.flush(index)?;
    }
    if file.offset != 0 && !flags.contains(OFlags::PATH) {
        rustix::fs::seek(&fd, SeekFrom::Start(file.offset)).step("putting its offset back")?;
    }
    Ok(fd)
}

/// The thread whose file this is, if it is one of a thread other than the first.
pub(crate) fn thread(object: &rec::file::Object) -> Option<i32> {
    match object {
        rec::file::Object::ProcFile(p) if !p.dead && p.tid != 0 && p.tid != p.pid => Some(p.tid),
        _ => None,
    }
}

/// `fdinfo/7` can be opened only while its process has a descriptor 7: gives it one that it has not yet. Says who, and which.
fn lend(cx: &mut ImportCx<'_>, proc_file: &rec::ProcFile) -> Result<Option<(usize, i32)>, KindError> {
    let model = cx.model;
    let parts = proc_file.rest.strip_prefix(b"fdinfo/").or_else(|| proc_file.rest.strip_prefix(b"fd/"));
    let number = parts.and_then(|n| std::str::from_utf8(n).ok()?.parse::<i32>().ok());
    let Some(number) = number.filter(|n| *n != cx.control_fd && *n >= 0) else { return Ok(None) };
    let apart = cx.apart.iter().position(|a| a.record(model).tid == proc_file.tid);
    let index = apart.map(|k| model.processes.len() + k);
    let Some(index) = index.or_else(|| model.processes.iter().position(|p| p.pid == proc_file.pid)) else {
        return Ok(None);
    };
    super::table::raise_limit(cx, index, number as u32)?;
    let control = cx.control_fd;
    let batch = &mut cx.building[index].batch;
    batch.call(format!("lending fd {number}"), nr::DUP3, &[control.into(), number.into(), 0.into()]);
    cx.flush(index)?;
    Ok(Some((index, number)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_apart() {
        let n = parse(b"/proc/12/task/13/status").unwrap();
        assert_eq!((n.pid, n.tid, n.rest.as_slice()), (12, 13, &b"status"[..]));
        let n = parse(b"/proc/12/fd (deleted)").unwrap();
        assert_eq!((n.pid, n.tid, n.rest.as_slice()), (12, 0, &b"fd"[..]));
        let n = parse(b"/proc/12").unwrap();
        assert_eq!((n.pid, n.rest.as_slice()), (12, &b""[..]));
        assert!(parse(b"/proc/meminfo").is_none());
    }
}
