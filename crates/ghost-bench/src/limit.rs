//! What the machine can do at all, measured in the same run: the other side of every ratio.

use crate::drive::{Res, ms};
use ghost_victims::kit::{mem, task};
use rustix::fs::Advice;
use std::fs::File;
use std::hint::black_box;
use std::io::{Read, Write};
use std::path::Path;
use std::time::Instant;

const PIECE: usize = 1 << 20;

fn io(what: &str, path: &Path) -> impl Fn(std::io::Error) -> String {
    let words = format!("{what} {}", path.display());
    move |e| format!("{words}: {e}")
}

/// Copying this many bytes between warm buffers, on two threads.
pub fn copy(bytes: u64) -> f64 {
    let half = (bytes / 2).max(1) as usize;
    let one = move || {
        let (from, mut to) = (vec![1_u8; half], vec![2_u8; half]);
        let began = Instant::now();
        to.copy_from_slice(black_box(&from));
        black_box(&to);
        ms(began.elapsed())
    };
    let other = std::thread::spawn(one);
    one().max(other.join().unwrap_or(f64::NAN))
}

/// Copying this many bytes into memory that was never touched, on two threads.
pub fn copy_fresh(bytes: u64) -> f64 {
    let half = (bytes / 2).max(1) as usize;
    let one = move || {
        let from = vec![1_u8; half];
        let began = Instant::now();
        let to = black_box(&from).clone();
        black_box(&to);
        ms(began.elapsed())
    };
    let other = std::thread::spawn(one);
    one().max(other.join().unwrap_or(f64::NAN))
}

/// Writing this many bytes to a new file there, until it would survive a power cut. The file stays.
pub fn write(path: &Path, bytes: u64) -> Res<f64> {
    let piece: Vec<u8> = (0..PIECE).map(|i| crate::work::mix(i as u64) as u8).collect();
    let _ = std::fs::remove_file(path);
    let began = Instant::now();
    let mut file = File::create(path).map_err(io("making", path))?;
    let mut left = bytes;
    while left > 0 {
        let now = left.min(PIECE as u64);
        file.write_all(&piece[..now as usize]).map_err(io("writing", path))?;
        left -= now;
    }
    file.sync_all().map_err(io("syncing", path))?;
    Ok(ms(began.elapsed()))
}

/// Reading all of a file.
pub fn read(path: &Path) -> Res<f64> {
    let mut piece = vec![0; PIECE];
    let began = Instant::now();
    let mut file = File::open(path).map_err(io("opening", path))?;
    while file.read(&mut piece).map_err(io("reading", path))? > 0 {
        black_box(&piece);
    }
    Ok(ms(began.elapsed()))
}

/// Makes the kernel forget what it keeps of a file in memory.
pub fn forget(path: &Path) -> Res {
    let file = File::open(path).map_err(io("opening", path))?;
    file.sync_all().map_err(io("syncing", path))?;
    rustix::fs::fadvise(&file, 0, None, Advice::DontNeed).map_err(|e| format!("forgetting {}: {e}", path.display()))
}

/// Stopping every thread of a tree and letting it go.
pub fn freeze(pid: i32) -> Res<f64> {
    let began = Instant::now();
    let tree = ghost_core::freeze::FrozenTree::freeze(pid).map_err(|e| format!("freezing pid {pid}: {e}"))?;
    tree.thaw().map_err(|e| format!("thawing pid {pid}: {e}"))?;
    Ok(ms(began.elapsed()))
}

/// Making this many threads that end at once.
pub fn threads(n: usize) -> f64 {
    let began = Instant::now();
    let all: Vec<_> =
        (0..n).filter_map(|_| std::thread::Builder::new().stack_size(64 << 10).spawn(|| ()).ok()).collect();
    for thread in all {
        let _ = thread.join();
    }
    ms(began.elapsed())
}

/// Making this many processes that end at once, one after the other.
pub fn forks(n: usize) -> Res<f64> {
    apart("forks", n)
}

/// Making this many mappings.
pub fn map(n: usize) -> Res<f64> {
    apart("maps", n)
}

/// Measures in a process of its own, with one thread and an empty address space.
fn apart(what: &str, n: usize) -> Res<f64> {
    let me = std::env::current_exe().map_err(|e| format!("my own path: {e}"))?;
    let out = std::process::Command::new(me).args(["limit", what, &n.to_string()]).output();
    let out = out.map_err(|e| format!("measuring {what}: {e}"))?;
    String::from_utf8_lossy(&out.stdout).trim().parse().map_err(|e| format!("measuring {what}: {e}"))
}

/// The other side of that: what `ghost-bench limit WHAT N` prints.
pub fn here(what: &str, n: usize) -> Res<f64> {
    let began = Instant::now();
    match what {
        "forks" => {
            for _ in 0..n {
                match task::fork()? {
                    None => task::exit(0),
                    Some(pid) => drop(task::wait(pid, 0)?),
                }
            }
        }
        "maps" => {
            for i in 0..n {
                let prot = libc::PROT_READ | if i % 2 == 0 { 0 } else { libc::PROT_WRITE };
                mem::map(4096, prot, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)?;
            }
        }
        _ => return Err(format!("no limit is called {what}")),
    }
    Ok(ms(began.elapsed()))
}

/// Reading what procfs says of every descriptor of a process.
pub fn look_at_fds(pid: i32) -> Res<f64> {
    let began = Instant::now();
    let dir = format!("/proc/{pid}/fd");
    for entry in std::fs::read_dir(&dir).map_err(|e| format!("{dir}: {e}"))?.flatten() {
        let name = entry.file_name();
        black_box(std::fs::read_link(entry.path()).ok());
        black_box(std::fs::read(format!("/proc/{pid}/fdinfo/{}", name.to_string_lossy())).ok());
    }
    Ok(ms(began.elapsed()))
}

/// Opening this many descriptors.
pub fn open_fds(n: usize) -> Res<f64> {
    let began = Instant::now();
    for _ in 0..n {
        black_box(File::open("/dev/null").map_err(|e| format!("/dev/null: {e}"))?);
    }
    Ok(ms(began.elapsed()))
}

/// Reading the list of mappings of a process.
pub fn look_at_maps(pid: i32) -> Res<f64> {
    let began = Instant::now();
    black_box(std::fs::read(format!("/proc/{pid}/maps")).map_err(|e| format!("maps: {e}"))?);
    Ok(ms(began.elapsed()))
}

/// Starting a program that does nothing, and its end.
pub fn exec() -> Res<f64> {
    let began = Instant::now();
    std::process::Command::new("/bin/true").status().map_err(|e| format!("/bin/true: {e}"))?;
    Ok(ms(began.elapsed()))
}
