//! Rings of the kernel's asynchronous I/O: `io_setup(2)`, `io_submit(2)`, `io_getevents(2)`.
//!
//! Read: the ring itself, which is in the memory of the process (kernel `fs/aio.c`, `struct aio_ring`): how many events it
//! holds, where the reader and the kernel are in it, and the events that nobody has fetched. Rebuilt: a context of the same
//! size made in the process; its ring moved to the old address by `mremap(2)`, which changes the context's id along; requests
//! to /dev/null, done at once, until the kernel's own place in the ring is the old one; then the old events in theirs.
//!
//! The kernel tells nobody whether requests are under way. Those are not carried, which is noted; what was done before the
//! freeze is in the ring. Refused: a ring that a child has inherited without its context.

use crate::error::{Blocker, Cause, Context, KindError};
use crate::export::ExportCx;
use crate::import::ImportCx;
use ghost_image::record as rec;
use ghost_image::record::vma::Special;
use ghost_sys::nr;
use ghost_sys::remote::{Batch, Executor, Memory, RemoteAddr, Slot};
use std::os::fd::AsFd;

/// `struct aio_ring` before its events: id, nr, head, tail, magic, two feature words, its own length.
const HEADER: usize = 32;
/// `struct io_event`
const EVENT: usize = 32;
const MAGIC: u32 = 0xa10a_10a1;
/// Requests to /dev/null in one call.
const STEP: u32 = 64;

/// The context behind a mapping of the process at `index`.
pub fn export(cx: &mut ExportCx<'_>, index: usize, vma: &rec::Vma) -> Result<rec::AioContext, KindError> {
    let process = &cx.view.processes[index];
    let what = || format!("AIO ring {:x}-{:x}", vma.start, vma.end);
    let memory = Memory::open(process.live).step_on(process.pid, what, "opening its memory")?;
    let mut header = [0; HEADER];
    memory.read(RemoteAddr(vma.start), &mut header).step_on(process.pid, what, "reading the ring")?;
    let word = |i: usize| u32::from_ne_bytes(header[i * 4..i * 4 + 4].try_into().expect("four bytes"));
    let (place, nr, head, tail) = (word(0), word(1), word(2), word(3));
    let len = vma.end - vma.start;
    let is_whole = word(4) == MAGIC
        && u64::from(nr) == (len - HEADER as u64) / EVENT as u64
        && head < nr
        && tail < nr
        && cx.answers.processes[index].memory.rings.contains(&vma.start);
    if !is_whole {
        let blocker = Blocker {
            pid: process.pid,
            comm: process.comm(),
            kind: "aio",
            subject: what(),
            why: "the ring has no context in this process: it was inherited by fork, or a part of it is gone".into(),
            advice: "let the program unmap it first".into(),
            passes: false,
        };
        return Err(KindError::new("exporting an AIO ring", Cause::Refused(Box::new(blocker))));
    }
    let mut events = Vec::new();
    for (from, to) in stretches(head, tail, nr) {
        let mut part = vec![0; (to - from) as usize * EVENT];
        memory.read(slot_address(vma.start, from), &mut part).step_on(process.pid, what, "reading the ring")?;
        events.append(&mut part);
    }
    cx.notes.push(rec::Note {
        pid: process.pid,
        kind: "aio".into(),
        subject: what(),
        text: "requests that were under way at the freeze, if any were, are not carried: the kernel does not tell"
            .into(),
    });
    Ok(rec::AioContext { id: vma.start, len, nr, head, tail, events, place })
}

/// The slots from `head` to `tail`, as one or two stretches.
fn stretches(head: u32, tail: u32, nr: u32) -> Vec<(u32, u32)> {
    if head <= tail { vec![(head, tail)] } else { vec![(head, nr), (0, tail)] }
}

fn slot_address(ring: u64, slot: u32) -> RemoteAddr {
    RemoteAddr(ring + HEADER as u64 + u64::from(slot) * EVENT as u64)
}

