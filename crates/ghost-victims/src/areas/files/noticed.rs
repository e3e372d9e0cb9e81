//! What a program could notice of ghost's own looking and making: events of watched files, files that are busy, one directory that
//! has become two.
use super::inotify::{heard, inotify, watch};
use crate::kit::{fails, fd, mem, row, run, same, task, truth};
use crate::{Flag, Victim};

const RW: i32 = libc::O_RDWR | libc::O_CREAT;

/// A character device at this path.
pub(super) fn node(path: &str, mode: u32, rdev: u64) -> Result<(), crate::kit::Errno> {
    let name = crate::sys::c(path);
    let args = [name.as_ptr() as i64, (libc::S_IFCHR | mode).into(), rdev as i64, 0, 0, 0];
    fd::raw("mknod", libc::SYS_mknod, args).map(drop)
}

pub(super) const VICTIMS: &[Victim] = &[
    row!("deleted-directory-entered", |s| {
        // Open, and the working directory of two processes.
        std::fs::create_dir(s.path("d")).map_err(|e| e.to_string())?;
        let d = fd::open(s.path("d"), libc::O_RDONLY | libc::O_DIRECTORY)?;
        std::env::set_current_dir(s.path("d")).map_err(|e| e.to_string())?;
        std::fs::remove_dir(s.path("d")).map_err(|e| e.to_string())?;
        let here = || fd::open(".", libc::O_PATH | libc::O_CLOEXEC).and_then(fd::inode);
        s.spawn(|c| {
            run(c, |c| {
                c.wait();
                same("directory of the child", fd::inode(d)?, here()?)
            });
        });
        s.wait();
        s.join();
        same("directory", fd::inode(d)?, here()?)?;
        truth("no directory came back", !std::path::Path::new(&s.path("d")).exists())?;
    }),
    row!("deleted-cwd-of-two", |s| {
        std::fs::create_dir(s.path("d")).map_err(|e| e.to_string())?;
        std::env::set_current_dir(s.path("d")).map_err(|e| e.to_string())?;
        s.spawn(|c| {
            run(c, |c| {
                c.wait();
                let of = |who: &str| {
                    fd::open(format!("/proc/{who}/cwd"), libc::O_PATH | libc::O_CLOEXEC).and_then(fd::inode)
                };
                same("directory", of("self")?, of(&task::ppid().to_string())?)
            });
        });
        std::fs::remove_dir(s.path("d")).map_err(|e| e.to_string())?;
        s.wait();
        s.join();
        truth("no directory came back", !std::path::Path::new(&s.path("d")).exists())?;
    }),
    row!("memfd-run-while-mapped", |s| {
        // As memfd_create gave it, it does not count as open for writing: it can be run, though it is mapped for writing, too.
        let f = fd::raw("memfd_create", libc::SYS_memfd_create, [c"m".as_ptr() as i64, 0, 0, 0, 0, 0])? as i32;
        fd::write_full(f, b"#!/bin/true")?;
        let m = mem::map(4096, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED, f, 0)?;
        let runs = || {
            task::in_child("running it", || {
                let none = [std::ptr::null::<u8>()];
                let args = [f.into(), c"".as_ptr() as i64, none.as_ptr() as i64, none.as_ptr() as i64, 0x1000, 0];
                Ok(fd::raw("execveat", libc::SYS_execveat, args).map(drop)?)
            })
        };
        if runs().is_err() {
            s.skip("memfds can't be run here");
        }
        s.wait();
        m.put(0, b"#!/bin/true");
        runs()?;
    }),
    row!("inotify-of-ghost", [Flag::NoDup("both copies would be heard")], |s| {
        // Named files that are open and mapped, and a deleted one, of which ghost reads the content: of the latter its reading is heard.
        std::fs::create_dir(s.path("d")).map_err(|e| e.to_string())?;
        let open = fd::open(s.path("d/open"), RW)?;
        fd::ftruncate(open, 8192)?;
        let mapped = mem::map(8192, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED, open, 0)?;
        let gone = fd::open(s.path("d/gone"), RW)?;
        fd::write_full(gone, b"content")?;
        fd::unlink(s.path("d/gone"))?;
        let (all, changes) = (inotify(libc::IN_NONBLOCK)?, inotify(libc::IN_NONBLOCK)?);
        let f = watch(all, &s.path("d/open"), libc::IN_ALL_EVENTS)?;
        let not_looked = libc::IN_ALL_EVENTS & !(libc::IN_OPEN | libc::IN_ACCESS | libc::IN_CLOSE_NOWRITE);
        watch(changes, &s.path("d"), not_looked)?;
        s.wait();
        same("events of the open file", vec![], heard(all)?)?;
        same("changes in the directory", vec![], heard(changes)?)?;
        mapped.put(0, b"x");
        fd::pwrite(open, b"y", 1)?;
        same("the write", vec![(f, libc::IN_MODIFY, String::new())], heard(all)?)?;
        fails("the name of the deleted one", libc::ENOENT, fd::open(s.path("d/gone"), libc::O_RDONLY))?;
    }),
];
