//! A small assembler of eBPF: the instructions that a program needs which looks at kernel objects and writes rows.
//!
//! Layout of an instruction: kernel `Documentation/bpf/standardization/instruction-set.rst` (RFC 9669): an operation, two registers, an
//! offset of 16 bits and a number of 32, 8 bytes in all. What is assembled here is judged by the kernel's verifier before it runs, so
//! a mistake is a refusal and no harm.

/// A register. R0 has results, R1 to R5 arguments, which calls overwrite; R6 to R9 stay; R10 is the end of the stack (512 bytes).
#[allow(missing_docs)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reg {
    R0,
    R1,
    R2,
    R3,
    R4,
    R5,
    R6,
    R7,
    R8,
    R9,
    R10,
}

/// How wide a load or store is; narrower loads are extended with zeroes.
#[allow(missing_docs)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    B1,
    B2,
    B4,
    B8,
}

impl Width {
    /// The width of so many bytes, if there is one.
    pub fn of(bytes: u32) -> Option<Self> {
        match bytes {
            1 => Some(Self::B1),
            2 => Some(Self::B2),
            4 => Some(Self::B4),
            8 => Some(Self::B8),
            _ => None,
        }
    }
    fn code(self) -> u8 {
        match self {
            Self::B4 => 0x00,
            Self::B2 => 0x08,
            Self::B1 => 0x10,
            Self::B8 => 0x18,
        }
    }
}

/// `bpf_seq_write(seq, data, len)`, Linux 5.7: appends to what the reader of an iterator gets.
pub const SEQ_WRITE: i32 = 127;
/// `bpf_probe_read_kernel(to, bytes, from)`, Linux 5.5: copies from an address that need not be one.
pub const READ: i32 = 113;
/// `bpf_d_path(path, to, bytes)`, Linux 5.10: the name of a file as procfs shows it; how long it is with the zero behind it.
pub const NAME_OF: i32 = 147;
/// `bpf_sock_from_file(file)`, Linux 5.11: the socket of a file that is one, else null.
pub const SOCKET_OF: i32 = 162;

const LOAD: u8 = 0x61;
const STORE: u8 = 0x63;
const MOVE: u8 = 0xbf;
const SET: u8 = 0xb7;
const ADD: u8 = 0x07;
const JUMP_IF: u8 = 0x15;
const JUMP_UNLESS: u8 = 0x55;
const AND: u8 = 0x57;
const ADD_REG: u8 = 0x0f;
const SHIFT_LEFT: u8 = 0x67;
const SHIFT_RIGHT: u8 = 0x77;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;

/// A program that is being written. Its jumps lead forwards, most to its end, where it returns 0.
#[derive(Debug, Default)]
pub struct Asm {
    code: Vec<u64>,
    to_end: Vec<usize>,
}

