//! Everything a ghost says but its pages, in memory: the records, by kind and id.

use ghost_image::record as rec;
use ghost_image::{ImageWriter, Record, Tag};
use std::collections::HashMap;
use std::io::Write;

/// All records of one ghost. Lists are in the order of export: parents before children, ids ascending.
#[derive(Clone, Debug, Default)]
pub struct Model {
    /// The host it came from.
    pub host: rec::Host,
    /// Every process, parents before their children.
    pub processes: Vec<rec::Process>,
    /// Address spaces.
    pub mms: Vec<rec::Mm>,
    /// Shared anonymous memory.
    pub shmems: Vec<rec::Shmem>,
    /// Descriptor tables.
    pub fd_tables: Vec<rec::FdTable>,
    /// Open file descriptions.
    pub files: Vec<rec::File>,
    /// cwd, root, umask.
    pub fs: Vec<rec::Fs>,
    /// Pipe buffers.
    pub pipes: Vec<rec::Pipe>,
    /// Inodes that no name reaches: their bytes follow as pages.
    pub contents: Vec<rec::Content>,
    /// POSIX record locks.
    pub posix_locks: Vec<rec::PosixLocks>,
    /// Seccomp programs.
    pub seccomp_filters: Vec<rec::SeccompFilter>,
    /// System V segments: their bytes follow as pages.
    pub sysv_shms: Vec<rec::SysvShm>,
}

macro_rules! tables {
    ($($field:ident: $tag:ident),*) => {
        /// Writes every record.
        pub fn write<W: Write>(&self, out: &mut ImageWriter<W>) -> Result<(), ghost_image::Error> {
            out.record(Tag::Host, &self.host)?;
            $(for r in &self.$field { out.record(Tag::$tag, r)?; })*
            Ok(())
        }
        /// Takes in one record.
        pub fn take(&mut self, tag: Tag, section: &Record<'_>) -> Result<(), ghost_image::Error> {
            match tag {
                Tag::Host => self.host = section.decode()?,
                $(Tag::$tag => self.$field.push(section.decode()?),)*
                _ => {}
            }
            Ok(())
        }
    };
}

impl Model {
    tables! { processes: Process, mms: Mm, shmems: Shmem, fd_tables: FdTable, files: File, fs: Fs, pipes: Pipe,
    contents: Content, posix_locks: PosixLocks, seccomp_filters: SeccompFilter, sysv_shms: SysvShm }

    /// The process with this pid.
    pub fn process(&self, pid: i32) -> Option<&rec::Process> {
        self.processes.iter().find(|p| p.pid == pid)
    }
    /// The address space with this id.
    pub fn mm(&self, id: u32) -> Option<&rec::Mm> {
        by_id(&self.mms, id, |m| m.id)
    }
    /// The description with this id.
    pub fn file(&self, id: u32) -> Option<&rec::File> {
        by_id(&self.files, id, |m| m.id)
    }
    /// The descriptor table with this id.
    pub fn fd_table(&self, id: u32) -> Option<&rec::FdTable> {
        by_id(&self.fd_tables, id, |m| m.id)
    }
    /// The fs record with this id.
    pub fn fs(&self, id: u32) -> Option<&rec::Fs> {
        by_id(&self.fs, id, |m| m.id)
    }
}

/// Ids are given out in ascending order from 1, so most look-ups hit at once.
fn by_id<T>(list: &[T], id: u32, of: impl Fn(&T) -> u32) -> Option<&T> {
    let guess = list.get((id as usize).wrapping_sub(1));
    guess.filter(|t| of(t) == id).or_else(|| list.iter().find(|t| of(t) == id))
}

/// Identities seen once and named by an id from then on.
#[derive(Debug)]
pub struct Ids<K> {
    known: HashMap<K, u32>,
    next: u32,
}
impl<K> Default for Ids<K> {
    fn default() -> Self {
        Self { known: HashMap::new(), next: 0 }
    }
}
impl<K: std::hash::Hash + Eq> Ids<K> {
    /// The id of this identity, and whether it is new.
    pub fn get(&mut self, key: K) -> (u32, bool) {
        let next = &mut self.next;
        let mut new = false;
        let id = *self.known.entry(key).or_insert_with(|| {
            *next += 1;
            new = true;
            *next
        });
        (id, new)
    }
    /// An id for something that has no second user.
    pub fn fresh(&mut self) -> u32 {
        self.next += 1;
        self.next
    }
}
