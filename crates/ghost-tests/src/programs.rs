//! Where the programs under test are: beside the test binary, or as the environment says.
use std::path::{Path, PathBuf};
use std::process::Command;

/// The two programs.
#[derive(Clone, Debug)]
pub struct Programs {
    /// The `ghost` command: `GHOST_BIN`, or `target/PROFILE/ghost`.
    pub ghost: PathBuf,
    /// The `victim` binary: `VICTIM_BIN`, or `target/PROFILE/victim`.
    pub victim: PathBuf,
}

/// Finds the programs; under cargo, builds those that the environment does not name, so that they are never stale.
pub fn find() -> Result<Programs, String> {
    let exe = std::env::current_exe().map_err(|e| format!("current_exe: {e}"))?;
    // target/PROFILE/deps/victims-HASH
    let profile = exe.parent().and_then(Path::parent).ok_or("the test binary is not in target/PROFILE/deps")?;
    let named = |var: &str| std::env::var_os(var).map(PathBuf::from);
    let (ghost, victim) = (named("GHOST_BIN"), named("VICTIM_BIN"));
    if let Some(cargo) = std::env::var_os("CARGO").filter(|_| ghost.is_none() || victim.is_none()) {
        let mut build = Command::new(cargo);
        build.current_dir(env!("CARGO_MANIFEST_DIR")).args(["build", "--quiet"]);
        if ghost.is_none() {
            build.args(["-p", "ghost-cli", "--bin", "ghost"]);
        }
        if victim.is_none() {
            build.args(["-p", "ghost-victims", "--bin", "victim"]);
        }
        let name = profile.file_name().and_then(|n| n.to_str()).unwrap_or("debug");
        build.args(["--profile", if name == "debug" { "dev" } else { name }]);
        build.arg("--target-dir").arg(profile.parent().unwrap_or(profile));
        let status = build.status().map_err(|e| format!("cargo build: {e}"))?;
        if !status.success() {
            return Err(format!("cargo build of ghost and victim: {status}"));
        }
    }
    let found = Programs {
        ghost: ghost.unwrap_or_else(|| profile.join("ghost")),
        victim: victim.unwrap_or_else(|| profile.join("victim")),
    };
    for p in [&found.ghost, &found.victim] {
        if !p.exists() {
            return Err(format!("{} does not exist: build it, or set GHOST_BIN and VICTIM_BIN", p.display()));
        }
    }
    Ok(found)
}
