//! Working directory, root directory and umask: one record for each `fs_struct` (shared by CLONE_FS).
//!
//! Read: `/proc/PID/{cwd,root}`, `Umask` of status (Linux 4.7). Rebuilt by the process itself, `chdir(2)` before `chroot(2)`
//! so that both paths are ghost's own. A working directory that has been deleted is made for a moment and deleted again; one
//! below /proc of a process that has ended is that of another, which ends then.

use crate::abreast;
use crate::error::{Context, KindError};
use crate::export::ExportCx;
use crate::import::ImportCx;
use crate::kinds::fd::{content, path_of_link, procfile};
use crate::names::{Names, Sort, Ticket};
use ghost_image::record as rec;
use ghost_sys::mortal::Mortal;
use ghost_sys::proc::ProcDir;
use ghost_sys::{Pid, nr};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, OwnedFd};

/// Writes one record for each.
pub(super) fn export(cx: &mut ExportCx<'_>) -> Result<(), KindError> {
    let owners = cx.view.processes.iter().enumerate().filter(|(_, p)| !p.is_zombie() && p.shares_fs.is_none());
    let owners: Vec<_> = owners.collect();
    let both = abreast::each(&owners, abreast::PROCESSES, |(_, process)| directories(process.pid, &process.dir));
    for ((index, process), both) in owners.into_iter().zip(both) {
        let (cwd, root) = both?;
        cx.model.fs.push(rec::Fs {
            id: cx.model.processes[index].fs_id,
            cwd: Some(cwd),
            root: Some(root),
            umask: process.status.umask.unwrap_or(UMASK),
        });
    }
    let view = cx.view;
    for (k, apart) in view.apart.iter().enumerate().filter(|(_, a)| a.fs) {
        let process = &view.processes[apart.process];
        let (cwd, root) = directories(process.pid, &apart.dir)?;
        let umask = process.threads.iter().find(|t| t.tid == apart.tid).and_then(|t| t.status.umask);
        let (id, umask) = (view.fs_id(view.processes.len() + k), umask.unwrap_or(UMASK));
        cx.model.fs.push(rec::Fs { id, cwd: Some(cwd), root: Some(root), umask });
    }
    Ok(())
}

/// What a process has that never chose.
const UMASK: u32 = 0o022;

fn directories(pid: Pid, dir: &ProcDir) -> Result<(rec::Path, rec::Path), KindError> {
    Ok((path_of_link(pid, dir, "cwd")?, path_of_link(pid, dir, "root")?))
}

/// Puts each process into its directories, and each thread that has its own.
pub(super) fn finish(cx: &mut ImportCx<'_>) -> Result<(), KindError> {
    let model = cx.model;
    let mut done = HashSet::new();
    let mut there = There::default();
    let own = model.processes.iter().enumerate().filter(|(_, p)| p.zombie.is_none());
    let own = own.map(|(index, p)| (index, p, p.fs_id));
    let n = model.processes.len();
    let apart = cx.apart.iter().enumerate().map(|(k, a)| (n + k, &model.processes[a.process], a.fs(model)));
    for (index, record, id) in own.chain(apart).collect::<Vec<_>>() {
        let Some(fs) = model.fs(id).filter(|f| done.insert(f.id)) else { continue };
        let mut made = Made::default();
        if let Some(cwd) = fs.cwd.as_ref().filter(|c| c.deleted)
            && let Some(fd) = there.of(cx, cwd)?
        {
            let number = cx.hand_over(index, &[fd.as_fd()])?;
            let batch = &mut cx.building[index].batch;
            for number in number {
                batch.call("fchdir to a deleted directory", nr::FCHDIR, &[number.into()]);
                batch.call("close after fchdir", nr::CLOSE, &[number.into()]);
            }
        } else if let Some(cwd) = &fs.cwd {
            let path = directory(cx, cwd, record.pid, &mut made).map_err(|e| e.on(record.pid, "working directory"))?;
            if made.directories.last().is_some_and(|made| made.0 == path) {
                there.note(cwd, &path);
            }
            let batch = &mut cx.building[index].batch;
            let name = batch.c_string(&path);
            batch.call(format!("chdir to {}", text(&path)), nr::CHDIR, &[name.into()]);
        }
        if let Some(root) = fs.root.as_ref().filter(|r| r.path != b"/" && !r.path.is_empty()) {
            let path = directory(cx, root, record.pid, &mut made).map_err(|e| e.on(record.pid, "root directory"))?;
            let batch = &mut cx.building[index].batch;
            let name = batch.c_string(&path);
            batch.call(format!("chroot to {}", text(&path)), nr::CHROOT, &[name.into()]);
        }
        cx.building[index].batch.call("umask", nr::UMASK, &[fs.umask.into()]);
        if !made.directories.is_empty() || made.process.is_some() {
            let entered = cx.flush(index);
            let met = crate::failpoint::hit("import.momentary");
            for (path, ticket) in made.directories.iter().rev() {
                // Deleted again, also when it could not be entered.
                if rustix::fs::rmdir(path.as_slice()).is_ok() {
                    cx.names.gone(*ticket);
                }
            }
            entered?;
            met?;
        }
    }
    Ok(())
}

