//! epoll: what is watched, and for what, `epoll(7)`.
//!
//! Read: fdinfo (targets with events and data; Linux 3.8, inode and device 4.13), `kcmp(2)` with KCMP_EPOLL_TFD (Linux
//! 4.13), since a target is a description *and* the number by which it was added, and that number may stand for another file
//! by now. Rebuilt: EPOLL_CTL_ADD made by the process itself, once its descriptors have their numbers; a target whose
//! number is another file now is put there for the moment of the call.
//!
//! Two things can't be read and are found out: a one-shot target that has fired is put in that state by letting it fire
//! again; and the edge of an edge-triggered one is taken back when nothing at all was ready at the checkpoint. When
//! something was, it is told once more: a program must bear an edge too many, not one too few.
//! Lost: the order of what is ready.

use super::class::Refusal;
use super::{note, regular, subject};
use crate::error::{Context, KindError};
use crate::export::ExportCx;
use crate::import::ImportCx;
use crate::view::{FdView, TreeView};
use ghost_image::record as rec;
use ghost_sys::proc::EpollTarget;
use ghost_sys::{Errno, fdops, nr};
use rustix::event::{PollFd, PollFlags, Timespec, epoll};
use std::cmp::Ordering;
use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

const ONESHOT: u32 = 1 << 30;
const EDGE: u32 = 1 << 31;
/// EPOLLET, EPOLLONESHOT, EPOLLWAKEUP, EPOLLEXCLUSIVE: how it is told, not of what.
const HOW: u32 = 0xf << 28;
/// EPOLLIN, EPOLLOUT and their like: whatever can be ready.
const ANYTHING: u32 = 0x7 | 0x2000;
const CTL_ADD: u64 = 1;
const CTL_MOD: u64 = 3;

/// Where a description was seen: number of the table, and descriptor.
type Place = (usize, i32);

/// Refuses a target that no process of the tree has.
pub fn check(view: &TreeView, fd: &FdView) -> Option<Refusal> {
    let lost = targets(view, fd).into_iter().find(|(_, place)| place.is_none())?.0;
    Some(Refusal::new(
        "epoll",
        format!("watches a file that was its fd {} and that no process of the tree has open by now", lost.fd),
        "let the program remove it, or lose it with --accept epoll",
    ))
}

/// Every target with a descriptor that stands for it.
fn targets(view: &TreeView, epoll: &FdView) -> Vec<(EpollTarget, Option<Place>)> {
    let mut nth: HashMap<i32, u32> = HashMap::new();
    epoll
        .info
        .epoll
        .iter()
        .map(|target| {
            let n = nth.entry(target.fd).or_default();
            let place = find(view, epoll.ours.as_fd(), target, *n);
            *n += 1;
            (*target, place)
        })
        .collect()
}

fn find(view: &TreeView, epoll: BorrowedFd<'_>, target: &EpollTarget, nth: u32) -> Option<Place> {
    let is_it = |fd: &FdView| {
        (target.ino == 0 || fd.stat.st_ino == target.ino)
            && fdops::compare_epoll(fd.ours.as_fd(), epoll, target.fd, nth) == Ok(Ordering::Equal)
    };
    let all = || view.tables().map(|(number, _, fds)| (number, fds));
    // Nearly always it still has the number by which it was added.
    let by_number = all().find_map(|(i, fds)| {
        let at = fds.binary_search_by_key(&target.fd, |f| f.fd).ok()?;
        is_it(&fds[at]).then_some((i, target.fd))
    });
    by_number.or_else(|| all().find_map(|(i, fds)| fds.iter().find(|f| is_it(f)).map(|f| (i, f.fd))))
}

/// What is written of it; targets are named by the ids that their descriptions get once all tables are written.
pub fn export(cx: &mut ExportCx<'_>, fd: &FdView) -> rec::Epoll {
    let mut entries = Vec::with_capacity(fd.info.epoll.len());
    for (target, place) in targets(cx.view, fd) {
        let Some((table, number)) = place else {
            let text = format!("its target that was fd {} is lost, as accepted", target.fd);
            cx.notes.push(note(0, "epoll", subject(fd), text));
            continue;
        };
        entries.push(rec::EpollEntry {
            fd: target.fd as u32,
            file_id: number as u32,
            events: target.events,
            data: target.data,
            owner_table: table as u32,
        });
    }
    let (busy_poll_usecs, busy_poll_budget, prefer_busy_poll) = fdops::busy_poll(fd.ours.as_fd());
    rec::Epoll { entries, idle: is_idle(fd.ours.as_fd()), busy_poll_usecs, busy_poll_budget, prefer_busy_poll }
}

