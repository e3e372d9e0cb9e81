//! Bytes into numbers and words: what all the parsers of this module are made of.
//!
//! procfs prints bytes, not UTF-8: names are whatever a program chose. Nothing here allocates on the way.

use std::fmt;

/// Text of procfs that is not what this parser knows; says which file, which field, and what stood there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError {
    /// The file, as named under `/proc/PID`.
    pub file: &'static str,
    /// The field that could not be understood.
    pub field: &'static str,
    /// What stood there, cut to a readable length.
    pub found: String,
}

impl ParseError {
    pub(crate) fn new(file: &'static str, field: &'static str, found: &[u8]) -> Self {
        let cut = &found[..found.len().min(120)];
        Self { file, field, found: cut.escape_ascii().to_string() }
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "procfs file {}: field {} is not understood: \"{}\"", self.file, self.field, self.found)
    }
}

impl std::error::Error for ParseError {}

/// The result of a parser.
pub type Parsed<T> = Result<T, ParseError>;

/// Names file and field once, so that each use stays one word long.
#[derive(Clone, Copy)]
pub(crate) struct At(pub &'static str);

impl At {
    pub fn dec(self, field: &'static str, text: &[u8]) -> Parsed<u64> {
        dec(text).ok_or_else(|| ParseError::new(self.0, field, text))
    }
    pub fn signed(self, field: &'static str, text: &[u8]) -> Parsed<i64> {
        signed(text).ok_or_else(|| ParseError::new(self.0, field, text))
    }
    pub fn hex(self, field: &'static str, text: &[u8]) -> Parsed<u64> {
        radix::<16>(text).ok_or_else(|| ParseError::new(self.0, field, text))
    }
    pub fn oct(self, field: &'static str, text: &[u8]) -> Parsed<u64> {
        radix::<8>(text).ok_or_else(|| ParseError::new(self.0, field, text))
    }
    pub fn narrow<T: TryFrom<i64>>(self, field: &'static str, text: &[u8]) -> Parsed<T> {
        signed(text).and_then(|v| T::try_from(v).ok()).ok_or_else(|| ParseError::new(self.0, field, text))
    }
    pub fn list<T: TryFrom<i64>>(self, field: &'static str, text: &[u8]) -> Parsed<Vec<T>> {
        words(text).map(|w| self.narrow(field, w)).collect()
    }
    pub fn error<T>(self, field: &'static str, text: &[u8]) -> Parsed<T> {
        Err(ParseError::new(self.0, field, text))
    }
}

fn radix<const BASE: u64>(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    let mut value: u64 = 0;
    for &b in text {
        let digit = match b {
            b'0'..=b'9' => b - b'0',
            b'a'..=b'f' => b - b'a' + 10,
            b'A'..=b'F' => b - b'A' + 10,
            _ => return None,
        } as u64;
        if digit >= BASE {
            return None;
        }
        value = value.checked_mul(BASE)?.checked_add(digit)?;
    }
    Some(value)
}

pub(crate) fn dec(text: &[u8]) -> Option<u64> {
    radix::<10>(text)
}

pub(crate) fn signed(text: &[u8]) -> Option<i64> {
    match text.strip_prefix(b"-") {
        Some(digits) => 0_i64.checked_sub_unsigned(dec(digits)?),
        None => i64::try_from(dec(text)?).ok(),
    }
}

/// Hexadecimal with or without `0x`.
pub(crate) fn hex(text: &[u8]) -> Option<u64> {
    radix::<16>(text.strip_prefix(b"0x").unwrap_or(text))
}

/// `major:minor` in hexadecimal, as `stat(2)` writes a device.
pub(crate) fn device_hex(text: &[u8]) -> Option<u64> {
    let (major, minor) = split_once(text, b':')?;
    Some(libc::makedev(radix::<16>(major)? as u32, radix::<16>(minor)? as u32))
}

/// A device as fdinfo prints it, the kernel's own `dev_t` (12 bits major, 20 bits minor), as `stat(2)` writes it.
pub(crate) fn device_kernel(value: u64) -> u64 {
    libc::makedev((value >> 20) as u32, (value & 0xf_ffff) as u32)
}

pub(crate) fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|&b| b == b'\n').filter(|line| !line.is_empty())
}

/// How many of these bytes are whole lines.
pub(crate) fn whole_lines(text: &[u8]) -> usize {
    text.iter().rposition(|b| *b == b'\n').map_or(0, |last| last + 1)
}

pub(crate) fn words(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|b| matches!(b, b' ' | b'\t' | b'\n')).filter(|word| !word.is_empty())
}

pub(crate) fn split_once(text: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let i = text.iter().position(|&b| b == at)?;
    Some((&text[..i], &text[i + 1..]))
}

/// Undoes `\ooo` escapes. `only`: the one character that this file escapes; None when a backslash is escaped too.
pub(crate) fn unescape(text: &[u8], only: Option<u8>) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(&first) = rest.first() {
        let code = rest.get(1..4).filter(|_| first == b'\\').and_then(radix::<8>).and_then(|v| u8::try_from(v).ok());
        match code {
            Some(byte) if only.is_none_or(|o| o == byte) => {
                out.push(byte);
                rest = &rest[4..];
            }
            _ => {
                out.push(first);
                rest = &rest[1..];
            }
        }
    }
    out
}

/// Pairs of hexadecimal digits as bytes.
pub(crate) fn hex_bytes(text: &[u8]) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) {
        return None;
    }
    text.chunks_exact(2).map(|pair| radix::<16>(pair).map(|v| v as u8)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_bounded() {
        assert_eq!(dec(b"18446744073709551615"), Some(u64::MAX));
        assert_eq!(dec(b"18446744073709551616"), None);
        assert_eq!(dec(b""), None);
        assert_eq!(dec(b"1a"), None);
        assert_eq!(signed(b"-9223372036854775808"), Some(i64::MIN));
        assert_eq!(signed(b"9223372036854775808"), None);
        assert_eq!(hex(b"0xff"), Some(255));
        assert_eq!(At("x").narrow::<u32>("y", b"4294967296").unwrap_err().field, "y");
        assert_eq!(device_hex(b"fe:01"), Some(libc::makedev(0xfe, 1)));
        assert_eq!(device_kernel(0xfe00001), libc::makedev(0xfe, 1));
    }

    #[test]
    fn escapes_are_undone_where_the_kernel_makes_them() {
        assert_eq!(unescape(br"/a b\012c/x\134y\", Some(b'\n')), b"/a b\nc/x\\134y\\");
        assert_eq!(unescape(br"/a\040b\134\012", None), b"/a b\\\n");
        assert_eq!(hex_bytes(b"a7c4"), Some(vec![0xa7, 0xc4]));
        assert_eq!(hex_bytes(b"a7c"), None);
    }
}
