//! ghost-resource
