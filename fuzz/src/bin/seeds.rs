//! Writes first inputs for the fuzz targets below the directory it is given: a sound one of each shape.

use std::fs;
use std::path::Path;

use ghost_fuzz::common::{Whole, header, run, slice, small_ghost};
use ghost_image::pages::SEVERAL;
use ghost_image::prost::Message;
use ghost_image::record::{PageHead, PageShare};
use ghost_image::{ImageWriter, Tag};

fn main() -> std::io::Result<()> {
    let corpus = std::env::args_os().nth(1).expect("usage: seeds DIRECTORY");
    let put = |target: &str, name: &str, bytes: &[u8]| {
        let dir = Path::new(&corpus).join(target);
        fs::create_dir_all(&dir)?;
        fs::write(dir.join(name), bytes)
    };
    let head = header().encode().expect("a header");
    put("header", "as-it-is", &head[..])?;
    put("header", "repaired", &[&head[..], b"+"].concat()[..(head.len() + 1) / 2 * 2])?;
    let ghost = small_ghost();
    put("sections", "repaired", &[&[0xfe][..], &ghost].concat())?;
    put("sections", "as-it-is", &[&[0xff][..], &ghost].concat())?;
    let mut small = ImageWriter::new(Vec::new(), &header()).expect("a header");
    let zero = PageHead { owner: 0, id: 1, runs: vec![run(0x1000, 3, true)], shares: Vec::new() };
    small.pages(&zero, &[]).expect("zero pages");
    small.foreign(99, "optional", b"text", &[]).expect("a section");
    put("sections", "short", &[&[0x06][..], &small.finish().expect("a ghost").0].concat())?;
    for (i, section) in slice(&ghost).expect("a sound ghost").into_iter().enumerate() {
        match section {
            Whole::Record(tag, bytes) => {
                let pick = Tag::ALL.iter().position(|&known| known == tag).unwrap_or_default() as u8;
                put("records", &format!("{tag}-{i}"), &[&[pick][..], &bytes].concat())?;
            }
            Whole::Pages(head, _) => {
                put("pages", &format!("head-{i}"), &[&[0][..], &head.encode_to_vec()].concat())?;
            }
        }
    }
    let shares = vec![PageShare { first: 0, count: 1, ids: vec![2, 3] }];
    let common = PageHead { owner: SEVERAL, id: 1, runs: vec![run(0x1000, 1, false), run(0x3000, 1, true)], shares };
    put("pages", "common", &[&[0][..], &common.encode_to_vec()].concat())?;
    put("pages", "shaped", &[1, 1, 0, 2, 0, 3, 8, 1, 1, 0, 0, 1, 2])
}
