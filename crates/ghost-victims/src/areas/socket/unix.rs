//! Unix sockets with names: listening, connected, bound.
use crate::kit::fd::{self, Facts};
use crate::kit::sock;
use crate::kit::{fails, row, run, same, same_bytes, task, truth};
use crate::{Flag, Victim};
use libc::{SOCK_DGRAM, SOCK_SEQPACKET, SOCK_STREAM, SOL_SOCKET};

const NAMED: Flag = Flag::NoDup("two copies cannot both have the name");

/// A path for a socket that fits into an address.
pub(super) fn name(s: &crate::Ctx, what: &str) -> String {
    s.path(what)
}

/// A name in the abstract space that no other victim has.
fn abstract_name(what: &str) -> String {
    format!("@victim.{}.{}.{what}", task::pid(), crate::sys::now_ns())
}

/// A new client connects to the name, and both ends talk.
fn serves(what: &str, server: i32, kind: i32, to: &str) -> Result<(), String> {
    let c = sock::socket(libc::AF_UNIX, kind, 0)?;
    sock::connect(c, &sock::unix(to))?;
    let a = sock::accept(server, 0)?;
    fd::write_full(c, b"to the server")?;
    same_bytes(&format!("{what}: to the server"), b"to the server", &fd::read(a, 100)?)?;
    fd::write_full(a, b"to the client")?;
    same_bytes(&format!("{what}: to the client"), b"to the client", &fd::read(c, 100)?)?;
    fd::close(a)?;
    Ok(fd::close(c)?)
}

