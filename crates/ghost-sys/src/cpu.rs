//! What this processor can do: `cpuid` and XCR0, as the Host record of a ghost keeps them.
//!
//! A ghost may only wake on a processor that has all that the program may have seen: instruction sets by cpuid, register
//! state by XCR0 (`Intel SDM` vol. 1 ch. 13). What the kernel has switched off is missing in XCR0 and is left out here too.

#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{__cpuid_count, _xgetbv, CpuidResult};

    fn leaf(leaf: u32, sub: u32) -> CpuidResult {
        #[allow(unused_unsafe)] // Safe to call since Rust 1.94; the oldest that we build with wants the block.
        // SAFETY: every x86-64 processor has cpuid.
        let highest = unsafe { __cpuid_count(leaf & 0x8000_0000, 0) }.eax;
        if leaf > highest {
            // An unknown leaf answers with the data of another.
            return CpuidResult { eax: 0, ebx: 0, ecx: 0, edx: 0 };
        }
        #[allow(unused_unsafe)]
        // SAFETY: as above.
        unsafe {
            __cpuid_count(leaf, sub)
        }
    }

    #[target_feature(enable = "xsave")]
    fn xcr0() -> u64 {
        // SAFETY: the caller has seen OSXSAVE, so the instruction exists and XCR0 may be read.
        unsafe { _xgetbv(0) }
    }

    pub fn feature_words() -> Vec<u32> {
        let (one, seven, extended) = (leaf(1, 0), leaf(7, 0), leaf(0x8000_0001, 0));
        const OSXSAVE: u32 = 1 << 27;
        const HYPERVISOR: u32 = 1 << 31;
        const OSPKE: u32 = 1 << 4;
        vec![
            one.ecx & !(OSXSAVE | HYPERVISOR),
            one.edx,
            seven.ebx,
            seven.ecx & !OSPKE,
            seven.edx,
            extended.ecx,
            extended.edx,
        ]
    }

    pub fn xfeatures() -> u64 {
        const OSXSAVE: u32 = 1 << 27;
        if leaf(1, 0).ecx & OSXSAVE == 0 {
            return 0;
        }
        // SAFETY: OSXSAVE says that the processor has xsave and the kernel uses it.
        unsafe { xcr0() }
    }

    pub fn xstate_size() -> u64 {
        // Leaf 13: ebx is the size for what is enabled now. AMX state that a program must ask for first counts as enabled.
        u64::from(leaf(13, 0).ebx)
    }

    pub fn vendor_and_model() -> (String, u32) {
        let zero = leaf(0, 0);
        let bytes: Vec<u8> = [zero.ebx, zero.edx, zero.ecx].iter().flat_map(|w| w.to_le_bytes()).collect();
        (String::from_utf8_lossy(&bytes).into_owned(), leaf(1, 0).eax)
    }
}

/// Feature words in the order of the Host record: cpuid 1.ecx, 1.edx, 7.0.ebx, 7.0.ecx, 7.0.edx, 80000001.ecx, 80000001.edx.
///
/// Bits of the kernel's or the hypervisor's doing (OSXSAVE, OSPKE, HYPERVISOR) are left out. Empty on other architectures.
pub fn feature_words() -> Vec<u32> {
    #[cfg(target_arch = "x86_64")]
    return x86::feature_words();
    #[cfg(not(target_arch = "x86_64"))]
    Vec::new()
}

/// XCR0: which register states the kernel keeps for programs. 0 on other architectures.
pub fn xfeatures() -> u64 {
    #[cfg(target_arch = "x86_64")]
    return x86::xfeatures();
    #[cfg(not(target_arch = "x86_64"))]
    0
}

/// Bytes of an xsave area in standard format with all states that are enabled.
pub fn xstate_size() -> u64 {
    #[cfg(target_arch = "x86_64")]
    return x86::xstate_size();
    #[cfg(not(target_arch = "x86_64"))]
    0
}

/// The maker's name and the signature (family, model, stepping), for messages.
pub fn vendor_and_model() -> (String, u32) {
    #[cfg(target_arch = "x86_64")]
    return x86::vendor_and_model();
    #[cfg(not(target_arch = "x86_64"))]
    (std::env::consts::ARCH.to_owned(), 0)
}

/// The cpuid bits, by position in [`feature_words`], that `needed` has and `here` lacks: `(word, bit)`.
pub fn missing(needed: &[u32], here: &[u32]) -> Vec<(usize, u32)> {
    let bits = |(word, &bits): (usize, &u32)| {
        let lacking = bits & !here.get(word).copied().unwrap_or(0);
        (0..32).filter(move |bit| lacking >> bit & 1 == 1).map(move |bit| (word, bit))
    };
    needed.iter().enumerate().flat_map(bits).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn agrees_with_what_std_detects() {
        let w = feature_words();
        assert_eq!(w.len(), 7);
        let has = |word: usize, bit: u32| w[word] >> bit & 1 == 1;
        assert!(has(1, 26), "every x86-64 has SSE2");
        assert_eq!(has(0, 20), std::is_x86_feature_detected!("sse4.2"));
        // std asks the kernel's part too, for what needs state.
        assert_eq!(has(2, 5) && xfeatures() & 6 == 6, std::is_x86_feature_detected!("avx2"));
        assert_eq!(has(2, 8), std::is_x86_feature_detected!("bmi2"));
        assert_eq!(xfeatures() & 3, 3, "x87 and SSE state are always kept");
        assert!(xstate_size() >= 576);
        let (vendor, signature) = vendor_and_model();
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap();
        assert!(cpuinfo.contains(&vendor) && signature != 0);
    }

    #[test]
    fn differences_are_named() {
        assert_eq!(missing(&[0b1011, 1], &[0b0010]), [(0, 0), (0, 3), (1, 0)]);
        assert!(missing(&[3], &[7, 9]).is_empty());
    }
}
