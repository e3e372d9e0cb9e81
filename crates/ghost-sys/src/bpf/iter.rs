//! Iterators that write rows of numbers: which members of which objects is said by name.
//!
//! `Rows::load(&mut btf, "task_vma", &[&["vma", "vm_start"], &["vma", "vm_file", "f_inode", "i_ino"]])` makes the program of the kernel's
//! iterator `task_vma` whose rows are two numbers. A path begins with a parameter of the kernel's function `bpf_iter_task_vma`
//! and goes through members; a pointer on the way is followed (where it is null the number is 0), and one at the end is itself the number,
//! good for telling objects apart. At least one path has to go through the object that is visited.
//!
//! Iterators of tasks: `task` (task), `task_file` (task, fd, file), `task_vma` (task, vma).

use super::asm::{Asm, Reg, SEQ_WRITE, Width};
use super::btf::{Btf, Kind, TypeId};
use super::{Of, load_iterator, open_iterator, reader};
use crate::{Errno, Result};
use std::cell::Cell;
use std::fs::File;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd};

/// Names from a parameter to a member.
pub type Path<'a> = &'a [&'a str];

/// How a number is reached: loads, each from where the one before it has led.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Route {
    parameter: usize,
    /// Whether that is a pointer.
    is_object: bool,
    loads: Vec<(Width, i16)>,
}

/// Numbers of a row that fit on the stack of a program.
const MOST: usize = 60;

/// The error for what this kernel does not describe: the iterator, a member.
pub const UNKNOWN: Errno = Errno(libc::ENOENT);

/// A loaded program.
#[derive(Debug)]
pub struct Rows {
    program: OwnedFd,
    numbers: usize,
}

