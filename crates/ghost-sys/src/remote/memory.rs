//! The memory of another process: `process_vm_readv(2)`, `process_vm_writev(2)`, `/proc/PID/mem`.
//!
//! The first two respect the protection of the pages and are the fast way; the file goes past it (FOLL_FORCE) and gives a
//! private mapping its own copy of a page. All need the rights of a tracer. Nothing here is atomic towards a running process.

#![allow(unsafe_code)]

use crate::{Errno, Pid, Result, errno::cvt};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, OnceLock};

/// An address in another process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct RemoteAddr(pub u64);

impl RemoteAddr {
    /// This address moved up by `bytes`.
    pub fn plus(self, bytes: u64) -> Self {
        Self(self.0 + bytes)
    }
}

/// Ranges per call: the kernel's `UIO_MAXIOV`.
const MAX_RANGES: usize = 1024;
/// Bytes per call: below the kernel's `MAX_RW_COUNT`, whole pages.
const MAX_BYTES: usize = 1 << 30;

/// Reads and writes the memory of one process.
#[derive(Debug)]
pub struct Memory {
    pid: Pid,
    /// Opened by the first who needs it, where it was not opened before.
    mem: Arc<OnceLock<std::fs::File>>,
}

impl Memory {
    /// Opens `/proc/PID/mem`; needs ptrace rights over the process.
    pub fn open(pid: Pid) -> Result<Self> {
        Ok(Self { pid, mem: Arc::new(OnceLock::from(open(pid)?)) })
    }

    /// The same without opening anything yet: for who mostly only reads what the process itself may read. The process must be stopped, so
    /// that its pid stays its own.
    pub fn of_stopped(pid: Pid) -> Self {
        Self { pid, mem: Arc::default() }
    }

    fn mem(&self) -> Result<&std::fs::File> {
        if self.mem.get().is_none() {
            // Another thread may have been first: then its file serves.
            let _ = self.mem.set(open(self.pid)?);
        }
        self.mem.get().ok_or(Errno(libc::ESRCH))
    }

    /// The process it belongs to.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Another handle on the same memory.
    #[must_use]
    pub fn share(&self) -> Self {
        Self { pid: self.pid, mem: Arc::clone(&self.mem) }
    }

    /// Fills `buf` from readable memory at `addr` (process_vm_readv; `EFAULT` when a page is not readable).
    pub fn read(&self, addr: RemoteAddr, buf: &mut [u8]) -> Result<()> {
        self.transfer(&[(addr, buf.len())], buf.as_mut_ptr(), buf.len(), libc::SYS_process_vm_readv)
    }

    /// Reads many ranges, in order, into one buffer: as few calls as the kernel allows (1024 ranges each).
    pub fn read_ranges(&self, ranges: &[(RemoteAddr, usize)], buf: &mut [u8]) -> Result<()> {
        self.transfer(ranges, buf.as_mut_ptr(), buf.len(), libc::SYS_process_vm_readv)
    }

    /// Reads even what the process itself may not (PROT_NONE): through `/proc/PID/mem`.
    pub fn read_forced(&self, addr: RemoteAddr, buf: &mut [u8]) -> Result<()> {
        self.mem()?.read_exact_at(buf, addr.0).map_err(short_is_fault)
    }

    /// Writes to writable memory (process_vm_writev).
    pub fn write(&self, addr: RemoteAddr, bytes: &[u8]) -> Result<()> {
        self.write_ranges(&[(addr, bytes.len())], bytes)
    }

    /// Writes one buffer, in order, to many ranges of writable memory.
    pub fn write_ranges(&self, ranges: &[(RemoteAddr, usize)], buf: &[u8]) -> Result<()> {
        // The kernel only reads the local side of process_vm_writev.
        self.transfer(ranges, buf.as_ptr().cast_mut(), buf.len(), libc::SYS_process_vm_writev)
    }

