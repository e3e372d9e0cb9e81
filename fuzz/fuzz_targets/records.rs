//! Any bytes as a record of any kind: refused, or decoded; and within a ghost the same judgement.
#![no_main]

use ghost_fuzz::common::{header, repair::repair, stream};
use ghost_image::prost::Message;
use ghost_image::record::{File, Host, Mm, PageHead, Process, Socket};
use ghost_image::{ImageWriter, Record, Tag, verify};
use libfuzzer_sys::fuzz_target;

/// What decodes is encoded and decoded again as the same.
fn again<M: Message + Default + PartialEq>(bytes: &[u8]) {
    if let Ok(message) = M::decode(bytes) {
        assert!(M::decode(&*message.encode_to_vec()).expect("own bytes") == message);
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((&pick, bytes)) = data.split_first() else { return };
    again::<Host>(bytes);
    again::<Process>(bytes);
    again::<Mm>(bytes);
    again::<File>(bytes);
    again::<Socket>(bytes);
    again::<PageHead>(bytes);
    let kinds: Vec<Tag> =
        Tag::ALL.iter().copied().filter(|tag| !matches!(tag, Tag::Pages | Tag::Index | Tag::Commit)).collect();
    let tag = kinds[usize::from(pick) % kinds.len()];
    let decodes = Record { tag, bytes, offset: 0 }.check().is_ok();

    // The same bytes under that tag in a ghost: an unknown section's frame is turned into one of the kind.
    let mut writer = ImageWriter::new(Vec::new(), &header()).expect("a header");
    let start = writer.offset() as usize;
    writer.foreign(1000, "x", bytes, &[]).expect("a section");
    let mut ghost = writer.finish().expect("a ghost").0;
    ghost[start..start + 4].copy_from_slice(&tag.number().to_le_bytes());
    ghost[start + 8..start + 24].fill(0);
    ghost[start + 8..start + 8 + tag.name().len()].copy_from_slice(tag.name().as_bytes());
    repair(&mut ghost);
    let whole = verify(&ghost[..]).is_ok();
    assert!(decodes || !whole, "{tag}: verified, and does not decode");
    assert!(!whole || stream(&ghost, 1).is_ok());
});