/// Replaces the places of targets by the ids of their descriptions and of the table that stands for them.
pub fn resolve(cx: &mut ExportCx<'_>) {
    let view = cx.view;
    for file in &mut cx.model.files {
        if let Some(rec::file::Object::Epoll(epoll)) = &mut file.object {
            for entry in &mut epoll.entries {
                let table = entry.owner_table as usize;
                entry.file_id = cx.shared.of_fd(table, entry.file_id as i32).unwrap_or_default();
                entry.owner_table = view.table_id(table);
            }
            epoll.entries.retain(|e| e.file_id != 0);
        }
    }
}

/// Whether nothing that it watches is ready. Asking takes no edge.
fn is_idle(epoll: BorrowedFd<'_>) -> bool {
    let mut polled = [PollFd::new(&epoll, PollFlags::IN)];
    matches!(rustix::event::poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(0))
}

/// Makes it, as yet without a target.
pub fn import(file: &rec::File, e: &rec::Epoll) -> Result<OwnedFd, KindError> {
    let fd = epoll::create(epoll::CreateFlags::CLOEXEC).step("making an epoll")?;
    let busy_poll = (e.busy_poll_usecs, e.busy_poll_budget, e.prefer_busy_poll);
    if busy_poll != fdops::BusyPoll::default() {
        fdops::set_busy_poll(fd.as_fd(), busy_poll).step("EPIOCSPARAMS")?;
    }
    regular::set_flags(fd.as_fd(), file.flags)?;
    Ok(fd)
}

/// Adds the targets of every epoll, inside the processes. Descriptors have their numbers.
pub fn finish(cx: &mut ImportCx<'_>) -> Result<(), KindError> {
    let model = cx.model;
    let epolls: Vec<(&rec::File, &rec::Epoll)> = model
        .files
        .iter()
        .filter_map(|f| match &f.object {
            Some(rec::file::Object::Epoll(e)) if !e.entries.is_empty() => Some((f, e)),
            _ => None,
        })
        .collect();
    if epolls.is_empty() {
        return Ok(());
    }
    let owners: HashMap<u32, usize> = super::table::owners(cx).into_iter().collect();
    // An epoll that watches another takes an edge from it when it is asked: inner ones are filled first.
    let mut order: Vec<usize> = (0..epolls.len()).collect();
    order.sort_by_cached_key(|&i| depth(model, epolls[i].1, 0));
    for i in order {
        let (file, epoll) = epolls[i];
        add_all(cx, &owners, file, epoll).map_err(|e| {
            if e.subject.is_empty() { KindError { subject: super::describe(model, file), ..e } } else { e }
        })?;
    }
    Ok(())
}

/// How deep epolls are nested below this one; the kernel allows five.
fn depth(model: &crate::model::Model, epoll: &rec::Epoll, level: u32) -> u32 {
    if level > 8 {
        return level;
    }
    let inner = epoll.entries.iter().filter_map(|e| match &model.file(e.file_id)?.object {
        Some(rec::file::Object::Epoll(inner)) => Some(depth(model, inner, level + 1)),
        _ => None,
    });
    inner.max().map_or(0, |d| d + 1)
}

/// One table's view of an epoll: who has it under which number. One that lies in a socket nobody has: it is lent.
struct Inside<'a> {
    index: usize,
    table: &'a rec::FdTable,
    number: Option<i32>,
}