/// Deleted directories that have been made already: by their device and inode of then.
#[derive(Default)]
struct There(HashMap<(u64, u64), OwnedFd>);

impl There {
    /// The one that takes the place of this: made for a descriptor, or for another process.
    fn of(&self, cx: &ImportCx<'_>, cwd: &rec::Path) -> Result<Option<OwnedFd>, KindError> {
        let key = (cwd.device, cwd.inode);
        let made = self.0.get(&key).map(AsFd::as_fd).or_else(|| content::made_directory(cx, key.0, key.1));
        made.map(|fd| fd.try_clone_to_owned().step("keeping a deleted directory")).transpose()
    }

    /// Keeps a working directory for others while it has its name.
    fn note(&mut self, cwd: &rec::Path, path: &[u8]) {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        if let Ok(fd) = rustix::fs::open(path, flags, Mode::empty()) {
            self.0.insert((cwd.device, cwd.inode), fd);
        }
    }
}

/// What is there only for as long as it is entered.
#[derive(Default)]
struct Made {
    directories: Vec<(Vec<u8>, Ticket)>,
    /// Whose directory below /proc is entered: it ends right after.
    process: Option<Mortal>,
}

fn text(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

/// The path of a directory as it is to be entered; directories that are made for it are added to `made`.
fn directory(cx: &mut ImportCx<'_>, path: &rec::Path, pid: i32, made: &mut Made) -> Result<Vec<u8>, KindError> {
    if let Some(of_process) = procfile::parse(&path.path).filter(|_| path.deleted) {
        if made.process.is_none() {
            made.process = Some(Mortal::new().step("making a process to end")?);
        }
        let mortal = made.process.as_ref().map_or(0, Mortal::pid);
        return Ok(of_process.of(|_| mortal));
    }
    // Of a process of the tree: under the pid that it has now.
    let of_process = procfile::parse(&path.path).map(|name| name.of(|pid| cx.pid(pid)));
    let name = of_process.unwrap_or_else(|| mapped(cx, &path.path));
    if !path.deleted {
        let stat = rustix::fs::stat(name.as_slice());
        return match stat {
            Ok(s) if FileType::from_raw_mode(s.st_mode) == FileType::Directory => Ok(name),
            Ok(_) => Err(KindError::conflict(format!("entering {}", text(&name)), "it is no directory any more")
                .advise("put it back, or name another with --map-file OLD=NEW")),
            Err(e) => Err(KindError::new(format!("entering {}", text(&name)), e)
                .advise("put it back, or name another with --map-file OLD=NEW")),
        };
    }
    // Missing parents are made too; a directory that has the name now is another one.
    let mut missing = Vec::new();
    let mut at = parent(&name);
    while !at.is_empty() && rustix::fs::stat(at).is_err_and(|e| e == Errno::NOENT) {
        missing.push(at.to_vec());
        at = parent(at);
    }
    let mode = Mode::from_raw_mode(path.mode & 0o7777);
    for parent in missing.into_iter().rev() {
        let ticket = make(&mut cx.names, &parent, Mode::RWXU)?;
        made.directories.push((parent, ticket));
    }
    let mut name = name;
    if rustix::fs::lstat(name.as_slice()).is_ok() {
        name.extend_from_slice(format!(".ghost-{pid}").as_bytes());
    }
    let ticket = make(&mut cx.names, &name, mode)?;
    made.directories.push((name.clone(), ticket));
    Ok(name)
}

/// Makes a directory that has its name for a moment.
fn make(names: &mut Names, path: &[u8], mode: Mode) -> Result<Ticket, KindError> {
    let ticket = names.intend(path, Sort::Directory);
    match rustix::fs::mkdir(path, mode) {
        Ok(()) => {
            names.made(ticket);
            Ok(ticket)
        }
        Err(e) => {
            names.gone(ticket);
            Err(KindError::new(format!("making {} for a moment", text(path)), e))
        }
    }
}

fn parent(path: &[u8]) -> &[u8] {
    path.iter().rposition(|b| *b == b'/').map_or(&[], |at| &path[..at])
}

/// As the user mapped it.
fn mapped(cx: &ImportCx<'_>, path: &[u8]) -> Vec<u8> {
    for (old, new) in &cx.options.map_files {
        match path.strip_prefix(old.as_slice()) {
            Some(rest) if rest.is_empty() || rest.starts_with(b"/") => return [new.as_slice(), rest].concat(),
            _ => {}
        }
    }
    path.to_vec()
}
