//! One process with much of one thing.

use super::{Life, mix};
use ghost_victims::kit::{Res, fd, mem, sock};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// N words of memory, all written.
pub fn memory(life: Life, words: usize) -> Res {
    let mut x = 42_u64;
    let memory: Vec<u64> = std::iter::repeat_with(|| {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x
    })
    .take(words)
    .collect();
    let sum = || Ok(memory.iter().fold(0_u64, |h, w| (h ^ w).wrapping_mul(0x100_0000_01b3)));
    life.live(sum()?, sum)
}

/// N MiB of memory in huge pages, all written.
pub fn huge(life: Life, mib: usize) -> Res {
    let memory = mem::huge(mib << 20)?;
    let words = || (0..mib << 17).map(|i| memory.word(i * 8));
    words().enumerate().for_each(|(i, word)| word.store(mix(i as u64 + 1), Ordering::Relaxed));
    let sum = || Ok(words().fold(0_u64, |h, w| (h ^ w.load(Ordering::Relaxed)).wrapping_mul(0x100_0000_01b3)));
    life.live(sum()?, sum)
}

/// N threads that each count on; asked, all must have moved.
pub fn threads(life: Life, n: usize) -> Res {
    let counts: Arc<Vec<AtomicU64>> = Arc::new((0..n).map(|_| AtomicU64::new(0)).collect());
    for i in 0..n {
        let counts = Arc::clone(&counts);
        let count_on = move || {
            loop {
                std::thread::sleep(Duration::from_millis(20));
                counts[i].fetch_add(1, Ordering::Relaxed);
            }
        };
        std::thread::Builder::new().stack_size(64 << 10).spawn(count_on).map_err(|e| format!("thread {i}: {e}"))?;
    }
    let all_move = || {
        let before: Vec<u64> = counts.iter().map(|c| c.load(Ordering::Relaxed)).collect();
        let moved = |c: &AtomicU64, b: &u64| c.load(Ordering::Relaxed) > *b;
        for _ in 0..400 {
            std::thread::sleep(Duration::from_millis(10));
            if counts.iter().zip(&before).all(|(c, b)| moved(c, b)) {
                break;
            }
        }
        Ok(counts.iter().zip(&before).filter(|(c, b)| moved(c, b)).count() as u64)
    };
    all_move()?;
    life.live(n as u64, all_move)
}

/// N descriptors: files at offsets of their own, pipes and socket pairs with bytes in them.
pub fn fds(life: Life, n: usize) -> Res {
    let limit = rustix::process::Rlimit {
        current: Some(n as u64 + 100),
        maximum: rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum,
    };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit)
        .map_err(|e| format!("the limit on descriptors: {e}"))?;
    let (mut files, mut pipes, mut sockets) = (Vec::new(), Vec::new(), Vec::new());
    for i in 0..n / 6 {
        let value = mix(i as u64).to_le_bytes();
        for half in 0..2 {
            let file = fd::open(life.dir.join(format!("f{i}-{half}")), libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC)?;
            fd::pwrite(file, &value, i as i64)?;
            fd::lseek(file, i as i64, libc::SEEK_SET)?;
            files.push((file, i));
        }
        let (read, write) = fd::pipe(0)?;
        fd::write_full(write, &value)?;
        pipes.push((read, write, value));
        let (a, b) = sock::pair(libc::SOCK_STREAM)?;
        fd::write_full(b, &value)?;
        sockets.push((a, b, value));
    }
    let good = || {
        let mut good = 0;
        for (file, i) in &files {
            let at = fd::tell(*file)?;
            good += u64::from(at == *i as i64 && fd::pread(*file, 8, at)? == mix(*i as u64).to_le_bytes());
        }
        // What is taken out is put back through the other end.
        for (read, write, value) in pipes.iter().chain(&sockets) {
            let found = fd::read(*read, 8)?;
            fd::write_full(*write, &found)?;
            good += u64::from(found == value);
        }
        Ok(good)
    };
    let expected = good()?;
    life.live(expected, good)
}

/// N mappings of a page each, of protections that keep neighbours apart.
pub fn vmas(life: Life, n: usize) -> Res {
    let private = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    let mut all = Vec::with_capacity(n);
    for i in 0..n {
        let prot = libc::PROT_READ | libc::PROT_WRITE | if i % 2 == 0 { 0 } else { libc::PROT_EXEC };
        let map = mem::map(4096, prot, private, -1, 0)?;
        map.word(8).store(mix(i as u64), Ordering::Relaxed);
        all.push(map);
    }
    let good = || {
        Ok(all.iter().enumerate().filter(|(i, m)| m.word(8).load(Ordering::Relaxed) == mix(*i as u64)).count() as u64)
    };
    life.live(n as u64, good)
}
