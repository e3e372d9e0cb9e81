//! NUMA policies: `mbind(2)` of a mapping, `set_mempolicy(2)` of a thread. Asked for in [`super::ask`].
//!
//! A policy must be there before the pages arrive. Nodes that this host does not have are an error of the call, which names
//! the mapping. Lost: the home node (`set_mempolicy_home_node(2)`, Linux 5.17), which no interface tells.

use ghost_image::record as rec;
use ghost_sys::nr;
use ghost_sys::remote::{Arg, Batch, Label};

/// Mode, address of the nodes, and how many bits the kernel may read there.
fn arguments(batch: &mut Batch, policy: &[u8]) -> [Arg; 3] {
    let (mode, mask) = policy.split_at(policy.len().min(4));
    let mode = mode.iter().rev().fold(0_u32, |word, byte| word << 8 | u32::from(*byte));
    let words = mask.len() / 8 * 8;
    if words == 0 {
        return [mode.into(), 0.into(), 0.into()];
    }
    let nodes = batch.data(&mask[..words]);
    // The kernel reads one bit less than it is told.
    [mode.into(), nodes.into(), (words as u64 * 8 + 1).into()]
}

/// Queues the policy of a mapping.
pub fn mbind(batch: &mut Batch, vma: &rec::Vma) {
    let [mode, nodes, bits] = arguments(batch, &vma.mempolicy);
    let args = [vma.start.into(), (vma.end - vma.start).into(), mode, nodes, bits, 0.into()];
    batch.call(Label::Range("mbind", vma.start, vma.end), nr::MBIND, &args);
}

/// Queues the policy of the calling thread.
pub fn set_mempolicy(batch: &mut Batch, policy: &[u8]) {
    let args = arguments(batch, policy);
    batch.call("set_mempolicy", nr::SET_MEMPOLICY, &args);
}
