//! Objects seen twice are written once: open file descriptions told apart by kcmp within groups of one inode.

/// The descriptions met so far.
#[derive(Debug, Default)]
pub struct Shared {}
