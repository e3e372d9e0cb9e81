//! ghost-capi
