//! `include/ghost.h` is what cbindgen makes of the functions, and C and C++ compilers take it.

use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

#[test]
fn the_header_is_the_one_that_the_functions_make() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = cbindgen::Config::from_file(here.join("cbindgen.toml")).unwrap();
    let bindings = cbindgen::Builder::new().with_config(config).with_src(here.join("src/abi.rs")).generate().unwrap();
    let mut made = Vec::new();
    bindings.write(&mut made);
    let made = String::from_utf8(made).unwrap();
    let path = root().join("include/ghost.h");
    if std::env::var_os("GHOST_WRITE_HEADER").is_some() {
        std::fs::write(&path, &made).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap();
    assert!(
        kept == made,
        "include/ghost.h is not of this source: GHOST_WRITE_HEADER=1 cargo test -p ghost-capi --test header"
    );
    assert!(made.contains("ghost_create_new_ghost(void)") && made.contains("#define GHOST_DISK_WRITE 5"), "{made}");
}

#[test]
fn compilers_of_c_and_cxx_take_the_header_without_a_warning() {
    let source = std::env::temp_dir().join(format!("ghost-header-{}.c", std::process::id()));
    std::fs::write(&source, "#include <ghost.h>\nint twice(ghost_t g) { return ghost_export_process(g, 1); }\n")
        .unwrap();
    for (language, standard) in [("c", "c99"), ("c", "c17"), ("c++", "c++11")] {
        let compiler = if language == "c" { "cc" } else { "c++" };
        let include = root().join("include");
        let out = Command::new(compiler)
            .args(["-fsyntax-only", "-Wall", "-Wextra", "-Werror", "-pedantic", &format!("-std={standard}"), "-I"])
            .arg(&include)
            .args(["-include", "ghost.h", "-x", language])
            .arg(&source)
            .output();
        match out {
            Ok(out) => assert!(out.status.success(), "{standard}: {}", String::from_utf8_lossy(&out.stderr)),
            Err(e) if language == "c++" => eprintln!("skipped: no C++ compiler ({e})"),
            Err(e) => panic!("a C compiler is needed: {e}"),
        }
    }
    std::fs::remove_file(source).unwrap();
}
