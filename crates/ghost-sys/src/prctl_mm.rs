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

/// Queues the call; `auxv` is what /proc/PID/auxv reads.
pub fn call(batch: &mut Batch, map: &MmMap, auxv: &[u8]) {
    let auxv_at = batch.data(auxv);
    let m = map;
    let words = [
        m.start_code, m.end_code, m.start_data, m.end_data, m.start_brk, m.brk, m.start_stack, m.arg_start, m.arg_end,
        m.env_start, m.env_end,
    ];
    let mut bytes: Vec<u8> = words.iter().flat_map(|w| w.to_ne_bytes()).collect();
    bytes.extend_from_slice(&[0; 8]); // the address of the auxiliary vector, put there by the batch
    bytes.extend_from_slice(&(auxv.len() as u32).to_ne_bytes());
    bytes.extend_from_slice(&(map.exe_fd as u32).to_ne_bytes());
    let len = bytes.len();
    let at = batch.data(&bytes);
    batch.point(at.at(88), auxv_at);
    batch.call("PR_SET_MM_MAP", libc::SYS_prctl, &[
        libc::PR_SET_MM.into(),
        libc::PR_SET_MM_MAP.into(),
        at.into(),
        len.into(),
        0.into(),
    ]);
}
