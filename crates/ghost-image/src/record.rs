//! The records: one protobuf message for each kernel object a ghost carries.
//!
//! The types below are made from `proto/ghost.proto`, which is the public description of a record and says
//! what each field means; `tools/gen-records.sh` makes them anew after a change of it. A record that stands
//! for itself has a section tag of its own ([`crate::Tag`]); the others are parts of one that has.
//!
//! Rule of change: a field is only ever added, with a new number, and its absence means what older ghosts
//! meant. So a reader needs no version to read a record: what it does not know it does not see.

#![allow(missing_docs)] // fields that say what they are by their name have no comment in the .proto
#![allow(clippy::all, clippy::pedantic)] // not written by hand

include!("gen/ghost.v1.rs");

#[cfg(test)]
mod tests {
    /// A `.proto` changed without its Rust would make two readers disagree about the same bytes.
    #[test]
    fn generated_records_are_current() {
        let proto = include_bytes!("../proto/ghost.proto");
        let first = include_str!("gen/ghost.v1.rs").lines().next().unwrap_or_default();
        let hash = format!("{:016x}", xxhash_rust::xxh3::xxh3_64(proto));
        assert!(first.ends_with(&hash), "ghost.proto has changed: run tools/gen-records.sh (found {first:?})");
    }
}
