//! The kernel's notes about an address space: PR_SET_MM_MAP of `prctl(2)`, Linux 3.18.
//!
//! Setting the executable needs CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE; CAP_SYS_RESOURCE, which containers rarely have,
//! is not asked for in this form.

use crate::remote::Batch;

/// `struct prctl_mm_map` without the auxiliary vector.
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs)] // the names of the kernel's structure, proc_pid_stat(5)
pub struct MmMap {
    pub start_code: u64,
    pub end_code: u64,
    pub start_data: u64,
    pub end_data: u64,
    pub start_brk: u64,
    pub brk: u64,
    pub start_stack: u64,
    pub arg_start: u64,
    pub arg_end: u64,
    pub env_start: u64,
    pub env_end: u64,
    /// A descriptor of the executable inside the process, -1 to keep the one it has.
    pub exe_fd: i32,
}

/// Length of the structure.
const LEN: usize = 104;

/// The structure as the kernel reads it, with the address of the auxiliary vector, whose place is byte 88.
fn to_bytes(m: &MmMap, auxv_addr: u64, auxv_len: u32) -> Vec<u8> {
    let words = [
        m.start_code,
        m.end_code,
        m.start_data,
        m.end_data,
        m.start_brk,
        m.brk,
        m.start_stack,
        m.arg_start,
        m.arg_end,
        m.env_start,
        m.env_end,
    ];
    let mut bytes: Vec<u8> = words.iter().flat_map(|w| w.to_ne_bytes()).collect();
    bytes.extend_from_slice(&auxv_addr.to_ne_bytes());
    bytes.extend_from_slice(&auxv_len.to_ne_bytes());
    bytes.extend_from_slice(&(m.exe_fd as u32).to_ne_bytes());
    bytes
}

/// Queues the call; `auxv` is what /proc/PID/auxv reads.
pub fn call(batch: &mut Batch, map: &MmMap, auxv: &[u8]) {
    let auxv_at = batch.data(auxv);
    let at = batch.data(&to_bytes(map, 0, auxv.len() as u32));
    batch.point(at.at(88), auxv_at); // the batch puts the address there
    batch.call(
        "PR_SET_MM_MAP",
        libc::SYS_prctl,
        &[libc::PR_SET_MM.into(), libc::PR_SET_MM_MAP.into(), at.into(), LEN.into(), 0.into()],
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proc::{ProcDir, read_auxv, read_stat};

    #[test]
    #[allow(unsafe_code)]
    fn the_kernel_takes_our_own_layout_back_and_no_nonsense() {
        let dir = ProcDir::own().unwrap();
        let (stat, auxv) = (read_stat(&dir).unwrap(), read_auxv(&dir).unwrap().to_bytes());
        let map = MmMap {
            start_code: stat.start_code,
            end_code: stat.end_code,
            start_data: stat.start_data,
            end_data: stat.end_data,
            start_brk: stat.start_brk,
            // SAFETY: asks for the current end of the heap, changes nothing.
            brk: unsafe { libc::sbrk(0) } as u64,
            start_stack: stat.start_stack,
            arg_start: stat.arg_start,
            arg_end: stat.arg_end,
            env_start: stat.env_start,
            env_end: stat.env_end,
            exe_fd: -1,
        };
        let bytes = to_bytes(&map, auxv.as_ptr() as u64, auxv.len() as u32);
        assert_eq!(bytes.len(), LEN);
        // SAFETY: the kernel reads the structure and the vector, which outlive the call; the values are those in force.
        let r = unsafe { libc::prctl(libc::PR_SET_MM, libc::PR_SET_MM_MAP, bytes.as_ptr(), bytes.len(), 0) };
        assert_eq!(r, 0, "{}", crate::Errno::last());
        assert_eq!(read_stat(&dir).unwrap().arg_end, stat.arg_end);
        let bytes = to_bytes(&MmMap { arg_end: stat.arg_start - 1, ..map }, 0, 0);
        // SAFETY: as above; the kernel refuses a range that ends before it starts.
        let r = unsafe { libc::prctl(libc::PR_SET_MM, libc::PR_SET_MM_MAP, bytes.as_ptr(), bytes.len(), 0) };
        assert_eq!((r, crate::Errno::last().0), (-1, libc::EINVAL));
    }
}
