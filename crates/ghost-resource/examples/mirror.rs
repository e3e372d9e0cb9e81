//! `mirror:A|B`: a plug-in in Rust that keeps every image twice, for those who trust no single disk.
//!
//! An export goes to both places and is there when both have it; an import reads whichever still has it. Run it:
//!
//! ```text
//! cargo run -p ghost-resource --example mirror
//! ```

use std::io::{self, IoSlice, Read, Write};
use std::sync::Arc;

use ghost_resource::{
    Aftermath, Cause, ClassId, Direction, Entry, Error, GhostRead, GhostWrite, Options, Registry, Resource, Result,
    Store, Written,
};

/// Class ids of one's own, from [`ClassId::FIRST_FOREIGN`] on.
pub const MIRROR_WRITE: ClassId = ClassId(0x2_0000);
/// The same for reading.
pub const MIRROR_READ: ClassId = ClassId(0x2_0001);

/// Adds `mirror:` to a registry; `A` and `B` may be all that the registry knew before.
pub fn register(registry: &mut Registry) -> Result<()> {
    let places = registry.clone();
    registry.register(
        "mirror",
        MIRROR_WRITE,
        MIRROR_READ,
        Arc::new(move |address, options| {
            let Some((a, b)) = address.split_once('|') else {
                let why = "it names one place; two are needed, as in mirror:A|B".to_string();
                return Err(Error::new("opening", format!("mirror:{address}"), Cause::Address(why)));
            };
            Ok(Box::new(Mirror { a: places.open_url(a, options)?, b: places.open_url(b, options)? }))
        }),
    )
}

struct Mirror {
    a: Box<dyn Resource>,
    b: Box<dyn Resource>,
}

impl Mirror {
    fn stores(&self) -> Result<[&dyn Store; 2]> {
        match (self.a.store(), self.b.store()) {
            (Some(a), Some(b)) => Ok([a, b]),
            _ => Err(Error::new("asking", self.describe(), Cause::Unable("keep images"))),
        }
    }
}

impl Resource for Mirror {
    fn class(&self, direction: Direction) -> ClassId {
        match direction {
            Direction::Export => MIRROR_WRITE,
            Direction::Import => MIRROR_READ,
        }
    }
    fn describe(&self) -> String {
        format!("mirror:{}|{}", self.a.describe(), self.b.describe())
    }
    fn open_export(&mut self) -> Result<Box<dyn GhostWrite>> {
        // If the second cannot be opened, the first is dropped, which leaves nothing there.
        Ok(Box::new(Both { a: self.a.open_export()?, b: self.b.open_export()?, name: self.describe() }))
    }
    fn open_import(&mut self) -> Result<Box<dyn GhostRead>> {
        self.a.open_import().or_else(|_| self.b.open_import())
    }
    fn store(&self) -> Option<&dyn Store> {
        self.stores().is_ok().then_some(self)
    }
}

impl Store for Mirror {
    fn list(&self) -> Result<Vec<Entry>> {
        self.stores()?[0].list()
    }
    fn exists(&self) -> Result<bool> {
        let [a, b] = self.stores()?;
        Ok(a.exists()? || b.exists()?)
    }
    fn remove(&self) -> Result<()> {
        // One of both may have been lost before; that neither is there is an error.
        let [a, b] = self.stores()?;
        match (a.remove(), b.remove()) {
            (Ok(()), Ok(())) => Ok(()),
            (Err(e), Ok(())) | (Ok(()), Err(e)) if matches!(e.cause(), Cause::Missing) => Ok(()),
            (Err(e), _) | (_, Err(e)) => Err(e),
        }
    }
}

/// The open ends of both places.
struct Both {
    a: Box<dyn GhostWrite>,
    b: Box<dyn GhostWrite>,
    name: String,
}

impl Write for Both {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.a.write_all(bytes)?;
        self.b.write_all(bytes)?;
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        self.a.flush().and_then(|()| self.b.flush())
    }
}

impl GhostWrite for Both {
    fn write_pages(&mut self, pages: &[IoSlice<'_>]) -> io::Result<()> {
        self.a.write_pages(pages).and_then(|()| self.b.write_pages(pages))
    }
    fn skip(&mut self, len_bytes: u64) -> io::Result<()> {
        self.a.skip(len_bytes).and_then(|()| self.b.skip(len_bytes))
    }
    fn finish(self: Box<Self>) -> Result<Written> {
        let Self { a, b, name } = *self;
        let first = a.finish()?;
        // The first has it from here on, so a failure of the second must say so.
        let second = b.finish().map_err(|e| {
            Error::new("finishing", name, Cause::Plugin(format!("only the first place has the image: {e}")))
                .leaving(Aftermath::Unknown)
                .advise("copy it from there by hand, or remove it")
        })?;
        Ok(Written { len_bytes: first.len_bytes, durable: first.durable && second.durable })
    }
    fn abort(self: Box<Self>) {
        self.a.abort();
        self.b.abort();
    }
}

#[allow(dead_code)] // the tests use this file as a module
fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let mut registry = Registry::with_defaults();
    register(&mut registry)?;

    let dir = std::env::temp_dir();
    let url = format!("mirror:disk:{}/mirror-a.ghost|disk:{}/mirror-b.ghost", dir.display(), dir.display());
    let mut mirror = registry.open_url(&url, &Options::default())?;
    let mut out = mirror.open_export()?;
    out.write_all(b"kept twice")?;
    out.finish()?;

    std::fs::remove_file(dir.join("mirror-a.ghost"))?;
    let mut back = String::new();
    mirror.open_import()?.read_to_string(&mut back)?;
    println!("one copy is lost, and still there is: {back}");
    if let Some(store) = mirror.store() {
        store.remove()?;
    }
    Ok(())
}
