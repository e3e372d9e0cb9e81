//! Layers over ghost's own places: the shared suite through each, and streams that are cut, damaged or made up.

mod common;

use std::io::{Read, Write};
use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use common::{Scratch, carries, keeps_images, memory_like, read_oddly, write_oddly};
use ghost_resource::{Buffer, Cause, Layer, Layered, Options, Registry, Resource, channel, open_import_auto};

const ZSTD: Layer = Layer::Zstd { level: 1 };

fn packed(layers: &[Layer], data: &[u8]) -> Vec<u8> {
    let buffer = Buffer::new();
    let mut out = Layered::stack(Box::new(buffer.clone()), layers).open_export().unwrap();
    write_oddly(&mut *out, data).unwrap();
    assert_eq!(out.finish().unwrap().len_bytes, data.len() as u64);
    buffer.take().unwrap().to_vec()
}

fn unpacked(bytes: Vec<u8>) -> std::io::Result<Vec<u8>> {
    read_oddly(&mut *open_import_auto(&mut Buffer::from_bytes(bytes))?)
}

#[test]
fn compressed_disks_and_buffers_keep_images() {
    for layer in [ZSTD, Layer::Lz4] {
        let dir = Scratch::new();
        let url = format!("{}/app.ghost", dir.0.display());
        let options = |replace| Options { replace, layers: vec![layer], ..Options::default() };
        // Listed with its length on the disk, not with that of what is in it: only the suite for buffers checks that.
        let registry = Registry::with_defaults();
        let data = memory_like(3_000_000);
        let mut out = registry.open_url(&url, &options(false)).unwrap().open_export().unwrap();
        write_oddly(&mut *out, &data).unwrap();
        out.finish().unwrap();
        let mut plain = registry.open_url(&url, &Options::default()).unwrap();
        assert!(read_oddly(&mut *open_import_auto(&mut *plain).unwrap()).unwrap() == data);
        assert!(plain.store().unwrap().list().unwrap()[0].len_bytes < data.len() as u64 / 2);

        let buffer = Buffer::new();
        keeps_images(&|replace| {
            let place = if replace { buffer.replacing() } else { buffer.clone() };
            Box::new(Layered::new(Box::new(place), layer))
        });
    }
}

#[test]
fn compressed_channels_carry() {
    for layer in [ZSTD, Layer::Lz4] {
        carries(&|| {
            let (export, import) = channel(1 << 20);
            (Box::new(Layered::new(Box::new(export), layer)), Box::new(Layered::new(Box::new(import), layer)))
        });
    }
}

#[test]
fn memory_gets_smaller_and_noise_hardly_larger() {
    for layer in [ZSTD, Layer::Lz4] {
        let data = memory_like(4 << 20);
        assert!(packed(&[layer], &data).len() < data.len() * 2 / 5);
        let noise = common::noise(4 << 20);
        assert!(packed(&[layer], &noise).len() < noise.len() + 200);
        assert!(packed(&[layer], &vec![0; 64 << 20]).len() < 2_000);
        assert_eq!(unpacked(packed(&[layer], b"")).unwrap(), b"");
    }
}

#[test]
fn stacked_layers_are_undone_one_by_one() {
    let data = memory_like(2_000_003);
    assert!(unpacked(packed(&[ZSTD, Layer::Lz4], &data)).unwrap() == data);
    let too_many = packed(&[Layer::Lz4; 5], b"deep");
    let error = open_import_auto(&mut Buffer::from_bytes(too_many)).err().unwrap();
    assert!(error.to_string().contains("more than 4 layers"), "{error}");
}

#[test]
fn a_plain_image_keeps_its_mapping() {
    let image = open_import_auto(&mut Buffer::from_bytes(b"plain".to_vec())).unwrap();
    assert_eq!(image.as_mapped(), Some(&b"plain"[..]));
}

