//! Spoiling what a victim has open, to see that it notices: a victim that cannot fail proves nothing.
//!
//! Each descriptor of the tree is fetched (`pidfd_getfd(2)`), which gives the same open description, and disturbed as a bad
//! restore would leave it: data gone, offset wrong, locks lost, timers stopped, watches removed, ends shut down.
use crate::kit::{fd, sock, task};

/// Spoils all that the processes have open, but for their standard descriptors when these are `/dev/null`.
pub fn tree(pids: &[u32]) {
    // A read that the victim's own read was quicker than would block for ever: a timer cuts it short.
    extern "C" fn nothing(_: i32) {}
    // SAFETY: an all-zero action is valid: no flags, so that calls are not restarted.
    let mut action: libc::sigaction = unsafe { crate::sys::zeroed() };
    action.sa_sigaction = nothing as *const () as usize;
    crate::must!(sigaction(libc::SIGALRM, &raw const action, std::ptr::null_mut()));
    timer(100_000);
    for &pid in pids {
        let Ok(p) = task::pidfd(pid as i32, 0) else { continue };
        let Ok(list) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { continue };
        let numbers: Vec<i32> = list.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).collect();
        for n in numbers {
            let link = std::fs::read_link(format!("/proc/{pid}/fd/{n}")).unwrap_or_default();
            if let Ok(f) = fd::raw("pidfd_getfd", libc::SYS_pidfd_getfd, [p.into(), n.into(), 0, 0, 0, 0]) {
                one(f as i32, &link.to_string_lossy());
                let _ = fd::close(f as i32);
            }
        }
        let _ = fd::close(p);
    }
    timer(0);
}

/// SIGALRM every so many microseconds; 0 ends it.
fn timer(us: i64) {
    let every = libc::timeval { tv_sec: 0, tv_usec: us };
    let t = libc::itimerval { it_interval: every, it_value: every };
    crate::must!(setitimer(libc::ITIMER_REAL, &raw const t, std::ptr::null_mut()));
}

/// Takes what a read gives at once, without blocking, until there is no more.
fn drain(f: i32) {
    for _ in 0..4096 {
        let there = fd::poll_now(f, libc::POLLIN).is_ok_and(|r| r & libc::POLLIN != 0);
        if !there || fd::read(f, 1 << 20).map_or(true, |b| b.is_empty()) {
            return;
        }
    }
}

fn one(f: i32, link: &str) {
    let kind = link.split(':').next().unwrap_or_default();
    match (kind, link) {
        ("socket", _) => {
            while sock::recv_now(f, 1 << 20).is_ok_and(|g| !g.data.is_empty() || !g.fds.is_empty()) {}
            if sock::shutdown(f, libc::SHUT_RDWR).is_err() {
                // Not connected: another one in its place would not have the options.
                let _ = sock::set(f, libc::SOL_SOCKET, libc::SO_RCVBUF, 12_345);
                let _ = fd::fcntl(f, libc::F_SETFL, libc::O_ASYNC.into());
            }
        }
        ("anon_inode", "anon_inode:[timerfd]") => {
            let mut off = [0i64; 4];
            let args = [f.into(), 0, 0, 0, 0, 0];
            let _ = fd::raw_ref("timerfd_settime", libc::SYS_timerfd_settime, args, 2, &mut off);
        }
        ("anon_inode", "anon_inode:inotify") => {
            for wd in 1..20 {
                let _ = fd::raw("inotify_rm_watch", libc::SYS_inotify_rm_watch, [f.into(), wd, 0, 0, 0, 0]);
            }
            drain(f);
        }
        ("anon_inode", "anon_inode:[eventpoll]") => {
            // Its entries can't be named from here: events that were pending are taken instead.
            let mut list = [0u8; 12 * 64];
            let args = [f.into(), list.as_mut_ptr() as i64, 64, 0, 0, 0];
            let _ = fd::raw("epoll_wait", libc::SYS_epoll_wait, args);
        }
        ("pipe" | "anon_inode", _) => {
            drain(f);
            if fd::poll_now(f, libc::POLLOUT).is_ok_and(|r| r == libc::POLLOUT) {
                let _ = fd::write(f, &[1, 0, 0, 0, 0, 0, 0, 0]);
            }
            let _ = fd::fcntl(f, 1031, 16384); // F_SETPIPE_SZ
        }
        (_, "/dev/null") => {}
        _ => {
            let _ = fd::flock(f, libc::LOCK_UN);
            let _ = fd::fcntl_lock(f, 37, libc::F_UNLCK, 0, 0); // F_OFD_SETLK
            let _ = fd::fcntl(f, 1024, libc::F_UNLCK.into()); // F_SETLEASE
            if fd::stat(f).is_ok_and(|s| s.st_mode & libc::S_IFMT == libc::S_IFIFO) {
                drain(f);
            }
            let _ = fd::lseek(f, 1, libc::SEEK_CUR);
            if link.ends_with(" (deleted)") {
                let _ = fd::ftruncate(f, 1);
            }
        }
    }
}
