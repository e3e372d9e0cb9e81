//! Plug-ins of others in shared libraries, as resources like all others.
//!
//! The library's side is `include/ghost_plugin.h`, with `examples/plugin.c` as a whole example; the unsafe part of
//! ours is [`ghost_sys::plugin`]. [`Registry::load_plugin`] brings the two together: it loads the library, checks it,
//! and registers it by its scheme and class ids.

use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ghost_sys::plugin::{ExportStream, ImportStream, Plugin, PluginError};

use crate::error::{Aftermath, Cause, Error, Result};
use crate::{ClassId, Direction, Entry, GhostRead, GhostWrite, Options, Registry, Resource, Store, Written};

impl Registry {
    /// Loads a plug-in from a shared library and registers it; comes back with its scheme.
    ///
    /// The library's code runs in this process with all its rights: load only what you trust.
    pub fn load_plugin(&mut self, library: &Path) -> Result<String> {
        let label = library.display().to_string();
        let plugin = Plugin::load(library).map_err(|e| told("loading", &label, e))?;
        self.register_plugin(plugin, &label)
    }

    /// Registers a plug-in that was loaded or made elsewhere; `label` names it in messages. Comes back with its scheme.
    pub fn register_plugin(&mut self, plugin: Plugin, label: &str) -> Result<String> {
        let plugin = Arc::new(plugin);
        let (scheme, (write, read)) = (plugin.scheme().to_string(), plugin.classes());
        self.register(
            &scheme.clone(),
            ClassId(write),
            ClassId(read),
            Arc::new(move |address, options| {
                Ok(Box::new(Foreign { plugin: Arc::clone(&plugin), address: address.into(), options: options.clone() }))
            }),
        )
        .map_err(|e| match e.cause() {
            Cause::Registration(why) => Error::new("loading", label, Cause::Registration(why.clone())),
            _ => e,
        })?;
        Ok(scheme)
    }
}

/// The plug-in's error as one of ours.
fn told(step: &'static str, label: &str, error: PluginError) -> Error {
    let misbehaved = matches!(error, PluginError::Misbehaved(_));
    let cause = match error {
        PluginError::Unusable(why) => Cause::Library(why),
        PluginError::Failed(why) => Cause::Plugin(why),
        PluginError::Exists => Cause::Exists,
        PluginError::Missing => Cause::Missing,
        PluginError::Misbehaved(what) => Cause::Misbehaved(what),
    };
    let error = Error::new(step, label, cause);
    if misbehaved { error.leaving(Aftermath::Unknown) } else { error }
}

/// A place that a shared library serves.
struct Foreign {
    plugin: Arc<Plugin>,
    address: String,
    options: Options,
}

impl Foreign {
    fn told<T>(&self, step: &'static str, result: std::result::Result<T, PluginError>) -> Result<T> {
        result.map_err(|e| told(step, &self.describe(), e))
    }
}

impl Resource for Foreign {
    fn class(&self, direction: Direction) -> ClassId {
        let (write, read) = self.plugin.classes();
        match direction {
            Direction::Export => ClassId(write),
            Direction::Import => ClassId(read),
        }
    }
    fn describe(&self) -> String {
        format!("{}:{}", self.plugin.scheme(), self.address)
    }
    fn open_export(&mut self) -> Result<Box<dyn GhostWrite>> {
        let opened = self.plugin.open_export(&self.address, self.options.replace, self.options.durable);
        Ok(Box::new(ForeignWriter { stream: self.told("opening", opened)?, label: self.describe() }))
    }
    fn open_import(&mut self) -> Result<Box<dyn GhostRead>> {
        let opened = self.plugin.open_import(&self.address);
        Ok(Box::new(ForeignReader { stream: self.told("opening", opened)?, label: self.describe() }))
    }
    fn store(&self) -> Option<&dyn Store> {
        self.plugin.keeps_images().then_some(self)
    }
}

impl Store for Foreign {
    fn list(&self) -> Result<Vec<Entry>> {
        let time = |s| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(s));
        let mut all: Vec<_> = self
            .told("listing", self.plugin.list(&self.address))?
            .into_iter()
            .map(|(url, len_bytes, modified)| Entry { url, len_bytes, modified: modified.and_then(time) })
            .collect();
        all.sort_by(|a, b| a.url.cmp(&b.url));
        Ok(all)
    }
    fn exists(&self) -> Result<bool> {
        self.told("looking for", self.plugin.exists(&self.address))
    }
    fn remove(&self) -> Result<()> {
        self.told("removing", self.plugin.remove(&self.address))
    }
}

struct ForeignWriter {
    stream: ExportStream,
    label: String,
}

impl Write for ForeignWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.write(bytes).map_err(|e| {
            let misbehaved = matches!(e, PluginError::Misbehaved(_));
            let error = told("writing", &self.label, e);
            // The stream is aborted next, and the plug-in promised to take everything back then.
            if misbehaved { error } else { error.leaving(Aftermath::NothingLeft) }.into()
        })
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl GhostWrite for ForeignWriter {
    fn finish(self: Box<Self>) -> Result<Written> {
        let Self { stream, label } = *self;
        let written = stream.finish().map_err(|e| match e {
            PluginError::Misbehaved(_) => told("finishing", &label, e),
            e => told("finishing", &label, e).leaving(Aftermath::NothingLeft),
        })?;
        Ok(Written { len_bytes: written.len_bytes, durable: written.durable == 1 })
    }
    fn abort(self: Box<Self>) {}
}

struct ForeignReader {
    stream: ImportStream,
    label: String,
}

impl Read for ForeignReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.stream.read(into).map_err(|e| told("reading", &self.label, e).into())
    }
}

impl GhostRead for ForeignReader {}
