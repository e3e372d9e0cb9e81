//! Cases in a pid and mount namespace of their own, which ends with them.
use crate::programs::Programs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How a case ended.
#[derive(Debug)]
pub enum Outcome {
    /// All verdicts were OK.
    Passed,
    /// The host lacks what the victim needs.
    Skipped(String),
    /// The whole story.
    Failed(String),
}

/// Runs this test binary as `--case WORDS… DIR` in namespaces of its own, with `DIR/v` made and whatever init reaps in `DIR/reaped`.
pub(crate) fn in_namespaces(
    programs: &Programs,
    words: &[&str],
    dir: &Path,
    hard_seconds: u64,
) -> Result<Outcome, String> {
    use std::os::unix::fs::PermissionsExt as _;
    let text = |what: &str| {
        let what = what.to_owned();
        move |e: std::io::Error| format!("{what}: {e}")
    };
    for d in [dir.to_owned(), dir.join("v")] {
        std::fs::create_dir(&d).map_err(text(&d.to_string_lossy()))?;
        std::fs::set_permissions(&d, std::fs::Permissions::from_mode(0o777)).map_err(text("chmod"))?;
    }
    let exe = std::env::current_exe().map_err(text("current_exe"))?;
    let said = dir.join("case.out");
    let out = std::fs::File::create(&said).map_err(text("case.out"))?;
    let mut child = Command::new(&programs.victim)
        .args(["ns", "--reaped"])
        .arg(dir.join("reaped"))
        .arg(exe)
        .arg("--case")
        .args(words)
        .arg(dir)
        .env("GHOST_BIN", &programs.ghost)
        .env("VICTIM_BIN", &programs.victim)
        .stdin(Stdio::null())
        .stdout(out.try_clone().map_err(text("case.out"))?)
        .stderr(out)
        .spawn()
        .map_err(text("victim ns"))?;
    // The case itself keeps to its time; this is for the case that does not.
    let hard = Instant::now() + Duration::from_secs(hard_seconds);
    let status = loop {
        if let Some(status) = child.try_wait().map_err(text("wait"))? {
            break status;
        }
        if Instant::now() > hard {
            let _ = child.kill();
            let _ = child.wait();
            return Err(format!("the case itself hung beyond {hard_seconds} s\n{}", read(&said)));
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    match status.code() {
        Some(0) => Ok(Outcome::Passed),
        Some(77) => Ok(Outcome::Skipped(read(&said).trim().to_owned())),
        Some(1) => Ok(Outcome::Failed(read(&said))),
        _ => Ok(Outcome::Failed(format!("the case ended with {status}\n{}", read(&said)))),
    }
}

fn read(path: &Path) -> String {
    std::fs::read(path).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default()
}
