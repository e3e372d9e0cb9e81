//! Memory hidden from the kernel itself, `memfd_secret(2)`.
//!
//! Programs put keys there, so that nobody but themselves can read them. It is refused by name, unless the user says by
//! `--accept secretmem` that the ghost may hold it in the clear: nothing of it is lost then, but it is hidden no longer.
//!
//! Read: where a descriptor is open in the tree, ghost maps it itself (`mincore(2)` tells which pages are there). Where only
//! mappings are left nobody else can open it: the process itself copies what is there to where ghost can read it, by a
//! `process_vm_writev(2)` from itself to itself. Rebuilt: ghost makes one and maps it to fill it.
//!
//! Not carried: a page that only a mapping without PROT_READ reaches is refused; the size of what has no descriptor is where its
//! mappings end, so that what was a SIGBUS behind its end may be zeros.

use super::vma;
use crate::error::{Blocker, Context, KindError};
use crate::export::{ExportCx, PageSource};
use crate::view::{ProcessView, TreeView};
use ghost_image::record as rec;
use ghost_sys::nr;
use ghost_sys::proc::{Perms, Smap};
use ghost_sys::ptrace::Stopped;
use ghost_sys::remote::{Batch, Puppet};
use std::collections::BTreeMap;

/// As `--accept` names it.
pub const KIND: &str = "secretmem";
/// Why it is refused.
pub const WHY: &str =
    "memory that is hidden even from the kernel (memfd_secret), and the ghost would hold it in the clear";
/// What the user can do.
pub const ADVICE: &str = "where that is no danger, take it along with --accept secretmem";

const PAGE: u64 = 4096;
/// Bytes that are copied by one visit.
const PART: u64 = 256 << 10;

/// Hidden memory that only mappings lead to, as a process tells of it: runs of pages by their offset in the file.
#[derive(Clone, Debug, Default)]
pub struct Told {
    identity: (u64, u64),
    /// Where the mapping ends in the file.
    end: u64,
    runs: Vec<(u64, Vec<u8>)>,
}

/// Whether a descriptor of the tree leads to what is mapped there.
fn is_open(view: &TreeView, identity: (u64, u64)) -> bool {
    view.fds().any(|fd| (fd.stat.st_dev, fd.stat.st_ino) == identity)
}

/// Lets a process copy its hidden memory to where ghost can read it. The user has accepted that by now.
pub fn ask(
    view: &TreeView,
    process: &ProcessView,
    first: &Stopped,
    puppet: &mut Puppet,
    blockers: &mut Vec<Blocker>,
) -> Result<Vec<Told>, KindError> {
    let mut told = Vec::new();
    for smap in process.smaps.iter().filter(|s| vma::is_secret(s)) {
        let m = &smap.mapping;
        if !is_open(view, (m.dev, m.inode)) {
            let what = || format!("memory {:x}-{:x}", m.start, m.end);
            match of_mapping(smap, first, puppet).step_on(process.pid, what, "letting it copy its hidden memory")? {
                Some(runs) => told.push(Told { identity: (m.dev, m.inode), end: m.offset + (m.end - m.start), runs }),
                None => blockers.push(Blocker {
                    pid: process.pid,
                    comm: process.comm(),
                    // Not what the user has accepted.
                    kind: "hidden memory",
                    subject: what(),
                    why: "memory that is hidden even from the kernel (memfd_secret), and that it may not read itself at the moment".into(),
                    advice: "let the program unmap it first".into(),
                    passes: false,
                }),
            }
        }
    }
    Ok(told)
}

type Runs = Vec<(u64, Vec<u8>)>;

