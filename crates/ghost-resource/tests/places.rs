//! ghost's own places under the shared suite, and what each has besides.

mod common;

use std::io::{BufRead, Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use common::{Scratch, carries, keeps_images};
use ghost_resource::{
    Aftermath, Buffer, Cause, Disk, Memory, Network, Options, Pipe, Registry, Resource, Tcp, channel, tcp,
};

fn with_replace(replace: bool) -> Options {
    Options { replace, ..Options::default() }
}

#[test]
fn disk_keeps_images() {
    let dir = Scratch::new();
    let url = format!("disk:{}/app.ghost", dir.0.display());
    keeps_images(&|replace| Registry::with_defaults().open_url(&url, &with_replace(replace)).unwrap());
    assert_eq!(dir.names(), Vec::<String>::new());
}

#[test]
fn memory_keeps_images() {
    let root = Scratch::under(Path::new("/dev/shm"));
    std::fs::set_permissions(&root.0, std::fs::Permissions::from_mode(0o700)).unwrap();
    let options = |replace| Options { memory_root: Some(root.0.clone()), ..with_replace(replace) };
    keeps_images(&|replace| Registry::with_defaults().open_url("mem:app", &options(replace)).unwrap());
    for name in ["b", "a"] {
        let mut image = Memory::new(name, &options(false)).unwrap().open_export().unwrap();
        image.write_all(name.as_bytes()).unwrap();
        image.finish().unwrap();
    }
    let nowhere = Options { memory_root: Some("/dev/shm/ghost-test-nowhere".into()), ..Options::default() };
    assert!(Memory::new("", &nowhere).unwrap().store().unwrap().list().unwrap().is_empty());
    assert!(!Path::new("/dev/shm/ghost-test-nowhere").exists());
    let all = Memory::new("", &options(false)).unwrap();
    let urls: Vec<_> = all.store().unwrap().list().unwrap().into_iter().map(|e| e.url).collect();
    assert_eq!(urls, ["mem:a", "mem:b"]);
}

#[test]
fn the_usual_memory_outlives_who_made_it_and_is_the_users_alone() {
    let name = format!("ghost-test-{}", std::process::id());
    let mut out = Memory::new(&name, &Options::default()).unwrap().open_export().unwrap();
    out.write_all(b"kept").unwrap();
    out.finish().unwrap();
    let again = Memory::new(&name, &Options::default()).unwrap();
    assert!(again.store().unwrap().exists().unwrap());
    again.store().unwrap().remove().unwrap();
}

#[test]
fn a_buffer_keeps_images() {
    let buffer = Buffer::new();
    keeps_images(&|replace| Box::new(if replace { buffer.replacing() } else { buffer.clone() }));
}

#[test]
fn a_channel_carries() {
    carries(&|| {
        let (export, import) = channel(1 << 20);
        (Box::new(export), Box::new(import))
    });
}

#[test]
fn an_inherited_pipe_carries() {
    carries(&|| {
        let (read, write) = std::io::pipe().unwrap();
        let url = |fd: i32| Registry::with_defaults().open_url(&format!("fd:{fd}"), &Options::default()).unwrap();
        let ends = (url(write.as_raw_fd()), url(read.as_raw_fd()));
        // The resource duplicates the descriptor only when it is opened, so the pipe's ends live as long as it does.
        (Box::new(Held(ends.0, Some(write))), Box::new(Held(ends.1, Some(read))))
    });
}

/// A resource, and the caller's own descriptor that closes when it is opened.
struct Held<T>(Box<dyn Resource>, Option<T>);

impl<T: Send> Resource for Held<T> {
    fn class(&self, direction: ghost_resource::Direction) -> ghost_resource::ClassId {
        self.0.class(direction)
    }
    fn describe(&self) -> String {
        self.0.describe()
    }
    fn open_export(&mut self) -> ghost_resource::Result<Box<dyn ghost_resource::GhostWrite>> {
        let opened = self.0.open_export();
        self.1 = None;
        opened
    }
    fn open_import(&mut self) -> ghost_resource::Result<Box<dyn ghost_resource::GhostRead>> {
        let opened = self.0.open_import();
        self.1 = None;
        opened
    }
}

#[test]
fn a_redirected_file_is_mapped_from_its_beginning_only() {
    let dir = Scratch::new();
    let path = dir.0.join("image");
    let mut out = Disk::new(&path, &Options::default()).open_export().unwrap();
    out.write_all(b"an image").unwrap();
    out.finish().unwrap();
    let mut file = std::fs::File::open(&path).unwrap();
    let open = |file: &std::fs::File| Pipe::inherited(file.as_raw_fd()).open_import().unwrap();
    let input = open(&file);
    assert_eq!(input.as_mapped(), Some(&b"an image"[..]));
    let mut tail = String::new();
    let mut seekable = input.as_seekable().unwrap();
    seekable.seek(SeekFrom::End(-5)).unwrap();
    seekable.read_to_string(&mut tail).unwrap();
    assert_eq!(tail, "image");
    file.read_exact(&mut [0; 3]).unwrap();
    let mut input = open(&file);
    assert!(input.as_mapped().is_none() && input.as_file().is_none());
    input.read_to_string(&mut tail).unwrap();
    assert_eq!(tail, "imageimage");
}

/// Run by the test below as a process of its own, which never ends by itself.
#[test]
fn a_killed_export_leaves_nothing() {
    if let Some(path) = std::env::var_os("GHOST_TEST_KILLED") {
        let mut out = Disk::new(path, &with_replace(true)).open_export().unwrap();
        out.write_all(&common::noise(20 << 20)).unwrap();
        out.flush().unwrap();
        println!("written");
        loop {
            std::thread::park();
        }
    }
    for old in [None, Some(b"old")] {
        let dir = Scratch::new();
        let path = dir.0.join("app.ghost");
        if let Some(old) = old {
            std::fs::write(&path, old).unwrap();
        }
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_killed_export_leaves_nothing", "--nocapture"])
            .env("GHOST_TEST_KILLED", &path)
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let said =
            std::io::BufReader::new(child.stdout.take().unwrap()).lines().find(|l| l.as_ref().unwrap() == "written");
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(said.is_some(), "the export did not get far");
        assert_eq!(std::fs::read(&path).ok(), old.map(|o| o.to_vec()));
        assert_eq!(dir.names().len(), usize::from(old.is_some()));
    }
}

#[test]
fn a_descriptor_that_is_not_open_is_said_to_be() {
    let mut pipe = Registry::with_defaults().open_url("fd:987654", &Options::default()).unwrap();
    let error = pipe.open_export().err().unwrap();
    assert!(error.to_string().starts_with("opening fd:987654: Bad file descriptor"), "{error}");
    assert!(Registry::with_defaults().open_url("fd:x", &Options::default()).is_err());
}

#[test]
fn disk_errors_name_path_and_remedy() {
    let dir = Scratch::new();
    let open = |path: &Path, replace| Disk::new(path, &with_replace(replace)).open_export().map(drop);
    let error = open(&dir.0.join("no/such/app"), false).unwrap_err();
    assert!(error.to_string().contains("no/such/app") && error.advice().contains("no/such is a directory"), "{error}");
    assert!(open(Path::new("/"), false).is_err());
    assert!(open(&dir.0.join("x/"), false).is_err());

    // Nothing but a regular file is ever replaced or removed.
    symlink("/dev/null", dir.0.join("link")).unwrap();
    for path in [dir.0.join("link"), "/dev/null".into(), dir.0.clone()] {
        let error = open(&path, true).unwrap_err();
        assert!(error.to_string().contains("never replaced"), "{error}");
        assert!(Disk::new(&path, &with_replace(true)).store().unwrap().remove().is_err());
    }
    assert!(std::fs::metadata("/dev/null").unwrap().file_type().is_char_device());
    let error = Disk::new("/dev/null", &Options::default()).open_import().err().unwrap();
    assert!(error.to_string().contains("not a regular file"), "{error}");

    // The directory goes away under an export.
    let gone = dir.0.join("gone");
    std::fs::create_dir(&gone).unwrap();
    let mut out = Disk::new(gone.join("app"), &Options::default()).open_export().unwrap();
    out.write_all(b"bytes").unwrap();
    std::fs::remove_dir(&gone).unwrap();
    let error = out.finish().unwrap_err();
    assert_eq!(error.aftermath(), Aftermath::NothingLeft);
    assert!(error.to_string().starts_with("naming disk:") && error.to_string().contains("No such file"), "{error}");
}

/// Run by the test below inside a mount namespace of its own, where `GHOST_TEST_FULL` is a tmpfs of 1 MiB.
#[test]
fn a_full_disk_is_told_and_leaves_the_old_image() {
    let Some(dir) = std::env::var_os("GHOST_TEST_FULL").map(std::path::PathBuf::from) else {
        let dir = Scratch::new();
        let script = "mount -t tmpfs -o size=1m none \"$GHOST_TEST_FULL\" || exit 77
            exec \"$0\" --exact a_full_disk_is_told_and_leaves_the_old_image --nocapture";
        let status = Command::new("unshare")
            .args(["--map-root-user", "--mount", "sh", "-c", script])
            .arg(std::env::current_exe().unwrap())
            .env("GHOST_TEST_FULL", &dir.0)
            .output();
        match status {
            Ok(out) if out.status.success() => {}
            Ok(out) if out.status.code() == Some(77) || out.stderr.starts_with(b"unshare:") => {
                eprintln!("skipped: no mount namespace here: {}", String::from_utf8_lossy(&out.stderr));
            }
            other => panic!("{other:?}"),
        }
        return;
    };
    std::fs::write(dir.join("app.ghost"), b"old").unwrap();
    let mut out = Disk::new(dir.join("app.ghost"), &with_replace(true)).open_export().unwrap();
    let error = out.write_all(&common::noise(3 << 20)).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    let error = ghost_resource::Error::from_io("", "", error);
    assert!(error.to_string().contains("app.ghost: No space left"), "{error}");
    assert!(error.advice().contains("free some space"));
    assert!(out.finish().is_err(), "a broken export was finished");
    assert_eq!(std::fs::read(dir.join("app.ghost")).unwrap(), b"old");
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1);
    // What the failed export took is free again.
    std::fs::write(dir.join("other"), vec![1; 900 << 10]).unwrap();
}

