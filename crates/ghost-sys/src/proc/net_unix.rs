//! `/proc/PID/net/unix`: the unix sockets of a network namespace, `unix(7)`. `sock_diag` tells more and is faster;
//! this is what is left where the unix_diag module is missing.

use super::text::{At, ParseError, lines};
use super::{Parsed, ProcDir, ProcResult};

/// A unix socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnixLine {
    /// `SOCK_STREAM`, `SOCK_DGRAM`, `SOCK_SEQPACKET`.
    pub kind: i32,
    /// Has been told to listen (`__SO_ACCEPTCON`).
    pub listening: bool,
    /// 1 unconnected, 2 connecting, 3 connected, 4 disconnecting.
    pub state: u32,
    /// Its inode.
    pub inode: u64,
    /// Its name; an abstract one begins with `@`, and has `@` for every NUL.
    pub name: Option<Vec<u8>>,
}

/// Parses `/proc/PID/net/unix`.
pub fn parse_net_unix(text: &[u8]) -> Parsed<Vec<UnixLine>> {
    lines(text).skip(1).map(line).collect()
}

/// Reads the unix sockets of the network namespace of a process.
pub fn read_net_unix(dir: &ProcDir) -> ProcResult<Vec<UnixLine>> {
    dir.parse("net/unix", parse_net_unix)
}

/// `0000000071a30cc0: 00000002 00000000 00010000 0001 01  8855 @abs name`
fn line(line: &[u8]) -> Parsed<UnixLine> {
    let at = At("net/unix");
    let mut rest = line;
    let mut next = |field| {
        let start = rest.iter().position(|&b| b != b' ').unwrap_or(rest.len());
        let word = &rest[start..];
        let end = word.iter().position(|&b| b == b' ').unwrap_or(word.len());
        rest = &word[end..];
        if end == 0 { Err(ParseError::new("net/unix", field, line)) } else { Ok(&word[..end]) }
    };
    for field in ["Num", "RefCount", "Protocol"] {
        next(field)?;
    }
    let flags = at.hex("Flags", next("Flags")?)?;
    let kind = at.hex("Type", next("Type")?)? as i32;
    let state = at.hex("St", next("St")?)? as u32;
    let inode = at.dec("Inode", next("Inode")?)?;
    // The name follows after one blank, and may begin with blanks of its own.
    let name = rest.strip_prefix(b" ").map(<[u8]>::to_vec);
    Ok(UnixLine { kind, listening: flags & 0x1_0000 != 0, state, inode, name })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixDatagram;

    #[test]
    fn real_lines() {
        let text = b"Num       RefCount Protocol Flags    Type St Inode Path
0000000094d9503f: 00000003 00000000 00000000 0001 03  1522
0000000071a30cc0: 00000002 00000000 00010000 0001 01  8855 @abs name
";
        let u = parse_net_unix(text).unwrap();
        assert_eq!(u[0], UnixLine { kind: libc::SOCK_STREAM, listening: false, state: 3, inode: 1522, name: None });
        assert!(u[1].listening);
        assert_eq!((u[1].state, u[1].inode, u[1].name.as_deref()), (1, 8855, Some(&b"@abs name"[..])));
        assert!(parse_net_unix(b"Num\n00: 1 2\n").is_err());
    }

    #[test]
    fn own_socket_is_listed() {
        use std::os::fd::AsRawFd;
        let (a, _b) = UnixDatagram::pair().unwrap();
        let dir = ProcDir::own().unwrap();
        let inode = dir.stat(&format!("fd/{}", a.as_raw_fd())).unwrap().st_ino;
        let found = read_net_unix(&dir).unwrap().into_iter().find(|u| u.inode == inode).unwrap();
        assert_eq!((found.kind, found.state), (libc::SOCK_DGRAM, 3));
    }
}
