//! A list of system calls to be made inside another process in one round trip.

use super::Memory;
use crate::{Errno, Result as SysResult};
use std::borrow::Cow;

/// Names the result of an earlier call of the same batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot(pub(crate) u32);

/// Names bytes that travel with a batch: in the other process they have an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataRef {
    pub(crate) offset: u32,
    pub(crate) len: u32,
}

impl DataRef {
    /// The part that begins `skip` bytes in.
    pub fn at(self, skip: u32) -> Self {
        assert!(skip <= self.len, "a part of batch data lies within it");
        Self { offset: self.offset + skip, len: self.len - skip }
    }
}

/// An argument of a call.
#[derive(Clone, Copy, Debug)]
pub enum Arg {
    /// A plain number or an address in that process.
    Value(u64),
    /// What an earlier call of this batch returned.
    Result(Slot),
    /// The address of data that travels with the batch.
    Data(DataRef),
}
macro_rules! arg_from { ($($t:ty),*) => { $(impl From<$t> for Arg {
    fn from(v: $t) -> Self { Self::Value(v as u64) }
})* } }
arg_from!(i32, u32, i64, u64, usize);
impl From<Slot> for Arg {
    fn from(s: Slot) -> Self {
        Self::Result(s)
    }
}
impl From<DataRef> for Arg {
    fn from(d: DataRef) -> Self {
        Self::Data(d)
    }
}

/// One system call of a batch.
#[derive(Clone, Debug)]
pub struct Call {
    /// Its number (`libc::SYS_*`).
    pub nr: i64,
    /// Its arguments.
    pub args: [Arg; 6],
    /// Whether an error is an answer (true) or ends the batch (false).
    pub may_fail: bool,
    /// What this call is for, for messages: `"rt_sigaction of signal 15"`.
    pub label: Label,
}

/// What a call is for. Only written out when it is read: a batch may have thousands.
#[derive(Clone, Debug)]
pub enum Label {
    /// As it stands.
    Text(Cow<'static, str>),
    /// What is done to something with a number: `"rt_sigaction of signal 15"`.
    Number(&'static str, u64),
    /// What is done to a range of addresses: `"mmap of 1000-2000"`.
    Range(&'static str, u64, u64),
}
impl std::fmt::Display for Label {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Number(what, number) => write!(f, "{what} {number}"),
            Self::Range(what, start, end) => write!(f, "{what} of {start:x}-{end:x}"),
        }
    }
}
impl From<&'static str> for Label {
    fn from(text: &'static str) -> Self {
        Self::Text(Cow::Borrowed(text))
    }
}
impl From<String> for Label {
    fn from(text: String) -> Self {
        Self::Text(Cow::Owned(text))
    }
}

impl Call {
    /// A call whose error is an answer; for [`Batch::fork_call`].
    pub fn new(label: impl Into<Label>, nr: i64, args: &[Arg]) -> Self {
        make(label.into(), nr, args, true)
    }
}

