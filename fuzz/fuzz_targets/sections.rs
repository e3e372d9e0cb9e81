//! Any bytes as a whole ghost, as they are or with their checksums repaired: every reader says the same.
#![no_main]

use ghost_fuzz::common::{indexed, placed, repair::repair, slice, stream};
use ghost_image::verify;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&mode, ghost)) = data.split_first() else { return };
    let mut ghost = ghost.to_vec();
    if mode & 1 == 0 {
        repair(&mut ghost);
    }
    let step = 1 + usize::from(mode >> 1) * 64;
    let (streamed, sliced) = (stream(&ghost, step), slice(&ghost));
    let by_offset = placed(&ghost);
    let checked = verify(&ghost[..]);
    match (&streamed, &sliced) {
        (Ok(streamed), Ok(sliced)) => assert_eq!(streamed, sliced),
        (Err(_), Err(_)) => {}
        _ => panic!("stream {streamed:?}, slice {sliced:?}"),
    }
    match (&by_offset, &sliced) {
        (Ok(by_offset), Ok(sliced)) => assert_eq!(by_offset, sliced),
        (Err(_), Err(_)) => {}
        _ => panic!("by offset {by_offset:?}, slice {sliced:?}"),
    }
    // What verifies is read by all, through the index too, and nothing but the records can fail otherwise.
    if checked.is_ok() {
        assert_eq!(indexed(&ghost).expect("the index of a sound ghost"), sliced.expect("a sound ghost"));
    } else {
        let _ = indexed(&ghost);
    }
});
