//! The program of the demo, and a model of it to check every line it writes.
//!
//! Each line is `PID COUNT CHAIN CHECKSUM`: the chain depends on all counts and pids so far, each count writes a byte of the
//! chain somewhere into 20 MiB of memory, the checksum is over all of that memory. So a line is right only if the program
//! has lived exactly the life that its lines tell, and nothing in its memory was lost on the way.

use std::path::Path;
use std::process::{Command, Stdio};

const SIZE: usize = 20 << 20;

/// How a program sums up its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sum {
    Adler32,
    Words,
    None,
}

/// A real program that is installed here.
#[derive(Debug)]
pub struct Program {
    /// Its interpreter.
    pub name: &'static str,
    /// What there is to it.
    pub about: &'static str,
    /// The name of its text.
    pub file: &'static str,
    /// Its text.
    pub text: &'static str,
    sum: Sum,
}

const ALL: [Program; 3] = [
    Program {
        name: "python3",
        about: "20 MiB of memory that change as it counts, an open file, 4 threads",
        file: "counter.py",
        text: include_str!("counter.py"),
        sum: Sum::Adler32,
    },
    Program {
        name: "perl",
        about: "20 MiB of memory that change as it counts, an open file",
        file: "counter.pl",
        text: include_str!("counter.pl"),
        sum: Sum::Words,
    },
    Program {
        name: "sh",
        about: "an open file, and a child process that sleeps",
        file: "counter.sh",
        text: include_str!("counter.sh"),
        sum: Sum::None,
    },
];

impl Program {
    /// A ghost of it has at least this many bytes.
    pub fn least_bytes(&self) -> u64 {
        if self.sum == Sum::None { 64 << 10 } else { SIZE as u64 }
    }
}

/// The first of python3, perl and sh that works here; `GHOST_DEMO_PROGRAM` names another.
pub fn choose() -> Option<Program> {
    let wish = std::env::var("GHOST_DEMO_PROGRAM").unwrap_or_default();
    ALL.into_iter().filter(|p| wish.is_empty() || p.name == wish).find(|p| {
        let trial = match p.name {
            "python3" => "import os, threading, zlib",
            "perl" => "use Fcntl;",
            _ => ":",
        };
        let flag = if p.name == "perl" { "-e" } else { "-c" };
        let quiet = || Stdio::null();
        Command::new(p.name)
            .args([flag, trial])
            .stdin(quiet())
            .stdout(quiet())
            .stderr(quiet())
            .status()
            .is_ok_and(|s| s.success())
    })
}

/// One line of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// Who wrote it.
    pub pid: i32,
    /// How far it has counted.
    pub count: u64,
    /// Follows from all counts and pids so far.
    pub chain: u64,
    /// Of its memory.
    pub sum: u32,
}

/// All whole lines of the output file.
pub fn read(path: &Path) -> Result<Vec<Line>, String> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole.lines().map(|line| parse(line).ok_or_else(|| format!("the program wrote a broken line: {line}"))).collect()
}

fn parse(line: &str) -> Option<Line> {
    let mut words = line.split(' ');
    let parsed = Line {
        pid: words.next()?.parse().ok()?,
        count: words.next()?.parse().ok()?,
        chain: words.next()?.parse().ok()?,
        sum: words.next()?.parse().ok()?,
    };
    words.next().is_none().then_some(parsed)
}

/// Drops the one line that a copy may have written in its parent's name.
///
/// A program that asks for its pid and then writes it may be copied in between: then the copy writes the very line of the
/// original once more, before its first own. Only that line is dropped, and only once.
pub fn without_echo(mut lines: Vec<Line>, parent: i32, copy: i32) -> Vec<Line> {
    if let Some(first) = lines.iter().find(|l| l.pid == copy).map(|l| l.count)
        && let Some(at) = lines.iter().position(|l| l.pid == parent && l.count + 1 == first)
        && let Some(again) = lines.iter().skip(at + 1).position(|l| *l == lines[at])
    {
        lines.remove(at + 1 + again);
    }
    lines
}

