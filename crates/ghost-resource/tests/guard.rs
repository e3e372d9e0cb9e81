//! Plug-ins in Rust: the example under the shared suite, and the border that panics and nonsense do not pass.

mod common;
#[path = "../examples/mirror.rs"]
#[allow(dead_code, unreachable_pub)] // an example is a program, and public to nobody
mod mirror;

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use common::{Scratch, keeps_images};
use ghost_resource::{
    Cause, ClassId, Direction, Entry, Error, GhostRead, GhostWrite, Options, Registry, Resource, Result, Store, Written,
};

#[test]
fn the_example_in_rust_keeps_images_twice() {
    let mut registry = Registry::with_defaults();
    mirror::register(&mut registry).unwrap();
    let (a, b) = (Scratch::new(), Scratch::new());
    let url = format!("mirror:{}/one|disk:{}/two", a.0.display(), b.0.display());
    let open = |replace| registry.open_url(&url, &Options { replace, ..Options::default() }).unwrap();
    keeps_images(&open);

    let mut out = open(false).open_export().unwrap();
    out.write_all(b"twice").unwrap();
    out.finish().unwrap();
    std::fs::remove_file(a.0.join("one")).unwrap();
    let mut back = String::new();
    open(false).open_import().unwrap().read_to_string(&mut back).unwrap();
    assert_eq!(back, "twice");
    assert!(registry.open_url("mirror:only-one", &Options::default()).is_err());
}

/// Fails at the step that its address names, by panic or by nonsense.
struct Bad(String);

static DROPPED: AtomicU32 = AtomicU32::new(0);

impl Bad {
    fn at(&self, step: &str) {
        assert_ne!(self.0, step, "it blew up");
    }
}

impl Resource for Bad {
    fn class(&self, _: Direction) -> ClassId {
        self.at("class");
        ClassId(0x40000)
    }
    fn describe(&self) -> String {
        panic!("nobody asks a plug-in for its name before it is trusted")
    }
    fn open_export(&mut self) -> Result<Box<dyn GhostWrite>> {
        self.at("open_export");
        Ok(Box::new(BadStream(Self(self.0.clone()), 0)))
    }
    fn open_import(&mut self) -> Result<Box<dyn GhostRead>> {
        self.at("open_import");
        Ok(Box::new(BadStream(Self(self.0.clone()), 0)))
    }
    fn store(&self) -> Option<&dyn Store> {
        self.at("store");
        Some(self)
    }
}

impl Store for Bad {
    fn list(&self) -> Result<Vec<Entry>> {
        self.at("list");
        Ok(Vec::new())
    }
    fn exists(&self) -> Result<bool> {
        self.at("exists");
        Ok(false)
    }
    fn remove(&self) -> Result<()> {
        self.at("remove");
        Ok(())
    }
}

struct BadStream(Bad, u64);

impl Write for BadStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.1 > 100_000 {
            self.0.at("write");
        }
        self.1 += bytes.len() as u64;
        Ok(if self.0.0 == "write-more" { bytes.len() + 1 } else { bytes.len() })
    }
    fn flush(&mut self) -> io::Result<()> {
        self.0.at("flush");
        Ok(())
    }
}

impl GhostWrite for BadStream {
    fn as_file(&mut self) -> io::Result<Option<&std::fs::File>> {
        self.0.at("as_file");
        Ok(None)
    }
    fn finish(self: Box<Self>) -> Result<Written> {
        self.0.at("finish");
        let len_bytes = if self.0.0 == "finish-short" { 1 } else { self.1 };
        Ok(Written { len_bytes, durable: false })
    }
    fn abort(self: Box<Self>) {
        self.0.at("abort");
    }
}

impl Read for BadStream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.1 += into.len() as u64;
        if self.1 > 100_000 {
            self.0.at("read");
        }
        Ok(if self.0.0 == "read-more" { into.len() + 1 } else { into.len() })
    }
}

impl GhostRead for BadStream {
    fn as_mapped(&self) -> Option<&[u8]> {
        self.0.at("as_mapped");
        None
    }
}

impl Drop for BadStream {
    fn drop(&mut self) {
        DROPPED.fetch_add(1, Ordering::Relaxed);
        assert!(self.0.0 != "drop" || std::thread::panicking(), "it blew up");
    }
}

fn bad(step: &str) -> Result<Box<dyn Resource>> {
    let mut registry = Registry::with_defaults();
    let make = |address: &str, _: &Options| -> Result<Box<dyn Resource>> {
        let bad = Bad(address.into());
        bad.at("factory");
        Ok(Box::new(bad))
    };
    registry.register("bad", ClassId(0x40000), ClassId(0x40001), Arc::new(make)).unwrap();
    registry.open_url(&format!("bad:{step}"), &Options::default())
}

/// Everything a plug-in can be asked for, in order; the first error comes back.
fn use_all(step: &str) -> Result<()> {
    let mut resource = bad(step)?;
    let label = resource.describe();
    let io = |e| Error::from_io("testing", &label, e);
    let mut out = resource.open_export()?;
    let written = (0..40).try_for_each(|_| out.write_all(&[1; 10_000])).and_then(|()| out.flush());
    if let Err(e) = written.and_then(|()| out.as_file().map(|f| assert!(f.is_none()))) {
        // What blew up once is not called again.
        assert!(out.write_all(b"more").is_err() || step == "write-more");
        assert!(out.finish().is_err());
        return Err(io(e));
    }
    // Given away once, its count is no longer compared.
    drop(out);
    let mut out = resource.open_export()?;
    out.write_all(b"bytes").map_err(io)?;
    out.finish()?;
    let mut out = resource.open_export()?;
    out.write_all(b"bytes").map_err(io)?;
    out.abort();
    let mut input = resource.open_import()?;
    let _ = input.as_mapped();
    (0..40).try_for_each(|_| input.read_exact(&mut [0; 10_000])).map_err(io)?;
    drop(input);
    let Some(store) = resource.store() else { return Ok(()) };
    store.list()?;
    store.exists()?;
    store.remove()
}

#[test]
fn a_panic_anywhere_is_an_error_and_no_more() {
    use_all("nothing").unwrap();
    for step in [
        "factory",
        "open_export",
        "write",
        "flush",
        "as_file",
        "finish",
        "open_import",
        "read",
        "list",
        "exists",
        "remove",
        "drop",
    ] {
        let error = use_all(step).unwrap_err();
        let Cause::Panicked(words) = error.cause() else { panic!("{step}: {error}") };
        assert!(words.contains("it blew up"), "{step}: {words}");
        assert_eq!(error.resource(), format!("bad:{step}"));
    }
    // Where there is nobody to be told, nothing happens at all.
    for step in ["abort", "as_mapped", "store"] {
        use_all(step).unwrap();
    }
    assert_eq!(bad("class").unwrap().class(Direction::Export), ClassId(u32::MAX));
    assert!(DROPPED.load(Ordering::Relaxed) > 0);
}

#[test]
fn nonsense_is_an_error() {
    for (step, words) in [
        ("write-more", "it says it wrote 10001 bytes of 10000"),
        ("finish-short", "it says it keeps 1 bytes, but was given 5"),
        ("read-more", "it says it read 10001 bytes into 10000"),
    ] {
        let error = use_all(step).unwrap_err();
        assert!(error.to_string().contains(words), "{step}: {error}");
    }
}
