//! Plug-ins in shared libraries: the C example under the shared suite, and every fault that ghost promises to notice.

mod common;

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Scratch, keeps_images_for};
use ghost_resource::{Aftermath, Cause, Error, Options, Registry, Result};

/// All faults of `plugins/faulty.c`; their places in the list are their numbers there.
const FAULTS: [&str; 27] = [
    "NONE",
    "OPEN_NULL",
    "OPEN_CODE",
    "OPEN_SILENT",
    "ERROR_OVERLONG",
    "WRITE_MORE",
    "WRITE_HUGE",
    "WRITE_NONE",
    "WRITE_CODE",
    "WRITE_MIDDLE",
    "FINISH_SHORT",
    "FINISH_DURABLE",
    "FINISH_CODE",
    "READ_MORE",
    "READ_CODE",
    "READ_MIDDLE",
    "LIST_NULL",
    "LIST_ENDLESS",
    "ABI",
    "SIZE",
    "NO_NAME",
    "SCHEME",
    "TAKEN",
    "LONG_SCHEME",
    "CLASS",
    "NO_ABORT",
    "HALF_STORE",
];

/// Builds a plug-in with the C compiler; its library lives in `dir`.
fn build(dir: &Path, source: &str, defines: &[String]) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let library = dir.join("plugin.so");
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-Wall", "-I"])
        .arg(root.join("include"))
        .args(defines)
        .arg("-o")
        .arg(&library)
        .arg(root.join(source))
        .output()
        .expect("a C compiler is needed to test plug-ins: install gcc");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    library
}

fn load_faulty(fault: &str) -> Result<Registry> {
    let dir = Scratch::new();
    let others = ["NULL_TABLE", "NO_ENTRY"];
    let mut defines: Vec<_> =
        FAULTS.iter().chain(&others).enumerate().map(|(number, name)| format!("-D{name}={number}")).collect();
    defines.push(format!("-DFAULT={fault}"));
    let library = build(&dir.0, "crates/ghost-resource/tests/plugins/faulty.c", &defines);
    let mut registry = Registry::with_defaults();
    registry.load_plugin(&library)?;
    Ok(registry)
}

/// Loads the plug-in with this fault and exports and imports through it, until it shows.
fn meet(fault: &str) -> Error {
    let registry = match load_faulty(fault) {
        Ok(registry) => registry,
        Err(error) => return error,
    };
    let mut resource = registry.open_url("faulty:x", &Options::default()).unwrap();
    let mut export = || -> Result<()> {
        let mut out = resource.open_export()?;
        let data = vec![1; 65_536];
        for _ in 0..40 {
            if let Err(e) = out.write_all(&data) {
                assert!(out.finish().is_err(), "a broken export was finished");
                return Err(Error::from_io("writing", "somewhere", e));
            }
        }
        let written = out.finish()?;
        assert_eq!(written.len_bytes, 40 * 65_536);
        Ok(())
    };
    if let Err(error) = export() {
        return error;
    }
    let mut import = || -> Result<()> {
        let mut input = resource.open_import()?;
        let mut piece = vec![0; 100_000];
        for _ in 0..20 {
            input.read_exact(&mut piece).map_err(|e| Error::from_io("reading", "somewhere", e))?;
            assert!(piece.iter().all(|b| *b == 7));
        }
        Ok(())
    };
    if let Err(error) = import() {
        return error;
    }
    match resource.store().unwrap().list() {
        Err(error) => error,
        Ok(all) => {
            assert_eq!(all[0].url, "faulty:one");
            // Its answer to `exists` is nonsense in all of them.
            resource.store().unwrap().exists().unwrap_err()
        }
    }
}

#[test]
fn the_example_in_c_keeps_images() {
    let dir = Scratch::new();
    let mut registry = Registry::with_defaults();
    assert_eq!(registry.load_plugin(&build(&dir.0, "examples/plugin.c", &[])).unwrap(), "chunks");
    let images = Scratch::new();
    let url = format!("chunks:{}/app", images.0.display());
    // Its chunks are opened one by one, so a reader loses those that a new image replaced.
    keeps_images_for(&|replace| registry.open_url(&url, &Options { replace, ..Options::default() }).unwrap(), false);
    assert_eq!(images.names(), Vec::<String>::new());
    assert!(registry.open_class(ghost_resource::ClassId(0x10100), "x", &Options::default()).is_ok());
    let again = registry.load_plugin(&dir.0.join("plugin.so")).unwrap_err();
    assert!(again.to_string().contains("the scheme is taken"), "{again}");
}

