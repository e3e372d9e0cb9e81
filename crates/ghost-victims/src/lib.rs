//! ghost-victims
