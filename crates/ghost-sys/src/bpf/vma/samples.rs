//! Mappings of our own whose flags show which bit is which: each flag in some that others are not in.

use super::Row;
use crate::proc::{self, ProcDir, VmFlags};
use crate::{Errno, Pid, Result, errno::cvt};
use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd};

const PAGE: usize = 4096;
const MAP_DROPPABLE: i32 = 8;
const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;
const PRIVATE: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
const SHARED: i32 = libc::MAP_SHARED | libc::MAP_ANONYMOUS;

/// A sample: how it is mapped, whether from a file, and what is done to it.
type Sample = (i32, i32, Source, Act);

#[derive(Clone, Copy, PartialEq)]
enum Source {
    Nothing,
    /// A memfd that may be written, through this descriptor or at all.
    Writable,
    ReadOnly,
}

#[derive(Clone, Copy)]
enum Act {
    Nothing,
    Advise(i32),
    Lock(u32),
}

use Act::{Advise, Lock, Nothing};

/// Where the kernel refuses one, its flag stays unknown.
const SAMPLES: [Sample; 22] = [
    (libc::PROT_NONE, PRIVATE, Source::Nothing, Nothing),
    (libc::PROT_READ, PRIVATE, Source::Nothing, Nothing),
    (RW, PRIVATE, Source::Nothing, Nothing),
    (libc::PROT_READ | libc::PROT_EXEC, PRIVATE, Source::Nothing, Nothing),
    (RW, PRIVATE | libc::MAP_NORESERVE, Source::Nothing, Nothing),
    (RW, PRIVATE | libc::MAP_GROWSDOWN, Source::Nothing, Nothing),
    (RW, MAP_DROPPABLE | libc::MAP_ANONYMOUS, Source::Nothing, Nothing),
    (RW, SHARED, Source::Nothing, Nothing),
    (libc::PROT_READ, libc::MAP_SHARED, Source::Writable, Nothing),
    (libc::PROT_READ, libc::MAP_SHARED, Source::ReadOnly, Nothing),
    (libc::PROT_READ, libc::MAP_PRIVATE, Source::ReadOnly, Nothing),
    (RW, PRIVATE, Source::Nothing, Advise(libc::MADV_SEQUENTIAL)),
    (RW, PRIVATE, Source::Nothing, Advise(libc::MADV_RANDOM)),
    (RW, PRIVATE, Source::Nothing, Advise(libc::MADV_DONTFORK)),
    (RW, PRIVATE, Source::Nothing, Advise(libc::MADV_WIPEONFORK)),
    (RW, PRIVATE, Source::Nothing, Advise(libc::MADV_DONTDUMP)),
    (RW, PRIVATE, Source::Nothing, Advise(libc::MADV_HUGEPAGE)),
    (RW, PRIVATE, Source::Nothing, Advise(libc::MADV_NOHUGEPAGE)),
    (RW, PRIVATE, Source::Nothing, Advise(libc::MADV_MERGEABLE)),
    (RW, PRIVATE, Source::Nothing, Lock(0)),
    (RW, PRIVATE, Source::Nothing, Lock(libc::MLOCK_ONFAULT)),
    (libc::PROT_READ, SHARED, Source::Nothing, Advise(libc::MADV_DONTDUMP)),
];

/// The mappings; they go with it.
pub(super) struct Samples {
    at: usize,
    /// The thread that made them.
    pub(super) tid: Pid,
}

/// Whole pages of it, each sample between two that it cannot be merged with.
const LEN: usize = (2 * SAMPLES.len() + 1) * PAGE;

impl Samples {
    pub(super) fn make() -> Result<Self> {
        // SAFETY: a new mapping at a place of the kernel's choice; nothing can be read or written there.
        let at = unsafe {
            let flags = PRIVATE | libc::MAP_NORESERVE;
            libc::mmap(std::ptr::null_mut(), LEN, libc::PROT_NONE, flags, -1, 0)
        };
        if at == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        // SAFETY: takes nothing.
        let tid = unsafe { libc::gettid() };
        let this = Self { at: at as usize, tid };
        // SAFETY: the name is NUL-terminated.
        let fd = cvt(unsafe { libc::memfd_create(c"ghost-samples".as_ptr(), libc::MFD_CLOEXEC) }.into())?;
        // SAFETY: the kernel has just made it for us.
        let writable = unsafe { File::from_raw_fd(fd as i32) };
        writable.set_len(PAGE as u64)?;
        let read_only = File::open(format!("/proc/self/fd/{fd}"))?;
        for (i, (prot, flags, source, act)) in SAMPLES.into_iter().enumerate() {
            let fd = match source {
                Source::Nothing => -1,
                Source::Writable => writable.as_raw_fd(),
                Source::ReadOnly => read_only.as_raw_fd(),
            };
            let place = (this.at + (2 * i + 1) * PAGE) as *mut libc::c_void;
            // SAFETY: the page lies in the mapping that was made above and is ours; nothing refers to what is in it.
            unsafe {
                if libc::mmap(place, PAGE, prot, flags | libc::MAP_FIXED, fd, 0) == libc::MAP_FAILED {
                    continue;
                }
                match act {
                    Nothing => 0,
                    Advise(advice) => libc::madvise(place, PAGE, advice),
                    Lock(flags) => libc::syscall(libc::SYS_mlock2, place, PAGE, flags) as i32,
                };
            }
        }
        Ok(this)
    }

    /// Bits and flags of the samples, and of what nobody changes; `rows` is what the iterator says of the whole process.
    pub(super) fn compare(&self, rows: &[Row]) -> Result<Vec<(u64, VmFlags)>> {
        let own = ProcDir::own().and_then(|dir| proc::read_smaps(&dir));
        let own = own.map_err(|e| e.errno().unwrap_or(Errno(libc::EINVAL)))?;
        let ours = self.at as u64..(self.at + LEN) as u64;
        let mut compared = Vec::with_capacity(2 * SAMPLES.len() + 8);
        for smap in own {
            let m = &smap.mapping;
            let is_kernels = matches!(m.name.as_slice(), b"[vdso]" | b"[vvar]" | b"[vvar_vclock]" | b"[stack]");
            if !ours.contains(&m.start) && !is_kernels {
                continue;
            }
            let at = rows.binary_search_by_key(&m.start, |row| row[0]);
            match at.map(|at| rows[at]) {
                Ok([_, end, bits]) if end == m.end && smap.unknown_flags.is_empty() && smap.protection_key == 0 => {
                    compared.push((bits, smap.flags));
                }
                // The stack may have grown meanwhile.
                _ if is_kernels => {}
                // Not there any more, or with a flag that we have no name for.
                _ => return Err(Errno(libc::EAGAIN)),
            }
        }
        Ok(compared)
    }
}

impl Drop for Samples {
    fn drop(&mut self) {
        // SAFETY: the whole range is ours, and nothing refers to what is in it.
        unsafe { libc::munmap(self.at as *mut libc::c_void, LEN) };
    }
}
