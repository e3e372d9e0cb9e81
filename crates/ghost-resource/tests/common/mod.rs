//! What every plug-in must do, whatever the place: one suite for places that keep images, one for streams.
#![allow(dead_code, unreachable_pub)] // each test program uses its part

use std::io::{IoSlice, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use ghost_resource::{Aftermath, Cause, GhostRead, GhostWrite, Resource};

/// 10 MB and a bit that no layer finds a pattern in, the same every time.
pub fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    (0..len.div_ceil(8))
        .flat_map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        })
        .take(len)
        .collect()
}

/// Like memory: noise, runs of zeros, and text that repeats.
pub fn memory_like(len: usize) -> Vec<u8> {
    let mut all = noise(len);
    for (n, page) in all.chunks_mut(4096).enumerate() {
        match n % 3 {
            0 => page.fill(0),
            1 => page
                .iter_mut()
                .zip(b"the same words again and again; ".iter().cycle())
                .for_each(|(to, from)| *to = *from),
            _ => {}
        }
    }
    all
}

/// Writes with sizes that fit nothing: single bytes, primes, whole megabytes, vectored pages.
pub fn write_oddly(out: &mut dyn GhostWrite, bytes: &[u8]) -> std::io::Result<()> {
    let sizes = [1, 7, 4096, 65_537, 131_071, 262_144, 1_048_583, 13];
    let mut rest = bytes;
    for size in sizes.into_iter().cycle() {
        if rest.is_empty() {
            return Ok(());
        }
        let (part, left) = rest.split_at(size.min(rest.len()));
        if size == 1_048_583 {
            let pages: Vec<_> = part.chunks(317).map(IoSlice::new).collect();
            out.write_pages(&pages)?;
        } else {
            out.write_all(part)?;
        }
        rest = left;
    }
    Ok(())
}

/// Reads all with sizes that fit nothing.
pub fn read_oddly(input: &mut dyn GhostRead) -> std::io::Result<Vec<u8>> {
    let sizes = [3, 4096, 70_001, 1, 524_288];
    let (mut all, mut buf) = (Vec::new(), vec![0; 524_288]);
    for size in sizes.into_iter().cycle() {
        match input.read(&mut buf[..size])? {
            0 => return Ok(all),
            n => all.extend_from_slice(&buf[..n]),
        }
    }
    unreachable!("the sizes never end")
}

/// The suite for places that keep an image: `make(replace)` gives the same empty place every time.
pub fn keeps_images(make: &dyn Fn(bool) -> Box<dyn Resource>) {
    keeps_images_for(make, true);
}

/// The same for places whose readers may lose an image that is replaced, as long as they say so.
pub fn keeps_images_for(make: &dyn Fn(bool) -> Box<dyn Resource>, readers_keep_theirs: bool) {
    let data = noise(10_000_019);
    let there = |what: &str| {
        let resource = make(false);
        let found = resource.store().map(|s| s.exists().unwrap());
        found.unwrap_or_else(|| make(false).open_import().is_ok()) || what.is_empty()
    };
    assert!(!there("before"), "the place is not empty");
    assert!(matches!(make(false).open_import().err().unwrap().cause(), Cause::Missing), "missing is not said");

    // Aborted and dropped exports leave nothing.
    let mut out = make(false).open_export().unwrap();
    write_oddly(&mut *out, &data[..3_000_000]).unwrap();
    out.abort();
    assert!(!there("abort"), "an aborted export left something");
    let mut out = make(false).open_export().unwrap();
    out.write_all(&data[..3_000_000]).unwrap();
    drop(out);
    assert!(!there("drop"), "a dropped export left something");

    // A finished one is there, whole, and only then.
    let mut out = make(false).open_export().unwrap();
    write_oddly(&mut *out, &data).unwrap();
    assert!(!there("early"), "it is there before it is whole");
    assert_eq!(out.finish().unwrap().len_bytes, data.len() as u64);
    assert!(there("finish"));
    assert!(read_oddly(&mut *make(false).open_import().unwrap()).unwrap() == data, "other bytes came back");
    if let Some(map) = make(false).open_import().unwrap().as_mapped() {
        assert!(map == data, "the mapping shows other bytes");
    }

    // What is there is refused, and stays whole through every failed replacement.
    let error = make(false).open_export().err().expect("an existing image was not refused");
    assert!(matches!(error.cause(), Cause::Exists), "{error}");
    assert_eq!(error.aftermath(), Aftermath::Untouched);
    let mut out = make(true).open_export().unwrap();
    out.write_all(b"half").unwrap();
    drop(out);
    assert!(read_oddly(&mut *make(false).open_import().unwrap()).unwrap() == data, "a failed replacement did harm");
    let mut out = make(true).open_export().unwrap();
    let mut old = make(false).open_import().unwrap();
    write_oddly(&mut *out, &data[5..]).unwrap();
    out.skip(100_000).unwrap();
    assert_eq!(out.finish().unwrap().len_bytes, data.len() as u64 - 5 + 100_000);
    match read_oddly(&mut *old) {
        Ok(back) => assert!(back == data, "an open reader sees another image"),
        Err(e) => assert!(!readers_keep_theirs, "an open reader lost its image: {e}"),
    }
    drop(old);
    let back = read_oddly(&mut *make(false).open_import().unwrap()).unwrap();
    assert!(
        back[..data.len() - 5] == data[5..] && back[data.len() - 5..] == vec![0; 100_000],
        "skipped bytes are no zeros"
    );

    // Listed, removed, gone.
    if let Some(store) = make(false).store() {
        assert_eq!(store.list().unwrap().iter().filter(|e| e.len_bytes == back.len() as u64).count(), 1);
        store.remove().unwrap();
        assert!(!store.exists().unwrap());
        assert!(matches!(store.remove().unwrap_err().cause(), Cause::Missing));
    }
}

/// The suite for streams: `make` gives both ends of a new one.
pub fn carries(make: &dyn Fn() -> (Box<dyn Resource>, Box<dyn Resource>)) {
    let data = noise(10_000_019);
    let (mut from, mut to) = make();
    let back = std::thread::scope(|scope| {
        let reader = scope.spawn(move || read_oddly(&mut *to.open_import().unwrap()).unwrap());
        let mut out = from.open_export().unwrap();
        write_oddly(&mut *out, &data).unwrap();
        out.skip(3).unwrap();
        assert_eq!(out.finish().unwrap().len_bytes, data.len() as u64 + 3);
        drop(from);
        reader.join().unwrap()
    });
    assert!(back[..data.len()] == data && back[data.len()..] == [0; 3], "other bytes came out");
}

/// A directory of this test's own, removed with all in it on drop.
pub struct Scratch(pub PathBuf);

impl Scratch {
    pub fn new() -> Self {
        Self::under(&std::env::temp_dir())
    }
    pub fn under(parent: &std::path::Path) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("ghost-resource-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let dir = parent.join(name);
        std::fs::create_dir(&dir).unwrap();
        Self(dir)
    }
    pub fn names(&self) -> Vec<String> {
        let all = std::fs::read_dir(&self.0).unwrap();
        let mut all: Vec<_> = all.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        all.sort();
        all
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
