//! What the fuzz targets share: the tests' small ghost, their three ways to read, and their repair of checksums.

#[path = "../../crates/ghost-image/tests/common/mod.rs"]
pub mod common;