/// Options with which an import tells its address to the receiver that comes with them.
fn told() -> (Options, mpsc::Receiver<std::net::SocketAddr>) {
    let (tell, hear) = mpsc::channel();
    let network = Network {
        on_listen: Some(Arc::new(move |address| tell.send(address).unwrap())),
        accept_timeout: Some(Duration::from_secs(20)),
        silence_timeout: Duration::from_secs(20),
        ..Network::default()
    };
    (Options { network, ..Options::default() }, hear)
}

/// Connects to the address as soon as the importing end tells it.
struct Late(mpsc::Receiver<std::net::SocketAddr>, Options);

impl Resource for Late {
    fn class(&self, _: ghost_resource::Direction) -> ghost_resource::ClassId {
        ghost_resource::ClassId::NETWORK_SEND
    }
    fn describe(&self) -> String {
        "late".into()
    }
    fn open_export(&mut self) -> ghost_resource::Result<Box<dyn ghost_resource::GhostWrite>> {
        Tcp::new(&self.0.recv().unwrap().to_string(), &self.1)?.open_export()
    }
    fn open_import(&mut self) -> ghost_resource::Result<Box<dyn ghost_resource::GhostRead>> {
        unreachable!("only written to")
    }
}

#[test]
fn tcp_carries_over_both_families() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        carries(&|| {
            let (options, hear) = told();
            (Box::new(Late(hear, options.clone())), Box::new(Tcp::new(address, &options).unwrap()))
        });
    }
}

