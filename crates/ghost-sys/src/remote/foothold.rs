//! Where code can stand in a living program without changing anything that it has.
//!
//! The vDSO is an ELF image in whole pages; the kernel hands the same pages to all, but the mapping is private, so a forced
//! write gives this process its own copy of the last one, whose end nobody uses. A program that has unmapped its vDSO still
//! has private mappings of ELF files whose executable segment ends inside a page. Only bytes that are zero and that
//! lie beyond the image (vDSO) or beyond the segment's data in the file are taken.
//!
//! One such tail holds the code and a few threads' ways home. For a crowd of threads ([`Foothold::find_two`]) the ways home of the
//! others stand in the longest of the other tails, at the cost of one page that the process has for itself then. That must be code,
//! too, never a segment of constants: the last two instructions of a way home stand in its block.
//!
//! At the end of the page stands a mark, so that the code of a ghost that was killed is known for what it is and used again.

use super::{Memory, RemoteAddr, RemoteError};
use crate::{Errno, Pid};
use std::fs;

/// A page is 4096 bytes on every processor that ghost knows so far.
const PAGE: u64 = 4096;
const MARK: u64 = 0x7473_6f68_6720_7369; // "is ghost"
/// Bytes of zeros that may belong to what stands before them.
const KEPT_ZEROS: u64 = 16;
/// Bytes of the mark.
pub(super) const MARK_LEN: u64 = 16;

/// Unused bytes at the end of an executable page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Foothold {
    /// First unused byte, 16-byte aligned.
    pub start: u64,
    /// End of the page.
    pub end: u64,
}

impl Foothold {
    /// Finds `need` bytes to stand on.
    pub(super) fn find(memory: &Memory, need: usize) -> Result<Self, RemoteError> {
        Self::find_two(memory, need, usize::MAX, None).map(|(first, _)| first)
    }

    /// The same, and the longest of the other tails, if it has `more` bytes and nobody stands in it.
    pub(super) fn find_two(
        memory: &Memory,
        need: usize,
        more: usize,
        spaces: Option<&[Space]>,
    ) -> Result<(Self, Option<Self>), RemoteError> {
        let pid = memory.pid();
        let mut spaces: Vec<Space> = match spaces {
            Some(known) => known.to_vec(),
            None => fs::read_to_string(format!("/proc/{pid}/maps"))
                .map_err(|e| RemoteError::Step { step: "reading the list of mappings", errno: Errno::from(e) })?
                .lines()
                .filter_map(Space::parse)
                .collect(),
        };
        spaces.retain(Space::may_serve);
        spaces.sort_by_key(|s| !s.is_vdso);
        let mut first = None;
        let mut longest: Option<(Self, bool)> = None;
        for space in &spaces {
            let Some((found, marked)) = space.tail(memory, &spaces) else { continue };
            if first.is_none() {
                if marked {
                    refuse_if_used(pid, found)?;
                }
                if found.room() >= need {
                    first = Some(found);
                    if more == usize::MAX {
                        break;
                    }
                    continue;
                }
            }
            // What is kept there may end in zeros: the time of a detour.
            let start = if marked { found.start } else { (found.start + KEPT_ZEROS).min(found.end) };
            let found = Self { start, ..found };
            if longest.is_none_or(|(l, _)| l.room() < found.room()) {
                longest = Some((found, marked));
            }
        }
        let first = first.ok_or(RemoteError::NoFoothold(need))?;
        let longest = longest.filter(|(found, _)| found.room() >= more);
        if let Some((found, true)) = longest {
            refuse_if_used(pid, found)?;
        }
        Ok((first, longest.map(|(found, _)| found)))
    }

    /// The same in the vDSO alone, which is known to be here; None where that is not so, or where a ghost has left its code.
    pub(super) fn in_vdso(memory: &Memory, (start, end): (u64, u64), need: usize) -> Option<Self> {
        let mut magic = [0; 4];
        memory.read(RemoteAddr(start), &mut magic).ok()?;
        let is_vdso = magic == *b"\x7fELF";
        let vdso = Space { start, end, readable: true, executable: true, offset: 0, file: (0, 0), is_vdso };
        let (found, is_left) = vdso.is_vdso.then(|| vdso.tail(memory, &[]))??;
        (!is_left && found.room() >= need).then_some(found)
    }

