//! Any bytes as a header: refused, or read into something that is written and read again as the same.
#![no_main]

use ghost_fuzz::common::repair::repair;
use ghost_image::Header;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut bytes = data.to_vec();
    if bytes.len() % 2 == 0 {
        repair(&mut bytes);
    }
    if let Ok(header) = Header::read(&mut &bytes[..]) {
        let again = header.encode().expect("what was read can be written");
        assert_eq!(Header::read(&mut &again[..]).expect("what was written can be read"), header);
    }
});
