//! Kernel error numbers.

use std::fmt;

/// An error number of the kernel; prints as its name and its meaning, such as `EPERM (Operation not permitted)`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(pub i32);

impl Errno {
    /// The calling thread's last error, as libc keeps it.
    pub fn last() -> Self {
        Self(std::io::Error::last_os_error().raw_os_error().unwrap_or(0))
    }
    /// From what a raw system call returned: `-4095..=-1` are errors.
    pub fn check(value: i64) -> Result<i64, Self> {
        if (-4095..0).contains(&value) { Err(Self(-value as i32)) } else { Ok(value) }
    }
}

impl std::error::Error for Errno {}
impl From<std::io::Error> for Errno {
    fn from(e: std::io::Error) -> Self {
        Self(e.raw_os_error().unwrap_or(libc::EIO))
    }
}
impl From<Errno> for std::io::Error {
    fn from(e: Errno) -> Self {
        Self::from_raw_os_error(e.0)
    }
}
impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = std::io::Error::from_raw_os_error(self.0).to_string();
        write!(f, "{}", text.split(" (os error").next().unwrap_or(&text))
    }
}

/// The result of a libc call that answers -1 and sets errno.
pub(crate) fn cvt(value: i64) -> crate::Result<i64> {
    if value == -1 { Err(Errno::last()) } else { Ok(value) }
}
