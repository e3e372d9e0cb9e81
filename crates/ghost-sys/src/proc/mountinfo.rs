//! `/proc/PID/mountinfo`: the mounts of a mount namespace as its processes see them, `proc_pid_mountinfo(5)`; Linux 2.6.26.
//!
//! Only what is reachable from that process's root is listed. In paths and options the kernel writes blank, tab,
//! newline and backslash as octal escapes; here they are undone.

use super::text::{At, ParseError, lines, split_once, unescape};
use super::{Parsed, ProcDir, ProcResult};

/// A mount.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mount {
    /// Its id; may be given again after an unmount.
    pub id: i64,
    /// The mount that it sits on; the same id, or one not listed, for the root.
    pub parent: i64,
    /// The device of its files as `stat(2)` has it.
    pub dev: u64,
    /// Which directory of the file system is mounted; `mnt:[4026532000]` and the like for nsfs.
    pub root: Vec<u8>,
    /// Where, from the process's root; `//deleted` is appended by the kernel when the directory is gone.
    pub mount_point: Vec<u8>,
    /// Options of the mount: `rw,nosuid,relatime`.
    pub options: Vec<u8>,
    /// Peer group in which it shares events.
    pub shared: Option<i64>,
    /// Peer group from which it receives events.
    pub master: Option<i64>,
    /// The nearest group within the process's root from which it receives.
    pub propagate_from: Option<i64>,
    /// Cannot be bound elsewhere.
    pub unbindable: bool,
    /// `ext4`, `fuse.sshfs`.
    pub fs_type: Vec<u8>,
    /// The source, `none` where there is none.
    pub source: Vec<u8>,
    /// Options of the file system.
    pub super_options: Vec<u8>,
}

impl Mount {
    /// Whether the mount itself is read-only (`ro` among its own options).
    pub fn is_read_only(&self) -> bool {
        self.options.split(|&b| b == b',').any(|o| o == b"ro")
    }
    /// The value of an option of the file system: `super_option(b"size")` of a tmpfs.
    pub fn super_option(&self, name: &[u8]) -> Option<&[u8]> {
        let mut all = self.super_options.split(|&b| b == b',');
        all.find_map(|o| split_once(o, b'=').and_then(|(n, v)| (n == name).then_some(v)))
    }
}

/// Parses `/proc/PID/mountinfo`.
pub fn parse_mountinfo(text: &[u8]) -> Parsed<Vec<Mount>> {
    lines(text).map(parse_mount).collect()
}

/// Reads the mounts that a process sees, in the kernel's order: a mount comes after the one it sits on.
pub fn read_mountinfo(dir: &ProcDir) -> ProcResult<Vec<Mount>> {
    dir.parse("mountinfo", parse_mountinfo)
}

fn parse_mount(line: &[u8]) -> Parsed<Mount> {
    let at = At("mountinfo");
    // Single blanks part the fields; a field may be empty (the source of some mounts), so no run is skipped.
    let mut rest = line.split(|&b| b == b' ');
    let mut next = |field| rest.next().ok_or_else(|| ParseError::new("mountinfo", field, line));
    let mut m = Mount { id: at.signed("id", next("id")?)?, ..Mount::default() };
    m.parent = at.signed("parent", next("parent")?)?;
    // major:minor in decimal here, unlike `maps`.
    let dev = next("dev")?;
    let (major, minor) = split_once(dev, b':').map_or_else(|| at.error("dev", dev), Ok)?;
    m.dev = libc::makedev(at.narrow("dev", major)?, at.narrow("dev", minor)?);
    m.root = unescape(next("root")?, None);
    m.mount_point = unescape(next("mount point")?, None);
    m.options = next("options")?.to_vec();
    loop {
        let tag = next("optional fields")?;
        match split_once(tag, b':').unwrap_or((tag, b"")) {
            (b"-", _) => break,
            (b"shared", id) => m.shared = Some(at.signed("shared", id)?),
            (b"master", id) => m.master = Some(at.signed("master", id)?),
            (b"propagate_from", id) => m.propagate_from = Some(at.signed("propagate_from", id)?),
            (b"unbindable", _) => m.unbindable = true,
            _ => {}
        }
    }
    m.fs_type = unescape(next("type")?, None);
    m.source = unescape(next("source")?, None);
    m.super_options = unescape(next("super options")?, None);
    Ok(m)
}