    /// Writes each of these to its address, in writable memory.
    pub fn write_parts(&self, parts: &[(RemoteAddr, &[u8])]) -> Result<()> {
        for parts in parts.chunks(MAX_RANGES) {
            let iovec = |base: *mut libc::c_void, part: &[u8]| libc::iovec { iov_base: base, iov_len: part.len() };
            let here: Vec<_> = parts.iter().map(|(_, p)| iovec(p.as_ptr().cast_mut().cast(), p)).collect();
            let there: Vec<_> = parts.iter().map(|(at, p)| iovec(at.0 as *mut libc::c_void, p)).collect();
            let len: usize = parts.iter().map(|(_, p)| p.len()).sum();
            // SAFETY: all vectors live through the call; the kernel only reads the local bytes, which are borrowed, and checks the
            // remote side itself.
            let moved = cvt(unsafe {
                let (here, there) = ((here.as_ptr(), here.len()), (there.as_ptr(), there.len()));
                libc::syscall(libc::SYS_process_vm_writev, self.pid, here.0, here.1, there.0, there.1, 0_u64)
            });
            if moved != Ok(len as i64) {
                // One by one shows where it ends.
                parts.iter().try_for_each(|(at, part)| self.write(*at, part))?;
            }
        }
        Ok(())
    }

    /// Writes even what the process itself may not: through `/proc/PID/mem`, which copies private pages.
    pub fn write_forced(&self, addr: RemoteAddr, bytes: &[u8]) -> Result<()> {
        self.mem()?.write_all_at(bytes, addr.0).map_err(short_is_fault)
    }

    /// A 64-bit word.
    pub fn read_u64(&self, addr: RemoteAddr) -> Result<u64> {
        let mut b = [0; 8];
        self.read(addr, &mut b)?;
        Ok(u64::from_ne_bytes(b))
    }

    /// The bytes at `addr` up to the first NUL, at most `limit` of them.
    pub fn read_c_string(&self, addr: RemoteAddr, limit: usize) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        while out.len() < limit {
            // Never across a page border in one step: the next page may be unreadable.
            let at = addr.plus(out.len() as u64);
            let mut part = vec![0; (4096 - (at.0 % 4096) as usize).min(limit - out.len())];
            self.read(at, &mut part)?;
            if let Some(end) = part.iter().position(|b| *b == 0) {
                out.extend_from_slice(&part[..end]);
                break;
            }
            out.extend_from_slice(&part);
        }
        Ok(out)
    }

    /// Moves `len` bytes between `local` and the ranges, whose lengths sum up to `len`.
    fn transfer(&self, ranges: &[(RemoteAddr, usize)], local: *mut u8, len: usize, nr: i64) -> Result<()> {
        assert_eq!(ranges.iter().map(|r| r.1).sum::<usize>(), len, "the buffer is as long as its ranges");
        let mut done = 0;
        let mut range = 0;
        let mut skip = 0;
        while done < len {
            let mut remote = Vec::with_capacity((ranges.len() - range).min(MAX_RANGES));
            let mut want = 0;
            for (i, (addr, size)) in ranges[range..].iter().take(MAX_RANGES).enumerate() {
                let from = if i == 0 { skip } else { 0 };
                let part = (size - from).min(MAX_BYTES - want);
                remote.push(libc::iovec { iov_base: (addr.0 + from as u64) as *mut libc::c_void, iov_len: part });
                want += part;
                if want == MAX_BYTES {
                    break;
                }
            }
            // SAFETY: `done <= len`, and `local` points at `len` bytes that the caller has borrowed from its own caller.
            let base = unsafe { local.add(done) };
            let here = libc::iovec { iov_base: base.cast(), iov_len: want };
            // SAFETY: both vectors live through the call; the kernel touches `want` local bytes, which lie in the buffer
            // since the ranges sum up to its length, and checks the remote side itself.
            let moved = cvt(unsafe {
                libc::syscall(nr, self.pid, &raw const here, 1_u64, remote.as_ptr(), remote.len(), 0_u64)
            })?;
            if moved == 0 && want > 0 {
                return Err(Errno(libc::EFAULT));
            }
            // A short transfer ended at an unreadable page; the next call begins there and says so.
            done += moved as usize;
            skip += moved as usize;
            while range < ranges.len() && skip >= ranges[range].1 {
                skip -= ranges[range].1;
                range += 1;
            }
        }
        Ok(())
    }
}

