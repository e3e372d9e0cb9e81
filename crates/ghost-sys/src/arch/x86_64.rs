//! x86-64: registers, the executor's code, facts of the vDSO.
//!
//! Position-independent code is kept here as bytes and copied into other processes; it never runs in ghost.
//! *exec* walks the records of a batch. It uses no stack and no vector register:
//!
//! | register | holds |
//! |---|---|
//! | rbx | the record: nr, args\[6\], mask of arguments to be loaded, target on error, target on zero (10 words) |
//! | rbp | not touched: *slot* keeps the thread's block there |
//! | r12 | where the next result goes |
//! | r13 | where to jump at the end |
//! | r14 | not touched: for *slot*, the length of the scratch area that the thread has to unmap, or 0 |
//! | r15 | start of the program: its first word is set to 1 at the end, its second names a failed record |
//!
//! *slot* is the dead-man's switch, shared by the threads of a process: a thread sleeps in it, and if nobody has come for it by
//! then, it unmaps the scratch area if it is its own, puts flags, signal mask, syscall user dispatch and registers back from its
//! *block* (rbp points into it, so that short instructions reach all of it) and jumps to where it was. It sleeps in `pselect6`, which leaves `restart_block` alone, so that an
//! interrupted `nanosleep` of the program keeps its remaining time. The timeout lies in memory that is read-only to the process, so
//! an interrupted `pselect6` is not restarted: a thread that the death of ghost releases goes home at once.
//!
//! Several threads may run programs in the scratch area of the first: each in a part of its own, with r14 zero. They come in by the
//! *gate*, which sends them straight home unless their block is armed; so the word by which the owner of the area knows that somebody is
//! on his way into it is the word that lets him in. The owner unmaps it only when the program of each armed block is done; if
//! one is not done for three seconds (a filter has ended its thread), the area stays: a leak harms nobody.

#![allow(unsafe_code)]

use crate::ptrace::Registers;