thread_local! {
    /// What a thread reads rows into.
    static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// The kernel hands out so much at once, whole rows only.
const AT_ONCE: usize = 32 << 10;

impl Rows {
    /// Writes and loads the program. An error is a way of the kernel to say that it cannot be had here.
    pub fn load(btf: &mut Btf, iterator: &str, paths: &[Path<'_>]) -> Result<Self> {
        let [function] = btf.functions([format!("bpf_iter_{iterator}").as_str()]);
        Self::load_for(btf, function.ok_or(UNKNOWN)?, paths)
    }
    /// The same for a function that was looked for together with others.
    pub fn load_for(btf: &Btf, function: TypeId, paths: &[Path<'_>]) -> Result<Self> {
        let code = program(btf, function, paths).ok_or(UNKNOWN)?;
        Ok(Self { program: load_iterator(&code, function)?, numbers: paths.len() })
    }
    /// Gives every row to `each`, as many numbers as there were paths; false from it ends the reading.
    pub fn read(&self, of: Of, mut each: impl FnMut(&[u64]) -> bool) -> Result<()> {
        let file = File::from(open_iterator(self.program.as_fd(), of)?);
        let mut buf = BUFFER.take();
        buf.resize(buf.len().max(AT_ONCE), 0);
        let outcome = self.read_into(file, &mut buf, &mut each);
        BUFFER.set(buf);
        outcome
    }
    fn read_into(&self, file: File, buf: &mut [u8], each: &mut impl FnMut(&[u64]) -> bool) -> Result<()> {
        let mut row = [0_u64; MOST];
        let row = &mut row[..self.numbers];
        let bytes = 8 * self.numbers;
        reader::read(file, buf, |text| {
            let Some(text) = text.get(..bytes) else { return ControlFlow::Continue(None) };
            for (number, bytes) in row.iter_mut().zip(text.chunks_exact(8)) {
                *number = u64::from_ne_bytes(bytes.try_into().unwrap_or_default());
            }
            if each(row) { ControlFlow::Continue(Some(bytes)) } else { ControlFlow::Break(Ok(())) }
        })
    }
}

/// The way to a number.
fn route(btf: &Btf, function: TypeId, path: Path<'_>) -> Option<Route> {
    let (first, members) = path.split_first()?;
    let (parameter, ty) = btf.parameter(function, first)?;
    // Each parameter takes 8 bytes of what the program is given, however many it has itself.
    let is_object = matches!(btf.kind(ty)?, Kind::Pointer(_));
    let loads = btf.route(8 * parameter as u32, ty, members)?;
    Some(Route { parameter, is_object, loads })
}

/// The program that writes a row of these numbers.
fn program(btf: &Btf, function: TypeId, paths: &[Path<'_>]) -> Option<Vec<u64>> {
    if paths.is_empty() || paths.len() > MOST {
        return None;
    }
    let seq = route(btf, function, &["meta", "seq"])?;
    let mut asm = Asm::new();
    asm.mov(Reg::R6, Reg::R1);
    let row_bytes = 8 * paths.len() as i32;
    let mut loaded = None;
    for (i, path) in paths.iter().enumerate() {
        let Route { parameter, is_object, loads } = route(btf, function, path)?;
        let (&(width, first), rest) = loads.split_first()?;
        let mut from = Reg::R2;
        if !is_object {
            asm.load(width, Reg::R2, Reg::R6, first);
        } else {
            from = Reg::R7;
            if loaded != Some(parameter) {
                // After the last object the program runs once more, without one.
                asm.load(width, Reg::R7, Reg::R6, first).end_if(Reg::R7, 0);
                loaded = Some(parameter);
            }
        }
        for &(width, offset) in rest {
            asm.load(width, Reg::R2, from, offset);
            from = Reg::R2;
        }
        asm.store(Width::B8, Reg::R10, i16::try_from(8 * i as i32 - row_bytes).ok()?, from);
    }
    let [(meta_width, meta), (seq_width, seq)] = seq.loads[..] else { return None };
    asm.load(meta_width, Reg::R1, Reg::R6, meta).load(seq_width, Reg::R1, Reg::R1, seq);
    asm.mov(Reg::R2, Reg::R10).add(Reg::R2, -row_bytes).set(Reg::R3, row_bytes).call(SEQ_WRITE);
    asm.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    /// The iterator, unless this machine has none.
    fn rows(iterator: &str, paths: &[Path<'_>]) -> Option<Rows> {
        let mut btf = Btf::of_kernel().inspect_err(|e| eprintln!("skipped: {e}")).ok()?;
        match Rows::load(&mut btf, iterator, paths) {
            Ok(rows) => Some(rows),
            Err(e @ (Errno(libc::EPERM) | UNKNOWN)) => {
                eprintln!("skipped: {iterator}: {e}");
                None
            }
            Err(e) => panic!("{iterator}: {e}"),
        }
    }

    fn own_tid() -> crate::Pid {
        std::fs::read_link("/proc/thread-self").unwrap().file_name().unwrap().to_str().unwrap().parse().unwrap()
    }

    #[test]
    fn a_thread_tells_of_itself() {
        let Some(rows) = rows("task", &[&["task", "tgid"], &["task", "pid"], &["task", "mm"], &["task", "files"]])
        else {
            return;
        };
        let mut seen = Vec::new();
        rows.read(Of::Thread(own_tid()), |row| {
            seen.push(row.to_vec());
            true
        })
        .unwrap();
        assert_eq!(seen.len(), 1, "{seen:?}");
        assert!(seen[0][2] != 0 && seen[0][3] != 0);
    }

    #[test]
    fn descriptors_tell_their_inodes() {
        let Some(rows) = rows("task_file", &[&["fd"], &["file"], &["file", "f_inode", "i_ino"], &["file", "f_flags"]])
        else {
            return;
        };
        let file = File::open("/proc/self/exe").unwrap();
        let inode = std::os::unix::fs::MetadataExt::ino(&file.metadata().unwrap());
        let copy = file.try_clone().unwrap();
        let mut seen = std::collections::HashMap::new();
        rows.read(Of::Thread(own_tid()), |row| {
            seen.insert(row[0] as i32, row[1..].to_vec());
            true
        })
        .unwrap();
        let (one, other) = (&seen[&file.as_raw_fd()], &seen[&copy.as_raw_fd()]);
        assert_eq!((one, one[1]), (other, inode), "one description, and its inode");
        assert_eq!(one[2] as i32 & libc::O_ACCMODE, libc::O_RDONLY);
    }

    #[test]
    fn what_the_kernel_has_not_is_an_error() {
        let Ok(mut btf) = Btf::of_kernel() else { return };
        for paths in [&[&["vma", "no_such_member"][..]][..], &[&["nothing"][..]], &[&[][..]], &[]] {
            assert_eq!(Rows::load(&mut btf, "task_vma", paths).unwrap_err(), UNKNOWN);
        }
        assert_eq!(Rows::load(&mut btf, "nothing", &[&["vma"]]).unwrap_err(), UNKNOWN);
    }
}
