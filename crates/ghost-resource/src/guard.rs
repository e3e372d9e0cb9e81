//! The border to plug-ins of others: their panics and their nonsense become errors.
//!
//! Every call into such a plug-in is made under `catch_unwind`; what it answers is checked (no more bytes written
//! than given, no more read than asked for, as many at the end as went in). After a panic the plug-in's object is
//! dropped and never called again. What this cannot do is save the program from a plug-in that aborts, loops forever
//! or writes through wild pointers; a process being exported survives even the death of ghost, by other means.

use std::fs::File;
use std::io::{self, IoSlice, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::error::{Aftermath, Cause, Error, Result};
use crate::resource::Duplex;
use crate::{ClassId, Direction, Entry, GhostRead, GhostWrite, Resource, Store, Written};

/// Runs a piece of somebody else's code; a panic in it becomes an error.
pub(crate) fn catch<T>(step: &'static str, label: &str, code: impl FnOnce() -> T) -> Result<T> {
    // The object behind `code` is not used again after a panic, so it cannot be seen half changed.
    catch_unwind(AssertUnwindSafe(code)).map_err(|payload| {
        let text = match (payload.downcast_ref::<&str>(), payload.downcast_ref::<String>()) {
            (Some(text), _) => (*text).to_string(),
            (_, Some(text)) => text.clone(),
            _ => "without a message".into(),
        };
        // A payload may panic in its own drop; there is no use in it any more.
        std::mem::forget(payload);
        Error::new(step, label, Cause::Panicked(text)).leaving(Aftermath::Unknown)
    })
}

fn misbehaved(step: &'static str, label: &str, what: String) -> Error {
    Error::new(step, label, Cause::Misbehaved(what)).leaving(Aftermath::Unknown)
}

/// Something of somebody else's, until it panics.
struct Foreign<T> {
    inner: Option<T>,
    label: String,
}

impl<T> Foreign<T> {
    fn new(inner: T, label: &str) -> Self {
        Self { inner: Some(inner), label: label.into() }
    }

    fn gone(&self, step: &'static str) -> Error {
        misbehaved(step, &self.label, "it panicked before and is not called again".into())
    }

    fn call<R>(&mut self, step: &'static str, code: impl FnOnce(&mut T) -> R) -> Result<R> {
        let Some(inner) = &mut self.inner else { return Err(self.gone(step)) };
        let result = catch(step, &self.label, || code(inner));
        if result.is_err() {
            self.discard();
        }
        result
    }

    fn look<R>(&self, step: &'static str, code: impl FnOnce(&T) -> R) -> Result<R> {
        let Some(inner) = &self.inner else { return Err(self.gone(step)) };
        catch(step, &self.label, || code(inner))
    }

    fn consume<R>(&mut self, step: &'static str, code: impl FnOnce(T) -> R) -> Result<R> {
        let Some(inner) = self.inner.take() else { return Err(self.gone(step)) };
        catch(step, &self.label, || code(inner))
    }

    fn discard(&mut self) {
        // A drop that panics has nobody to be told.
        let _ = self.consume("closing", drop);
    }
}

impl<T> Drop for Foreign<T> {
    fn drop(&mut self) {
        if self.inner.is_some() {
            self.discard();
        }
    }
}

fn read_checked<T: Read>(foreign: &mut Foreign<T>, into: &mut [u8]) -> io::Result<usize> {
    let label = foreign.label.clone();
    let done = match foreign.call("reading", |inner| inner.read(into))? {
        Err(e) if e.kind() == io::ErrorKind::Interrupted => return Err(e),
        done => done.map_err(|e| Error::from_io("reading", &label, e))?,
    };
    if done > into.len() {
        let what = format!("it says it read {done} bytes into {}", into.len());
        return Err(misbehaved("reading", &label, what).into());
    }
    Ok(done)
}

fn write_checked<T: Write>(foreign: &mut Foreign<T>, bytes: &[u8]) -> io::Result<usize> {
    let label = foreign.label.clone();
    let done = match foreign.call("writing", |inner| inner.write(bytes))? {
        Err(e) if e.kind() == io::ErrorKind::Interrupted => return Err(e),
        done => done.map_err(|e| match e.downcast::<Error>() {
            Ok(ours) => ours,
            Err(e) => Error::new("writing", &label, e).leaving(Aftermath::Unknown),
        })?,
    };
    if done > bytes.len() {
        let what = format!("it says it wrote {done} bytes of {}", bytes.len());
        return Err(misbehaved("writing", &label, what).into());
    }
    Ok(done)
}

/// A plug-in of somebody else's, behind the border.
pub struct Guarded(Foreign<Box<dyn Resource>>);

impl Guarded {
    /// Puts the plug-in behind the border; `label` names it in messages.
    pub fn new(plugin: Box<dyn Resource>, label: String) -> Self {
        Self(Foreign::new(plugin, &label))
    }

    fn with_store<R>(&self, step: &'static str, code: impl FnOnce(&dyn Store) -> Result<R>) -> Result<R> {
        self.0.look(step, |inner| match inner.store() {
            Some(store) => code(store),
            None => Err(Error::new(step, &self.0.label, Cause::Unable("keep images"))),
        })?
    }
}

impl Resource for Guarded {
    fn class(&self, direction: Direction) -> ClassId {
        // Without an answer it is nobody's class.
        self.0.look("asking", |inner| inner.class(direction)).unwrap_or(ClassId(u32::MAX))
    }
    fn describe(&self) -> String {
        self.0.label.clone()
    }
    fn open_export(&mut self) -> Result<Box<dyn GhostWrite>> {
        let inner = self.0.call("opening", |inner| inner.open_export())??;
        Ok(Box::new(GuardedWriter {
            foreign: Foreign::new(inner, &self.0.label),
            len_bytes: 0,
            lent: false,
            broken: false,
        }))
    }
    fn open_import(&mut self) -> Result<Box<dyn GhostRead>> {
        let inner = self.0.call("opening", |inner| inner.open_import())??;
        Ok(Box::new(GuardedReader(Foreign::new(inner, &self.0.label))))
    }
    fn store(&self) -> Option<&dyn Store> {
        self.0.look("asking", |inner| inner.store().is_some()).unwrap_or(false).then_some(self)
    }
    fn open_duplex(&mut self, listen: bool) -> Result<Box<dyn Duplex>> {
        let inner = self.0.call("opening", |inner| inner.open_duplex(listen))??;
        Ok(Box::new(GuardedDuplex(Foreign::new(inner, &self.0.label))))
    }
}

impl Store for Guarded {
    fn list(&self) -> Result<Vec<Entry>> {
        self.with_store("listing", |store| store.list())
    }
    fn exists(&self) -> Result<bool> {
        self.with_store("looking for", |store| store.exists())
    }
    fn remove(&self) -> Result<()> {
        self.with_store("removing", |store| store.remove())
    }
}

struct GuardedWriter {
    foreign: Foreign<Box<dyn GhostWrite>>,
    len_bytes: u64,
    /// Its file was given away, so bytes may come that we do not see.
    lent: bool,
    /// A call failed; what is there has a gap, and is only good to be aborted.
    broken: bool,
}

impl GuardedWriter {
    /// A call that must succeed for the image to be whole.
    fn step<R>(&mut self, code: impl FnOnce(&mut Box<dyn GhostWrite>) -> io::Result<R>) -> io::Result<R> {
        let done = self.foreign.call("writing", code).map_err(io::Error::from).flatten();
        self.broken |= done.is_err();
        done
    }
}

impl Write for GuardedWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let done = write_checked(&mut self.foreign, bytes);
        match &done {
            Ok(done) => self.len_bytes += *done as u64,
            Err(e) => self.broken |= e.kind() != io::ErrorKind::Interrupted,
        }
        done
    }
    fn flush(&mut self) -> io::Result<()> {
        self.step(Write::flush)
    }
}

