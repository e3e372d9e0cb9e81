//! x86-64: registers, the executor's code, facts of the vDSO.
//!
//! Two pieces of position-independent code are kept here as bytes and copied into other processes; they never run in ghost.
//! *exec* walks the records of a batch. It uses no stack and no vector register:
//!
//! | register | holds |
//! |---|---|
//! | rbx | the record: nr, args\[6\], mask of arguments to be loaded, target on error, target on zero (10 words) |
//! | r12 | where the next result goes |
//! | r13 | where to jump at the end |
//! | r14, r15 | length and start of the scratch area; its first word is set to 1 at the end, its second names a failed record |
//!
//! *slot* is the dead-man's switch of one thread: it sleeps, and if nobody has come for the thread by then, it unmaps the
//! scratch area, puts flags, signal mask, syscall user dispatch and registers back and jumps to where the thread was. It sleeps in `pselect6`, which
//! leaves `restart_block` alone, so that an interrupted `nanosleep` of the program keeps its remaining time. The timeout
//! lies in memory that is read-only to the process, so an interrupted `pselect6` is not restarted: a thread that the death of ghost
//! releases goes home at once.

#![allow(unsafe_code)]

use crate::ptrace::Registers;

std::arch::global_asm!(
    r#"
    .pushsection .rodata.ghost_remote, "a", @progbits
    .balign 16
    .globl ghost_exec, ghost_exec_end, ghost_slot, ghost_slot_wait, ghost_slot_left, ghost_slot_unmapped
    .globl ghost_slot_data, ghost_slot_end
    .hidden ghost_exec, ghost_exec_end, ghost_slot, ghost_slot_wait, ghost_slot_left, ghost_slot_unmapped
    .hidden ghost_slot_data, ghost_slot_end
ghost_exec:
    mov rax, [rbx]
    mov rdi, [rbx + 8]
    mov rsi, [rbx + 16]
    mov rdx, [rbx + 24]
    mov r10, [rbx + 32]
    mov r8, [rbx + 40]
    mov r9, [rbx + 48]
    mov ebp, [rbx + 56]
    test ebp, ebp
    jz 40f
    test ebp, 1
    jz 31f
    mov rdi, [rdi]
31: test ebp, 2
    jz 32f
    mov rsi, [rsi]
32: test ebp, 4
    jz 33f
    mov rdx, [rdx]
33: test ebp, 8
    jz 34f
    mov r10, [r10]
34: test ebp, 16
    jz 35f
    mov r8, [r8]
35: test ebp, 32
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

    .balign 16
ghost_slot:
    syscall
    mov r15, rax
ghost_slot_wait:
    mov eax, 270
    xor edi, edi
    xor esi, esi
    xor edx, edx
    xor r10d, r10d
    lea r8, [rip + ghost_slot_data]
    xor r9d, r9d
    syscall
ghost_slot_left:
    mov eax, 11
    mov rdi, r15
    mov rsi, r14
    syscall
ghost_slot_unmapped:
    lea rsp, [rip + ghost_slot_data + 24]
    popfq
    mov rsp, [rip + ghost_slot_data + 88]
    mov eax, 14
    mov edi, 2
    lea rsi, [rip + ghost_slot_data + 16]
    mov edx, 0
    mov r10d, 8
    syscall
    // Syscall user dispatch, only where the program has it: a seccomp filter may not like prctl. The flags must stay.
    mov rcx, [rip + ghost_slot_data + 168]
    jrcxz 7f
    mov eax, 157
    mov edi, 59
    mov rsi, rcx
    mov rdx, [rip + ghost_slot_data + 176]
    mov r10, [rip + ghost_slot_data + 184]
    mov r8, [rip + ghost_slot_data + 192]
    syscall
7:
    mov rax, [rip + ghost_slot_data + 32]
    mov rbx, [rip + ghost_slot_data + 40]
    mov rcx, [rip + ghost_slot_data + 48]
    mov rdx, [rip + ghost_slot_data + 56]
    mov rsi, [rip + ghost_slot_data + 64]
    mov rdi, [rip + ghost_slot_data + 72]
    mov rbp, [rip + ghost_slot_data + 80]
    mov r8, [rip + ghost_slot_data + 96]
    mov r9, [rip + ghost_slot_data + 104]
    mov r10, [rip + ghost_slot_data + 112]
    mov r11, [rip + ghost_slot_data + 120]
    mov r12, [rip + ghost_slot_data + 128]
    mov r13, [rip + ghost_slot_data + 136]
    mov r14, [rip + ghost_slot_data + 144]
    mov r15, [rip + ghost_slot_data + 152]
    jmp qword ptr [rip + ghost_slot_data + 160]
    .balign 8
ghost_slot_data:
    .fill 200, 1, 0
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

fn slot_code() -> &'static [u8] {
    between(&raw const ghost_slot, &raw const ghost_slot_end)
}

