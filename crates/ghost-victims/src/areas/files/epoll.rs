//! epoll: what is watched, with which data, and what has been reported already.
use super::inotify::{SHARED, inotify, mkdir, touch, watch};
use crate::kit::fd::{self, Facts};
use crate::kit::{Errno, fails, row, run, same, sock, truth};
use crate::{Flag, Victim};
use libc::{EPOLLERR, EPOLLET, EPOLLHUP, EPOLLIN, EPOLLONESHOT, EPOLLOUT};

fn epoll(flags: i32) -> Result<i32, Errno> {
    fd::raw("epoll_create1", libc::SYS_epoll_create1, [flags.into(), 0, 0, 0, 0, 0]).map(|f| f as i32)
}

fn ctl(ep: i32, op: i32, f: i32, events: i32, data: u64) -> Result<(), Errno> {
    let mut e = libc::epoll_event { events: events as u32, u64: data };
    fd::raw_ref("epoll_ctl", libc::SYS_epoll_ctl, [ep.into(), op.into(), f.into(), 0, 0, 0], 3, &mut e).map(drop)
}

fn add(ep: i32, f: i32, events: i32, data: u64) -> Result<(), Errno> {
    ctl(ep, libc::EPOLL_CTL_ADD, f, events, data)
}

/// The events there are within a time, as (data, events) in ascending order of data.
fn events(ep: i32, ms: i32) -> Result<Vec<(u64, i32)>, Errno> {
    let mut list = [libc::epoll_event { events: 0, u64: 0 }; 64];
    let args = [ep.into(), list.as_mut_ptr() as i64, 64, ms.into(), 0, 0];
    let n = fd::raw("epoll_wait", libc::SYS_epoll_wait, args)?;
    let mut out: Vec<_> = list[..n as usize].iter().map(|e| (e.u64, e.events as i32)).collect();
    out.sort_unstable();
    Ok(out)
}

/// The `tfd:` lines of fdinfo, without positions and inodes, sorted.
fn entries(ep: i32) -> Result<Vec<String>, String> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{ep}")).map_err(|e| e.to_string())?;
    let mut list: Vec<String> = text
        .lines()
        .filter(|l| l.starts_with("tfd:"))
        .map(|l| l.split_once(" pos:").map_or(l, |p| p.0).split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    list.sort();
    Ok(list)
}