fn open(pid: Pid) -> Result<std::fs::File> {
    Ok(std::fs::File::options().read(true).write(true).open(format!("/proc/{pid}/mem"))?)
}

fn short_is_fault(e: std::io::Error) -> Errno {
    match e.kind() {
        // Nothing mapped there: /proc/PID/mem answers EIO, or ends.
        std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::WriteZero => Errno(libc::EFAULT),
        _ => Errno::from(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> Memory {
        Memory::open(std::process::id() as Pid).expect("own memory")
    }

    #[test]
    fn many_ranges_come_in_order() {
        let source: Vec<u8> = (0..30_000_u32).map(|i| (i * 7) as u8).collect();
        let base = source.as_ptr() as u64;
        let ranges: Vec<_> = (0..3000).rev().map(|i| (RemoteAddr(base + i * 10), 10_usize)).collect();
        let mut got = vec![0; 30_000];
        own().read_ranges(&ranges, &mut got).expect("read");
        let want: Vec<u8> = source.chunks(10).rev().flatten().copied().collect();
        assert_eq!(got, want);
        let target = vec![0_u8; 30_000];
        let ranges: Vec<_> = (0..3000).rev().map(|i| (RemoteAddr(target.as_ptr() as u64 + i * 10), 10_usize)).collect();
        own().write_ranges(&ranges, &got).expect("write");
        assert_eq!(std::hint::black_box(target), source);
    }

    #[test]
    fn empty_ranges_between_others_are_passed_over() {
        let source = [1_u8, 2, 3, 4];
        let at = |i: u64| RemoteAddr(source.as_ptr() as u64 + i);
        let mut got = [0; 4];
        own().read_ranges(&[(at(0), 0), (at(0), 2), (RemoteAddr(0), 0), (at(2), 2)], &mut got).expect("read");
        assert_eq!(got, source);
    }

    #[test]
    fn parts_come_to_their_places() {
        let source: Vec<u8> = (0..9000_u32).map(|i| (i * 7) as u8).collect();
        let target = vec![0_u8; 9000];
        let base = target.as_ptr() as u64;
        let parts: Vec<_> =
            (0..1500).rev().map(|i| (RemoteAddr(base + i * 6), &source[i as usize * 6..][..6])).collect();
        own().write_parts(&parts).expect("write");
        let target = std::hint::black_box(target);
        assert_eq!(target, source);
        assert_eq!(own().write_parts(&[(RemoteAddr(16), &source[..8])]), Err(Errno(libc::EFAULT)));
        own().write_parts(&[]).expect("nothing");
    }

    #[test]
    fn unmapped_memory_is_a_fault_and_protected_memory_can_be_forced() {
        let mut b = [0; 16];
        assert_eq!(own().read(RemoteAddr(16), &mut b), Err(Errno(libc::EFAULT)));
        // SAFETY: a new mapping of our own.
        let page = unsafe { libc::mmap(std::ptr::null_mut(), 4096, 0, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0) };
        let page = RemoteAddr(page as u64);
        assert_eq!(own().read(page, &mut b), Err(Errno(libc::EFAULT)));
        own().write_forced(page, b"through the wall").expect("forced write");
        own().read_forced(page, &mut b).expect("forced read");
        assert_eq!(&b, b"through the wall");
    }

    #[test]
    fn a_string_ends_at_its_nul() {
        let text = b"one\0two";
        assert_eq!(own().read_c_string(RemoteAddr(text.as_ptr() as u64), 7).expect("read"), b"one");
        assert_eq!(own().read_c_string(RemoteAddr(text.as_ptr() as u64), 2).expect("read"), b"on");
    }
}