impl Asm {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }
    fn put(&mut self, op: u8, dst: Reg, src: Reg, offset: i16, number: i32) -> &mut Self {
        // Two registers in one byte: the first in the low half on little-endian machines, in the high half on others.
        let (dst, src) = (dst as u8, src as u8);
        let registers = if cfg!(target_endian = "little") { dst | src << 4 } else { dst << 4 | src };
        let [o0, o1] = offset.to_ne_bytes();
        let [n0, n1, n2, n3] = number.to_ne_bytes();
        self.code.push(u64::from_ne_bytes([op, registers, o0, o1, n0, n1, n2, n3]));
        self
    }
    /// `dst = src`
    pub fn mov(&mut self, dst: Reg, src: Reg) -> &mut Self {
        self.put(MOVE, dst, src, 0, 0)
    }
    /// `dst = number`
    pub fn set(&mut self, dst: Reg, number: i32) -> &mut Self {
        self.put(SET, dst, Reg::R0, 0, number)
    }
    /// `dst += number`
    pub fn add(&mut self, dst: Reg, number: i32) -> &mut Self {
        self.put(ADD, dst, Reg::R0, 0, number)
    }
    /// `dst += src`
    pub fn add_reg(&mut self, dst: Reg, src: Reg) -> &mut Self {
        self.put(ADD_REG, dst, src, 0, 0)
    }
    /// `dst <<= bits`, of all 64.
    pub fn shift_left(&mut self, dst: Reg, bits: i32) -> &mut Self {
        self.put(SHIFT_LEFT, dst, Reg::R0, 0, bits)
    }
    /// `dst >>= bits`, of all 64, without a sign.
    pub fn shift_right(&mut self, dst: Reg, bits: i32) -> &mut Self {
        self.put(SHIFT_RIGHT, dst, Reg::R0, 0, bits)
    }
    /// `dst = *(base + offset)`
    pub fn load(&mut self, width: Width, dst: Reg, base: Reg, offset: i16) -> &mut Self {
        self.put(LOAD | width.code(), dst, base, offset, 0)
    }
    /// `*(base + offset) = src`
    pub fn store(&mut self, width: Width, base: Reg, offset: i16, src: Reg) -> &mut Self {
        self.put(STORE | width.code(), base, src, offset, 0)
    }
    /// To the end, if `reg` is `number`.
    pub fn end_if(&mut self, reg: Reg, number: i32) -> &mut Self {
        self.to_end.push(self.code.len());
        self.put(JUMP_IF, reg, Reg::R0, 0, number)
    }
    /// To the end, if `reg` is not `number`.
    pub fn end_unless(&mut self, reg: Reg, number: i32) -> &mut Self {
        self.to_end.push(self.code.len());
        self.put(JUMP_UNLESS, reg, Reg::R0, 0, number)
    }
    /// If `reg` is `number`, to where what this gives is given to [`Asm::land`].
    pub fn jump_if(&mut self, reg: Reg, number: i32) -> usize {
        self.put(JUMP_IF, reg, Reg::R0, 0, number);
        self.code.len() - 1
    }
    /// Where a jump leads to; None if it is too long.
    pub fn land(&mut self, from: usize) -> Option<()> {
        let distance = i16::try_from(self.code.len() - from - 1).ok()?;
        let mut bytes = self.code[from].to_ne_bytes();
        bytes[2..4].copy_from_slice(&distance.to_ne_bytes());
        self.code[from] = u64::from_ne_bytes(bytes);
        Some(())
    }
    /// `dst &= number`
    pub fn and(&mut self, dst: Reg, number: i32) -> &mut Self {
        self.put(AND, dst, Reg::R0, 0, number)
    }
    /// Calls a helper of the kernel.
    pub fn call(&mut self, helper: i32) -> &mut Self {
        self.put(CALL, Reg::R0, Reg::R0, 0, helper)
    }
    /// The whole program; None if a jump is too long.
    pub fn finish(mut self) -> Option<Vec<u64>> {
        for from in std::mem::take(&mut self.to_end) {
            self.land(from)?;
        }
        self.set(Reg::R0, 0).put(EXIT, Reg::R0, Reg::R0, 0, 0);
        Some(self.code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_those_of_the_specification() {
        let mut asm = Asm::new();
        asm.mov(Reg::R6, Reg::R1)
            .load(Width::B8, Reg::R7, Reg::R6, 16)
            .end_if(Reg::R7, 0)
            .load(Width::B4, Reg::R2, Reg::R7, 0x20)
            .store(Width::B8, Reg::R10, -8, Reg::R2)
            .add(Reg::R2, -8)
            .call(SEQ_WRITE);
        let code: Vec<[u8; 8]> = asm.finish().unwrap().into_iter().map(u64::to_le_bytes).collect();
        if cfg!(target_endian = "little") {
            assert_eq!(
                code,
                [
                    [0xbf, 0x16, 0, 0, 0, 0, 0, 0],
                    [0x79, 0x67, 16, 0, 0, 0, 0, 0],
                    [0x15, 0x07, 4, 0, 0, 0, 0, 0],
                    [0x61, 0x72, 0x20, 0, 0, 0, 0, 0],
                    [0x7b, 0x2a, 0xf8, 0xff, 0, 0, 0, 0],
                    [0x07, 0x02, 0, 0, 0xf8, 0xff, 0xff, 0xff],
                    [0x85, 0, 0, 0, 127, 0, 0, 0],
                    [0xb7, 0, 0, 0, 0, 0, 0, 0],
                    [0x95, 0, 0, 0, 0, 0, 0, 0],
                ]
            );
        }
        let mut long = Asm::new();
        long.end_if(Reg::R0, 0);
        for _ in 0..40_000 {
            long.set(Reg::R0, 0);
        }
        assert!(long.finish().is_none());
    }
}