/// One line of `/proc/PID/cgroup`: where a process is in one hierarchy, `cgroups(7)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CgroupMembership {
    /// The hierarchy; 0 is cgroup v2.
    pub hierarchy: u32,
    /// The controllers of a v1 hierarchy, or `name=...`; empty for v2.
    pub controllers: Vec<u8>,
    /// The cgroup from the root of our cgroup namespace; begins with `/..` when outside of it.
    pub path: Vec<u8>,
    /// The cgroup has been removed under a zombie.
    pub deleted: bool,
}

/// Parses `/proc/PID/cgroup`.
pub fn parse_cgroup(text: &[u8]) -> Parsed<Vec<CgroupMembership>> {
    let at = At("cgroup");
    let line = |line: &[u8]| {
        let fields = split_once(line, b':').and_then(|(h, rest)| Some((h, split_once(rest, b':')?)));
        let Some((hierarchy, (controllers, path))) = fields else { return at.error("path", line) };
        let alive = path.strip_suffix(b" (deleted)");
        Ok(CgroupMembership {
            hierarchy: at.narrow("hierarchy", hierarchy)?,
            controllers: controllers.to_vec(),
            path: alive.unwrap_or(path).to_vec(),
            deleted: alive.is_some(),
        })
    };
    lines(text).map(line).collect()
}

/// Reads where a process (or a thread, given its directory) is in each cgroup hierarchy.
pub fn read_cgroup(dir: &ProcDir) -> ProcResult<Vec<CgroupMembership>> {
    dir.parse("cgroup", parse_cgroup)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn real_lines() {
        let text = br"22 27 0:21 / /proc rw,relatime - proc proc rw
36 35 98:0 /mnt1 /mnt2/a\040b\134 ro,noatime master:1 shared:22 propagate_from:7 unbindable - ext3 /dev/root rw,errors=continue
40 1 0:30 / / rw - tmpfs  rw,size=12334460k,mode=755
";
        let m = parse_mountinfo(text).unwrap();
        assert_eq!(
            (m[0].id, m[0].parent, m[0].dev, m[0].fs_type.as_slice()),
            (22, 27, libc::makedev(0, 21), &b"proc"[..])
        );
        assert_eq!((m[1].root.as_slice(), m[1].mount_point.as_slice()), (&b"/mnt1"[..], &br"/mnt2/a b\"[..]));
        assert_eq!(
            (m[1].shared, m[1].master, m[1].propagate_from, m[1].unbindable),
            (Some(22), Some(1), Some(7), true)
        );
        assert!(m[1].is_read_only() && !m[0].is_read_only());
        assert_eq!((m[2].source.as_slice(), m[2].super_option(b"mode")), (&b""[..], Some(&b"755"[..])));
        assert!(parse_mountinfo(b"22 27 0:21 / /proc rw,relatime proc proc rw").is_err());
    }

    #[test]
    fn cgroups() {
        let c = parse_cgroup(b"9:name=systemd:/\n4:cpu,cpuacct:/a:b (deleted)\n0::/x\n").unwrap();
        assert_eq!((c[0].hierarchy, c[0].controllers.as_slice()), (9, &b"name=systemd"[..]));
        assert_eq!((c[1].path.as_slice(), c[1].deleted), (&b"/a:b"[..], true));
        assert_eq!((c[2].hierarchy, c[2].controllers.as_slice(), c[2].deleted), (0, &b""[..], false));
        assert!(parse_cgroup(b"0:/x").is_err());
        assert!(!read_cgroup(&ProcDir::own().unwrap()).unwrap().is_empty());
    }

    #[test]
    fn own_mounts_hold_the_root() {
        let mounts = read_mountinfo(&ProcDir::own().unwrap()).unwrap();
        assert!(mounts.iter().any(|m| m.mount_point == b"/"));
        assert!(mounts.iter().any(|m| m.fs_type == b"proc"));
    }
}
