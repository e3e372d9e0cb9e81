//! The table of all kinds of kernel objects, in the order of import.
//!
//! A kind's file holds its `check`, `ask`, `export` and `import` side by side, so that a field added to one is seen
//! missing in the other. Deleting a kind is deleting its file and its row here.
//!
//! The four steps of a kind, each optional:
//! - `check`: looks at a [`TreeView`] (procfs only, nothing touched) and names what cannot travel;
//! - `export`: a frozen tree to records;
//! - `import`: records to kernel objects, host side or by calls queued on the processes being built
//!   ([`Building::batch`](crate::import::Building)); runs before the pages arrive;
//! - `finish`: the same, after the pages have arrived and before the threads go.
//!
//! Questions that only the process itself can ask (its signal actions, its timers) are queued by [`crate::inquiry`].

use crate::error::{Blocker, KindError};
use crate::export::ExportCx;
use crate::import::ImportCx;
use crate::view::TreeView;

pub mod cgroup;
pub mod fd;
pub mod keyring;
pub mod label;
pub mod landlock;
pub mod memory;
pub mod namespace;
pub mod process;
pub mod semaphore;
pub mod signal;
pub mod socket;
pub mod thread;
pub mod timer;
pub mod tree;

/// A class of kernel object.
pub struct Kind {
    /// Its name, as `--accept`, messages and docs/support.md use it.
    pub name: &'static str,
    /// Why it stands at this place of the import order.
    pub place: &'static str,
    /// Names what of the tree cannot travel. Touches nothing.
    pub check: fn(&TreeView, &mut Vec<Blocker>),
    /// Adds its records to the model.
    pub export: fn(&mut ExportCx<'_>) -> Result<(), KindError>,
    /// Makes its objects, before the pages arrive.
    pub import: fn(&mut ImportCx<'_>) -> Result<(), KindError>,
    /// Completes its objects, after the pages have arrived.
    pub finish: fn(&mut ImportCx<'_>) -> Result<(), KindError>,
}

/// For a kind that has nothing to check.
pub fn no_check(_: &TreeView, _: &mut Vec<Blocker>) {}
/// For a kind that writes nothing of its own.
pub fn no_export(_: &mut ExportCx<'_>) -> Result<(), KindError> {
    Ok(())
}
/// For a kind that makes nothing at this stage.
pub fn no_import(_: &mut ImportCx<'_>) -> Result<(), KindError> {
    Ok(())
}

/// All kinds, in the order in which they are imported.
pub const KINDS: &[Kind] = &[
    Kind {
        name: "pty",
        place: "before the tree: the leader of a session takes its terminal before its children are born; its descriptors are of kind fd",
        check: no_check,
        export: no_export,
        import: fd::pty::make,
        finish: fd::pty::finish,
    },
    Kind {
        name: "tree",
        place: "first: everything else happens inside the processes that it makes",
        check: tree::check,
        export: tree::export,
        import: tree::import,
        finish: no_import,
    },
    Kind {
        name: "namespace",
        place: "only looks: namespaces do not travel",
        check: namespace::check,
        export: no_export,
        import: no_import,
        finish: no_import,
    },
    Kind {
        name: "label",
        place: "only looks: labels of a security module do not travel",
        check: label::check,
        export: no_export,
        import: no_import,
        finish: no_import,
    },
    Kind {
        name: "fd",
        place: "before memory: file mappings are made from the same descriptions; descriptors get their numbers in finish, when no mapping needs a helper descriptor any more",
        check: fd::check,
        export: fd::export,
        import: fd::import,
        finish: fd::finish,
    },
    Kind {
        name: "memory",
        place: "needs processes and files; mappings are writable until finish, which gives them their protection",
        check: memory::check,
        export: memory::export,
        import: memory::import,
        finish: memory::finish,
    },
    Kind {
        name: "process",
        place: "cwd, root, limits and other attributes: after the files are open, since limits and a new root would stand in the way",
        check: no_check,
        export: process::export,
        import: no_import,
        finish: process::finish,
    },
    Kind {
        name: "signal",
        place: "actions before threads exist; pending signals while every mask is full",
        check: no_check,
        export: signal::export,
        import: no_import,
        finish: signal::finish,
    },
    Kind {
        name: "thread",
        place: "after all that the leader does for its process; credentials and seccomp of each thread last, since they take away the right to do the rest",
        check: thread::check,
        export: thread::export,
        import: no_import,
        finish: thread::finish,
    },
    Kind {
        name: "cgroup",
        place: "after the threads, which may each be in another one; the processes are put in before their pages arrive",
        check: no_check,
        export: cgroup::export,
        import: cgroup::import,
        finish: cgroup::finish,
    },
    Kind {
        name: "timer",
        place: "last of all, so that no time is lost between arming and running",
        check: timer::check,
        export: timer::export,
        import: no_import,
        finish: timer::finish,
    },
];