/// Follows the life of `pid` line by line. A copy has lived as `parent` before its own first line.
/// Returns its last line, or what does not fit.
pub fn follow(program: &Program, lines: &[Line], pid: i32, parent: Option<i32>) -> Result<Line, String> {
    let own: Vec<&Line> = lines.iter().filter(|l| l.pid == pid).collect();
    let first = own.first().ok_or_else(|| format!("pid {pid} has written nothing"))?.count;
    let before = lines.iter().filter(|l| Some(l.pid) == parent && l.count < first);
    let (mut count, mut chain) = (0, 0);
    let mut memory: Vec<u8> = if program.sum == Sum::None { Vec::new() } else { (0..SIZE).map(|i| i as u8).collect() };
    for (number, page) in memory.chunks_mut(4096).enumerate() {
        page[..4].copy_from_slice(&(number as u32 * 4096).to_le_bytes());
    }
    for line in before.chain(own.iter().copied()) {
        count += 1;
        chain = (chain * 31 + count * line.pid as u64) % 1_000_003;
        if (line.count, line.chain) != (count, chain) {
            return Err(format!(
                "pid {}: count {count} (chain {chain}) was due, it wrote {} ({})",
                line.pid, line.count, line.chain
            ));
        }
        if !memory.is_empty() {
            memory[(count * 4099) as usize % SIZE] = chain as u8;
        }
    }
    let last = **own.last().expect("there is a first");
    let sum = match program.sum {
        Sum::Adler32 => adler32(&memory),
        Sum::Words => memory
            .chunks(4)
            .fold(0, |sum: u32, word| sum.wrapping_add(u32::from_le_bytes(word.try_into().unwrap_or_default()))),
        Sum::None => 0,
    };
    if last.sum != sum {
        return Err(format!("pid {pid}: its memory has checksum {:08x}, {sum:08x} was due", last.sum));
    }
    Ok(last)
}

/// Two sums modulo 65521 (RFC 1950); 5552 bytes are the most that 32 bits hold without a reduction.
fn adler32(bytes: &[u8]) -> u32 {
    let (mut a, mut b) = (1u32, 0u32);
    for run in bytes.chunks(5552) {
        for &byte in run {
            a += u32::from(byte);
            b += a;
        }
        a %= 65521;
        b %= 65521;
    }
    b << 16 | a
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life(pid: i32, counts: std::ops::RangeInclusive<u64>, mut chain: u64) -> Vec<Line> {
        let line = |count| {
            chain = (chain * 31 + count * pid as u64) % 1_000_003;
            Line { pid, count, chain, sum: 0 }
        };
        counts.map(line).collect()
    }

    #[test]
    fn adler32_is_that_of_the_rfc() {
        assert_eq!(adler32(b"Wikipedia"), 0x11e6_0398);
        assert_eq!(adler32(&vec![255; 1 << 20]) & 0xffff, (1 + 255 * (1 << 20)) % 65521);
    }

    #[test]
    fn a_life_is_followed_and_a_gap_a_repeat_and_a_false_copy_are_seen() {
        let sh = &ALL[2];
        let mut lines = life(7, 1..=5, 0);
        assert_eq!(follow(sh, &lines, 7, None).unwrap().count, 5);
        let mut copy = life(9, 4..=6, lines[2].chain);
        lines.append(&mut copy);
        assert_eq!(follow(sh, &lines, 9, Some(7)).unwrap().count, 6);
        assert!(follow(sh, &lines, 9, None).is_err());
        lines.remove(1);
        assert!(follow(sh, &lines, 7, None).is_err());
        lines.insert(1, lines[0]);
        assert!(follow(sh, &lines, 7, None).is_err());
    }

    #[test]
    fn an_echo_is_dropped_once_and_only_where_it_may_be() {
        let mut lines = life(7, 1..=5, 0);
        let mut copy = life(9, 4..=6, lines[2].chain);
        lines.append(&mut copy);
        assert_eq!(without_echo(lines.clone(), 7, 9), lines);
        let echoed: Vec<Line> = [&lines[..5], &lines[2..3], &lines[5..]].concat();
        assert_eq!(without_echo(echoed.clone(), 7, 9), lines);
        let twice: Vec<Line> = [&echoed[..6], &lines[2..3], &echoed[6..]].concat();
        assert_eq!(without_echo(twice, 7, 9), echoed);
        let elsewhere: Vec<Line> = [&lines[..5], &lines[1..2], &lines[5..]].concat();
        assert_eq!(without_echo(elsewhere.clone(), 7, 9), elsewhere);
    }

    #[test]
    fn broken_lines_are_seen() {
        assert!(parse("1 2 3 4").is_some());
        assert!(parse("1 2 3").is_none() && parse("1 2 3 4 5").is_none() && parse("a 2 3 4").is_none());
    }
}
