//! `/proc/PID/maps`: the mappings of an address space, `proc_pid_maps(5)`.
//!
//! The kernel writes a newline in a file name as `\012` and leaves a backslash alone, so that a name that really
//! contains these four characters reads the same; the inode and `map_files` tell the truth in doubt.

use super::text::{At, device_hex, lines, split_once, unescape, whole_lines};
use super::{Parsed, ProcDir, ProcResult};

bitflags::bitflags! {
    /// What a mapping allows, and whether writes are shared.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct Perms: u8 {
        /// `PROT_READ`
        const READ = 1;
        /// `PROT_WRITE`
        const WRITE = 2;
        /// `PROT_EXEC`
        const EXEC = 4;
        /// `MAP_SHARED`
        const SHARED = 8;
    }
}

impl Perms {
    /// The `PROT_*` bits, as `mmap(2)` takes them.
    pub fn prot(self) -> i32 {
        i32::from(self.bits() & 7)
    }
}

/// One mapping (the kernel's VMA).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Its first address.
    pub start: u64,
    /// The address after its last.
    pub end: u64,
    /// Protection and sharing.
    pub perms: Perms,
    /// Where in the file it begins, in bytes.
    pub offset: u64,
    /// The device of the file as `stat(2)` has it; 0 for anonymous memory.
    pub dev: u64,
    /// The inode of the file; 0 for anonymous memory.
    pub inode: u64,
    /// What is printed behind: a path (with ` (deleted)` when it has no name any more), `[heap]`, `[anon:name]`, or nothing.
    pub name: Vec<u8>,
}

impl Mapping {
    /// How long it is.
    pub fn len(&self) -> u64 {
        self.end - self.start
    }
    /// Never: the kernel keeps no empty mapping.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }
    /// Whether a file (or a shared memory object, which is one) is mapped.
    pub fn is_file(&self) -> bool {
        self.inode != 0 || self.name.first() == Some(&b'/')
    }
    /// Whether the file has no name any more. A file whose name truly ends so reads the same: compare inodes.
    pub fn is_deleted(&self) -> bool {
        self.is_file() && self.name.ends_with(DELETED)
    }
    /// The file's path, without the kernel's ` (deleted)`.
    pub fn path(&self) -> Option<&[u8]> {
        self.is_file().then(|| self.name.strip_suffix(DELETED).unwrap_or(&self.name))
    }
    /// The name that the program gave this anonymous memory (`PR_SET_VMA_ANON_NAME`): `[anon:NAME]`, `[anon_shmem:NAME]`.
    pub fn given_name(&self) -> Option<&[u8]> {
        let inner = self.name.strip_suffix(b"]")?;
        inner.strip_prefix(b"[anon:").or_else(|| inner.strip_prefix(b"[anon_shmem:"))
    }
    /// Its name under `/proc/PID/map_files`, which is a link to the mapped file even when that is deleted.
    pub fn map_file(&self) -> String {
        format!("map_files/{:x}-{:x}", self.start, self.end)
    }
}

const DELETED: &[u8] = b" (deleted)";

/// Parses `/proc/PID/maps`.
pub fn parse_maps(text: &[u8]) -> Parsed<Vec<Mapping>> {
    let mut maps = Vec::with_capacity(text.len() / 64);
    for line in lines(text) {
        maps.push(parse_mapping(line)?);
    }
    Ok(maps)
}

/// Reads the mappings of a process, ascending.
pub fn read_maps(dir: &ProcDir) -> ProcResult<Vec<Mapping>> {
    read_many_maps(dir, |_| ())
}

/// The same, and tells `watch` now and then how many there are so far, for who does something else where they are many.
pub fn read_many_maps(dir: &ProcDir, mut watch: impl FnMut(usize)) -> ProcResult<Vec<Mapping>> {
    let mut maps = Vec::new();
    dir.parse_in_parts("maps", |text, is_last| {
        let whole = if is_last { text.len() } else { whole_lines(text) };
        for line in lines(&text[..whole]) {
            maps.push(parse_mapping(line)?);
        }
        watch(maps.len());
        Ok(whole)
    })?;
    Ok(maps)
}

