//! The ghost as bytes.

pub mod record;

pub use prost;
