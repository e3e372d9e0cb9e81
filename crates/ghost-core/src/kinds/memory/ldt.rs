//! Local descriptor tables: `modify_ldt(2)`. Programs that run 16-bit or old 32-bit code have one (wine, dosemu).
//!
//! Asked inside: the first 8 bytes tell whether there is a table, for the kernel fills up what is asked for; only then all
//! 64 KiB of it. Rebuilt entry by entry, highest first, so that the kernel makes room once. The kernel tells what the
//! processor reads and takes `struct user_desc`: the two say the same, since it sets all other bits itself, always alike. How
//! many entries it keeps room for is nowhere to be seen; that there is a table at all is, so an empty one is made, too.
//!
//! A table belongs to an address space. The registers that select from it are set later than it ([`super::super::thread::settle`]).

use crate::error::{Context, KindError};
use crate::import::ImportCx;
use ghost_image::record as rec;
use ghost_sys::nr;
use ghost_sys::ptrace::Stopped;
use ghost_sys::remote::{Batch, Puppet, Slot};

const READ: i32 = 0;
/// The form of write that takes every bit.
const WRITE: i32 = 0x11;
/// Bytes of a descriptor.
const ENTRY: usize = 8;
/// Bytes of the longest table.
pub(crate) const MOST: usize = 8192 * ENTRY;

/// Queues the question whether there is a table.
pub(super) fn ask(batch: &mut Batch) -> Slot {
    let room = batch.room(ENTRY);
    batch.try_call("modify_ldt", nr::MODIFY_LDT, &[READ.into(), room.into(), ENTRY.into()])
}

/// All of a table, up to the last entry that is set; one empty entry if there is none.
pub(crate) fn read(first: &Stopped, puppet: &mut Puppet) -> Result<Vec<u8>, KindError> {
    let mut batch = Batch::new();
    let room = batch.room(MOST);
    batch.call("modify_ldt", nr::MODIFY_LDT, &[READ.into(), room.into(), MOST.into()]);
    let outcome = puppet.run_in(first, &batch).step("reading it")?;
    let table = outcome.bytes(room);
    let used = table.iter().rposition(|b| *b != 0).map_or(1, |last| last + 1);
    Ok(table[..used.next_multiple_of(ENTRY)].to_vec())
}

/// Makes the table of a new process.
pub(super) fn finish(cx: &mut ImportCx<'_>, index: usize, mm: &rec::Mm) -> Result<(), KindError> {
    /// Calls of one batch.
    const AT_ONCE: usize = 512;
    let entries: Vec<(usize, u64)> = mm
        .ldt
        .as_chunks::<ENTRY>()
        .0
        .iter()
        .map(|bytes| u64::from_ne_bytes(*bytes))
        .enumerate()
        .rev()
        // The last one is set even if it is empty: then it is the only one.
        .filter(|(number, descriptor)| *descriptor != 0 || (number + 1) * ENTRY == mm.ldt.len())
        .collect();
    for part in entries.chunks(AT_ONCE) {
        for &(number, descriptor) in part {
            let wanted = user_desc(number as u32, descriptor);
            if descriptor_of(&wanted) != descriptor {
                let words = format!("entry {number} of its local descriptor table is nothing that a program can set");
                return Err(KindError::conflict("reading the records", words).on(cx.record(index).pid, ""));
            }
            let batch = &mut cx.building[index].batch;
            let data = batch.data(&wanted.map(u32::to_ne_bytes).concat());
            let args = [WRITE.into(), data.into(), 16.into()];
            batch.call(format!("modify_ldt of entry {number}"), nr::MODIFY_LDT, &args);
        }
        cx.flush(index)?;
    }
    Ok(())
}

/// `struct user_desc` of what the processor reads: number, base, limit, and bits: 32-bit, contents (2), not writable,
/// limit in pages, not present, useable.
fn user_desc(number: u32, descriptor: u64) -> [u32; 4] {
    let bits = |from: u32, count: u32| (descriptor >> from) as u32 & ((1 << count) - 1);
    let kind = bits(40, 4);
    let flags = bits(54, 1)
        | (kind >> 2) << 1
        | u32::from(kind & 2 == 0) << 3
        | bits(55, 1) << 4
        | u32::from(bits(47, 1) == 0) << 5
        | bits(52, 1) << 6;
    [number, bits(16, 24) | bits(56, 8) << 24, bits(0, 16) | bits(48, 4) << 16, flags]
}

/// What the kernel makes of it (`fill_ldt`).
fn descriptor_of(&[_, base, limit, flags]: &[u32; 4]) -> u64 {
    /// LDT_empty: no base, no limit, not writable, not present.
    const EMPTY: u32 = 1 << 3 | 1 << 5;
    if base == 0 && limit == 0 && flags == EMPTY {
        return 0;
    }
    let bit = |n: u32| u64::from(flags >> n & 1);
    let (base, limit) = (u64::from(base), u64::from(limit));
    let kind = 1 | (bit(3) ^ 1) << 1 | u64::from(flags >> 1 & 3) << 2;
    let of_programs = 1 << 4 | 3 << 5;
    (limit & 0xffff)
        | (base & 0xff_ffff) << 16
        | (kind | of_programs | (bit(5) ^ 1) << 7) << 40
        | (limit >> 16) << 48
        | bit(6) << 52
        | bit(0) << 54
        | bit(4) << 55
        | (base >> 24) << 56
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_program_sets_comes_back() {
        // As the kernel told it: a segment of 4 KiB at 0x1000, 32-bit, useable.
        let told = 0x0050_f300_1000_0fff;
        assert_eq!(user_desc(5, told), [5, 0x1000, 0xfff, 1 | 1 << 6]);
        for flags in 0..1 << 7 {
            let wanted = [7, 0x1234_5678, 0xf_abcd, flags];
            assert_eq!(user_desc(7, descriptor_of(&wanted)), wanted);
        }
        assert_eq!(descriptor_of(&user_desc(0, 0)), 0);
    }

    #[test]
    fn what_no_program_can_set_is_told_from_it() {
        // A call gate, and a segment of the kernel.
        for descriptor in [0x0000_ec00_0008_1000, 0x00cf_9300_0000_ffff_u64] {
            assert_ne!(descriptor_of(&user_desc(0, descriptor)), descriptor);
        }
    }
}