pub(super) const VICTIMS: &[Victim] = &[
    row!("epoll", |s| {
        let ep = epoll(libc::EPOLL_CLOEXEC)?;
        let (r, w) = fd::pipe(0)?;
        let (r2, w2) = fd::pipe(0)?;
        let e = fd::eventfd(0, 0)?;
        add(ep, r, EPOLLIN, 0xdead_beef_0123_4567)?;
        add(ep, w, EPOLLERR, u64::MAX)?;
        add(ep, r2, EPOLLIN | libc::EPOLLRDHUP | libc::EPOLLPRI, 5)?;
        add(ep, e, EPOLLIN, 9)?;
        fd::write_full(w2, b"ready before")?;
        let (list, facts) = (entries(ep)?, Facts::of(ep)?.nameless());
        s.wait();
        facts.still("epoll", ep)?;
        same("entries", list, entries(ep)?)?;
        same("events", vec![(5, EPOLLIN)], events(ep, 0)?)?;
        fd::write_full(w, b"x")?;
        fd::write_full(e, &1u64.to_ne_bytes())?;
        same(
            "events after writing",
            vec![(5, EPOLLIN), (9, EPOLLIN), (0xdead_beef_0123_4567, EPOLLIN)],
            events(ep, 0)?,
        )?;
        fd::close(r)?;
        truth("error of the write end", events(ep, 0)?.contains(&(u64::MAX, EPOLLERR)))?;
        ctl(ep, libc::EPOLL_CTL_MOD, e, EPOLLOUT, 10)?;
        ctl(ep, libc::EPOLL_CTL_DEL, r2, 0, 0)?;
        truth("modified", events(ep, 0)?.contains(&(10, EPOLLOUT)))?;
    }),
    row!("epoll-empty", |s| {
        let ep = epoll(0)?;
        s.wait();
        same("events", vec![], events(ep, 0)?)?;
        let e = fd::eventfd(1, 0)?;
        add(ep, e, EPOLLIN, 3)?;
        same("events once something is watched", vec![(3, EPOLLIN)], events(ep, 0)?)?;
    }),
    row!("epoll-nested", |s| {
        let (outer, middle, inner) = (epoll(0)?, epoll(0)?, epoll(0)?);
        let e = fd::eventfd(0, 0)?;
        add(inner, e, EPOLLIN, 1)?;
        add(middle, inner, EPOLLIN, 2)?;
        add(outer, middle, EPOLLIN | EPOLLET, 3)?;
        add(outer, e, EPOLLIN, 4)?;
        let lists = [entries(outer)?, entries(middle)?, entries(inner)?];
        s.wait();
        same("entries", lists, [entries(outer)?, entries(middle)?, entries(inner)?])?;
        same("events", vec![], events(outer, 0)?)?;
        fd::write_full(e, &1u64.to_ne_bytes())?;
        same("outer", vec![(3, EPOLLIN), (4, EPOLLIN)], events(outer, 0)?)?;
        same("middle", vec![(2, EPOLLIN)], events(middle, 0)?)?;
        same("inner", vec![(1, EPOLLIN)], events(inner, 0)?)?;
        fails("a circle", libc::ELOOP, add(inner, outer, EPOLLIN, 5))?;
    }),
    row!("epoll-edge-seen", |s| {
        // The edge has been reported: there is data, but nothing new.
        let ep = epoll(0)?;
        let (r, w) = fd::pipe(0)?;
        add(ep, r, EPOLLIN | EPOLLET, 1)?;
        fd::write_full(w, b"old")?;
        same("the first edge", vec![(1, EPOLLIN)], events(ep, 0)?)?;
        s.wait();
        same("events without anything new", vec![], events(ep, 0)?)?;
        fd::write_full(w, b"new")?;
        same("the second edge", vec![(1, EPOLLIN)], events(ep, 0)?)?;
        same("after it", vec![], events(ep, 0)?)?;
    }),
    row!("epoll-edge-pending", |s| {
        let ep = epoll(0)?;
        let (r, w) = fd::pipe(0)?;
        let (a, b) = sock::pair(libc::SOCK_STREAM)?;
        add(ep, r, EPOLLIN | EPOLLET, 1)?;
        add(ep, a, EPOLLIN | EPOLLOUT | EPOLLET, 2)?;
        fd::write_full(w, b"not yet reported")?;
        fd::write_full(b, b"nor this")?;
        s.wait();
        same("edges", vec![(1, EPOLLIN), (2, EPOLLIN | EPOLLOUT)], events(ep, 0)?)?;
        same("after them", vec![], events(ep, 0)?)?;
    }),
    row!("epoll-oneshot", |s| {
        let ep = epoll(0)?;
        let (spent, w) = fd::pipe(0)?;
        let (armed, w2) = fd::pipe(0)?;
        add(ep, spent, EPOLLIN | EPOLLONESHOT, 1)?;
        add(ep, armed, EPOLLIN | EPOLLONESHOT, 2)?;
        fd::write_full(w, b"once")?;
        same("the one shot", vec![(1, EPOLLIN)], events(ep, 0)?)?;
        let list = entries(ep)?;
        s.wait();
        same("entries", list, entries(ep)?)?;
        same("events of the spent one", vec![], events(ep, 0)?)?;
        fd::write_full(w, b"twice")?;
        fd::write_full(w2, b"first")?;
        same("events of the armed one", vec![(2, EPOLLIN)], events(ep, 0)?)?;
        fails("adding the spent one again", libc::EEXIST, add(ep, spent, EPOLLIN, 3))?;
        ctl(ep, libc::EPOLL_CTL_MOD, spent, EPOLLIN | EPOLLONESHOT, 4)?;
        same("armed again", vec![(4, EPOLLIN)], events(ep, 0)?)?;
    }),
    row!("epoll-flags", |s| {
        let ep = epoll(0)?;
        let e = fd::eventfd(0, 0)?;
        let (a, b) = sock::pair(libc::SOCK_STREAM)?;
        add(ep, e, EPOLLIN | libc::EPOLLEXCLUSIVE, 1)?;
        add(ep, a, EPOLLIN | libc::EPOLLRDHUP | libc::EPOLLWAKEUP, 2)?;
        let list = entries(ep)?;
        s.wait();
        same("entries", list, entries(ep)?)?;
        fails("modifying an exclusive one", libc::EINVAL, ctl(ep, libc::EPOLL_CTL_MOD, e, EPOLLIN, 3))?;
        fd::close(b)?;
        same("hang-up", vec![(2, EPOLLIN | libc::EPOLLRDHUP | EPOLLHUP)], events(ep, 0)?)?;
    }),
    row!("epoll-target-closed-but-dup", |s| {
        // The number that was added is gone, the description lives on by another: it still reports.
        let ep = epoll(0)?;
        let (r, w) = fd::pipe(0)?;
        add(ep, r, EPOLLIN, 77)?;
        let other = fd::dup3(r, 40, 0)?;
        fd::close(r)?;
        let list = entries(ep)?;
        s.wait();
        same("entries", list, entries(ep)?)?;
        fd::closed("the number that was added", r)?;
        fd::write_full(w, b"x")?;
        same("events", vec![(77, EPOLLIN)], events(ep, 0)?)?;
        fails("removing it by the other number", libc::ENOENT, ctl(ep, libc::EPOLL_CTL_DEL, other, 0, 0))?;
    }),
    row!("epoll-target-number-reused", |s| {
        let ep = epoll(0)?;
        let (r, w) = fd::pipe(0)?;
        add(ep, r, EPOLLIN, 1)?;
        let other = fd::dup3(r, 40, 0)?;
        fd::close(r)?;
        let e = fd::eventfd(0, 0)?;
        same("the number is used again", r, e)?;
        add(ep, e, EPOLLIN, 2)?;
        let list = entries(ep)?;
        s.wait();
        same("entries", list, entries(ep)?)?;
        fd::write_full(w, b"x")?;
        same("events of the pipe", vec![(1, EPOLLIN)], events(ep, 0)?)?;
        fd::write_full(e, &1u64.to_ne_bytes())?;
        same("events of both", vec![(1, EPOLLIN), (2, EPOLLIN)], events(ep, 0)?)?;
        ctl(ep, libc::EPOLL_CTL_DEL, e, 0, 0)?;
        same("events without the eventfd", vec![(1, EPOLLIN)], events(ep, 0)?)?;
        fd::close(other)?;
        same("events when the last number is closed", vec![], events(ep, 0)?)?;
    }),
    row!("epoll-target-twice", |s| {
        let ep = epoll(0)?;
        let (r, w) = fd::pipe(0)?;
        let again = fd::dup(r)?;
        add(ep, r, EPOLLIN, 1)?;
        add(ep, again, EPOLLIN | EPOLLET, 2)?;
        s.wait();
        fd::write_full(w, b"x")?;
        same("events", vec![(1, EPOLLIN), (2, EPOLLIN)], events(ep, 0)?)?;
        same("events again", vec![(1, EPOLLIN)], events(ep, 0)?)?;
    }),
    row!("epoll-inherited", |s| {
        // The child shares the epoll; what it watches is open only in the parent.
        let ep = epoll(0)?;
        let e = fd::eventfd(0, 0)?;
        add(ep, e, EPOLLIN, 8)?;
        s.spawn(|c| {
            run(c, |c| {
                fd::close(e)?;
                c.wait();
                same("events in the child", vec![(8, EPOLLIN)], events(ep, 10_000)?)
            });
        });
        s.wait();
        fd::write_full(e, &1u64.to_ne_bytes())?;
        same("events in the parent", vec![(8, EPOLLIN)], events(ep, 10_000)?)?;
        s.join();
    }),
    row!("epoll-target-only-in-child", [Flag::NoDup("the processes talk by a file")], |s| {
        let ep = epoll(0)?;
        let e = fd::eventfd(0, 0)?;
        add(ep, e, EPOLLIN, 8)?;
        s.spawn(|c| {
            run(c, |c| {
                fd::close(ep)?;
                c.wait();
                fd::write_full(e, &1u64.to_ne_bytes())?;
                // The description must live until the parent has looked.
                let seen = c.path("seen");
                c.until("the parent has looked", || std::path::Path::new(&seen).exists());
                Ok(())
            });
        });
        fd::close(e)?;
        s.wait();
        let found = events(ep, 10_000);
        touch(&s.path("seen"))?;
        same("events", vec![(8, EPOLLIN)], found?)?;
        s.join();
    }),
    row!("epoll-five-hundred", |s| {
        let ep = epoll(0)?;
        let list: Vec<i32> = (0..500).map(|_| fd::eventfd(0, libc::EFD_NONBLOCK)).collect::<Result<_, _>>()?;
        for (i, e) in list.iter().enumerate() {
            add(ep, *e, if i % 2 == 0 { EPOLLIN } else { EPOLLIN | EPOLLET }, (i as u64) << 32 | 0xabc)?;
        }
        s.wait();
        for i in [0usize, 77, 250, 499] {
            fd::write_full(list[i], &1u64.to_ne_bytes())?;
            same("event", vec![((i as u64) << 32 | 0xabc, EPOLLIN)], events(ep, 0)?)?;
            fd::read(list[i], 8)?;
        }
    }),
    row!("epoll-of-all-kinds", [SHARED], |s| {
        let ep = epoll(0)?;
        let timer = fd::raw("timerfd_create", libc::SYS_timerfd_create, [1, 0, 0, 0, 0, 0])? as i32;
        let signals = {
            crate::kit::task::block(&[libc::SIGUSR1])?;
            let mut set = 1u64 << (libc::SIGUSR1 - 1);
            fd::raw_ref("signalfd4", libc::SYS_signalfd4, [-1, 0, 8, 0, 0, 0], 1, &mut set)? as i32
        };
        let (a, b) = sock::pair(libc::SOCK_DGRAM)?;
        let watch_fd = inotify(libc::IN_NONBLOCK)?;
        mkdir(&s.path("d"))?;
        watch(watch_fd, &s.path("d"), libc::IN_CREATE)?;
        for (data, f) in [(1, timer), (2, signals), (3, a), (4, watch_fd)] {
            add(ep, f, EPOLLIN, data)?;
        }
        s.wait();
        same("events", vec![], events(ep, 0)?)?;
        fd::write_full(b, b"x")?;
        crate::call!(raise(libc::SIGUSR1));
        same("events of socket and signal", vec![(2, EPOLLIN), (3, EPOLLIN)], events(ep, 0)?)?;
        let mut soon = [0i64, 0, 0, 1];
        fd::raw_ref("timerfd_settime", libc::SYS_timerfd_settime, [timer.into(), 0, 0, 0, 0, 0], 2, &mut soon)?;
        touch(&s.path(&format!("d/{}", std::process::id())))?;
        crate::sys::sleep_ms(5);
        same("events of all", vec![(1, EPOLLIN), (2, EPOLLIN), (3, EPOLLIN), (4, EPOLLIN)], events(ep, 0)?)?;
    }),
];
