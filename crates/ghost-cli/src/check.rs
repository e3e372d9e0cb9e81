//! `ghost check`: what this host can do, and what of a process can travel.

use crate::args::Cli;
use crate::fail::Fail;
use std::process::ExitCode;

/// Runs it: 0 when everything can travel, 3 when something is refused.
pub fn run(cli: &Cli, pid: Option<i32>) -> Result<ExitCode, Fail> {
    let Some(pid) = pid else { return host(cli) };
    let blockers = ghost::check(pid)?;
    if blockers.is_empty() {
        if cli.json {
            crate::answer!("{}", serde_json::json!({"pid": pid, "can_travel": true}))?;
        } else if !cli.quiet {
            crate::answer!("pid {pid} and everything below it can travel")?;
            crate::answer!(
                "not known before the checkpoint asks the process: keyrings, Landlock domains, semaphore undo values, 32-bit code, tagged addresses"
            )?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    if cli.json {
        for b in &blockers {
            crate::answer!(
                "{}",
                serde_json::json!({"pid": b.pid, "comm": b.comm, "kind": b.kind, "subject": b.subject, "why": b.why,
                    "advice": b.advice})
            )?;
        }
    } else {
        for b in &blockers {
            crate::answer!("{b}")?;
        }
    }
    Ok(ExitCode::from(3))
}

fn host(cli: &Cli) -> Result<ExitCode, Fail> {
    for feature in ghost_sys::features::all() {
        if cli.json {
            crate::answer!("{}", serde_json::json!({"feature": feature.name, "ok": feature.ok, "why": feature.why}))?;
        } else {
            crate::answer!("{} {:<24} {}", if feature.ok { "yes" } else { "no " }, feature.name, feature.why)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