std::arch::global_asm!(
    r#"
    .pushsection .rodata.ghost_remote, "a", @progbits
    .balign 16
    .globl ghost_exec, ghost_exec_end, ghost_slot, ghost_slot_wait, ghost_slot_left, ghost_slot_unmapped, ghost_slot_gate
    .globl ghost_slot_data, ghost_slot_end
    .hidden ghost_exec, ghost_exec_end, ghost_slot, ghost_slot_wait, ghost_slot_left, ghost_slot_unmapped, ghost_slot_gate
    .hidden ghost_slot_data, ghost_slot_end
ghost_exec:
    mov rax, [rbx]
    mov rdi, [rbx + 8]
    mov rsi, [rbx + 16]
    mov rdx, [rbx + 24]
    mov r10, [rbx + 32]
    mov r8, [rbx + 40]
    mov r9, [rbx + 48]
    mov ecx, [rbx + 56]
    test ecx, ecx
    jz 40f
    test cl, 1
    jz 31f
    mov rdi, [rdi]
31: test cl, 2
    jz 32f
    mov rsi, [rsi]
32: test cl, 4
    jz 33f
    mov rdx, [rdx]
33: test cl, 8
    jz 34f
    mov r10, [r10]
34: test cl, 16
    jz 35f
    mov r8, [r8]
35: test cl, 32
    jz 40f
    mov r9, [r9]
40: cmp rax, -3
    jae 60f
    syscall
    test rax, rax
    jz 52f
50: mov [r12], rax
    add r12, 8
    cmp rax, -4095
    jae 53f
51: add rbx, 80
    jmp ghost_exec
52: mov rcx, [rbx + 72]
    test rcx, rcx
    jz 50b
    mov rbx, rcx
    jmp ghost_exec
53: mov rcx, [rbx + 64]
    test rcx, rcx
    jz 51b
    mov [r15 + 8], rbx
    mov rbx, rcx
    jmp ghost_exec
60: je 61f
    cmp rax, -1
    je 62f
    mov qword ptr [r15], 1
    jmp r13
61: mov r12, rdi
    jmp 51b
62: mov [rsi], edi
    jmp 51b
ghost_exec_end:

ghost_slot:
    syscall
    mov r15, rax
ghost_slot_wait:
    mov ebx, 300
    lea r8, [rip + ghost_slot_data]
1:  mov eax, 270
    xor edi, edi
    xor esi, esi
    xor edx, edx
    xor r10d, r10d
    xor r9d, r9d
    syscall
ghost_slot_left:
    // Signals may still be open, should ghost have died before it blocked them; rsp is about to point at no stack.
    lea rsi, [rip + ghost_slot_data + 24]
    mov eax, 14
    mov edi, 2
    xor edx, edx
    mov r10d, 8
    syscall
    test r14, r14
    jz ghost_slot_unmapped
    // Whose block is armed may still run in the area.
    mov ecx, [rip + ghost_slot_data + 32]
    mov rax, r15
    mov r8, [rip + ghost_slot_data + 40]
2:  jrcxz 3f
    dec ecx
    mov edx, [rip + ghost_slot_data + 36]
    add rax, rdx
    add r8, 192
    cmp dword ptr [r8 + 76], 0
    je 2b
    cmp dword ptr [rax], 1
    je 2b
    lea r8, [rip + ghost_slot_data + 8]
    dec ebx
    jnz 1b
    jmp ghost_slot_unmapped
3:  mov eax, 11
    mov rdi, r15
    mov rsi, r14
    syscall
ghost_slot_unmapped:
    lea rsp, [rbp - 56]
    popfq
    // The flags must stay from here on.
    mov rsp, [rbp]
    mov eax, 14
    mov edi, 2
    lea rsi, [rbp - 64]
    mov edx, 0
    mov r10d, 8
    syscall
    // Syscall user dispatch, only where the program has it: a seccomp filter may not like prctl.
    mov ecx, [rbp + 72]
    jrcxz 7f
    mov eax, 157
    mov edi, 59
    mov esi, ecx
    mov rdx, [rbp + 80]
    mov r10, [rbp + 88]
    mov r8, [rbp + 96]
    syscall
7:
    mov rax, [rbp - 48]
    mov rbx, [rbp - 40]
    mov rcx, [rbp - 32]
    mov rdx, [rbp - 24]
    mov rsi, [rbp - 16]
    mov rdi, [rbp - 8]
    mov r8, [rbp + 8]
    mov r9, [rbp + 16]
    mov r10, [rbp + 24]
    mov r11, [rbp + 32]
    mov r12, [rbp + 40]
    mov r13, [rbp + 48]
    mov r14, [rbp + 56]
    mov r15, [rbp + 64]
    // The last two instructions stand in the block, since they need what differs.
    lea rbp, [rbp + 104]
    jmp rbp
ghost_slot_gate:
    cmp dword ptr [rbp + 76], 0
    je ghost_slot_left
    jmp ghost_exec
    .balign 8
ghost_slot_data:
    .fill 48, 1, 0
ghost_slot_end:
    .popsection
"#
);

unsafe extern "C" {
    static ghost_exec: u8;
    static ghost_exec_end: u8;
    static ghost_slot: u8;
    static ghost_slot_wait: u8;
    static ghost_slot_left: u8;
    static ghost_slot_unmapped: u8;
    static ghost_slot_gate: u8;
    static ghost_slot_data: u8;
    static ghost_slot_end: u8;
}

/// Bytes of one record of a batch.
pub const RECORD_LEN: usize = 80;
/// In the place of a call number: stores the low 32 bits of argument 0 at the address in argument 1.
pub const RECORD_STORE: i64 = -1;
/// In the place of a call number: the batch ends here.
pub const RECORD_END: i64 = -2;
/// In the place of a call number: results go to the address in argument 0 from here on.
pub const RECORD_RESULTS: i64 = -3;
/// The instruction by which a breakpoint traps, `int3`.
pub const BREAKPOINT: u8 = 0xcc;
/// The machine that ELF files name (EM_X86_64).
pub const ELF_MACHINE: u16 = 62;
/// `restart_syscall(2)`.
const NR_RESTART_SYSCALL: u64 = 219;
/// User code segment of 64-bit programs.
const USER_CS: u64 = 0x33;
const TRAP_FLAG: u64 = 0x100;
const ERESTARTSYS: i64 = -512;
const ERESTARTNOINTR: i64 = -513;
const ERESTARTNOHAND: i64 = -514;
const ERESTART_RESTARTBLOCK: i64 = -516;

