//! The C border of ghost: `libghost.so` and `ghost.h`.
//!
//! [`abi`] has the functions, with the names of the ghost process of 2005; `include/ghost.h` is generated from it (a test
//! compares). [`handle`] is what stands behind a `ghost_t`, in safe Rust over the crate `ghost`. [`last`] keeps what went
//! wrong, per thread, as the five answers.
//!
//! Three promises at the border: a panic becomes an error and never reaches C; a null pointer is an error; a ghost that two
//! threads use at once is an error for the second, not a race.
//!
//! Cargo calls the file `libghost_capi.so`, because the Rust library is called `ghost`; its soname is `libghost.so`, and the
//! build leaves a link of that name beside it. Install it as `libghost.so`.

pub mod abi;
pub mod handle;
pub mod last;
