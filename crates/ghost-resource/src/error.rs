//! What can go wrong with a resource, told so that a user can act.
//!
//! An [`Error`] always carries the resource as its user wrote it, the step that failed, the [`Cause`], what to do
//! about it and what was left behind. The rules: a cause never repeats the resource; a cause of the kernel's keeps
//! its [`io::Error`]; nothing is turned into a bare string. Through the [`std::io`] traits an `Error` travels inside
//! an [`io::Error`], and comes out whole by [`Error::from_io`].

use std::fmt;
use std::io;

use crate::ClassId;

/// The result of an action on a resource.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An action on a resource that was refused or failed.
///
/// Prints as one line, `writing disk:/p/app.ghost: No space left on device`; [`advice`](Error::advice) and
/// [`aftermath`](Error::aftermath) are for the lines below it.
#[derive(Debug)]
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    step: &'static str,
    resource: String,
    cause: Cause,
    advice: Option<String>,
    aftermath: Aftermath,
}

/// Why it was refused or failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Cause {
    /// The kernel said no.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The address cannot be one of this resource.
    #[error("{0}")]
    Address(String),
    /// There is something already, and replacing it was not asked for.
    #[error("it exists already")]
    Exists,
    /// There is no such image.
    #[error("there is no such image")]
    Missing,
    /// The resource has no such ability.
    #[error("this resource cannot {0}")]
    Unable(&'static str),
    /// It is safe only with another owner, mode or file system.
    #[error("{0}")]
    Unsafe(String),
    /// No plug-in is registered for the scheme.
    #[error("no plug-in is registered for the scheme `{scheme}`; known are {known}")]
    UnknownScheme {
        /// What was asked for.
        scheme: String,
        /// All registered schemes.
        known: String,
    },
    /// No plug-in is registered for the class id.
    #[error("no plug-in is registered for class {class}; known are {known}")]
    UnknownClass {
        /// What was asked for.
        class: ClassId,
        /// All registered classes.
        known: String,
    },
    /// A scheme or class id is taken, or reserved for ghost's own.
    #[error("{0}")]
    Registration(String),
    /// The bytes end before the layer's end mark.
    #[error("the {layer} stream is cut off after {bytes} bytes")]
    Truncated {
        /// The layer that was being undone.
        layer: &'static str,
        /// Bytes that came out of the layer before.
        bytes: u64,
    },
    /// The bytes are not what the layer writes.
    #[error("the {layer} stream is damaged: {what}")]
    Damaged {
        /// The layer that was being undone.
        layer: &'static str,
        /// What is wrong.
        what: String,
    },
    /// The other end gave up before its end mark.
    #[error("the exporting end gave up")]
    PeerGone,
    /// It took longer than allowed.
    #[error("nothing happened for {0} ms")]
    Timeout(u128),
    /// The plug-in panicked.
    #[error("the plug-in panicked: {0}")]
    Panicked(String),
    /// The plug-in answered what it must not answer.
    #[error("the plug-in misbehaved: {0}")]
    Misbehaved(String),
    /// The plug-in reported a failure in its own words.
    #[error("the plug-in says: {0}")]
    Plugin(String),
    /// The shared library is not a plug-in that this version can use.
    #[error("{0}")]
    Library(String),
}

/// What is left at the resource after the failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aftermath {
    /// Nothing was begun.
    Untouched,
    /// What was begun was taken back; an image that was there before is intact.
    NothingLeft,
    /// Bytes were sent that cannot be called back. They lack the commit mark, so nobody takes them for an image.
    Uncommitted,
    /// The image is whole and readable, but may not survive a power cut.
    NotDurable,
    /// The plug-in was not heard of again; what it left is for it to say.
    Unknown,
}

impl Error {
    /// A failure of `step` (an -ing word, such as `writing`) on the resource, before anything was touched.
    pub fn new(step: &'static str, resource: impl Into<String>, cause: impl Into<Cause>) -> Self {
        let (resource, cause) = (resource.into(), cause.into());
        Self(Box::new(Inner { step, resource, cause, advice: None, aftermath: Aftermath::Untouched }))
    }

    /// Says what the user can do, in place of what the cause suggests by itself.
    pub fn advise(mut self, advice: impl Into<String>) -> Self {
        self.0.advice = Some(advice.into());
        self
    }

    /// Says what was left behind.
    pub fn leaving(mut self, aftermath: Aftermath) -> Self {
        self.0.aftermath = aftermath;
        self
    }

    /// The error that an [`io::Error`] carries, or one made of it for this step and resource.
    pub fn from_io(step: &'static str, resource: &str, error: io::Error) -> Self {
        match error.downcast::<Self>() {
            Ok(ours) => ours,
            Err(theirs) => Self::new(step, resource, theirs),
        }
    }