impl GhostWrite for GuardedWriter {
    fn write_pages(&mut self, pages: &[IoSlice<'_>]) -> io::Result<()> {
        self.step(|inner| inner.write_pages(pages))?;
        self.len_bytes += pages.iter().map(|p| p.len() as u64).sum::<u64>();
        Ok(())
    }
    fn skip(&mut self, len_bytes: u64) -> io::Result<()> {
        self.step(|inner| inner.skip(len_bytes))?;
        self.len_bytes += len_bytes;
        Ok(())
    }
    fn as_file(&mut self) -> io::Result<Option<&File>> {
        self.lent = true;
        // The borrow of the file must outlive the closure, so the call is guarded in two steps.
        if self.step(|inner| inner.as_file().map(|f| f.is_some()))? {
            let Some(inner) = &mut self.foreign.inner else { return Ok(None) };
            return catch("writing", &self.foreign.label, || inner.as_file())?;
        }
        Ok(None)
    }
    fn finish(mut self: Box<Self>) -> Result<Written> {
        if self.broken {
            let label = self.foreign.label.clone();
            self.abort();
            let earlier = io::Error::other("an earlier write failed");
            return Err(Error::new("finishing", label, earlier).leaving(Aftermath::NothingLeft));
        }
        let written = self.foreign.consume("finishing", GhostWrite::finish)??;
        if !self.lent && written.len_bytes != self.len_bytes {
            let what = format!("it says it keeps {} bytes, but was given {}", written.len_bytes, self.len_bytes);
            return Err(misbehaved("finishing", &self.foreign.label, what));
        }
        Ok(written)
    }
    fn abort(mut self: Box<Self>) {
        // Told by nobody: the export failed already, and for a better reason.
        let _ = self.foreign.consume("aborting", GhostWrite::abort);
    }
}

struct GuardedReader(Foreign<Box<dyn GhostRead>>);

impl Read for GuardedReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        read_checked(&mut self.0, into)
    }
}

impl GhostRead for GuardedReader {
    fn as_mapped(&self) -> Option<&[u8]> {
        self.0.inner.as_ref().and_then(|inner| catch("mapping", &self.0.label, || inner.as_mapped()).ok().flatten())
    }
    fn as_file(&self) -> Option<&File> {
        self.0.inner.as_ref().and_then(|inner| catch("mapping", &self.0.label, || inner.as_file()).ok().flatten())
    }
}

struct GuardedDuplex(Foreign<Box<dyn Duplex>>);

impl Read for GuardedDuplex {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        read_checked(&mut self.0, into)
    }
}

impl Write for GuardedDuplex {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        write_checked(&mut self.0, bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.0.call("writing", Write::flush)?
    }
}

impl Duplex for GuardedDuplex {
    fn split(mut self: Box<Self>) -> Result<(Box<dyn Read + Send>, Box<dyn Write + Send>)> {
        let (read, write) = self.0.consume("splitting", Duplex::split)??;
        let label = &self.0.label;
        Ok((Box::new(Half(Foreign::new(read, label))), Box::new(Half(Foreign::new(write, label)))))
    }
    fn peer(&self) -> String {
        self.0.look("asking", |inner| inner.peer()).unwrap_or_else(|_| self.0.label.clone())
    }
}

struct Half<T>(Foreign<T>);

impl<T: Read> Read for Half<T> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        read_checked(&mut self.0, into)
    }
}

impl<T: Write> Write for Half<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        write_checked(&mut self.0, bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.0.call("writing", Write::flush)?
    }
}