    /// Bytes for code.
    pub(super) fn room(self) -> usize {
        (self.end - self.start).saturating_sub(MARK_LEN) as usize
    }

    /// The code with the mark behind it, to be written at `start`.
    pub(super) fn marked(self, code: &[u8]) -> Vec<u8> {
        let mut all = code.to_vec();
        all.resize(self.room(), 0);
        all.extend_from_slice(&MARK.to_ne_bytes());
        all.extend_from_slice(&self.start.to_ne_bytes());
        all
    }

    /// Zeroes it again.
    pub(super) fn clear(self, memory: &Memory) -> Result<(), RemoteError> {
        memory
            .write_forced(RemoteAddr(self.start), &vec![0; (self.end - self.start) as usize])
            .map_err(|errno| RemoteError::Step { step: "clearing the executor's code", errno })
    }
}

/// Unused ends of executable pages besides the vDSO's: the first byte and the end of the page of each.
pub fn spare_ends(memory: &Memory) -> Vec<(u64, u64)> {
    let maps = fs::read_to_string(format!("/proc/{}/maps", memory.pid())).unwrap_or_default();
    let spaces: Vec<Space> = maps.lines().filter_map(Space::parse).filter(Space::may_serve).collect();
    let others = spaces.iter().filter(|s| !s.is_vdso);
    let ends = others.filter_map(|s| s.tail(memory, &spaces)).filter(|(_, taken)| !taken);
    ends.map(|(end, _)| (end.start, end.end)).collect()
}

/// Unused ends of the constants of executables and libraries, where data may stand that is only read: the first byte after the
/// segment and the end of its page. Not all of it need be zeros. What was loaded first, and stays longest, comes first.
pub fn spare_constants(memory: &Memory) -> Vec<(u64, u64)> {
    let maps = fs::read_to_string(format!("/proc/{}/maps", memory.pid())).unwrap_or_default();
    let spaces: Vec<(Space, bool)> = maps
        .lines()
        .filter_map(|line| Some((Space::parse(line)?, line.split_ascii_whitespace().nth(1) == Some("r--p"))))
        .filter(|(space, _)| space.file.1 != 0)
        .collect();
    // Not those that are mapped to be looked at.
    let runs = |file| spaces.iter().any(|(s, _)| s.executable && s.file == file);
    let all: Vec<Space> = spaces.iter().map(|(space, _)| *space).collect();
    let constants = spaces.iter().rev().filter(|(space, is_constant)| *is_constant && runs(space.file));
    let ends =
        constants.filter_map(|(space, _)| Some((space.segment_end(memory, &all)?.next_multiple_of(16), space.end)));
    ends.filter(|(start, end)| start < end).collect()
}

/// A mapping of a process, as `/proc/PID/maps` tells of it.
#[derive(Clone, Copy, Debug)]
pub struct Space {
    /// Its first byte.
    pub start: u64,
    /// The byte after its last.
    pub end: u64,
    /// Whether it can be read.
    pub readable: bool,
    /// Whether it is `r-xp`: code, private, and not writable.
    pub executable: bool,
    /// Where in the file it begins.
    pub offset: u64,
    /// Device and inode of the file; inode 0 where there is none.
    pub file: (u64, u64),
    /// Whether it is the vDSO.
    pub is_vdso: bool,
}

