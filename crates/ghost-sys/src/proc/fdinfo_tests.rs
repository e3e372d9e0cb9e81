use super::*;
use crate::proc::LockKind;
use std::os::fd::AsRawFd;

fn head(rest: &str) -> FdInfo {
    parse_fdinfo(format!("pos:\t0\nflags:\t02\nmnt_id:\t17\nino:\t1038\n{rest}").as_bytes()).unwrap()
}

#[test]
fn a_file_with_locks() {
    let text = b"pos:\t77\nflags:\t022700002\nmnt_id:\t27\nino:\t10010751
lock:\t1: FLOCK  ADVISORY  WRITE 5439 fe:00:10010751 0 EOF
lock:\t2: POSIX  ADVISORY  WRITE 5439 fe:00:10010751 5 14
";
    let i = parse_fdinfo(text).unwrap();
    assert_eq!((i.pos, i.mnt_id, i.ino), (77, Some(27), Some(10010751)));
    assert!(i.is_cloexec());
    assert_eq!(i.description_flags(), 0o20700002);
    assert_eq!(i.locks.iter().map(|l| l.kind).collect::<Vec<_>>(), [LockKind::Flock, LockKind::Posix]);
    assert!(i.others.is_empty());
}

#[test]
fn counters_and_timers() {
    let i = head("eventfd-count:               1f\neventfd-id: 1\neventfd-semaphore: 1\n");
    assert_eq!(i.eventfd, Some(EventFdInfo { count: 31, id: Some(1), semaphore: Some(true) }));
    assert_eq!(head("eventfd-count: ffffffffffffffff\n").eventfd.unwrap().semaphore, None);
    let i = head("clockid: 1\nticks: 3\nsettime flags: 01\nit_value: (99, 999925850)\nit_interval: (5, 500)\n");
    let t = TimerFdInfo { clock: 1, ticks: 3, settime_flags: 1, value_ns: 99_999_925_850, interval_ns: 5_000_000_500 };
    assert_eq!(i.timerfd, Some(t));
    assert_eq!(head("sigmask:\t0000000000000200\n").sigmask, Some(0x200));
}

#[test]
fn watchers() {
    let i = head(
        "tfd:        4 events:       19 data:                4  pos:0 ino:40e sdev:10\n\
         tfd:        3 events: 80000019 data: ffffffff00000003  pos:12 ino:40e sdev:fe00001\n",
    );
    assert_eq!(i.epoll.len(), 2);
    let e = i.epoll[1];
    assert_eq!((e.fd, e.events, e.data, e.pos), (3, 0x80000019, 0xffff_ffff_0000_0003, 12));
    assert_eq!((e.ino, e.dev), (0x40e, libc::makedev(0xfe, 1)));
    let i = head(
        "inotify wd:2 ino:25c0 sdev:15 mask:3c2 ignored_mask:0 fhandle-bytes:c fhandle-type:81 f_handle:c02500000000000000000000\n\
         inotify wd:1 ino:3c4a7 sdev:fe00000 mask:3c2 ignored_mask:0 \n",
    );
    assert_eq!((i.inotify[0].wd, i.inotify[0].ino, i.inotify[0].mask), (2, 0x25c0, 0x3c2));
    let h = i.inotify[0].handle.as_ref().unwrap();
    assert_eq!((h.kind, h.bytes.len(), h.bytes[0]), (0x81, 12, 0xc0));
    assert_eq!((i.inotify[1].dev, &i.inotify[1].handle), (libc::makedev(0xfe, 0), &None));
    let i = head(
        "fanotify flags:10 event-flags:8000\n\
         fanotify mnt_id:1b mflags:40 mask:20 ignored_mask:1\n\
         fanotify sdev:fe00000 mflags:0 mask:20 ignored_mask:0\n\
         fanotify ino:3c4a7 sdev:fe00000 mflags:0 mask:20 ignored_mask:0 fhandle-bytes:8 fhandle-type:1 f_handle:a7c4030000000000\n",
    );
    let f = i.fanotify.clone().unwrap();
    assert_eq!((f.flags, f.event_flags, f.marks.len()), (0x10, 0x8000, 3));
    assert_eq!((&f.marks[0].on, f.marks[0].mark_flags, f.marks[0].ignored_mask), (&FanotifyObject::Mount(27), 0x40, 1));
    assert_eq!(f.marks[1].on, FanotifyObject::FileSystem(libc::makedev(0xfe, 0)));
    assert!(matches!(&f.marks[2].on, FanotifyObject::Inode { ino: 0x3c4a7, handle: Some(_), .. }));
}

#[test]
fn the_rest() {
    let dead = head("Pid:\t-1\nNSpid:\t-1\n").pidfd.clone().unwrap();
    assert_eq!((dead.pid, dead.ns_pids.as_slice()), (-1, &[-1][..]));
    assert_eq!(head("Pid:\t70\nNSpid:\t70\t3\n").pidfd.clone().unwrap().ns_pids, [70, 3]);
    assert_eq!(head("scm_fds: 1\n").scm_fds, Some(1));
    assert_eq!(head("tty-index:\t4\n").tty_index, Some(4));
    let u = head("pending:\t0\ntotal:\t2\nAPI:\taa:1:80000000000001ff\n").userfaultfd.unwrap();
    assert_eq!((u.total, u.api, u.features, u.all_features), (2, 0xaa, 1, 0x80000000000001ff));
    let ring = head("SqMask:\t0x7\nNAPI:\tdisabled\nodd line\n");
    assert_eq!(ring.other(b"SqMask"), Some(&b"0x7"[..]));
    assert_eq!(ring.others.len(), 3);
}

#[test]
fn broken_text_is_named() {
    assert!(parse_fdinfo(b"").is_err());
    assert_eq!(parse_fdinfo(b"pos:\t0\nflags:\t9\n").unwrap_err().field, "flags");
    for bad in [
        "it_value: (1)\n",
        "inotify mask:1\n",
        "inotify wd:1 fhandle-bytes:8 fhandle-type:1 f_handle:a7\n",
        "API:\taa\n",
    ] {
        assert!(parse_fdinfo(format!("pos:\t0\nflags:\t02\n{bad}").as_bytes()).is_err(), "{bad}");
    }
}

#[test]
fn own_descriptor() {
    let file = std::fs::File::open("/proc/self/exe").unwrap();
    let i = read_fdinfo(&ProcDir::own().unwrap(), file.as_raw_fd()).unwrap();
    assert!(i.is_cloexec() && i.ino.is_some());
    let e = read_fdinfo(&ProcDir::own().unwrap(), 900_000).unwrap_err();
    assert!(e.is_gone());
}
