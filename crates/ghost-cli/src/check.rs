//! `ghost check`: what this host can do, and what of a process can travel.

use crate::args::Cli;
use crate::fail::Fail;
use std::process::ExitCode;

/// Runs it: 0 when everything can travel, 3 when something is refused.
pub fn run(cli: &Cli, pid: Option<i32>) -> Result<ExitCode, Fail> {
    let Some(pid) = pid else { return Ok(host(cli)) };
    let blockers = ghost::check(pid)?;
    if blockers.is_empty() {
        if cli.json {
            println!("{}", serde_json::json!({"pid": pid, "can_travel": true}));
        } else if !cli.quiet {
            println!("pid {pid} and everything below it can travel");
            println!(
                "not known before the checkpoint asks the process: session keyrings, Landlock domains, semaphore undo values"
            );
        }
        return Ok(ExitCode::SUCCESS);
    }
    if cli.json {
        for b in &blockers {
            println!(
                "{}",
                serde_json::json!({"pid": b.pid, "comm": b.comm, "kind": b.kind, "subject": b.subject, "why": b.why,
                    "advice": b.advice})
            );
        }
    } else {
        for b in &blockers {
            println!("{b}");
        }
    }
    Ok(ExitCode::from(3))
}

fn host(cli: &Cli) -> ExitCode {
    for feature in ghost_sys::features::all() {
        if cli.json {
            println!("{}", serde_json::json!({"feature": feature.name, "ok": feature.ok, "why": feature.why}));
        } else {
            println!("{} {:<24} {}", if feature.ok { "yes" } else { "no " }, feature.name, feature.why);
        }
    }
    ExitCode::SUCCESS
}