impl Space {
    /// Whether it is code to stand in, or the first page of a file that tells of its code.
    fn may_serve(&self) -> bool {
        self.is_vdso || (self.file.1 != 0 && (self.executable || (self.offset == 0 && self.readable)))
    }

    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split_ascii_whitespace();
        let (start, end) = fields.next()?.split_once('-')?;
        let perms = fields.next()?;
        let offset = u64::from_str_radix(fields.next()?, 16).ok()?;
        let (major, minor) = fields.next()?.split_once(':')?;
        let hex = |text: &str| u64::from_str_radix(text, 16).ok();
        let inode = fields.next()?.parse().ok()?;
        Some(Self {
            start: hex(start)?,
            end: hex(end)?,
            readable: perms.starts_with('r'),
            executable: perms == "r-xp",
            offset,
            file: (hex(major)? << 32 | hex(minor)?, inode),
            is_vdso: fields.next() == Some("[vdso]"),
        })
    }

    /// The unused end of its last page; true when another ghost has left its code there.
    fn tail(&self, memory: &Memory, all: &[Self]) -> Option<(Foothold, bool)> {
        if !self.executable {
            return None;
        }
        let page_start = self.end - PAGE;
        let mut page = [0_u8; PAGE as usize];
        memory.read(RemoteAddr(page_start), &mut page).ok()?;
        let word = |at: usize| u64::from_ne_bytes(page[at..at + 8].try_into().expect("eight bytes"));
        let last = word(PAGE as usize - 8);
        if word(PAGE as usize - 16) == MARK && last > page_start && last < self.end && last % 16 == 0 {
            return Some((Foothold { start: last, end: self.end }, true));
        }
        let used = PAGE - page.iter().rev().take_while(|b| **b == 0).count() as u64;
        let data_end = if self.is_vdso { page_start } else { self.segment_end(memory, all)? };
        let start = (page_start + used).max(data_end).next_multiple_of(16);
        (start < self.end).then_some((Foothold { start, end: self.end }, false))
    }

    /// Where the data of this segment ends, as the ELF header says that begins the same file.
    fn segment_end(&self, memory: &Memory, all: &[Self]) -> Option<u64> {
        let first = all.iter().find(|s| s.offset == 0 && s.file == self.file)?;
        let mut head = [0_u8; PAGE as usize];
        memory.read(RemoteAddr(first.start), &mut head).ok()?;
        let u16_at = |at: usize| Some(u16::from_le_bytes(head.get(at..at + 2)?.try_into().ok()?));
        let u32_at = |at: usize| Some(u32::from_le_bytes(head.get(at..at + 4)?.try_into().ok()?));
        let u64_at = |at: usize| Some(u64::from_le_bytes(head.get(at..at + 8)?.try_into().ok()?));
        if head[..5] != *b"\x7fELF\x02" {
            return None;
        }
        let (table, entry, count) = (u64_at(32)? as usize, u16_at(54)? as usize, u16_at(56)? as usize);
        for i in 0..count {
            let at = table + i * entry;
            let (kind, flags, offset, filesz) = (u32_at(at)?, u32_at(at + 4)?, u64_at(at + 8)?, u64_at(at + 32)?);
            let (first_page, end) = (offset / PAGE * PAGE, offset.checked_add(filesz)?);
            if kind == 1
                && (if self.executable { flags & 1 != 0 } else { flags & 7 == 4 })
                && first_page == self.offset
                && end.next_multiple_of(PAGE) == self.offset + self.end - self.start
            {
                return Some(self.start + (end - self.offset));
            }
        }
        None
    }
}

/// Errors when a thread of the process is still inside code that a killed ghost left there.
fn refuse_if_used(pid: Pid, foothold: Foothold) -> Result<(), RemoteError> {
    let busy = RemoteError::Step {
        step: "waiting for a thread to come home from a ghost that was killed (let it run for two seconds)",
        errno: Errno(libc::EBUSY),
    };
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return Err(busy) };
    for task in tasks.flatten() {
        // "running", or "NR [ARGS] SP PC". A running thread may be anywhere.
        let Ok(text) = fs::read_to_string(task.path().join("syscall")) else { continue };
        let pc =
            text.split_ascii_whitespace().last().and_then(|w| u64::from_str_radix(w.trim_start_matches("0x"), 16).ok());
        if pc.is_none_or(|pc| (foothold.start..foothold.end).contains(&pc)) {
            return Err(busy);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_and_ways_home_stand_where_they_can_run() {
        let memory = Memory::open(std::process::id() as crate::Pid).unwrap();
        let (first, other) = Foothold::find_two(&memory, 512, 1024, None).unwrap();
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        for place in [Some(first), other].into_iter().flatten() {
            let runs = |s: &Space| s.start <= place.start && place.end <= s.end && (s.executable || s.is_vdso);
            assert!(maps.lines().filter_map(Space::parse).any(|s| runs(&s)), "{place:?}");
        }
        assert!(other.is_some_and(|other| other.start != first.start));
    }
}
