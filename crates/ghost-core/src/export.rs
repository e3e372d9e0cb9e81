//! The drive out: freeze, look, refuse or ask, kinds in order, records, pages, commit, thaw.

use crate::freeze::FrozenTree;
use crate::inquiry::Answers;
use crate::model::Model;
use crate::options::ExportOptions;
use crate::view::TreeView;
use ghost_image::record as rec;
use std::os::fd::OwnedFd;

/// Pages that follow the records.
#[derive(Debug)]
pub enum PageSource {
    /// Of an address space, read from the process at this index of the view.
    Memory {
        /// The record's id.
        mm_id: u32,
        /// Index of a process that has it.
        process: usize,
        /// What to copy: (first address, bytes), ascending.
        runs: Vec<(u64, u64)>,
    },
    /// Of an inode without a name, or of shared anonymous memory (data extents by SEEK_DATA).
    Inode {
        /// 1 shmem, 2 content, as in `PageHead.owner`.
        owner: u32,
        /// The record's id.
        id: u32,
        /// The inode.
        file: OwnedFd,
        /// Its size in bytes.
        size: u64,
    },
}

/// What the kinds work on while a tree is exported.
#[derive(Debug)]
pub struct ExportCx<'a> {
    /// What procfs says.
    pub view: &'a TreeView,
    /// The stopped threads, in the same order of processes and threads.
    pub frozen: &'a FrozenTree,
    /// What the processes said themselves.
    pub answers: &'a Answers,
    /// What the caller chose.
    pub options: &'a ExportOptions,
    /// The records so far.
    pub model: Model,
    /// Open file descriptions that have a record already, and how new ones are told apart.
    pub shared: crate::shared::Shared,
    /// Pages to be written after the records.
    pub pages: Vec<PageSource>,
    /// What is worth saying.
    pub notes: Vec<rec::Note>,
}
