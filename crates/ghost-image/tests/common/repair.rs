//! Makes the checksums of a changed ghost right again, as one who changes it on purpose would.
//!
//! Written from `docs/format.md` and without the crate's own encoder, so that the two check each other. Used by
//! the tests and by the fuzz targets, which would otherwise never get past the first checksum.

use ghost_image::prost::Message;
use ghost_image::record::PageHead;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

/// Repairs as far as the lengths lead; what they say is left as it is.
pub fn repair(ghost: &mut [u8]) {
    forge(ghost, true);
}

/// The same; with `entries_too` false the index keeps saying what it says.
pub fn forge(ghost: &mut [u8], entries_too: bool) {
    let Some(header_len) = get(ghost, 12, 4).map(|len| len as usize) else { return };
    if header_len < 24 || header_len > ghost.len() {
        return;
    }
    let checksum = xxh3_64(&ghost[..header_len - 8]);
    put(ghost, header_len - 8, checksum);
    let mut digest = Xxh3::new();
    digest.update(&ghost[..header_len]);
    let (mut at, mut sections, mut entries, mut index_offset) = (header_len, 0_u64, Vec::new(), 0);
    while at + 56 <= ghost.len() {
        let field = |offset, len| get(ghost, at + offset, len).unwrap_or_default();
        let (word, message_len, padding_len, data_len) = (field(0, 4), field(24, 4), field(28, 4), field(32, 8));
        let message_at = at + 56;
        let message_end = message_at.saturating_add(message_len as usize);
        if message_end > ghost.len() {
            let checksum = xxh3_64(&ghost[at..at + 48]);
            put(ghost, at + 48, checksum);
            return;
        }
        match word & 0x7fff_ffff {
            254 => {
                let n = if entries_too { entries.len().min(message_len as usize) } else { 0 };
                ghost[message_at..message_at + n].copy_from_slice(&entries[..n]);
                index_offset = at as u64;
            }
            255 if message_len == 24 => {
                put(ghost, message_at, index_offset);
                put(ghost, message_at + 8, sections);
                let digest = digest.digest();
                put(ghost, message_at + 16, digest);
            }
            _ => {}
        }
        let checksum = xxh3_64(&ghost[message_at..message_end]);
        put(ghost, at + 40, checksum);
        let checksum = xxh3_64(&ghost[at..at + 48]);
        put(ghost, at + 48, checksum);
        digest.update(&ghost[at..at + 56]);
        let mut entry = [word as u32, message_len as u32, padding_len as u32, 0, 0, 0];
        let (mut first, mut pages) = (0, 0_u64);
        if word & 0x7fff_ffff == 64
            && let Ok(head) = PageHead::decode(&ghost[message_at..message_end])
        {
            (entry[3], entry[4]) = (head.owner, head.id);
            first = head.runs.first().map_or(0, |run| run.start);
            pages = head.runs.iter().fold(0, |sum, run| sum.wrapping_add(run.pages));
        }
        entries.extend(entry.iter().flat_map(|word| word.to_le_bytes()));
        entries.extend([at as u64, data_len, first, pages].iter().flat_map(|long| long.to_le_bytes()));
        sections += 1;
        let data_at = message_end.saturating_add(padding_len as usize);
        let data_end = data_at.saturating_add(data_len as usize);
        at = data_end;
        if data_len != 0 {
            if data_end.saturating_add(8) > ghost.len() {
                return;
            }
            let checksum = xxh3_64(&ghost[data_at..data_end]);
            put(ghost, data_end, checksum);
            digest.update(&checksum.to_le_bytes());
            at += 8;
        }
    }
}

fn get(bytes: &[u8], at: usize, len: usize) -> Option<u64> {
    let bytes = bytes.get(at..at + len)?;
    Some(bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte)))
}

fn put(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}