fn add_all(
    cx: &mut ImportCx<'_>,
    owners: &HashMap<u32, usize>,
    file: &rec::File,
    epoll: &rec::Epoll,
) -> Result<(), KindError> {
    let fired = |e: &rec::EpollEntry| e.events & ONESHOT != 0 && e.events & !HOW == 0;
    let told = |e: &rec::EpollEntry| epoll.idle && e.events & EDGE != 0;
    let ours = cx.files.get(&file.id).step_missing()?.try_clone().step("keeping the epoll")?;
    // First those that are to fire at once, while nothing else is in it: what fires is taken.
    for entry in epoll.entries.iter().filter(|e| fired(e)) {
        add(cx, owners, file, entry, entry.events | ANYTHING)?;
    }
    if epoll.entries.iter().any(fired) {
        take(&ours)?;
        // One that was not ready for anything stays armed for nothing but an error, as near as the kernel lets us come.
        for entry in epoll.entries.iter().filter(|e| fired(e)) {
            change(cx, owners, file, entry)?;
        }
        take(&ours)?;
    }
    for entry in epoll.entries.iter().filter(|e| told(e) && !fired(e)) {
        add(cx, owners, file, entry, entry.events)?;
    }
    if epoll.entries.iter().any(told) {
        take(&ours)?;
    }
    for entry in epoll.entries.iter().filter(|e| !told(e) && !fired(e)) {
        add(cx, owners, file, entry, entry.events)?;
    }
    Ok(())
}

trait Missing<T> {
    fn step_missing(self) -> Result<T, KindError>;
}
impl<T> Missing<T> for Option<T> {
    fn step_missing(self) -> Result<T, KindError> {
        self.ok_or_else(|| {
            KindError::conflict("adding a target", "the ghost names a description or a table that it does not have")
        })
    }
}

/// The table in which the target has, or had, its number; else any that has the epoll.
fn inside<'a>(
    cx: &ImportCx<'a>,
    owners: &HashMap<u32, usize>,
    epoll: u32,
    entry: &rec::EpollEntry,
) -> Option<Inside<'a>> {
    let model = cx.model;
    let with = |table: &'a rec::FdTable| {
        let number = table.fds.iter().find(|f| f.file_id == epoll)?.fd as i32;
        Some(Inside { index: *owners.get(&table.id)?, table, number: Some(number) })
    };
    let without = |table: &'a rec::FdTable| Some(Inside { index: *owners.get(&table.id)?, table, number: None });
    let holds = |t: &rec::FdTable| t.fds.iter().any(|f| (f.fd, f.file_id) == (entry.fd, entry.file_id));
    model
        .fd_tables
        .iter()
        .filter(|t| holds(t))
        .find_map(with)
        .or_else(|| model.fd_table(entry.owner_table).and_then(with))
        .or_else(|| model.fd_tables.iter().find_map(with))
        .or_else(|| model.fd_table(entry.owner_table).and_then(without))
        .or_else(|| model.fd_tables.iter().find_map(without))
}

fn event(events: u32, data: u64) -> Vec<u8> {
    // struct epoll_event is packed on x86-64 and naturally aligned elsewhere.
    let gap = if cfg!(target_arch = "x86_64") { 0 } else { 4 };
    [events.to_ne_bytes().as_slice(), &vec![0; gap], &data.to_ne_bytes()].concat()
}

fn add(
    cx: &mut ImportCx<'_>,
    owners: &HashMap<u32, usize>,
    file: &rec::File,
    entry: &rec::EpollEntry,
    events: u32,
) -> Result<(), KindError> {
    control(cx, owners, file, entry, CTL_ADD, events)
}

/// Narrows what a fired one-shot target was added with; one that was taken is left alone by the kernel's own rule.
fn change(
    cx: &mut ImportCx<'_>,
    owners: &HashMap<u32, usize>,
    file: &rec::File,
    entry: &rec::EpollEntry,
) -> Result<(), KindError> {
    let ours = cx.files.get(&file.id).step_missing()?;
    let info = ghost_sys::proc::ProcDir::own()
        .and_then(|own| ghost_sys::proc::read_fdinfo(&own, std::os::fd::AsRawFd::as_raw_fd(ours)))
        .map_err(|e| KindError::conflict("looking at the new epoll", e.to_string()))?;
    let armed = info.epoll.iter().any(|t| t.fd == entry.fd as i32 && t.data == entry.data && t.events & !HOW != 0);
    if armed { control(cx, owners, file, entry, CTL_MOD, entry.events) } else { Ok(()) }
}