#[test]
fn tcp_tells_what_the_peer_read() {
    let (options, hear) = told();
    let import = std::thread::spawn({
        let options = options.clone();
        move || {
            let mut input = Tcp::new("127.0.0.1:0", &options).unwrap().open_import().unwrap();
            input.read_exact(&mut [0; 4]).unwrap();
            // The rest is not wanted, but small enough to be taken.
        }
    });
    let mut out = Late(hear, options).open_export().unwrap();
    out.write_all(b"fourmore").unwrap();
    assert!(out.finish().unwrap().durable);
    import.join().unwrap();
}

#[test]
fn a_cut_connection_is_an_error_at_both_ends() {
    let (options, hear) = told();
    let import = std::thread::spawn({
        let options = options.clone();
        move || {
            let mut input = Tcp::new("127.0.0.1:0", &options).unwrap().open_import().unwrap();
            input.read_to_end(&mut Vec::new()).unwrap_err()
        }
    });
    let mut out = Late(hear, options).open_export().unwrap();
    out.write_all(b"half a ghost").unwrap();
    out.abort();
    assert_eq!(import.join().unwrap().kind(), std::io::ErrorKind::ConnectionReset);

    let (options, hear) = told();
    let import = std::thread::spawn({
        let options = options.clone();
        move || drop(Tcp::new("127.0.0.1:0", &options).unwrap().open_import().unwrap())
    });
    let mut out = Late(hear, options).open_export().unwrap();
    let noise = common::noise(64 << 20);
    let error = out.write_all(&noise).and_then(|()| out.flush()).unwrap_err();
    let error = ghost_resource::Error::from_io("", "", error);
    assert_eq!(error.aftermath(), Aftermath::Uncommitted);
    assert!(error.to_string().starts_with("writing to tcp://127.0.0.1:"), "{error}");
    import.join().unwrap();
}

