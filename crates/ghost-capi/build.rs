//! Gives the library its soname, and a link of that name beside what cargo calls it.

use std::path::Path;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libghost.so");
    // OUT_DIR is PROFILE/build/ghost-capi-HASH/out. The link is a convenience: an install copies the file itself.
    let out = std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR");
    if let Some(profile) = Path::new(&out).ancestors().nth(3) {
        let link = profile.join("libghost.so");
        if link.symlink_metadata().is_err() {
            let _ = std::os::unix::fs::symlink("libghost_capi.so", link);
        }
    }
}