fn between(from: *const u8, to: *const u8) -> &'static [u8] {
    // SAFETY: the callers pass two labels of the constant block above, the first before the second; it is never written.
    unsafe { std::slice::from_raw_parts(from, to.addr() - from.addr()) }
}

/// The code that walks records.
pub fn exec_code() -> &'static [u8] {
    between(&raw const ghost_exec, &raw const ghost_exec_end)
}

/// Where things are in the code that is written into a living program, in bytes from its start. Blocks of threads follow it.
#[derive(Clone, Copy, Debug)]
pub struct SlotMap {
    /// Makes one call with the arguments in registers; its result is the start of the scratch area.
    pub call: u64,
    /// Start of the sleep.
    pub wait: u64,
    /// After the sleep.
    pub left: u64,
    /// After the scratch area was unmapped.
    pub unmapped: u64,
    /// Where a thread comes in that runs a program in another's scratch area.
    pub gate: u64,
    /// Bytes in all: the first block begins here.
    pub len: u64,
}

/// Where things are in [`slot_code`].
pub fn slot_map() -> SlotMap {
    let start = (&raw const ghost_exec).addr();
    let at = |label: *const u8| (label.addr() - start) as u64;
    SlotMap {
        call: at(&raw const ghost_slot),
        wait: at(&raw const ghost_slot_wait),
        left: at(&raw const ghost_slot_left),
        unmapped: at(&raw const ghost_slot_unmapped),
        gate: at(&raw const ghost_slot_gate),
        len: at(&raw const ghost_slot_end),
    }
}

/// *exec*, which stands first, and *slot*.
///
/// A thread waits for `seconds` before it goes home. `others` is how many blocks there are but the owner's, and where the first of
/// them begins.
pub fn slot_code(seconds: u64, others: (usize, u64)) -> Vec<u8> {
    let mut code = between(&raw const ghost_exec, &raw const ghost_slot_end).to_vec();
    let nap_ns = 10_000_000;
    let before = others.1.wrapping_sub(BLOCK_LEN).wrapping_add(BLOCK_MIDDLE);
    // Two timespecs, of which the second begins with the zero that ends the first.
    let words = [seconds, 0, nap_ns, u64::MAX, others.0 as u64, before];
    let data = (&raw const ghost_slot_data).addr() - (&raw const ghost_exec).addr();
    for (i, word) in words.iter().enumerate() {
        code[data + i * 8..data + i * 8 + 8].copy_from_slice(&word.to_le_bytes());
    }
    code
}

/// Offset in [`slot_code`] of a 32-bit number: how far apart the parts of the scratch area lie, of which each block has one.
pub fn slot_part_at() -> u64 {
    slot_map().len - 12
}

/// Bytes of a block.
pub const BLOCK_LEN: u64 = 192;
/// Offset in a block of a 32-bit word: not zero when the thread may come in by the gate.
pub const BLOCK_ARMED: u64 = 140;

/// Where rbp points in the block of a thread that is inside.
const BLOCK_MIDDLE: u64 = 64;