#[test]
fn nobody_there_is_said_at_once_or_after_the_time_allowed() {
    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let address = format!("127.0.0.1:{port}");
    let error = Tcp::new(&address, &Options::default()).unwrap().open_export().err().unwrap();
    assert!(error.to_string().contains("refused") && error.advice().contains("importing end first"), "{error}");

    let mut patient = Options::default();
    patient.network.retry_for = Duration::from_secs(20);
    let late = std::thread::spawn({
        let address = address.clone();
        move || {
            std::thread::sleep(Duration::from_millis(200));
            tcp::listen(&address, &told().0).unwrap().accept().map(drop)
        }
    });
    let link = tcp::connect(&address, &patient).unwrap();
    drop(link);
    late.join().unwrap().unwrap();

    let mut hasty = Options::default();
    hasty.network.accept_timeout = Some(Duration::from_millis(30));
    let error = Tcp::new("127.0.0.1:0", &hasty).unwrap().open_import().err().unwrap();
    assert!(matches!(error.cause(), Cause::Timeout(30)), "{error}");
}

#[test]
fn tcp_addresses_without_sense_are_refused() {
    for address in ["", "host", ":7000", "::1:7000", "host:", "host:70000", "host:http"] {
        assert!(Tcp::new(address, &Options::default()).is_err(), "{address}");
    }
    assert!(tcp::connect("127.0.0.1:0", &Options::default()).is_err());
}

#[test]
fn duplex_connections_answer_and_say_goodbye() {
    let dir = Scratch::new();
    let mut options = told().0;
    options.network.on_listen = None;
    options.network.address_file = Some(dir.0.join("address"));
    let listener = tcp::listen("127.0.0.1:0", &options).unwrap();
    let address = std::fs::read_to_string(dir.0.join("address")).unwrap();
    assert_eq!(address.trim().parse(), Ok(listener.local_addr()));
    assert_eq!(dir.names(), ["address"]);
    let server = std::thread::spawn(move || {
        let mut peer = listener.accept().unwrap();
        let mut question = Vec::new();
        peer.read_to_end(&mut question).unwrap();
        peer.write_all(&[&question[..], b"!"].concat()).unwrap();
    });
    let mut here = Registry::with_defaults().open_url(&format!("tcp://{}", address.trim()), &options).unwrap();
    let (mut read, mut write) = here.open_duplex(false).unwrap().split().unwrap();
    write.write_all(b"ready").unwrap();
    drop(write);
    let mut answer = String::new();
    read.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "ready!");
    server.join().unwrap();
    assert!(Buffer::new().open_duplex(false).is_err());
}