/// Where things are in a slot, in bytes from its start. Its start makes one call with the arguments in registers.
#[derive(Clone, Copy, Debug)]
pub struct SlotMap {
    /// Start of the sleep.
    pub wait: u64,
    /// After the sleep.
    pub left: u64,
    /// After the scratch area was unmapped.
    pub unmapped: u64,
    /// Bytes in all.
    pub len: u64,
}

/// Where things are in a slot.
pub fn slot_map() -> SlotMap {
    let start = (&raw const ghost_slot).addr();
    let at = |label: *const u8| (label.addr() - start) as u64;
    SlotMap {
        wait: at(&raw const ghost_slot_wait),
        left: at(&raw const ghost_slot_left),
        unmapped: at(&raw const ghost_slot_unmapped),
        len: at(&raw const ghost_slot_end),
    }
}

/// A slot that brings a thread back to `home` with signal mask `mask`, `seconds` after nobody came for it.
///
/// A thread that was stopped in a system call makes the call again, as after a signal without a handler.
///
/// `dispatch` is the syscall user dispatch to be put back, as ptrace tells it: (mode, selector, offset, len).
pub fn slot(home: &Registers, mask: u64, dispatch: (u64, u64, u64, u64), seconds: u64) -> Vec<u8> {
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
        seconds,
        0,
        mask,
        r.eflags & !TRAP_FLAG,
        r.rax,
        r.rbx,
        r.rcx,
        r.rdx,
        r.rsi,
        r.rdi,
        r.rbp,
        r.rsp,
        r.r8,
        r.r9,
        r.r10,
        r.r11,
        r.r12,
        r.r13,
        r.r14,
        r.r15,
        r.rip,
        dispatch.0,
        dispatch.2,
        dispatch.3,
        dispatch.1,
    ];
    let mut code = slot_code().to_vec();
    let data = (&raw const ghost_slot_data).addr() - (&raw const ghost_slot).addr();
    for (i, word) in words.iter().enumerate() {
        code[data + i * 8..data + i * 8 + 8].copy_from_slice(&word.to_le_bytes());
    }
    code
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

/// What the call at the start of the slot at `slot` returned; None when the thread has not made it yet or is elsewhere.
pub fn slot_result(r: &Registers, slot: u64) -> Option<i64> {
    let (after_call, map) = (slot + 2, slot_map());
    if r.rip == after_call {
        Some(r.rax as i64)
    } else {
        (r.rip > after_call && r.rip <= slot + map.left).then_some(r.r15 as i64)
    }
}

/// Names the scratch area that a slot unmaps (0 bytes: none).
pub fn set_scratch(r: &mut Registers, base: u64, len: u64) {
    r.r15 = base;
    r.r14 = len;
}

/// Where a batch begins.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// The code that walks records.
    pub exec: u64,
    /// Its first record.
    pub record: u64,
    /// Its results.
    pub results: u64,
    /// Where to go at its end.
    pub end: u64,
    /// The scratch area.
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
    set_scratch(&mut r, entry.scratch.0, entry.scratch.1);
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
        let map = slot_map();
        assert!(map.wait < map.left && map.left < map.unmapped && map.unmapped < map.len);
        assert!(exec_code().len() as u64 + map.len < 800, "{} + {}", exec_code().len(), map.len);
        assert_eq!(&slot_code()[..2], &[0x0f, 0x05], "a slot begins with its call");
        assert_eq!(&slot_code()[map.left as usize - 2..map.left as usize], &[0x0f, 0x05]);
        assert_eq!(&slot_code()[map.unmapped as usize - 2..map.unmapped as usize], &[0x0f, 0x05]);
    }

    #[test]
    fn a_call_in_progress_is_made_again() {
        // SAFETY: integers only.
        let mut r: Registers = unsafe { std::mem::zeroed() };
        (r.rip, r.orig_rax, r.eflags) = (0x1002, 34, 0x346);
        for (error, rax) in [(-512_i64, 34_u64), (-513, 34), (-514, 34), (-516, 219)] {
            r.rax = error as u64;
            let code = slot(&r, 0x55, (0, 0, 0, 0), 2);
            let words: Vec<u64> =
                code[code.len() - 200..].chunks(8).map(|c| u64::from_le_bytes(c.try_into().unwrap())).collect();
            assert_eq!(words[0..5], [2, 0, 0x55, 0x246, rax]);
            assert_eq!(words[20], 0x1000);
        }
        r.rax = -4_i64 as u64;
        assert_eq!(slot(&r, 0, (0, 0, 0, 0), 2)[slot_code().len() - 40..][..8], 0x1002_u64.to_le_bytes());
        (r.rax, r.orig_rax) = (-512_i64 as u64, u64::MAX);
        assert_eq!(slot(&r, 0, (0, 0, 0, 0), 2)[slot_code().len() - 40..][..8], 0x1002_u64.to_le_bytes());
    }
}