/// A block that brings a thread back to `home` with signal mask `mask`. It is not armed.
///
/// A thread that was stopped in a system call makes the call again, as after a signal without a handler.
///
/// `dispatch` is the syscall user dispatch to be put back, as ptrace tells it: (mode, selector, offset, len).
pub fn block(home: &Registers, mask: u64, dispatch: (u64, u64, u64, u64)) -> Vec<u8> {
    let mut r = *home;
    if r.orig_rax as i64 >= 0 {
        match r.rax as i64 {
            ERESTARTSYS | ERESTARTNOINTR | ERESTARTNOHAND => {
                r.rax = r.orig_rax;
                r.rip -= 2;
            }
            ERESTART_RESTARTBLOCK => {
                r.rax = NR_RESTART_SYSCALL;
                r.rip -= 2;
            }
            _ => {}
        }
    }
    let words = [
        mask,
        r.eflags & !TRAP_FLAG,
        r.rax,
        r.rbx,
        r.rcx,
        r.rdx,
        r.rsi,
        r.rdi,
        r.rsp,
        r.r8,
        r.r9,
        r.r10,
        r.r11,
        r.r12,
        r.r13,
        r.r14,
        r.r15,
        // The upper half is the word at BLOCK_ARMED.
        dispatch.0 & 0xffff_ffff,
        dispatch.2,
        dispatch.3,
        dispatch.1,
    ];
    let mut block = Vec::with_capacity(BLOCK_LEN as usize);
    block.extend(words.iter().flat_map(|w| w.to_le_bytes()));
    // mov rbp, imm64; jmp [rip]; .quad
    block.extend_from_slice(&[0x48, 0xbd]);
    block.extend_from_slice(&r.rbp.to_le_bytes());
    block.extend_from_slice(&[0xff, 0x25, 0, 0, 0, 0]);
    block.extend_from_slice(&r.rip.to_le_bytes());
    block
}

/// Whether these are the registers of a 64-bit program.
pub fn is_native(r: &Registers) -> bool {
    r.cs == USER_CS
}

/// Where the thread is.
pub fn instruction_pointer(r: &Registers) -> u64 {
    r.rip
}

/// Moves the thread to `at`, out of any system call.
pub fn set_instruction_pointer(r: &mut Registers, at: u64) {
    r.rip = at;
    r.orig_rax = u64::MAX;
}

/// What the last system call returned.
pub fn return_value(r: &Registers) -> i64 {
    r.rax as i64
}

/// Registers to make one call by the `syscall` instruction at `at`.
pub fn call_registers(base: &Registers, at: u64, nr: i64, args: [u64; 6]) -> Registers {
    let mut r = *base;
    set_instruction_pointer(&mut r, at);
    r.rax = nr as u64;
    [r.rdi, r.rsi, r.rdx, r.r10, r.r8, r.r9] = args;
    r
}

/// What the call of the code at `code` returned; None when the thread has not made it yet or is elsewhere.
pub fn slot_result(r: &Registers, code: u64) -> Option<i64> {
    let map = slot_map();
    let after_call = code + map.call + 2;
    if r.rip == after_call {
        Some(r.rax as i64)
    } else {
        (r.rip > after_call && r.rip <= code + map.left).then_some(r.r15 as i64)
    }
}

/// Names the block of the thread and the scratch area that it unmaps (0 bytes: none).
pub fn set_scratch(r: &mut Registers, block: u64, base: u64, len: u64) {
    r.rbp = block + BLOCK_MIDDLE;
    r.r15 = base;
    r.r14 = len;
}

/// Where a batch begins.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// The code that walks records, or the gate before it.
    pub exec: u64,
    /// The block of the thread; any where it has none.
    pub block: u64,
    /// Its first record.
    pub record: u64,
    /// Its results.
    pub results: u64,
    /// Where to go at its end.
    pub end: u64,
    /// Where the program lies, and how many bytes from there on the thread has to unmap.
    pub scratch: (u64, u64),
}

/// Registers to start a batch with.
pub fn exec_registers(base: &Registers, entry: &Entry) -> Registers {
    let mut r = *base;
    set_instruction_pointer(&mut r, entry.exec);
    r.rax = 0;
    r.rbx = entry.record;
    r.r12 = entry.results;
    r.r13 = entry.end;
    set_scratch(&mut r, entry.block, entry.scratch.0, entry.scratch.1);
    r
}