/// Makes the contexts of an address space, once all its other mappings are in their places.
pub fn import(cx: &mut ImportCx<'_>, index: usize, mm: &rec::Mm) -> Result<(), KindError> {
    if mm.aio.is_empty() {
        return Ok(());
    }
    let pid = cx.record(index).pid;
    let what = || "AIO context".to_owned();
    // In the order of the kernel's table, so that they get their places in it again.
    let mut contexts: Vec<&rec::AioContext> = mm.aio.iter().collect();
    contexts.sort_by_key(|c| c.place);
    let mut batch = Batch::new();
    let mut rooms = Vec::new();
    for context in &contexts {
        if context.nr < 8 || context.len != (HEADER + context.nr as usize * EVENT) as u64 || context.head >= context.nr
        {
            return Err(KindError::conflict("making an AIO context", "the ghost's ring is no ring").on(pid, what()));
        }
        let room = batch.data(&[0; 8]);
        // The kernel makes twice as many slots and two more, then fills the last page with slots.
        let wanted = (context.nr - 2) / 2;
        batch.call(format!("io_setup for {wanted} events"), nr::IO_SETUP, &[wanted.into(), room.into()]);
        rooms.push(room);
    }
    let outcome = cx.run(index, &batch)?;
    let made: Vec<u64> = rooms.iter().map(|r| outcome.u64(*r)).collect();
    let null = rustix::fs::open("/dev/null", rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC, 0.into())
        .step("opening /dev/null")?;
    let null = cx.hand_over(index, &[null.as_fd()])?[0];
    for (context, at) in contexts.iter().zip(made) {
        let stub = cx.building[index]
            .leader
            .as_ref()
            .ok_or_else(|| KindError::conflict("making an AIO context", "the process is gone"))?;
        let (nr_now, _) = slots(stub.memory(), at).step_on(pid, what, "looking at the new ring")?;
        if nr_now != context.nr {
            return Err(KindError::conflict(
                "making an AIO context",
                format!(
                    "the kernel makes a ring of {nr_now} slots here, it had {}: this host has more CPUs",
                    context.nr
                ),
            )
            .on(pid, what()));
        }
        let batch = &mut cx.building[index].batch;
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        let args = [at.into(), context.len.into(), context.len.into(), flags.into(), context.id.into()];
        batch.call(format!("mremap of the AIO ring to {:x}", context.id), nr::MREMAP, &args);
        let unread = (context.tail + context.nr - context.head) % context.nr;
        advance(batch, context.id, null, context.head, true);
        advance(batch, context.id, null, unread, false);
        cx.flush(index)?;
        place_events(cx, index, context).map_err(|e| e.on(pid, what()))?;
    }
    cx.building[index].batch.call("close of /dev/null", nr::CLOSE, &[null.into()]);
    Ok(())
}

/// Queues `count` requests that are done at once; `fetch` takes their events again.
fn advance(batch: &mut Batch, ring: u64, null: i32, count: u32, fetch: bool) {
    if count == 0 {
        return;
    }
    // struct iocb: data, key and flags, opcode (0 is pread) and descriptor, buffer, length, offset, two more.
    let buffer = batch.room(16);
    let block = batch.data(&[0, 0, (null as u64) << 32, 0, 0, 0, 0, 0_u64].map(u64::to_ne_bytes).concat());
    batch.point(block.at(24), buffer);
    let list = batch.room(STEP as usize * 8);
    for i in 0..STEP {
        batch.point(list.at(i * 8), block);
    }
    let events = batch.room(STEP as usize * EVENT);
    let mut left = count;
    while left > 0 {
        let now = left.min(STEP);
        batch.call("io_submit to /dev/null", nr::IO_SUBMIT, &[ring.into(), now.into(), list.into()]);
        if fetch {
            let args = [ring.into(), now.into(), now.into(), events.into(), 0.into()];
            let _: Slot = batch.call("io_getevents", libc::SYS_io_getevents, &args);
        }
        left -= now;
    }
}

/// The size of a ring, and where its reader and its writer are.
fn slots(memory: &Memory, ring: u64) -> ghost_sys::Result<(u32, (u32, u32))> {
    let mut header = [0; 16];
    memory.read(RemoteAddr(ring), &mut header)?;
    let word = |i: usize| u32::from_ne_bytes(header[i * 4..i * 4 + 4].try_into().expect("four bytes"));
    Ok((word(1), (word(2), word(3))))
}

fn place_events(cx: &ImportCx<'_>, index: usize, context: &rec::AioContext) -> Result<(), KindError> {
    let Some(stub) = cx.building[index].leader.as_ref() else { return Ok(()) };
    let memory = stub.memory();
    let (_, (head, tail)) = slots(memory, context.id).step("looking at the new ring")?;
    if (head, tail) != (context.head, context.tail) {
        let why = format!("the ring is at {head} to {tail} and not at {} to {}", context.head, context.tail);
        return Err(KindError::conflict("bringing an AIO ring to its place", why));
    }
    let mut rest = context.events.as_slice();
    for (from, to) in stretches(context.head, context.tail, context.nr) {
        let (now, later) = rest.split_at_checked((to - from) as usize * EVENT).ok_or_else(|| {
            KindError::conflict("bringing an AIO ring to its place", "events are missing in the ghost")
        })?;
        rest = later;
        memory.write(slot_address(context.id, from), now).step("writing its events")?;
    }
    Ok(())
}

/// Whether this mapping is a ring.
pub fn is_ring(vma: &rec::Vma) -> bool {
    vma.special() == Special::AioRing
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unread_events_may_go_round_the_end() {
        assert_eq!(stretches(3, 5, 127), [(3, 5)]);
        assert_eq!(stretches(5, 5, 127), [(5, 5)]);
        assert_eq!(stretches(120, 2, 127), [(120, 127), (0, 2)]);
    }

    #[test]
    fn the_size_that_is_asked_for_gives_the_ring_of_then() {
        // As aio_setup_ring() computes it: twice as many slots and two more, in whole pages.
        for pages in 1..2000_u32 {
            let nr = (pages * 4096 - HEADER as u32) / EVENT as u32;
            let wanted = (nr - 2) / 2;
            let slots = wanted * 2 + 2;
            let got = (HEADER as u32 + slots * EVENT as u32).div_ceil(4096);
            assert_eq!(got, pages);
        }
    }
}