#[test]
fn a_cut_at_any_place_is_truncation() {
    let data = memory_like(1_300_000);
    for layer in [ZSTD, Layer::Lz4] {
        let whole = packed(&[layer], &data);
        let cuts = (16..200).chain((200..whole.len()).step_by(9_973)).chain(whole.len() - 20..whole.len());
        for cut in cuts {
            let error = unpacked(whole[..cut].to_vec()).expect_err("a cut was not noticed");
            let error = ghost_resource::Error::from_io("", "", error);
            assert!(matches!(error.cause(), Cause::Truncated { .. }), "cut at {cut}: {error}");
        }
    }
}

#[test]
fn damage_is_an_error_or_harmless_but_never_a_panic_or_more_memory() {
    let data = memory_like(300_000);
    for layer in [ZSTD, Layer::Lz4] {
        let whole = packed(&[layer], &data);
        let places = (8..64).chain((64..whole.len()).step_by(whole.len() / 150));
        for (at, bit) in places.flat_map(|at| [0, 3, 7].map(|bit| (at, bit))) {
            let mut hurt = whole.clone();
            hurt[at] ^= 1 << bit;
            // A flip inside a block may go unseen here: the ghost's own checksums find it. The length never changes.
            if let Ok(back) = unpacked(hurt) {
                assert_eq!(back.len(), data.len(), "byte {at}");
            }
        }
    }
    let mut greedy = packed(&[Layer::Lz4], b"x");
    greedy[16..24].copy_from_slice(&[0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0x40]);
    let error = unpacked(greedy).unwrap_err();
    assert!(error.to_string().contains("a block claims"), "{error}");
}

#[test]
fn what_was_flushed_can_be_read_before_more_comes() {
    for layer in [ZSTD, Layer::Lz4] {
        let (export, import) = channel(1 << 20);
        let mut out = Layered::new(Box::new(export), layer).open_export().unwrap();
        out.write_all(b"first, and then nothing for long").unwrap();
        out.flush().unwrap();
        let mut input = Layered::new(Box::new(import), layer).open_import().unwrap();
        let mut first = [0; 5];
        input.read_exact(&mut first).unwrap();
        assert_eq!(&first, b"first");
        out.finish().unwrap();
    }
}

#[test]
fn a_failing_place_fails_the_compressed_export() {
    let (export, mut import) = channel(1);
    let mut out = Layered::new(Box::new(export), ZSTD).open_export().unwrap();
    drop(import.open_import().unwrap());
    let noise = common::noise(8 << 20);
    let error = out.write_all(&noise).unwrap_err();
    assert!(error.to_string().contains("channel"), "{error}");
    assert!(out.write_all(b"more").is_err());
    assert!(out.finish().is_err());
}

#[test]
fn a_rate_limit_takes_its_time_both_ways() {
    let limit = Layer::RateLimit { bytes_per_s: NonZeroU64::new(10_000_000).unwrap() };
    let buffer = Buffer::new();
    let data = common::noise(2_000_000);
    let begin = Instant::now();
    let mut out = Layered::new(Box::new(buffer.clone()), limit).open_export().unwrap();
    write_oddly(&mut *out, &data).unwrap();
    out.finish().unwrap();
    assert!(begin.elapsed() >= Duration::from_millis(199), "{:?}", begin.elapsed());
    let begin = Instant::now();
    let back = read_oddly(&mut *Layered::new(Box::new(buffer), limit).open_import().unwrap()).unwrap();
    assert!(back == data && begin.elapsed() >= Duration::from_millis(150), "{:?}", begin.elapsed());
}

#[test]
fn compressions_are_named_as_users_write_them() {
    assert_eq!("zstd".parse::<Layer>().unwrap(), ZSTD);
    assert_eq!("zstd:-5".parse::<Layer>().unwrap(), Layer::Zstd { level: -5 });
    assert_eq!("lz4".parse::<Layer>().unwrap(), Layer::Lz4);
    for bad in ["gzip", "zstd:", "zstd:20", "lz4:1", ""] {
        assert!(bad.parse::<Layer>().is_err(), "{bad}");
    }
}
