//! All that depends on the processor. A port provides what `x86_64.rs` provides; docs/porting.md says what each must do:
//!
//! - code for other processes: `exec_code`, `slot_code`, `slot_map`, `slot_part_at`, `block`, `stub_code`, `EXIT`, and the constants `RECORD_LEN`,
//!   `RECORD_STORE`, `RECORD_END`, `RECORD_RESULTS`, `BLOCK_LEN`, `BLOCK_ARMED`;
//! - registers: `is_native`, `instruction_pointer`, `set_instruction_pointer`, `return_value`, `call_registers`, `exec_registers`,
//!   `set_scratch`, `slot_result`, `is_after_trap`;
//! - facts: `ELF_MACHINE`, `BREAKPOINT`, `find_syscall`.

#[cfg(target_arch = "x86_64")]
mod x86_64;
#[cfg(target_arch = "x86_64")]
pub use x86_64::*;