/// Offset of a `syscall` instruction in code.
pub fn find_syscall(code: &[u8]) -> Option<usize> {
    code.windows(2).position(|w| w == [0x0f, 0x05])
}

/// Whether a thread that is at `ip` has just executed the trap at `at`.
pub fn is_after_trap(r: &Registers, at: u64) -> bool {
    r.rip == at + 1
}

/// What the page of a stub holds after its ELF header: `int3` and a jump back to it; a sleep and a jump back to it; *exec*.
#[derive(Debug)]
pub struct StubCode {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// Offset of the trap at which a batch ends.
    pub trap: u64,
    /// Offset of the sleep in which a batch ends when it must not trap.
    pub sleep: u64,
    /// Offset of *exec*.
    pub exec: u64,
}

/// Code that ends the process with status 0: `xor edi, edi; mov eax, 231; syscall`.
pub const EXIT: &[u8] = &[0x31, 0xff, 0xb8, 231, 0, 0, 0, 0x0f, 0x05];

/// The code of a stub.
pub fn stub_code() -> StubCode {
    // int3; jmp -3
    let mut bytes = vec![0xcc, 0xeb, 0xfd];
    let sleep = bytes.len() as u64;
    // mov eax, 34 (pause); syscall; jmp back
    bytes.extend_from_slice(&[0xb8, 34, 0, 0, 0, 0x0f, 0x05, 0xeb, 0xf7]);
    bytes.resize(16, 0xcc);
    let exec = bytes.len() as u64;
    bytes.extend_from_slice(exec_code());
    StubCode { bytes, trap: 0, sleep, exec }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_fits_where_it_must() {
        let (map, code) = (slot_map(), slot_code(2, (3, 0x1000)));
        assert!(map.call < map.wait && map.wait < map.left && map.left < map.unmapped && map.unmapped < map.len);
        assert!(map.len + 5 * BLOCK_LEN <= 1488, "{} bytes of code: five blocks do not fit into the vDSO", map.len);
        for end in [map.call + 2, map.left, map.unmapped] {
            assert_eq!(code[end as usize - 2..end as usize], [0x0f, 0x05], "each is what follows a call");
        }
        assert_eq!(&code[..exec_code().len()], exec_code());
        let word = |at: u64| u64::from_le_bytes(code[at as usize..at as usize + 8].try_into().unwrap());
        let data = map.len - 48;
        assert_eq!([0, 8, 16, 24, 32, 40].map(|at| word(data + at)), [2, 0, 10_000_000, u64::MAX, 3, 0xf80]);
        assert_eq!(slot_part_at(), data + 36);
    }

    #[test]
    fn a_call_in_progress_is_made_again() {
        // SAFETY: integers only.
        let mut r: Registers = unsafe { std::mem::zeroed() };
        (r.rip, r.orig_rax, r.eflags, r.rbp) = (0x1002, 34, 0x346, 77);
        let words = |r: &Registers| -> Vec<u64> {
            let block = block(r, 0x55, (1, 2, 3, 4));
            assert_eq!(block.len() as u64, BLOCK_LEN);
            assert_eq!(block[BLOCK_ARMED as usize..BLOCK_ARMED as usize + 4], [0; 4]);
            assert_eq!(block[170..178], 77_u64.to_le_bytes());
            block.chunks(8).map(|c| u64::from_le_bytes(c.try_into().unwrap())).collect()
        };
        for (error, rax) in [(-512_i64, 34_u64), (-513, 34), (-514, 34), (-516, 219)] {
            r.rax = error as u64;
            let words = words(&r);
            assert_eq!(words[0..3], [0x55, 0x246, rax]);
            assert_eq!(words[17..21], [1, 3, 4, 2]);
            assert_eq!(words[23], 0x1000);
        }
        r.rax = -4_i64 as u64;
        assert_eq!(words(&r)[23], 0x1002);
        (r.rax, r.orig_rax) = (-512_i64 as u64, u64::MAX);
        assert_eq!(words(&r)[23], 0x1002);
    }
}
