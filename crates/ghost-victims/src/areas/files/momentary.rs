//! Things without a name, or with one that others see: a failed or killed restart must leave none of them in a directory.
use crate::kit::{self, fd, row, same, same_bytes, sock, truth};
use crate::{Flag, Victim};

const RW: i32 = libc::O_RDWR | libc::O_CREAT;

pub(super) const VICTIMS: &[Victim] =
    &[row!("nameless-and-named-at-once", [Flag::NoDup("the socket's name can be bound once")], |s| {
        let text = |e: std::io::Error| e.to_string();
        let deleted = fd::open(s.path("deleted"), RW)?;
        let bytes = kit::pattern(7, 20_000);
        fd::write_full(deleted, &bytes)?;
        fd::unlink(s.path("deleted"))?;
        fd::mkfifo(s.path("fifo"))?;
        let fifo = fd::open(s.path("fifo"), libc::O_RDWR)?;
        fd::unlink(s.path("fifo"))?;
        fd::write_full(fifo, b"in the fifo")?;
        std::fs::create_dir(s.path("gone")).map_err(text)?;
        let directory = fd::open(s.path("gone"), libc::O_RDONLY | libc::O_DIRECTORY)?;
        std::fs::remove_dir(s.path("gone")).map_err(text)?;
        super::noticed::node(&s.path("device"), 0o600, libc::makedev(1, 3))?;
        let device = fd::open(s.path("device"), libc::O_RDWR)?;
        fd::unlink(s.path("device"))?;
        let listener = sock::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0)?;
        sock::bind(listener, &sock::unix(&s.path("socket")))?;
        sock::listen(listener, 5)?;
        let nameless = sock::socket(libc::AF_UNIX, libc::SOCK_DGRAM, 0)?;
        sock::bind(nameless, &sock::unix(&s.path("nameless")))?;
        fd::unlink(s.path("nameless"))?;
        let (r, w) = fd::pipe(0)?;
        fd::write_full(w, b"in the pipe")?;
        std::fs::create_dir(s.path("cwd")).map_err(text)?;
        std::env::set_current_dir(s.path("cwd")).map_err(text)?;
        std::fs::remove_dir(s.path("cwd")).map_err(text)?;
        s.wait();
        same_bytes("the deleted file", &bytes, &fd::pread(deleted, 30_000, 0)?)?;
        same_bytes("the FIFO", b"in the fifo", &fd::read(fifo, 100)?)?;
        same_bytes("the pipe", b"in the pipe", &fd::read(r, 100)?)?;
        same("the deleted device", 1, fd::write(device, b"x")?)?;
        same("links of the deleted directory", 0, fd::stat(directory)?.st_nlink)?;
        let client = sock::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0)?;
        sock::connect(client, &sock::unix(&s.path("socket")))?;
        same("the name of the other socket", sock::unix(&s.path("nameless")), sock::local(nameless)?)?;
        for name in ["deleted", "fifo", "gone", "device", "cwd", "nameless"] {
            truth(&format!("nothing is called {name}"), !std::path::Path::new(&s.path(name)).exists())?;
        }
    })];
