//! Times of many waits, in constants that nobody uses.
//!
//! The last page of a segment of constants, as of a segment of code, has an end that belongs to nobody. What stands there is only
//! read: by the kernel when the call begins, and by the shared code of the detour, which takes the register's value from it.
//!
//! ```text
//!     .ascii "ghost\x03"; .short count       how many records there is room for
//!     .quad seconds, nanoseconds, value      of each
//! ```
//!
//! The value of a record never changes: a signal handler may return to a thread's detour much later. Its time does, when the same wait
//! is met again.

use ghost_sys::remote::{Memory, RemoteAddr, spare_constants};
use std::collections::HashMap;

const MARK: [u8; 6] = *b"ghost\x03";
const HEAD: u64 = 8;
const RECORD: u64 = 24;

/// An unused end that has records, or may have some.
#[derive(Debug)]
struct Area {
    head: u64,
    /// Records in all, and those that are taken.
    room: u64,
    taken: u64,
}

/// The records of one address space.
#[derive(Debug)]
pub(super) struct Times {
    areas: Vec<Area>,
    /// Records of a value that nobody was given yet.
    idle: HashMap<u64, Vec<u64>>,
}

impl Times {
    /// Looks for them, and for room.
    pub(super) fn of(memory: &Memory) -> Self {
        let mut all = Self { areas: Vec::new(), idle: HashMap::new() };
        for (start, end) in spare_constants(memory) {
            let mut bytes = vec![0; (end - start) as usize];
            if memory.read(RemoteAddr(start), &mut bytes).is_ok() {
                all.look(start, &bytes);
            }
        }
        all
    }

    fn look(&mut self, head: u64, bytes: &[u8]) {
        let most = |bytes: u64| bytes.saturating_sub(HEAD) / RECORD;
        if bytes.get(..6) != Some(&MARK) {
            let zeros = bytes.iter().take_while(|b| **b == 0).count() as u64;
            self.areas.push(Area { head, room: most(zeros), taken: 0 });
            return;
        }
        let room = u64::from(u16::from_le_bytes([bytes[6], bytes[7]])).min(most(bytes.len() as u64));
        let mut taken = 0;
        for (at, record) in (head + HEAD..).step_by(RECORD as usize).zip(bytes[HEAD as usize..].as_chunks::<24>().0) {
            let value = u64::from_le_bytes(record[16..].try_into().expect("eight bytes"));
            if taken == room || value == 0 {
                break;
            }
            taken += 1;
            self.idle.entry(value).or_default().push(at);
        }
        self.areas.push(Area { head, room, taken });
    }

    /// Whether there is a record for a wait with this value.
    pub(super) fn has_room(&self, value: u64) -> bool {
        self.idle.get(&value).is_some_and(|all| !all.is_empty()) || self.areas.iter().any(|a| a.taken < a.room)
    }

    /// Writes a record and returns its address, which is that of the time.
    pub(super) fn put(&mut self, memory: &Memory, value: u64, time: [i64; 2]) -> Option<u64> {
        let bytes: Vec<u8> =
            [time[0] as u64, time[1] as u64, value].iter().flat_map(|word| word.to_le_bytes()).collect();
        if let Some(at) = self.idle.get_mut(&value).and_then(Vec::pop) {
            memory.write_forced(RemoteAddr(at), &bytes).ok()?;
            return Some(at);
        }
        let area = self.areas.iter_mut().find(|a| a.taken < a.room)?;
        if area.taken == 0 {
            let head = [&MARK[..], &(area.room as u16).to_le_bytes()].concat();
            memory.write_forced(RemoteAddr(area.head), &head).ok()?;
        }
        let at = area.head + HEAD + area.taken * RECORD;
        memory.write_forced(RemoteAddr(at), &bytes).ok()?;
        area.taken += 1;
        Some(at)
    }

    /// What the record at this address says: its value and its time.
    pub(super) fn read(memory: &Memory, at: u64) -> Option<(u64, [i64; 2])> {
        let mut bytes = [0; RECORD as usize];
        memory.read(RemoteAddr(at), &mut bytes).ok()?;
        let word = |i: usize| u64::from_le_bytes(bytes[i * 8..i * 8 + 8].try_into().expect("eight bytes"));
        Some((word(2), [word(0) as i64, word(1) as i64]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ghost_sys::Pid;

    #[test]
    fn records_are_found_again_and_given_to_one() {
        let memory = Memory::open(std::process::id() as Pid).expect("own memory");
        // Own constants would stay changed, so memory that stands for them.
        let page = vec![0_u64; 512];
        let head = page.as_ptr() as u64;
        let look = || {
            let mut times = Times { areas: Vec::new(), idle: HashMap::new() };
            let mut bytes = vec![0; 100];
            memory.read(RemoteAddr(head), &mut bytes).expect("read");
            times.look(head, &bytes);
            times
        };
        let mut times = look();
        let first = times.put(&memory, 0x7f11, [1, 0]).expect("room");
        let other = times.put(&memory, 0x7f22, [2, 5]).expect("room");
        assert_eq!((first, other), (head + 8, head + 32));
        let mut again = look();
        assert_eq!(again.put(&memory, 0x7f11, [3, 4]), Some(first));
        assert_eq!(Times::read(&memory, first), Some((0x7f11, [3, 4])));
        assert_eq!(again.put(&memory, 0x7f11, [0, 9]), Some(head + 56), "one record a wait");
        assert!(again.has_room(0x7f22) && !again.has_room(0x7f11));
        assert_eq!(again.put(&memory, 0x7f33, [0, 9]), None);
        assert_eq!(Times::read(&memory, other), Some((0x7f22, [2, 5])));
        assert_eq!(std::hint::black_box(page).len(), 512);
    }
}
