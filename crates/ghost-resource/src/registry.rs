//! From a URL, or a class id and an address, to a resource.
//!
//! `SCHEME:ADDRESS` goes to the plug-in of that scheme (`SCHEME://ADDRESS` as well); `-` is the standard pipe;
//! anything with a slash before its first colon, or without a colon, is a path. Plug-ins of others are registered at
//! run time and are then treated alike, except that their panics and nonsense are caught at the border
//! ([`crate::guard`]).

use std::sync::Arc;

use crate::error::{Cause, Error, Result};
use crate::guard::Guarded;
use crate::{ClassId, Direction, Layered, Options, Resource};

/// Makes a resource of the part of a URL behind the scheme.
pub type Factory = Arc<dyn Fn(&str, &Options) -> Result<Box<dyn Resource>> + Send + Sync>;

/// All plug-ins that this program knows.
#[derive(Clone)]
pub struct Registry {
    plugins: Vec<Plugin>,
}

#[derive(Clone)]
struct Plugin {
    scheme: String,
    write: ClassId,
    read: ClassId,
    factory: Factory,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.plugins.iter().map(|p| (&p.scheme, p.write, p.read))).finish()
    }
}

impl Default for Registry {
    fn default() -> Self {
        Self::with_defaults()
    }
}

impl Registry {
    /// A registry that knows nothing.
    pub fn empty() -> Self {
        Self { plugins: Vec::new() }
    }

    /// A registry with ghost's own plug-ins: `disk`, `file`, `mem`, `tcp`, `fd` and the pipe.
    pub fn with_defaults() -> Self {
        let mut all = Self::empty();
        let mut own = |scheme: &str, write, read, factory: Factory| {
            all.plugins.push(Plugin { scheme: scheme.into(), write, read, factory });
        };
        let disk: Factory = Arc::new(|path, options| Ok(Box::new(crate::Disk::new(path, options))));
        own("disk", ClassId::DISK_WRITE, ClassId::DISK_READ, Arc::clone(&disk));
        own("file", ClassId::DISK_WRITE, ClassId::DISK_READ, disk);
        let memory: Factory = Arc::new(|name, options| Ok(Box::new(crate::Memory::new(name, options)?)));
        own("mem", ClassId::MEMORY_WRITE, ClassId::MEMORY_READ, memory);
        let tcp: Factory = Arc::new(|peer, options| Ok(Box::new(crate::Tcp::new(peer, options)?)));
        own("tcp", ClassId::NETWORK_SEND, ClassId::NETWORK_RECEIVE, tcp);
        let fd: Factory = Arc::new(|number, _| Ok(Box::new(crate::Pipe::parse(number)?)));
        own("fd", ClassId::PIPE_WRITE, ClassId::PIPE_READ, fd);
        all
    }

    /// Adds a plug-in of somebody else's. Scheme and both ids must be free, and the ids not ghost's.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use ghost_resource::{Buffer, ClassId, Registry};
    ///
    /// let mut registry = Registry::with_defaults();
    /// let one = Buffer::new();
    /// registry.register("scratch", ClassId(0x1_0000), ClassId(0x1_0001), Arc::new(move |_, _| Ok(Box::new(one.clone()))))?;
    /// assert_eq!(registry.schemes(), ["disk", "file", "mem", "tcp", "fd", "scratch"]);
    /// # Ok::<(), ghost_resource::Error>(())
    /// ```
    pub fn register(&mut self, scheme: &str, write: ClassId, read: ClassId, factory: Factory) -> Result<()> {
        let refuse = |why: String| Err(Error::new("registering", format!("{scheme}:"), Cause::Registration(why)));
        if !is_scheme(scheme) {
            return refuse(format!("`{scheme}` is no scheme: two or more of a-z, 0-9, `+`, `-`, a letter first"));
        }
        if self.plugins.iter().any(|p| p.scheme == scheme) {
            return refuse("the scheme is taken".into());
        }
        for (index, id) in [write, read].into_iter().enumerate() {
            if !id.is_foreign() {
                return refuse(format!("class id {id} is reserved for ghost"));
            }
            if (index == 1 && write == read) || self.plugins.iter().any(|p| p.write == id || p.read == id) {
                return refuse(format!("class id {id} is taken"));
            }
        }
        self.plugins.push(Plugin { scheme: scheme.into(), write, read, factory: guarded(scheme, factory) });
        Ok(())
    }

    /// All schemes, in the order of registration.
    pub fn schemes(&self) -> Vec<&str> {
        self.plugins.iter().map(|p| &*p.scheme).collect()
    }

    /// The resource that a URL names, under the layers that the options name. Nothing is touched before it is opened.
    pub fn open_url(&self, url: &str, options: &Options) -> Result<Box<dyn Resource>> {
        Ok(Layered::stack(self.place(url, options)?, &options.layers))
    }