fn control(
    cx: &mut ImportCx<'_>,
    owners: &HashMap<u32, usize>,
    file: &rec::File,
    entry: &rec::EpollEntry,
    what: u64,
    events: u32,
) -> Result<(), KindError> {
    let Inside { index, table, number } = inside(cx, owners, file.id, entry).step_missing()?;
    let wanted = entry.fd as i32;
    let mut helpers = Vec::new();
    let number = if let Some(number) = number {
        number
    } else {
        let ours = cx.files.get(&file.id).step_missing()?.try_clone().step("keeping the epoll")?;
        // Twice, since one may get the number of the target, which then takes its place.
        helpers = cx.hand_over(index, &[ours.as_fd(), ours.as_fd()])?;
        helpers.retain(|n| *n != wanted);
        *helpers.first().step_missing()?
    };
    let label = format!("epoll_ctl of fd {wanted} in epoll fd {number}");
    let there = table.fds.iter().find(|f| f.fd == entry.fd);
    if there.is_some_and(|f| f.file_id == entry.file_id) {
        let batch = &mut cx.building[index].batch;
        let event = batch.data(&event(events, entry.data));
        batch.call(label, nr::EPOLL_CTL, &[number.into(), what.into(), wanted.into(), event.into()]);
        for helper in helpers {
            batch.call("closing a helper", nr::CLOSE, &[helper.into()]);
        }
        return cx.flush(index).map(drop);
    }
    // The number is another file now, or none: the target is put there for the moment of the call. What is there meanwhile
    // waits under a number of its own, so that it is never closed.
    let target = cx.files.get(&entry.file_id).step_missing()?.try_clone().step("keeping the target")?;
    let lent = cx.hand_over(index, &[target.as_fd()])?[0];
    let batch = &mut cx.building[index].batch;
    let event = batch.data(&event(events, entry.data));
    // A number that the handing over itself has taken is free otherwise.
    let aside = there.map(|_| batch.call(format!("moving fd {wanted} aside"), nr::DUP, &[wanted.into()]));
    if lent != wanted {
        batch.call(format!("lending fd {wanted}"), nr::DUP3, &[lent.into(), wanted.into(), 0.into()]);
    }
    batch.call(label, nr::EPOLL_CTL, &[number.into(), what.into(), wanted.into(), event.into()]);
    match (aside, there) {
        (Some(aside), Some(fd)) => {
            let flags = if fd.cloexec { rustix::fs::OFlags::CLOEXEC.bits() } else { 0 };
            batch.call(format!("moving fd {wanted} back"), nr::DUP3, &[aside.into(), wanted.into(), flags.into()]);
            batch.call("closing a helper", nr::CLOSE, &[aside.into()]);
        }
        _ => {
            batch.call("closing a helper", nr::CLOSE, &[wanted.into()]);
        }
    }
    for helper in helpers.into_iter().chain((lent != wanted).then_some(lent)) {
        batch.call("closing a helper", nr::CLOSE, &[helper.into()]);
    }
    cx.flush(index).map(drop)
}

/// Takes all events that are ready now.
fn take(epoll: &OwnedFd) -> Result<(), KindError> {
    let mut events = Vec::with_capacity(1024);
    // Level-triggered ones are not in it yet, so that it comes to an end.
    for _ in 0..4096 {
        let none = Timespec { tv_sec: 0, tv_nsec: 0 };
        match epoll::wait(epoll, rustix::buffer::spare_capacity(&mut events), Some(&none)) {
            Ok(0) => return Ok(()),
            Ok(_) => events.clear(),
            Err(e) => return Err(KindError::new("taking what fires at once", Errno(e.raw_os_error()))),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asking_takes_no_edge() {
        let (r, w) = rustix::pipe::pipe().unwrap();
        let fd = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        epoll::add(&fd, &r, epoll::EventData::new_u64(7), epoll::EventFlags::IN | epoll::EventFlags::ET).unwrap();
        assert!(is_idle(fd.as_fd()));
        rustix::io::write(&w, b"x").unwrap();
        for _ in 0..2 {
            assert!(!is_idle(fd.as_fd()));
        }
        take(&fd).unwrap();
        assert!(is_idle(fd.as_fd()), "the edge has been taken, though the byte is still there");
    }

    #[test]
    fn an_event_has_the_layout_of_the_kernel() {
        let bytes = event(0x8000_0001, 0x0102_0304_0506_0708);
        assert_eq!(bytes.len(), if cfg!(target_arch = "x86_64") { 12 } else { 16 });
        assert_eq!(bytes[..4], 0x8000_0001_u32.to_ne_bytes());
    }
}
