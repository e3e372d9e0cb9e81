//! The words that two ghosts say to each other while a process moves; docs/protocol.md draws them.
//!
//! ```text
//! source                                   destination
//!   HELLO (version, processor, pids)  ──▶
//!                                     ◀──  WELCOME, or REFUSED: nothing has been touched
//!   [freezes]
//!   the ghost, as a stream            ──▶  [builds, or keeps it whole while the pids are in use there]
//!                                     ◀──  PREPARED, or FAILED: the source runs again
//!   COMMIT                            ──▶  [lets it run]
//!                                     ◀──  RUNNING (pid)
//!   [ends the source]
//!   GONE                              ──▶  [if it waits for the pids: they are free, or will be soon]
//! ```
//!
//! A message is a word of four bytes, a length of four bytes (little endian, at most 64 KiB) and that many bytes. The ghost
//! itself is not framed: its commit mark ends it.

use ghost_image::record as rec;
use prost::Message as _;
use std::io::{self, Read, Write};

/// What one side says.
#[derive(Debug, Clone)]
pub enum Word {
    /// Source: who I am.
    Hello(Box<rec::Host>),
    /// Destination: go on.
    Welcome,
    /// Destination: it cannot live here, and why.
    Refused(String),
    /// Destination: everything is here; built, or (true) to be built once the pids are free.
    Prepared(bool),
    /// Destination: it could not be built, and why.
    Failed(String),
    /// Source: it is yours.
    Commit,
    /// Destination: it runs, as this pid.
    Running(i32),
    /// Source: I give up, forget it.
    Abort(String),
    /// Source: its processes have been ended here. Only who waits for their pids listens to it.
    Gone,
}

/// The version of these words; another one is refused.
pub const VERSION: u32 = 1;
const LIMIT: u32 = 64 << 10;

/// Says a word.
pub fn say(to: &mut (impl Write + ?Sized), word: &Word) -> io::Result<()> {
    let (tag, body): (&[u8; 4], Vec<u8>) = match word {
        Word::Hello(host) => (b"HELO", [&VERSION.to_le_bytes()[..], &host.encode_to_vec()].concat()),
        Word::Welcome => (b"WELC", Vec::new()),
        Word::Refused(why) => (b"REFU", why.as_bytes().to_vec()),
        Word::Prepared(later) => (b"PREP", vec![u8::from(*later)]),
        Word::Failed(why) => (b"FAIL", why.as_bytes().to_vec()),
        Word::Commit => (b"COMM", Vec::new()),
        Word::Running(pid) => (b"RUNS", pid.to_le_bytes().to_vec()),
        Word::Abort(why) => (b"ABRT", why.as_bytes().to_vec()),
        Word::Gone => (b"GONE", Vec::new()),
    };
    let body = &body[..body.len().min(LIMIT as usize)];
    let mut message = Vec::with_capacity(8 + body.len());
    message.extend_from_slice(tag);
    message.extend_from_slice(&(body.len() as u32).to_le_bytes());
    message.extend_from_slice(body);
    to.write_all(&message)?;
    to.flush()
}

/// Hears a word.
pub fn hear(from: &mut (impl Read + ?Sized)) -> io::Result<Word> {
    let mut head = [0; 8];
    from.read_exact(&mut head)?;
    let (tag, len) = head.split_at(4);
    let len = u32::from_le_bytes(len.try_into().expect("four bytes"));
    if len > LIMIT {
        return Err(bad("a message is longer than 64 KiB"));
    }
    let mut body = vec![0; len as usize];
    from.read_exact(&mut body)?;
    let text = || String::from_utf8_lossy(&body).into_owned();
    Ok(match tag {
        b"HELO" => {
            let (version, host) = body.split_first_chunk::<4>().ok_or_else(|| bad("a HELLO without a version"))?;
            let version = u32::from_le_bytes(*version);
            if version != VERSION {
                return Err(bad(&format!(
                    "the other ghost speaks version {version} of the protocol, this one {VERSION}"
                )));
            }
            let host = rec::Host::decode(host).map_err(|_| bad("a HELLO that is not understood"))?;
            Word::Hello(Box::new(host))
        }
        b"WELC" => Word::Welcome,
        b"REFU" => Word::Refused(text()),
        b"PREP" => Word::Prepared(body.first() == Some(&1)),
        b"FAIL" => Word::Failed(text()),
        b"COMM" => Word::Commit,
        b"RUNS" => match body.as_slice().try_into() {
            Ok(pid) => Word::Running(i32::from_le_bytes(pid)),
            Err(_) => return Err(bad("a RUNNING without a pid")),
        },
        b"ABRT" => Word::Abort(text()),
        b"GONE" => Word::Gone,
        _ => return Err(bad("the other side does not speak ghost's protocol")),
    })
}

fn bad(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_arrive_as_they_were_said() {
        let host = rec::Host { hostname: "here".into(), ..rec::Host::default() };
        let all = [
            Word::Hello(Box::new(host)),
            Word::Welcome,
            Word::Refused("no".into()),
            Word::Prepared(true),
            Word::Failed("why".into()),
            Word::Commit,
            Word::Running(7),
            Word::Abort("end".into()),
            Word::Gone,
        ];
        let mut line = Vec::new();
        for word in &all {
            say(&mut line, word).unwrap();
        }
        let mut from = line.as_slice();
        for word in &all {
            assert_eq!(format!("{:?}", hear(&mut from).unwrap()), format!("{word:?}"));
        }
        assert!(from.is_empty());
    }

    #[test]
    fn nonsense_is_refused_before_anything_is_allocated() {
        assert!(hear(&mut &b"HELO\xff\xff\xff\xff"[..]).is_err());
        assert!(hear(&mut &b"GET / HTTP/1.1\r\n\r\n"[..]).is_err());
        assert!(hear(&mut &b""[..]).is_err());
    }
}