pub(super) const VICTIMS: &[Victim] = &[
    // ---- names ----------------------------------------------------------------------------------------------
    row!("listening-path", [NAMED], |s| {
        let path = name(s, "n");
        let f = sock::socket(libc::AF_UNIX, SOCK_STREAM, 0)?;
        sock::bind(f, &sock::unix(&path))?;
        sock::listen(f, 5)?;
        let (before, inode) =
            (sock::local(f)?, std::fs::metadata(&path).map(|m| std::os::unix::fs::MetadataExt::mode(&m)).ok());
        s.wait();
        same("name", before, sock::local(f)?)?;
        same("accepts", 1, sock::get(f, SOL_SOCKET, libc::SO_ACCEPTCONN)?)?;
        same(
            "mode of the name",
            inode,
            std::fs::metadata(&path).map(|m| std::os::unix::fs::MetadataExt::mode(&m)).ok(),
        )?;
        serves("by its path", f, SOCK_STREAM, &path)?;
        serves("again", f, SOCK_STREAM, &path)?;
    }),
    row!("listening-moved", [NAMED], |s| {
        // Bound under a name for the moment, as servers do that must not be seen half ready: then renamed, or linked.
        std::env::set_current_dir(s.dir()).map_err(|e| e.to_string())?;
        let mut all = Vec::new();
        for (n, relative) in [(0, false), (1, false), (2, true)] {
            let (moment, real) = (format!("moment{n}"), name(s, &format!("real{n}")));
            let moment = if relative { moment } else { name(s, &moment) };
            let f = sock::socket(libc::AF_UNIX, SOCK_STREAM, 0)?;
            sock::bind(f, &sock::unix(&moment))?;
            sock::listen(f, 5)?;
            if n == 1 {
                fd::link(&moment, &real)?;
                fd::unlink(&moment)?;
            } else {
                fd::rename(&moment, &real)?;
            }
            all.push((f, sock::local(f)?, moment, real));
        }
        s.wait();
        for (f, before, moment, real) in all {
            same("name", before, sock::local(f)?)?;
            truth("the name for the moment is gone", !std::path::Path::new(&moment).exists())?;
            serves("by its name", f, SOCK_STREAM, &real)?;
        }
    }),
    row!("bound-longest-path", [NAMED], |s| {
        // It fills the address to the end, and from the root it is longer.
        std::env::set_current_dir(s.dir()).map_err(|e| e.to_string())?;
        let to = sock::Addr([&(libc::AF_UNIX as u16).to_ne_bytes()[..], &[b'q'; 108]].concat());
        let f = sock::socket(libc::AF_UNIX, SOCK_DGRAM, 0)?;
        sock::bind(f, &to)?;
        let before = sock::local(f)?;
        s.wait();
        same("name", before, sock::local(f)?)?;
        let c = sock::socket(libc::AF_UNIX, SOCK_DGRAM, 0)?;
        sock::connect(c, &to)?;
        fd::write_full(c, b"heard")?;
        same_bytes("by its name", b"heard", &fd::read(f, 100)?)?;
    }),
    row!("connected-to-itself", [NAMED], |s| {
        let path = name(s, "n");
        let f = sock::socket(libc::AF_UNIX, SOCK_DGRAM, 0)?;
        sock::bind(f, &sock::unix(&path))?;
        sock::connect(f, &sock::unix(&path))?;
        fd::write_full(f, b"to myself")?;
        fd::write_full(f, b"and again")?;
        s.wait();
        same("peer", sock::local(f)?, sock::peer(f)?)?;
        for said in [b"to myself", b"and again"] {
            let got = sock::recv(f, 100, libc::MSG_DONTWAIT)?;
            same("data", said.to_vec(), got.data)?;
        }
        fd::write_full(f, b"once more")?;
        same_bytes("more", b"once more", &fd::read(f, 100)?)?;
    }),
    row!("listening-relative-path", [NAMED], |s| {
        std::env::set_current_dir(s.dir()).map_err(|e| e.to_string())?;
        let f = sock::socket(libc::AF_UNIX, SOCK_STREAM, 0)?;
        sock::bind(f, &sock::unix("here"))?;
        sock::listen(f, 5)?;
        let before = sock::local(f)?;
        std::env::set_current_dir("/").map_err(|e| e.to_string())?;
        s.wait();
        same("name", before, sock::local(f)?)?;
        serves("by its path", f, SOCK_STREAM, &name(s, "here"))?;
    }),
    row!("bound-relative-elsewhere", [NAMED], |s| {
        // On a file system whose files are not found by their numbers; of two names of then, one is gone and the program far away.
        let dir = format!("/dev/shm/victim.{}.{}", std::process::id(), crate::sys::now_ns());
        std::fs::create_dir(&dir).map_err(|e| e.to_string())?;
        std::env::set_current_dir(&dir).map_err(|e| e.to_string())?;
        let (f, gone) =
            (sock::socket(libc::AF_UNIX, SOCK_STREAM, 0)?, sock::socket(libc::AF_UNIX, libc::SOCK_DGRAM, 0)?);
        sock::bind(f, &sock::unix("here"))?;
        sock::listen(f, 5)?;
        sock::bind(gone, &sock::unix("gone"))?;
        fd::unlink("gone")?;
        let before = [sock::local(f)?, sock::local(gone)?];
        std::env::set_current_dir("/").map_err(|e| e.to_string())?;
        s.wait();
        let result = || {
            same("names", before, [sock::local(f)?, sock::local(gone)?])?;
            truth("no name came back", !std::path::Path::new(&format!("{dir}/gone")).exists())?;
            serves("by its path", f, SOCK_STREAM, &format!("{dir}/here"))
        };
        let result = result();
        std::fs::remove_dir_all(&dir).map_err(|e| e.to_string())?;
        result?;
    }),
    row!("listening-abstract", [NAMED], |s| {
        let to = abstract_name("listen");
        let f = sock::socket(libc::AF_UNIX, SOCK_SEQPACKET, 0)?;
        sock::bind(f, &sock::unix(&to))?;
        sock::listen(f, 5)?;
        let before = sock::local(f)?;
        s.wait();
        same("name", before, sock::local(f)?)?;
        serves("by its abstract name", f, SOCK_SEQPACKET, &to)?;
    }),
    row!("listening-unlinked", |s| {
        let path = name(s, "n");
        let f = sock::socket(libc::AF_UNIX, SOCK_STREAM | libc::SOCK_NONBLOCK, 0)?;
        sock::bind(f, &sock::unix(&path))?;
        sock::listen(f, 5)?;
        fd::unlink(&path)?;
        let before = sock::local(f)?;
        s.wait();
        same("name", before, sock::local(f)?)?;
        same("accepts", 1, sock::get(f, SOL_SOCKET, libc::SO_ACCEPTCONN)?)?;
        fails("no client", libc::EAGAIN, sock::accept(f, 0))?;
        truth("no name came back", !std::path::Path::new(&path).exists())?;
    }),
    row!("listening-backlog", [NAMED], |s| {
        // A client of the tree is connected, has sent, and was not accepted yet.
        let path = name(s, "n");
        let f = sock::socket(libc::AF_UNIX, SOCK_STREAM, 0)?;
        sock::bind(f, &sock::unix(&path))?;
        sock::listen(f, 5)?;
        let c = sock::socket(libc::AF_UNIX, SOCK_STREAM, 0)?;
        sock::connect(c, &sock::unix(&path))?;
        fd::write_full(c, b"not yet accepted")?;
        s.wait();
        same("poll", libc::POLLIN, fd::poll_now(f, libc::POLLIN)?)?;
        let a = sock::accept(f, libc::SOCK_NONBLOCK)?;
        same_bytes("what the client sent", b"not yet accepted", &fd::read(a, 100)?)?;
        fd::write_full(a, b"welcome")?;
        same_bytes("answer", b"welcome", &fd::read(c, 100)?)?;
    }),
    row!("connected-by-name", [NAMED], |s| {
        let path = name(s, "n");
        let f = sock::socket(libc::AF_UNIX, SOCK_STREAM, 0)?;
        sock::bind(f, &sock::unix(&path))?;
        sock::listen(f, 5)?;
        let c = sock::socket(libc::AF_UNIX, SOCK_STREAM, 0)?;
        let own = abstract_name("client");
        sock::bind(c, &sock::unix(&own))?;
        sock::connect(c, &sock::unix(&path))?;
        let a = sock::accept(f, 0)?;
        fd::write_full(c, b"in flight")?;
        let names = [sock::local(a)?, sock::peer(a)?, sock::local(c)?, sock::peer(c)?];
        s.wait();
        same("names", names, [sock::local(a)?, sock::peer(a)?, sock::local(c)?, sock::peer(c)?])?;
        same_bytes("data", b"in flight", &fd::read(a, 100)?)?;
        fd::write_full(a, b"back")?;
        same_bytes("data back", b"back", &fd::read(c, 100)?)?;
        serves("a new client", f, SOCK_STREAM, &path)?;
    }),
    row!("connected-abstract-in-one", [NAMED], |s| {
        // All ends in one process, by a name that is no file: a client without a name, one with a name, one that has gone.
        let nameless = sock::Addr((libc::AF_UNIX as u16).to_ne_bytes().to_vec());
        for kind in [SOCK_STREAM, SOCK_SEQPACKET] {
            let [server, own] = ["server", "own"].map(|what| sock::unix(&abstract_name(what)));
            let l = sock::socket(libc::AF_UNIX, kind, 0)?;
            sock::bind(l, &server)?;
            sock::listen(l, 5)?;
            let connect = |own: Option<&sock::Addr>| {
                let c = sock::socket(libc::AF_UNIX, kind, 0)?;
                if let Some(own) = own {
                    sock::bind(c, own)?;
                }
                sock::connect(c, &server)?;
                Ok::<_, crate::kit::Errno>((c, sock::accept(l, 0)?))
            };
            let (plain, named, gone) = (connect(None)?, connect(Some(&own))?, connect(None)?);
            fd::write_full(gone.0, b"last words")?;
            fd::close(gone.0)?;
            let left = connect(None)?;
            fd::write_full(left.1, b"last answer")?;
            fd::close(left.1)?;
            s.keep(&format!("names {kind}"), move || {
                [l, plain.0, plain.1, named.0, named.1, gone.1, left.0]
                    .map(|f| (sock::local(f).ok(), sock::peer(f).ok()))
            });
            same("name of one accepted", server.clone(), sock::local(plain.1)?)?;
            same("peer of one accepted", nameless.clone(), sock::peer(plain.1)?)?;
            same("peer of one accepted from a name", own, sock::peer(named.1)?)?;
            if kind == SOCK_STREAM {
                continue;
            }
            s.wait();
            for (a, b) in [plain, named] {
                fd::write_full(a, b"through")?;
                same_bytes("data", b"through", &fd::read(b, 100)?)?;
            }
            same_bytes("what was left", b"last words", &fd::read(gone.1, 100)?)?;
            same("end", 0, fd::read(gone.1, 100)?.len())?;
            same_bytes("what was left for a client", b"last answer", &fd::read(left.0, 100)?)?;
            let another = connect(None)?;
            fd::write_full(another.1, b"new")?;
            same_bytes("data of a new client", b"new", &fd::read(another.0, 100)?)?;
        }
    }),
    row!("connected-as-another-user", [NAMED, Flag::SamePid], |s| {
        // Both ends belong to a user that may not do much, as a database and its client.
        let path = name(s, "n");
        let server = sock::socket(libc::AF_UNIX, SOCK_STREAM, 0)?;
        sock::bind(server, &sock::unix(&path))?;
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o777))
            .map_err(|e| e.to_string())?;
        sock::listen(server, 5)?;
        if crate::call!(setegid(1234)) == -1 || crate::call!(seteuid(1234)) == -1 {
            s.skip("may not become another user");
        }
        s.spawn(|c| {
            run(c, |c| {
                let f = sock::socket(libc::AF_UNIX, SOCK_STREAM, 0)?;
                sock::connect(f, &sock::unix(&c.path("n")))?;
                fd::write_full(f, b"in flight")?;
                c.wait();
                let cred = sock::get_raw(f, SOL_SOCKET, libc::SO_PEERCRED)?;
                same("pid of the server", task::ppid().to_ne_bytes().to_vec(), cred[..4].to_vec())?;
                same_bytes("answer", b"welcome", &fd::read(f, 100)?)
            });
        });
        let f = sock::accept(server, 0)?;
        s.wait();
        let cred = sock::get_raw(f, SOL_SOCKET, libc::SO_PEERCRED)?;
        same("user and group of the client", [1234u32.to_ne_bytes(); 2].concat(), cred[4..].to_vec())?;
        same_bytes("in flight", b"in flight", &fd::read(f, 100)?)?;
        fd::write_full(f, b"welcome")?;
    }),
    row!("connected-listener-closed", |s| {
        let path = name(s, "n");
        let f = sock::socket(libc::AF_UNIX, SOCK_STREAM, 0)?;
        sock::bind(f, &sock::unix(&path))?;
        sock::listen(f, 5)?;
        let c = sock::socket(libc::AF_UNIX, SOCK_STREAM, 0)?;
        sock::connect(c, &sock::unix(&path))?;
        let a = sock::accept(f, 0)?;
        fd::close(f)?;
        fd::unlink(&path)?;
        let names = [sock::local(a)?, sock::peer(c)?];
        s.wait();
        same("names", names, [sock::local(a)?, sock::peer(c)?])?;
        fd::write_full(c, b"on without a server")?;
        same_bytes("data", b"on without a server", &fd::read(a, 100)?)?;
    }),
    row!("bound-datagram", [NAMED], |s| {
        let path = name(s, "n");
        let hidden = abstract_name("dgram");
        let (f, g) = (sock::socket(libc::AF_UNIX, SOCK_DGRAM, 0)?, sock::socket(libc::AF_UNIX, SOCK_DGRAM, 0)?);
        sock::bind(f, &sock::unix(&path))?;
        sock::bind(g, &sock::unix(&hidden))?;
        let names = [sock::local(f)?, sock::local(g)?];
        s.wait();
        same("names", names, [sock::local(f)?, sock::local(g)?])?;
        sock::send(g, b"to the path", &[], Some(&sock::unix(&path)))?;
        let got = sock::recv(f, 100, 0)?;
        same("data and sender", (b"to the path".to_vec(), sock::local(g)?.0), (got.data, got.from))?;
        let client = sock::socket(libc::AF_UNIX, SOCK_DGRAM, 0)?;
        sock::send(client, b"to the abstract", &[], Some(&sock::unix(&hidden)))?;
        same_bytes("data", b"to the abstract", &sock::recv(g, 100, 0)?.data)?;
    }),
    row!("connected-datagram", [NAMED], |s| {
        let path = name(s, "n");
        let (f, c) = (sock::socket(libc::AF_UNIX, SOCK_DGRAM, 0)?, sock::socket(libc::AF_UNIX, SOCK_DGRAM, 0)?);
        let back = abstract_name("back");
        sock::bind(f, &sock::unix(&path))?;
        sock::bind(c, &sock::unix(&back))?;
        sock::connect(c, &sock::unix(&path))?;
        fd::write_full(c, b"one")?;
        fd::write_full(c, b"two")?;
        let peer = sock::peer(c)?;
        s.wait();
        same("peer", peer, sock::peer(c)?)?;
        for text in [b"one", b"two"] {
            let got = sock::recv(f, 100, 0)?;
            same("datagram in flight and its sender", (text.to_vec(), sock::local(c)?.0), (got.data, got.from))?;
        }
        fd::write_full(c, b"three")?;
        same_bytes("later", b"three", &sock::recv(f, 100, 0)?.data)?;
        sock::send(f, b"back", &[], Some(&sock::unix(&back)))?;
        same_bytes("back", b"back", &fd::read(c, 100)?)?;
    }),
    row!("datagram-sender-gone", [NAMED], |s| {
        // The sender of a queued datagram is closed; its name stays with the datagram.
        let (f, c) = (sock::socket(libc::AF_UNIX, SOCK_DGRAM, 0)?, sock::socket(libc::AF_UNIX, SOCK_DGRAM, 0)?);
        let (at, from) = (abstract_name("at"), abstract_name("from"));
        sock::bind(f, &sock::unix(&at))?;
        sock::bind(c, &sock::unix(&from))?;
        sock::send(c, b"farewell", &[], Some(&sock::unix(&at)))?;
        let sender = sock::local(c)?.0;
        fd::close(c)?;
        s.wait();
        let got = sock::recv(f, 100, 0)?;
        same("data and sender", (b"farewell".to_vec(), sender), (got.data, got.from))?;
    }),
    row!("unbound", |s| {
        let list = [
            sock::socket(libc::AF_UNIX, SOCK_STREAM | libc::SOCK_NONBLOCK, 0)?,
            sock::socket(libc::AF_UNIX, SOCK_DGRAM | libc::SOCK_CLOEXEC, 0)?,
            sock::socket(libc::AF_UNIX, SOCK_SEQPACKET, 0)?,
        ];
        let facts: Vec<_> = list.iter().map(|f| Facts::of(*f).map(Facts::nameless)).collect::<Result<_, _>>()?;
        s.wait();
        for (facts, f) in facts.iter().zip(list) {
            facts.still("socket", f)?;
            same("name", 2, sock::local(f)?.0.len())?;
            fails("peer", libc::ENOTCONN, sock::peer(f))?;
        }
        let to = abstract_name(&format!("late{}", task::pid()));
        let server = sock::socket(libc::AF_UNIX, SOCK_STREAM, 0)?;
        sock::bind(server, &sock::unix(&to))?;
        sock::listen(server, 1)?;
        sock::connect(list[0], &sock::unix(&to))?;
        truth("connects afterwards", sock::accept(server, 0).is_ok())?;
    }),
    row!("bound-not-listening", [NAMED], |s| {
        let path = name(s, "n");
        let f = sock::socket(libc::AF_UNIX, SOCK_STREAM, 0)?;
        sock::bind(f, &sock::unix(&path))?;
        let c = sock::socket(libc::AF_UNIX, SOCK_STREAM, 0)?;
        s.wait();
        fails("connecting before it listens", libc::ECONNREFUSED, sock::connect(c, &sock::unix(&path)))?;
        sock::listen(f, 1)?;
        serves("once it listens", f, SOCK_STREAM, &path)?;
    }),
    row!("accept-blocked", [NAMED], |s| {
        let path = name(s, "n");
        let f = sock::socket(libc::AF_UNIX, SOCK_STREAM, 0)?;
        sock::bind(f, &sock::unix(&path))?;
        sock::listen(f, 5)?;
        s.spawn(|c| {
            run(c, |c| {
                c.ready();
                let a = loop {
                    match sock::accept(f, 0) {
                        Err(e) if e.code == libc::EINTR => {}
                        other => break other?,
                    }
                };
                same_bytes("data", b"late client", &fd::read(a, 100)?)?;
                c.await_go();
                Ok(())
            });
        });
        crate::sys::sleep_ms(20);
        s.wait();
        let c = sock::socket(libc::AF_UNIX, SOCK_STREAM, 0)?;
        sock::connect(c, &sock::unix(&path))?;
        fd::write_full(c, b"late client")?;
        s.join();
    }),
];
