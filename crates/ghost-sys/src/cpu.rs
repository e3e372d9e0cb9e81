//! What this processor can do, in the words that a ghost keeps to be compared with another host's.

#![allow(unsafe_code)]

/// Feature words of CPUID in a fixed order: leaf 1 ecx, edx; leaf 7 ebx, ecx, edx; leaf 0x80000001 ecx, edx.
///
/// Bits that describe a core's place or change by the kernel's doing (OSXSAVE, OSPKE, HYPERVISOR) are masked out.
#[cfg(target_arch = "x86_64")]
pub fn feature_words() -> Vec<u32> {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    let (one, seven, ext) = (__cpuid(1), __cpuid_count(7, 0), __cpuid(0x8000_0001));
    const KERNELS: u32 = 1 << 27 | 1 << 31;
    vec![one.ecx & !KERNELS, one.edx, seven.ebx, seven.ecx & !(1 << 4), seven.edx, ext.ecx, ext.edx]
}

/// XCR0: the vector state that the kernel has enabled; 0 without XSAVE.
#[cfg(target_arch = "x86_64")]
pub fn xfeatures() -> u64 {
    if !std::is_x86_feature_detected!("xsave") {
        return 0;
    }
    // SAFETY: xsave is there and OSXSAVE is set by every kernel that runs 64-bit user space with it, so xgetbv of XCR0 is allowed.
    unsafe { xcr0() }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "xsave")]
unsafe fn xcr0() -> u64 {
    // SAFETY: register 0 exists wherever xgetbv does.
    unsafe { std::arch::x86_64::_xgetbv(0) }
}
