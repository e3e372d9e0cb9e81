//! Writes the record types of `ghost-image` from `ghost.proto`.
//!
//! protox parses the `.proto` in pure Rust, so no `protoc` is needed, and the result is committed, so that
//! no build of ghost needs this program either. The first line of the output holds the xxh3 of the `.proto`
//! it was made from; a unit test of `ghost-image` compares the two.

use std::error::Error;
use std::fs;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    let image = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../crates/ghost-image");
    let proto_dir = image.join("proto");
    let source = fs::read(proto_dir.join("ghost.proto"))?;
    let files = protox::compile(["ghost.proto"], [&proto_dir])?;
    let out = tempdir()?;
    prost_build::Config::new()
        .out_dir(&out)
        .compile_fds(files)?;
    let body = fs::read_to_string(out.join("ghost.v1.rs"))?;
    let hash = xxhash_rust::xxh3::xxh3_64(&source);
    let target = image.join("src/gen/ghost.v1.rs");
    fs::create_dir_all(image.join("src/gen"))?;
    fs::write(&target, format!("// made by tools/gen-records.sh from ghost.proto, xxh3 {hash:016x}\n{body}"))?;
    fs::remove_dir_all(&out)?;
    println!("{}", target.canonicalize()?.display());
    Ok(())
}

fn tempdir() -> std::io::Result<std::path::PathBuf> {
    let dir = std::env::temp_dir().join(format!("gen-records-{}", std::process::id()));
    fs::create_dir(&dir)?;
    Ok(dir)
}