/// The pages that are there, by offset in the file; None if there are some that the process may not read.
fn of_mapping(
    smap: &Smap,
    first: &Stopped,
    puppet: &mut Puppet,
) -> Result<Option<Runs>, ghost_sys::remote::RemoteError> {
    let m = &smap.mapping;
    let mut runs = Runs::new();
    for part in (m.start..m.end).step_by(PART as usize) {
        let len = PART.min(m.end - part);
        let mut batch = Batch::new();
        let there = batch.room((len / PAGE) as usize);
        batch.call("mincore of hidden memory", libc::SYS_mincore, &[part.into(), len.into(), there.into()]);
        let outcome = puppet.run_in(first, &batch)?;
        let pages: Vec<u64> = (0..len / PAGE).filter(|p| outcome.bytes(there)[*p as usize] & 1 != 0).collect();
        if pages.is_empty() {
            continue;
        }
        if !m.perms.contains(Perms::READ) {
            return Ok(None);
        }
        let mut batch = Batch::new();
        let own = batch.call("getpid", nr::GETPID, &[]);
        let room = batch.room(pages.len() * PAGE as usize);
        for (i, page) in pages.iter().enumerate() {
            let to = batch.data(&[[0; 8], PAGE.to_ne_bytes()].concat());
            batch.point(to, room.at((i as u64 * PAGE) as u32));
            let from = batch.data(&[(part + page * PAGE).to_ne_bytes(), PAGE.to_ne_bytes()].concat());
            let args = [own.into(), from.into(), 1.into(), to.into(), 1.into(), 0.into()];
            batch.call("process_vm_writev of hidden memory", libc::SYS_process_vm_writev, &args);
        }
        let outcome = puppet.run_in(first, &batch)?;
        let bytes = outcome.bytes(room);
        for (i, page) in pages.iter().enumerate() {
            let at = m.offset + (part - m.start) + page * PAGE;
            add(&mut runs, at, &bytes[i * PAGE as usize..][..PAGE as usize]);
        }
    }
    Ok(Some(runs))
}

/// Writes a description for a mapping of it; returns its id.
pub fn export_mapping(cx: &mut ExportCx<'_>, index: usize, smap: &Smap) -> Result<u32, KindError> {
    let m = &smap.mapping;
    let identity = (m.dev, m.inode);
    let flags = libc::O_RDWR as u32;
    if let Some(&id) = cx.shared.opened.get(&(m.dev, m.inode, flags)) {
        return Ok(id);
    }
    let content_id = match cx.shared.contents.get(identity) {
        (id, false) => id,
        (id, true) => {
            let told: Vec<&Told> = cx
                .answers
                .processes
                .iter()
                .flat_map(|p| &p.memory.secrets)
                .filter(|t| t.identity == identity)
                .collect();
            let runs = each_page_once(&told);
            let size = told.iter().map(|t| t.end).max().unwrap_or(0);
            let status = &cx.view.processes[index].status;
            let (uid, gid) = (status.uid[3], status.gid[3]);
            content(cx, rec::Content { id, size, mode: MODE, uid, gid, ..rec::Content::default() }, runs);
            id
        }
    };
    let id = cx.shared.fresh_file();
    cx.shared.opened.insert((m.dev, m.inode, flags), id);
    let object = Some(rec::file::Object::Regular(record(content_id)));
    cx.model.files.push(rec::File { id, flags, object, ..rec::File::default() });
    Ok(id)
}

/// The pages that several mappings tell of, in order.
fn each_page_once(told: &[&Told]) -> Runs {
    let pages = told
        .iter()
        .flat_map(|t| &t.runs)
        .flat_map(|(at, run)| run.chunks(PAGE as usize).enumerate().map(move |(i, page)| (at + i as u64 * PAGE, page)));
    let mut runs = Runs::new();
    for (at, page) in pages.collect::<BTreeMap<u64, &[u8]>>() {
        add(&mut runs, at, page);
    }
    runs
}

/// Adds a page behind the others.
fn add(runs: &mut Runs, at: u64, page: &[u8]) {
    match runs.last_mut() {
        Some((start, run)) if *start + run.len() as u64 == at => run.extend_from_slice(page),
        _ => runs.push((at, page.to_vec())),
    }
}

/// A regular file that its owner may read and write.
const MODE: u32 = 0o100_600;

/// What is written of a descriptor of it.
pub fn export(cx: &mut ExportCx<'_>, fd: &crate::view::FdView) -> Result<rec::Regular, KindError> {
    use std::os::fd::AsFd;
    let stat = &fd.stat;
    let (id, new) = cx.shared.contents.get((stat.st_dev, stat.st_ino));
    if new {
        let size = stat.st_size as u64;
        let runs = ghost_sys::secret::read(fd.ours.as_fd(), size).step("reading hidden memory")?;
        let (mode, uid, gid) = (stat.st_mode, stat.st_uid, stat.st_gid);
        content(cx, rec::Content { id, size, mode, uid, gid, ..rec::Content::default() }, runs);
    }
    Ok(record(id))
}

fn record(content_id: u32) -> rec::Regular {
    let path = rec::Path { path: b"/secretmem".to_vec(), deleted: true, ..rec::Path::default() };
    rec::Regular { path: Some(path), content_id, secret: true, ..rec::Regular::default() }
}

fn content(cx: &mut ExportCx<'_>, content: rec::Content, runs: Runs) {
    cx.pages.push(PageSource::Bytes { owner: super::pages::OWNER_CONTENT, id: content.id, runs });
    cx.model.contents.push(content);
}