/// Parses one line: `start-end perms offset major:minor inode   name`.
pub(super) fn parse_mapping(line: &[u8]) -> Parsed<Mapping> {
    let at = At("maps");
    let mut rest = line;
    let mut word = |field| match split_once(rest, b' ') {
        Some((word, tail)) => {
            rest = tail;
            Ok(word)
        }
        None => at.error(field, line),
    };
    let range = word("address")?;
    let perms = word("perms")?;
    let offset = word("offset")?;
    let dev = word("dev")?;
    // The name stands in a fixed column, and the inode is followed by at least one blank even without a name.
    let (inode, name) = split_once(rest, b' ').unwrap_or((rest, &[]));
    let (start, end) = split_once(range, b'-').map_or_else(|| at.error("address", range), Ok)?;
    let (start, end) = (at.hex("address", start)?, at.hex("address", end)?);
    if start > end || perms.len() != 4 {
        return at.error("address and perms", line);
    }
    let mut bits = Perms::empty();
    bits.set(Perms::READ, perms[0] == b'r');
    bits.set(Perms::WRITE, perms[1] == b'w');
    bits.set(Perms::EXEC, perms[2] == b'x');
    bits.set(Perms::SHARED, perms[3] == b's');
    let name = &name[name.iter().position(|&b| b != b' ').unwrap_or(name.len())..];
    Ok(Mapping {
        start,
        end,
        perms: bits,
        offset: at.hex("offset", offset)?,
        dev: device_hex(dev).map_or_else(|| at.error("dev", dev), Ok)?,
        inode: at.dec("inode", inode)?,
        name: if name.contains(&b'\\') { unescape(name, Some(b'\n')) } else { name.to_vec() },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &[u8] = br"55d0aa3e7000-55d0aa3e9000 r--p 00000000 fe:00 9437256                    /usr/bin/cat
7f7376a94000-7f7376a96000 rw-s 00000000 00:01 1026                       /dev/zero (deleted)
7f7377712000-7f7377713000 rw-s 00001000 fe:00 10010880                   /tmp/a b\012c/x\y (deleted)
7f7377713000-7f7377715000 rw-p 00000000 00:00 0 
7f7377715000-7f7377717000 rw-p 00000000 00:00 0                          [anon:my heap]
7ffd7ae5e000-7ffd7ae7f000 rw-p 00000000 00:00 0                          [stack]
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
";

    #[test]
    fn real_lines() {
        let m = parse_maps(TEXT).unwrap();
        assert_eq!(m.len(), 7);
        assert_eq!((m[0].start, m[0].end), (0x55d0aa3e7000, 0x55d0aa3e9000));
        assert_eq!(m[0].perms, Perms::READ);
        assert_eq!((m[0].dev, m[0].inode), (libc::makedev(0xfe, 0), 9437256));
        assert_eq!(m[0].path(), Some(&b"/usr/bin/cat"[..]));
        assert!(!m[0].is_deleted());
        assert!(m[1].is_deleted() && m[1].perms.contains(Perms::SHARED));
        assert_eq!(m[2].path(), Some(&b"/tmp/a b\nc/x\\y"[..]));
        assert_eq!(m[2].offset, 0x1000);
        assert!(m[3].name.is_empty() && !m[3].is_file() && m[3].path().is_none());
        assert_eq!(m[4].given_name(), Some(&b"my heap"[..]));
        assert_eq!(m[5].name, b"[stack]");
        assert_eq!(m[5].map_file(), "map_files/7ffd7ae5e000-7ffd7ae7f000");
        assert_eq!((m[6].end, m[6].perms.prot()), (0xffff_ffff_ff60_1000, libc::PROT_EXEC));
    }

    #[test]
    fn broken_lines_are_named() {
        for bad in [
            &b"zz-1 r--p 0 0:0 0"[..],
            b"1000-2000 r--p",
            b"2000-1000 r--p 0 0:0 0 ",
            b"1-2 r-p 0 0:0 0 ",
            b"1-2 r--p 0 0 0 ",
        ] {
            assert_eq!(parse_maps(bad).unwrap_err().file, "maps");
        }
    }

    #[test]
    fn own_maps_hold_this_function() {
        let here = own_maps_hold_this_function as *const () as u64;
        let maps = read_maps(&ProcDir::own().unwrap()).unwrap();
        let code = maps.iter().find(|m| (m.start..m.end).contains(&here)).unwrap();
        assert_eq!(code.perms, Perms::READ | Perms::EXEC);
        assert!(maps.is_sorted_by_key(|m| m.start));
    }
}