    /// Why.
    pub fn cause(&self) -> &Cause {
        &self.0.cause
    }
    /// What was being done.
    pub fn step(&self) -> &'static str {
        self.0.step
    }
    /// The resource, as its user would write it.
    pub fn resource(&self) -> &str {
        &self.0.resource
    }
    /// What was left behind.
    pub fn aftermath(&self) -> Aftermath {
        self.0.aftermath
    }

    /// What the user can do about it; empty where only the cause itself can tell.
    pub fn advice(&self) -> String {
        match (&self.0.advice, &self.0.cause) {
            (Some(advice), _) => advice.clone(),
            (None, Cause::Io(e)) => advice_for(e).into(),
            (None, Cause::Address(_)) => "check the URL: disk:PATH, mem:NAME, tcp://HOST:PORT, fd:N or -".into(),
            (None, Cause::Exists) => "choose another name, or ask for it to be replaced (--replace)".into(),
            (None, Cause::Missing) => "see what there is with `ghost list`".into(),
            (None, Cause::Unable(_)) => "use a resource that can, such as disk: or mem:".into(),
            (None, Cause::Unsafe(_)) => "make it yours alone (chown, chmod 0700), or use another place".into(),
            (None, Cause::UnknownScheme { .. } | Cause::UnknownClass { .. }) => {
                "use one of these, write a path with a colon as ./PATH, or load a plug-in with --plugin FILE.so".into()
            }
            (None, Cause::Registration(_)) => "choose another scheme and class ids above 0x10000".into(),
            (None, Cause::Truncated { .. } | Cause::Damaged { .. }) => "use another copy of the image".into(),
            (None, Cause::PeerGone) => "look at the exporting end for the reason".into(),
            (None, Cause::Timeout(_)) => "check that the other end runs and can be reached, then try again".into(),
            (None, Cause::Panicked(_) | Cause::Misbehaved(_)) => "report this to the plug-in's author".into(),
            (None, Cause::Plugin(_)) => "see the plug-in's own documentation".into(),
            (None, Cause::Library(_)) => {
                "name a shared library that was built against this version's ghost_plugin.h".into()
            }
        }
    }
}

/// Advice by error number, for what users meet most.
fn advice_for(error: &io::Error) -> &'static str {
    use io::ErrorKind as K;
    match error.kind() {
        K::StorageFull | K::QuotaExceeded => "free some space there, compress the image, or use another place",
        K::PermissionDenied => "use a place that you may write, or run as its owner",
        K::ReadOnlyFilesystem => "use a file system that is mounted writable",
        K::NotFound => "check that the directory or file exists",
        K::FileTooLarge => "raise the file size limit (ulimit -f), or use another file system",
        K::ConnectionRefused => "start the importing end first: `ghost receive`, or `ghost restart` of this address",
        K::HostUnreachable | K::NetworkUnreachable | K::AddrNotAvailable => "check the address and the route to it",
        K::AddrInUse => "another program listens there: choose another port, or 0 for a free one",
        K::ConnectionReset | K::ConnectionAborted | K::BrokenPipe => "the reading end went away: look there why",
        K::TimedOut => "check that the other end runs and can be reached, then try again",
        _ if error.raw_os_error().is_some() => "see the error number in errno(3)",
        _ => "",
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.0.step, self.0.resource, self.0.cause)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.0.cause {
            // Its text is part of ours already; only what it wraps is news.
            Cause::Io(e) => std::error::Error::source(e),
            _ => None,
        }
    }
}

impl fmt::Display for Aftermath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Untouched => "nothing was touched",
            Self::NothingLeft => "nothing new was left; what was there before is intact",
            Self::Uncommitted => "bytes without a commit mark were sent; nobody takes them for an image",
            Self::NotDurable => "the image is whole, but may not survive a power cut",
            Self::Unknown => "the plug-in may have left something behind",
        })
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match error.cause() {
            Cause::Io(e) => e.kind(),
            Cause::Exists => io::ErrorKind::AlreadyExists,
            Cause::Missing => io::ErrorKind::NotFound,
            Cause::Truncated { .. } | Cause::PeerGone => io::ErrorKind::UnexpectedEof,
            Cause::Damaged { .. } => io::ErrorKind::InvalidData,
            Cause::Unable(_) => io::ErrorKind::Unsupported,
            Cause::Timeout(_) => io::ErrorKind::TimedOut,
            _ => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_travels_through_io_and_comes_out_whole() {
        let first = Error::new("writing", "disk:/p", io::Error::from_raw_os_error(28)).leaving(Aftermath::NothingLeft);
        let io: io::Error = first.into();
        assert_eq!(io.kind(), io::ErrorKind::StorageFull);
        let back = Error::from_io("reading", "other", io);
        assert_eq!(back.to_string(), "writing disk:/p: No space left on device (os error 28)");
        assert_eq!(back.aftermath(), Aftermath::NothingLeft);
        assert!(back.advice().contains("free some space"));
    }
}
