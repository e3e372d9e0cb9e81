//! The memory of another process: `process_vm_readv(2)`, `process_vm_writev(2)`, `/proc/PID/mem`.

use crate::{Pid, Result};

/// An address in another process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct RemoteAddr(pub u64);

impl RemoteAddr {
    /// This address moved up by `bytes`.
    pub fn plus(self, bytes: u64) -> Self {
        Self(self.0 + bytes)
    }
}

/// Reads and writes the memory of one process.
#[derive(Debug)]
pub struct Memory {
    pid: Pid,
    mem: std::fs::File,
}

impl Memory {
    /// Opens `/proc/PID/mem`; needs ptrace rights over the process.
    pub fn open(pid: Pid) -> Result<Self> {
        let mem = std::fs::File::options().read(true).write(true).open(format!("/proc/{pid}/mem"))?;
        Ok(Self { pid, mem })
    }
    /// The process it belongs to.
    pub fn pid(&self) -> Pid {
        self.pid
    }
    /// Fills `buf` from readable memory at `addr` (process_vm_readv; `EFAULT` when a page is not readable).
    pub fn read(&self, _addr: RemoteAddr, _buf: &mut [u8]) -> Result<()> {
        todo!()
    }
    /// Reads many ranges, in order, into one buffer: as few calls as the kernel allows (1024 ranges each).
    pub fn read_ranges(&self, _ranges: &[(RemoteAddr, usize)], _buf: &mut [u8]) -> Result<()> {
        todo!()
    }
    /// Reads even what the process itself may not (PROT_NONE): through `/proc/PID/mem`.
    pub fn read_forced(&self, _addr: RemoteAddr, _buf: &mut [u8]) -> Result<()> {
        todo!()
    }
    /// Writes to writable memory (process_vm_writev).
    pub fn write(&self, _addr: RemoteAddr, _bytes: &[u8]) -> Result<()> {
        todo!()
    }
    /// Writes one buffer, in order, to many ranges of writable memory.
    pub fn write_ranges(&self, _ranges: &[(RemoteAddr, usize)], _buf: &[u8]) -> Result<()> {
        todo!()
    }
    /// Writes even what the process itself may not: through `/proc/PID/mem`, which copies private pages.
    pub fn write_forced(&self, _addr: RemoteAddr, _bytes: &[u8]) -> Result<()> {
        todo!()
    }
    /// A 64-bit word.
    pub fn read_u64(&self, addr: RemoteAddr) -> Result<u64> {
        let mut b = [0; 8];
        self.read(addr, &mut b)?;
        Ok(u64::from_ne_bytes(b))
    }
}