    fn place(&self, url: &str, options: &Options) -> Result<Box<dyn Resource>> {
        if url == "-" {
            return Ok(Box::new(crate::Pipe::standard()));
        }
        let Some((scheme, address)) = split_url(url) else {
            if url.is_empty() {
                return Err(Error::new("opening", "``", Cause::Address("the URL is empty".into())));
            }
            return Ok(Box::new(crate::Disk::new(url, options)));
        };
        let Some(plugin) = self.plugins.iter().find(|p| p.scheme == scheme) else {
            let known = self.schemes().join(", ") + " and -";
            return Err(Error::new("opening", url, Cause::UnknownScheme { scheme: scheme.into(), known }));
        };
        (plugin.factory)(address, options)
    }

    /// The resource of a class at an address, and the direction that the class stands for: the seed's
    /// `plug_resource_interface`.
    pub fn open_class(
        &self,
        class: ClassId,
        address: &str,
        options: &Options,
    ) -> Result<(Direction, Box<dyn Resource>)> {
        let pipe = [(ClassId::PIPE_WRITE, Direction::Export), (ClassId::PIPE_READ, Direction::Import)];
        if let Some((_, direction)) = pipe.into_iter().find(|(id, _)| *id == class && address == "-") {
            return Ok((direction, Layered::stack(Box::new(crate::Pipe::standard()), &options.layers)));
        }
        for plugin in &self.plugins {
            let direction = match class {
                id if id == plugin.write => Direction::Export,
                id if id == plugin.read => Direction::Import,
                _ => continue,
            };
            return Ok((direction, Layered::stack((plugin.factory)(address, options)?, &options.layers)));
        }
        let known = self.plugins.iter().flat_map(|p| [p.write.to_string(), p.read.to_string()]).collect::<Vec<_>>();
        let cause = Cause::UnknownClass { class, known: known.join(", ") };
        Err(Error::new("opening", address, cause))
    }
}

/// Catches what a factory of somebody else's throws, and guards what it makes.
fn guarded(scheme: &str, factory: Factory) -> Factory {
    let label = format!("{scheme}:");
    Arc::new(move |address, options| {
        let made = crate::guard::catch("opening", &format!("{label}{address}"), || factory(address, options))??;
        Ok(Box::new(Guarded::new(made, format!("{label}{address}"))))
    })
}

/// Two characters at least, so that `C:` of other systems is never a scheme.
fn is_scheme(text: &str) -> bool {
    text.len() >= 2
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '+' || c == '-')
}

/// Scheme and address of a URL; `None` for a path.
fn split_url(url: &str) -> Option<(&str, &str)> {
    let (scheme, address) = url.split_once(':')?;
    is_scheme(scheme).then(|| (scheme, address.strip_prefix("//").unwrap_or(address)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_told_from_paths() {
        assert_eq!(split_url("disk:/p/a:b"), Some(("disk", "/p/a:b")));
        assert_eq!(split_url("tcp://[::1]:7000"), Some(("tcp", "[::1]:7000")));
        for path in ["app.ghost", "/p/app:1.ghost", "./app:1", "C:x", "App:1"] {
            assert_eq!(split_url(path), None, "{path}");
        }
        let all = Registry::with_defaults();
        let options = Options::default();
        assert_eq!(all.open_url("app.ghost", &options).unwrap().describe(), "disk:app.ghost");
        assert_eq!(all.open_url("file:///p/a", &options).unwrap().describe(), "disk:/p/a");
        assert_eq!(all.open_url("-", &options).unwrap().describe(), "-");
    }

    #[test]
    fn an_unknown_scheme_names_the_known_ones() {
        let error = Registry::with_defaults().open_url("s3://bucket/a", &Options::default()).err().unwrap();
        assert!(error.to_string().contains("`s3`; known are disk, file, mem, tcp, fd and -"), "{error}");
    }

    #[test]
    fn classes_open_in_their_direction() {
        let all = Registry::with_defaults();
        let (direction, resource) = all.open_class(ClassId::DISK_WRITE, "/p/a", &Options::default()).unwrap();
        assert_eq!((direction, resource.describe().as_str()), (Direction::Export, "disk:/p/a"));
        let (direction, _) = all.open_class(ClassId::NETWORK_RECEIVE, "127.0.0.1:0", &Options::default()).unwrap();
        assert_eq!(direction, Direction::Import);
        assert!(all.open_class(ClassId(0x12345), "a", &Options::default()).is_err());
    }

    #[test]
    fn taken_and_reserved_names_and_numbers_are_refused() {
        let mut all = Registry::with_defaults();
        let factory: Factory = Arc::new(|_, _| Ok(Box::new(crate::Buffer::new())));
        let mut add = |scheme, write, read| all.register(scheme, ClassId(write), ClassId(read), Arc::clone(&factory));
        assert!(add("disk", 0x10000, 0x10001).is_err());
        assert!(add("x", 0x10000, 0x10001).is_err());
        assert!(add("own", 5, 0x10001).is_err());
        assert!(add("own", 0x10001, 0x10001).is_err());
        add("own", 0x10000, 0x10001).unwrap();
        assert!(add("other", 0x10002, 0x10000).is_err());
    }
}
