//! All that depends on the processor. A port provides what `x86_64.rs` provides; docs/porting.md lists it.

#[cfg(target_arch = "x86_64")]
mod x86_64;
#[cfg(target_arch = "x86_64")]
pub use x86_64::*;
