//! Helpers of the unit tests: a descriptor of ours, seen as one of a process.

use crate::export::ExportCx;
use crate::import::ImportCx;
use crate::kinds::socket::options::Known;
use crate::model::Model;
use crate::options::{ExportOptions, ImportOptions};
use crate::view::{FdView, TreeView};
use ghost_sys::proc::ProcDir;
use std::os::fd::{AsRawFd, BorrowedFd};

/// What [`crate::view`] would see of this descriptor.
pub fn view_of(fd: BorrowedFd<'_>) -> FdView {
    let own = ProcDir::own().unwrap();
    let number = fd.as_raw_fd();
    let ours = fd.try_clone_to_owned().unwrap();
    FdView::of(&own, number, std::sync::Arc::new(ours), &Known::default()).unwrap()
}

/// A directory of its own, removed at the end.
pub struct Dir(pub std::path::PathBuf);

impl Dir {
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("ghost-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
    pub fn file(&self, name: &str, content: &[u8]) -> std::path::PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, content).unwrap();
        path
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Lends the state of an export of nothing.
pub fn exporting<T>(work: impl FnOnce(&mut ExportCx<'_>) -> T) -> T {
    exporting_of(&TreeView::default(), &ExportOptions::default(), work)
}

/// Lends the state of an export of this view.
pub fn exporting_of<T>(view: &TreeView, options: &ExportOptions, work: impl FnOnce(&mut ExportCx<'_>) -> T) -> T {
    work(&mut ExportCx {
        view,
        frozen: &crate::freeze::FrozenTree::default(),
        answers: &crate::inquiry::Answers::default(),
        options,
        model: Model::default(),
        shared: crate::shared::Shared::default(),
        shmems: crate::model::Ids::default(),
        sysv: crate::model::Ids::default(),
        pages: Vec::new(),
        notes: Vec::new(),
    })
}

/// Lends the state of an import of nothing.
pub fn importing<T>(work: impl FnOnce(&mut ImportCx<'_>) -> T) -> T {
    importing_of(&Model::default(), &ImportOptions::default(), work)
}

/// Lends the state of an import of these records, without any process.
pub fn importing_of<T>(model: &Model, options: &ImportOptions, work: impl FnOnce(&mut ImportCx<'_>) -> T) -> T {
    let (control, _) = rustix::pipe::pipe().unwrap();
    work(&mut ImportCx {
        model,
        options,
        building: Vec::new(),
        apart: Vec::new(),
        layout: ghost_sys::remote::StubLayout { base: ghost_sys::remote::RemoteAddr(0), data_len: 4096 },
        pids: crate::options::PidMap::new(),
        files: std::collections::HashMap::new(),
        ptys: std::collections::HashMap::new(),
        contents: std::collections::HashMap::new(),
        shmems: std::collections::HashMap::new(),
        sysv: crate::kinds::memory::sysv::Segments::default(),
        control,
        control_fd: 1000,
        notes: Vec::new(),
        names: crate::names::Names::default(),
    })
}