#[test]
fn the_example_in_c_tells_a_lost_chunk_and_a_strange_directory() {
    let dir = Scratch::new();
    let mut registry = Registry::with_defaults();
    registry.load_plugin(&build(&dir.0, "examples/plugin.c", &[])).unwrap();
    let images = Scratch::new();
    let open = |name: &str| {
        let options = Options { replace: true, ..Options::default() };
        registry.open_url(&format!("chunks:{}/{name}", images.0.display()), &options).unwrap()
    };
    let mut out = open("app").open_export().unwrap();
    out.write_all(&common::noise(3 << 20)).unwrap();
    out.finish().unwrap();
    std::fs::remove_file(images.0.join("app/000001")).unwrap();
    let error = open("app").open_import().unwrap().read_to_end(&mut Vec::new()).unwrap_err();
    assert!(error.to_string().contains("the plug-in says: opening chunk") && error.to_string().contains("000001"));

    std::fs::create_dir(images.0.join("mine")).unwrap();
    std::fs::write(images.0.join("mine/letter"), "dear").unwrap();
    let error = open("mine").open_export().err().unwrap();
    assert!(error.to_string().contains("is no directory of chunks"), "{error}");
    assert_eq!(std::fs::read(images.0.join("mine/letter")).unwrap(), b"dear");
}

#[test]
fn every_fault_is_a_clear_error_and_harms_nobody() {
    let says = [
        ("NONE", "it returned 7, which means nothing"),
        ("OPEN_NULL", "gave a null pointer"),
        ("OPEN_CODE", "it returned 42, which means nothing"),
        ("OPEN_SILENT", "it gave no reason"),
        ("ERROR_OVERLONG", "xxxxxxxx"),
        ("WRITE_MORE", "it says it wrote 65537 bytes of 65536"),
        ("WRITE_HUGE", "it says it wrote 9223372036854775807 bytes of 65536"),
        ("WRITE_NONE", "it says it wrote 0 bytes of 65536"),
        ("WRITE_CODE", "it returned -77, which means nothing"),
        ("WRITE_MIDDLE", "writing faulty:x: the plug-in says: the robot arm is stuck"),
        ("FINISH_SHORT", "it says it keeps 2621439 bytes, but was given 2621440"),
        ("FINISH_DURABLE", "it gave 99 for durable"),
        ("FINISH_CODE", "it returned 5, which means nothing"),
        ("READ_MORE", "it says it read 100001 bytes of 100000"),
        ("READ_CODE", "it returned -9223372036854775808, which means nothing"),
        ("READ_MIDDLE", "reading faulty:x: the plug-in says: the tape is torn"),
        ("LIST_NULL", "its URL is a null pointer"),
        ("LIST_ENDLESS", "it lists more than"),
        ("ABI", "it speaks version 2 of the interface, not 1"),
        ("SIZE", "its table has 40 bytes"),
        ("NO_NAME", "its name is a null pointer"),
        ("SCHEME", "is no scheme"),
        ("TAKEN", "the scheme is taken"),
        ("LONG_SCHEME", "longer than 31 bytes"),
        ("CLASS", "class id DISK_WRITE is reserved"),
        ("NO_ABORT", "its function abort is missing"),
        ("HALF_STORE", "but not all"),
        ("NULL_TABLE", "it refuses version 1 of the interface"),
        ("NO_ENTRY", "it has no symbol ghost_plugin_v1_entry"),
    ];
    for (fault, words) in says {
        let error = meet(fault);
        assert!(error.to_string().contains(words), "{fault}: {error}");
        assert!(!error.to_string().contains(char::is_control), "{fault}: {error}");
        assert!(!error.advice().is_empty());
        if matches!(error.cause(), Cause::Misbehaved(_)) {
            assert_eq!(error.aftermath(), Aftermath::Unknown, "{fault}");
        }
    }
}

#[test]
fn what_is_no_library_is_said_to_be() {
    let dir = Scratch::new();
    let text = dir.0.join("plugin.so");
    std::fs::write(&text, "not a library").unwrap();
    let error = Registry::with_defaults().load_plugin(&text).unwrap_err();
    assert!(error.to_string().contains("cannot be loaded") && error.advice().contains("ghost_plugin.h"), "{error}");
    let error = Registry::with_defaults().load_plugin(&dir.0.join("none.so")).unwrap_err();
    assert!(error.to_string().contains("No such file"), "{error}");
}
