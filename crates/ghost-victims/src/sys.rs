//! System calls for victims: thin, and loud when the set-up itself does not work.

/// Calls `libc::name(args…)`; panics with the error's text when it returns -1.
///
/// The one `unsafe` of most victims. What makes it sound is that a victim passes addresses of its own live
/// variables, and that a victim which breaks itself fails its test and nothing else.
#[macro_export]
macro_rules! must {
    ($f:ident ( $($a:expr),* $(,)? )) => {{
        // SAFETY: see the macro's documentation.
        #[allow(unused_unsafe, clippy::macro_metavars_in_unsafe)]
        let r = unsafe { libc::$f($($a),*) };
        #[allow(clippy::cast_lossless)]
        if r as isize == -1 {
            panic!("{}: {}", stringify!($f), std::io::Error::last_os_error());
        }
        r
    }};
}

/// Calls `libc::name(args…)` and gives its value as it is.
#[macro_export]
macro_rules! call {
    ($f:ident ( $($a:expr),* $(,)? )) => {{
        // SAFETY: as for `must!`.
        #[allow(unused_unsafe, clippy::macro_metavars_in_unsafe)]
        unsafe { libc::$f($($a),*) }
    }};
}

/// Calls a system call by number, with up to six arguments; `Result<i64, i32>` with errno.
#[macro_export]
macro_rules! raw {
    ($nr:expr $(, $a:expr)* $(,)?) => {{
        #[allow(unused_unsafe, clippy::macro_metavars_in_unsafe)]
        // SAFETY: as for `must!`.
        let r = unsafe { libc::syscall(($nr) as libc::c_long $(, ($a) as libc::c_long)*) };
        if r == -1 { Err($crate::sys::errno()) } else { Ok(r as i64) }
    }};
}

/// The calling thread's errno.
pub fn errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

/// The text of an errno value.
pub fn strerror(e: i32) -> String {
    std::io::Error::from_raw_os_error(e).to_string()
}

/// A path or text as a C string.
pub fn c(s: &str) -> std::ffi::CString {
    std::ffi::CString::new(s).expect("no NUL inside")
}

/// A value whose bytes are all zero, for kernel structures.
///
/// # Safety
/// All zeroes must be a value of `T`; true for the plain C structures this is used with.
pub unsafe fn zeroed<T>() -> T {
    // SAFETY: the caller's promise.
    unsafe { std::mem::zeroed() }
}

/// CLOCK_MONOTONIC in nanoseconds.
pub fn now_ns() -> i64 {
    clock_ns(libc::CLOCK_MONOTONIC)
}

/// A clock in nanoseconds.
pub fn clock_ns(clock: libc::clockid_t) -> i64 {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    must!(clock_gettime(clock, &mut t));
    t.tv_sec * 1_000_000_000 + t.tv_nsec
}

/// A timespec of so many milliseconds.
pub fn ms(ms: i64) -> libc::timespec {
    libc::timespec { tv_sec: ms / 1000, tv_nsec: ms % 1000 * 1_000_000 }
}

/// Sleeps by nanosleep(2), resumed when a signal cuts it short.
pub fn sleep_ms(n: i64) {
    let mut t = ms(n);
    // SAFETY: both arguments are the same live timespec, which the kernel allows.
    while unsafe { libc::syscall(libc::SYS_nanosleep, &t as *const _, &mut t as *mut _) } == -1
        && errno() == libc::EINTR
    {}
}

/// Fills a buffer with numbers that only this seed gives (xorshift64*).
pub fn prng_fill(seed: u64, buf: &mut [u8]) {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for w in buf.chunks_mut(8) {
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        w.copy_from_slice(&x.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes()[..w.len()]);
    }
}

/// The offset of the first byte that differs from what [`prng_fill`] would write.
pub fn prng_differs(seed: u64, buf: &[u8]) -> Option<usize> {
    let mut expected = [0u8; 8];
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for (i, w) in buf.chunks(8).enumerate() {
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        expected.copy_from_slice(&x.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
        if expected[..w.len()] != *w {
            return Some(i * 8 + w.iter().zip(&expected).position(|(a, b)| a != b).unwrap_or(0));
        }
    }
    None
}
