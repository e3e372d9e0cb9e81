//! The session keyring of ghost itself: `keyctl(2)`.

#![allow(unsafe_code)]

/// Serial number of the session keyring of the calling thread; 0 where the kernel has none.
pub fn session() -> i32 {
    const KEYCTL_GET_KEYRING_ID: libc::c_int = 0;
    const KEY_SPEC_SESSION_KEYRING: libc::c_int = -3;
    // SAFETY: this command of keyctl(2) takes three integers and touches no memory of ours.
    let serial = unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING, 0) };
    if serial < 0 { 0 } else { serial as i32 }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_answer_does_not_change_by_asking() {
        assert_eq!(super::session(), super::session());
    }
}