/// System calls to be made inside another process, in order, and the bytes that they read and write.
///
/// The calls run until one that must succeed fails; then the epilogue runs, always and whole.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    pub(crate) calls: Vec<Call>,
    pub(crate) epilogue: Vec<Call>,
    pub(crate) data: Vec<u8>,
    /// Results to be copied into data (4 bytes each): (call, offset).
    pub(crate) stores: Vec<(Slot, u32)>,
    /// What a child made by a call does: (call, its calls).
    pub(crate) children: Vec<(u32, Vec<Call>)>,
    /// Addresses to be put into data before the calls (8 bytes each): (where, offset of what it points to).
    pub(crate) pointers: Vec<(u32, u32)>,
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }
    /// Whether there is no call in it.
    pub fn is_empty(&self) -> bool {
        self.calls.is_empty() && self.epilogue.is_empty()
    }
    /// How many calls it has.
    pub fn len(&self) -> usize {
        self.calls.len()
    }
    /// Bytes that the calls may read; 16-byte aligned in the other process.
    pub fn data(&mut self, bytes: &[u8]) -> DataRef {
        while !self.data.len().is_multiple_of(16) {
            self.data.push(0);
        }
        let offset = self.data.len() as u32;
        self.data.extend_from_slice(bytes);
        DataRef { offset, len: bytes.len() as u32 }
    }
    /// The same with a terminating NUL.
    pub fn c_string(&mut self, bytes: &[u8]) -> DataRef {
        let mut owned = bytes.to_vec();
        owned.push(0);
        self.data(&owned)
    }
    /// Zeroed room that the calls may fill.
    pub fn room(&mut self, len: usize) -> DataRef {
        self.data(&vec![0; len])
    }
    /// Puts the address that `to` will have in the other process into the data at `at`: for structures that point at others
    /// (`struct msghdr`, `struct prctl_mm_map`). The executor does it when it loads the batch.
    pub fn point(&mut self, at: DataRef, to: DataRef) {
        assert!(at.len >= 8, "an address takes eight bytes");
        self.pointers.push((at.offset, to.offset));
    }
    /// Appends a call that must succeed.
    pub fn call(&mut self, label: impl Into<Label>, nr: i64, args: &[Arg]) -> Slot {
        self.push(label.into(), nr, args, false)
    }
    /// Appends a call whose error is an answer.
    pub fn try_call(&mut self, label: impl Into<Label>, nr: i64, args: &[Arg]) -> Slot {
        self.push(label.into(), nr, args, true)
    }
    /// Appends a call that makes a child (`clone3`, `fork`), which then makes the calls in `child` and exits with 0.
    ///
    /// Without this the child would go on with the rest of the batch, as a second copy of the process. The child's calls may use
    /// data and earlier results; their own results are not kept. With `CLONE_VM` the child shares the batch's memory: add `CLONE_VFORK`
    /// when it must see it as it is now.
    pub fn fork_call(&mut self, label: impl Into<Label>, nr: i64, args: &[Arg], child: Vec<Call>) -> Slot {
        let slot = self.push(label.into(), nr, args, false);
        self.children.push((slot.0, child));
        slot
    }
    /// Copies the low 32 bits of a result to the start of `target`, right after the call: for descriptors in structures.
    pub fn store(&mut self, result: Slot, target: DataRef) {
        assert!(target.len >= 4, "a result takes four bytes");
        self.stores.push((result, target.offset));
    }
    /// Appends a call that runs at the end whatever happened before; its result is not kept.
    pub fn finally(&mut self, label: impl Into<Label>, nr: i64, args: &[Arg]) {
        let call = make(label.into(), nr, args, true);
        self.epilogue.push(call);
    }
    fn push(&mut self, label: Label, nr: i64, args: &[Arg], may_fail: bool) -> Slot {
        self.calls.push(make(label, nr, args, may_fail));
        Slot(self.calls.len() as u32 - 1)
    }
}

fn make(label: Label, nr: i64, args: &[Arg], may_fail: bool) -> Call {
    assert!(args.len() <= 6, "a system call has at most six arguments");
    let mut all = [Arg::Value(0); 6];
    all[..args.len()].copy_from_slice(args);
    Call { nr, args: all, may_fail, label }
}

/// What came of a batch that ran to its end.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub(crate) results: Vec<i64>,
    pub(crate) data: Vec<u8>,
}

impl Outcome {
    /// What this call returned.
    pub fn result(&self, slot: Slot) -> SysResult<i64> {
        Errno::check(self.results[slot.0 as usize])
    }
    /// The batch's bytes after the calls.
    pub fn bytes(&self, data: DataRef) -> &[u8] {
        &self.data[data.offset as usize..(data.offset + data.len) as usize]
    }
    /// A 32-bit word of the batch's bytes after the calls.
    pub fn u32(&self, data: DataRef) -> u32 {
        u32::from_ne_bytes(self.bytes(data)[..4].try_into().expect("four bytes"))
    }
    /// A 64-bit word of the batch's bytes after the calls.
    pub fn u64(&self, data: DataRef) -> u64 {
        u64::from_ne_bytes(self.bytes(data)[..8].try_into().expect("eight bytes"))
    }
}

/// Why a batch did not run to its end.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// A call that had to succeed did not.
    #[error("{label}: {errno}")]
    Call {
        /// Its place in the batch.
        index: usize,
        /// What it was for.
        label: String,
        /// What the kernel said.
        errno: Errno,
    },
    /// The process could not be entered or left.
    #[error("{step}: {errno}")]
    Step {
        /// What was being done.
        step: &'static str,
        /// What the kernel said.
        errno: Errno,
    },
    /// It ended while the batch ran; the wait status is given.
    #[error("the process ended under the batch (wait status {0:#x})")]
    Died(i32),
    /// There is no executable page whose unused tail can hold the executor.
    #[error(
        "no executable mapping has {0} unused bytes at its end for ghost to work from (the vDSO has been unmapped)"
    )]
    NoFoothold(usize),
}

impl RemoteError {
    /// What the kernel said to a call made inside the process, or to a step on the way there.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Call { errno, .. } | Self::Step { errno, .. } => Some(*errno),
            Self::Died(_) | Self::NoFoothold(_) => None,
        }
    }
}

/// Something that runs batches inside a process.
pub trait Executor {
    /// Runs the batch and waits for its end.
    ///
    /// # Errors
    /// [`RemoteError::Call`] for the first call that had to succeed and did not: those after it have not been made.
    fn run(&mut self, batch: &Batch) -> Result<Outcome, RemoteError>;
    /// The memory of the process in which the batches run.
    fn memory(&self) -> &Memory;
}
