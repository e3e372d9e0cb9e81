//! The bytes of a detour: the code that a thread runs, and where its time stands.

use ghost_sys::ptrace::Registers;

/// Bytes that a slot takes.
pub(super) const SLOT: u64 = 48;
const MARK: [u8; 5] = *b"ghost";
/// What follows the mark: of a slot for one wait, and of one that many threads share.
const OWN: u8 = 1;
const SHARED: u8 = 2;
/// Of the time in a slot of one's own.
pub(super) const TIME_AT: u64 = 32;
/// Of the instruction behind the one that puts the limit's register back, in a slot that is shared.
pub(super) const SHARED_LOADED: u64 = 6;

/// The register in which a call has its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Register {
    Rdi,
    Rdx,
    R8,
    R10,
}

impl Register {
    pub(super) const ALL: [Self; 4] = [Self::Rdi, Self::Rdx, Self::R8, Self::R10];

    /// `mov $imm64, %reg`.
    fn opcode(self) -> [u8; 2] {
        match self {
            Self::Rdi => [0x48, 0xbf],
            Self::Rdx => [0x48, 0xba],
            Self::R8 => [0x49, 0xb8],
            Self::R10 => [0x49, 0xba],
        }
    }
    /// `mov 16(%reg), %reg`: what stands behind the time to which it points.
    fn reload(self) -> [u8; 4] {
        match self {
            Self::Rdi => [0x48, 0x8b, 0x7f, 16],
            Self::Rdx => [0x48, 0x8b, 0x52, 16],
            Self::R8 => [0x4d, 0x8b, 0x40, 16],
            Self::R10 => [0x4d, 0x8b, 0x52, 16],
        }
    }
    pub(super) fn of(self, regs: &mut Registers) -> &mut u64 {
        match self {
            Self::Rdi => &mut regs.rdi,
            Self::Rdx => &mut regs.rdx,
            Self::R8 => &mut regs.r8,
            Self::R10 => &mut regs.r10,
        }
    }
}

/// A wait: where its limit is, what the program had there, where it goes on, and what is left of the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wait {
    pub(super) register: Register,
    pub(super) value: u64,
    pub(super) target: u64,
    pub(super) time: [i64; 2],
}

/// What a slot says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Slot {
    /// It serves one wait.
    Own(Wait),
    /// It serves all threads that wait at one place.
    Shared { register: Register, target: u64 },
}

impl Slot {
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut b = vec![0x0f, 0x05];
        let (target, sort) = match self {
            Self::Own(wait) => {
                b.extend_from_slice(&wait.register.opcode());
                b.extend_from_slice(&wait.value.to_le_bytes());
                b.extend_from_slice(&[0xff, 0x25, 0, 0, 0, 0]);
                (wait.target, OWN)
            }
            Self::Shared { register, target } => {
                b.extend_from_slice(&register.reload());
                b.extend_from_slice(&[0xff, 0x25, 6, 0, 0, 0]);
                b.extend_from_slice(&[0; 6]);
                (*target, SHARED)
            }
        };
        b.extend_from_slice(&target.to_le_bytes());
        b.extend_from_slice(&MARK);
        b.push(sort);
        let time = if let Self::Own(wait) = self { wait.time } else { [0; 2] };
        b.extend(time.iter().flat_map(|t| t.to_le_bytes()));
        b
    }

    pub(super) fn read(b: &[u8]) -> Option<Self> {
        let word = |at: usize| Some(u64::from_le_bytes(b.get(at..at + 8)?.try_into().ok()?));
        if b.get(..2)? != [0x0f, 0x05] || b.get(26..31)? != MARK {
            return None;
        }
        let target = word(18)?;
        let time = [word(32)? as i64, word(40)? as i64];
        if b[31] == SHARED {
            let register = Register::ALL.into_iter().find(|r| r.reload() == b[2..6])?;
            return Some(Self::Shared { register, target });
        }
        let register = Register::ALL.into_iter().find(|r| b[31] == OWN && r.opcode() == b[2..4])?;
        Some(Self::Own(Wait { register, value: word(4)?, target, time }))
    }

    /// Whether it is one's own for the same wait in the same place.
    pub(super) fn serves(&self, other: &Wait) -> bool {
        let key = |w: &Wait| (w.register, w.value, w.target);
        matches!(self, Self::Own(wait) if key(wait) == key(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_reads_as_it_was_written() {
        for register in Register::ALL {
            let target = 0x7fff_0000_1111;
            let own = Slot::Own(Wait { register, value: 0xdead_beef_1234, target, time: [3, 999] });
            for slot in [own, Slot::Shared { register, target }] {
                let bytes = slot.bytes();
                assert_eq!(bytes.len() as u64, SLOT);
                assert_eq!(Slot::read(&bytes), Some(slot));
                assert_eq!(Slot::read(&bytes[..40]), None);
            }
        }
        assert_eq!(Slot::read(&[0; 48]), None);
    }

    #[test]
    fn the_jump_of_a_shared_slot_reads_its_target() {
        let bytes = Slot::Shared { register: Register::Rdi, target: 0x1122_3344_5566 }.bytes();
        let (next, distance) = (12, i32::from_le_bytes(bytes[8..12].try_into().unwrap()) as usize);
        assert_eq!(bytes[6..8], [0xff, 0x25]);
        assert_eq!(bytes[next + distance..next + distance + 8], 0x1122_3344_5566_u64.to_le_bytes());
        assert_eq!(SHARED_LOADED, 6);
    }
}
