use super::*;
use std::io::{Seek, SeekFrom};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::net::UnixStream;

fn loaded() -> Option<Files> {
    Files::load().inspect_err(|e| eprintln!("skipped: no iterator of descriptors: {e}")).ok()
}

fn own_tid() -> Pid {
    std::fs::read_link("/proc/thread-self").unwrap().file_name().unwrap().to_str().unwrap().parse().unwrap()
}

#[test]
fn descriptors_are_as_procfs_has_them() {
    let Some(files) = loaded() else { return };
    let (a, b) = UnixStream::pair().unwrap();
    // SAFETY: `a` is open, and nobody owns the new descriptor yet.
    let copy = unsafe { OwnedFd::from_raw_fd(libc::fcntl(a.as_raw_fd(), libc::F_DUPFD, 70)) };
    let mut file = File::open("/proc/self/exe").unwrap();
    file.seek(SeekFrom::Start(77)).unwrap();
    let rows = files.read(own_tid()).unwrap();
    let dir = crate::proc::ProcDir::own().unwrap();
    let of = |fd: &dyn AsRawFd| rows.iter().find(|row| row.fd == fd.as_raw_fd()).unwrap();
    for fd in [&a as &dyn AsRawFd, &b, &copy, &file] {
        let info = crate::proc::read_fdinfo(&dir, fd.as_raw_fd()).unwrap();
        let row = of(fd);
        assert_eq!((row.flags, row.cloexec), (info.description_flags(), info.is_cloexec()), "{row:?}");
        assert_eq!((row.pos, Some(row.ino)), (info.pos, info.ino));
    }
    assert_eq!(of(&a).file, of(&copy).file);
    assert!(of(&a).file != of(&b).file && !of(&copy).cloexec);
    assert_eq!((of(&file).pos, &of(&file).socket), (77, &None));
    let (one, other) = (of(&a).socket.as_ref().unwrap(), of(&b).socket.as_ref().unwrap());
    assert_eq!((one, one.sort, one.state), (other, (1, 1, 0), 1));
    assert_eq!((one.queued, one.flying, one.is_filtered, one.names), (0, 0, false, (false, Some(false))));
    assert!(!one.is_urgent && !of(&a).is_owned && !of(&a).is_lockable && of(&a).has_more && !of(&file).has_more);
    let exe = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap();
    if exe.as_os_str().len() < NAME {
        assert_eq!(of(&file).name.as_deref(), Some(exe.as_os_str().as_encoded_bytes()));
    }
}
