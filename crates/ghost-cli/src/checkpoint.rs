//! `ghost checkpoint`

use crate::args::{Checkpoint, Cli};
use crate::fail::Fail;
use crate::{places, say};
use ghost::{After, ExportOptions, Progress};
use std::process::ExitCode;
use std::sync::Arc;

/// Runs it.
pub fn run(cli: &Cli, args: &Checkpoint) -> Result<ExitCode, Fail> {
    let to = places::target(cli, &args.output, &args.target)?;
    let after = match (args.stop, args.kill) {
        (true, _) => After::Stop,
        (_, true) => After::Kill,
        _ => After::Run,
    };
    let progress = Arc::new(Progress::default());
    let options = ExportOptions {
        after,
        accept: args.accept.iter().cloned().collect(),
        external: args.external.clone(),
        progress: Some(Arc::clone(&progress)),
    };
    let bar = say::Bar::watch(cli, "checkpoint", &progress);
    let done = ghost::checkpoint(args.pid, to, &options);
    drop(bar);
    let report = done?;
    say::report(cli, &report);
    if args.output == "-" {
        return Ok(ExitCode::SUCCESS); // stdout is the ghost
    }
    if cli.json {
        let mut object = say::json(&report);
        object["pid"] = args.pid.into();
        object["url"] = args.output.as_str().into();
        crate::answer!("{object}")?;
    } else if !cli.quiet {
        crate::answer!(
            "pid {} is in {}: {} {}, {}, frozen {}, {} in all",
            args.pid,
            args.output,
            report.processes,
            if report.processes == 1 { "process" } else { "processes" },
            say::size(report.ghost_bytes),
            say::ms(report.frozen()),
            say::ms(report.total()),
        )?;
        if args.stop {
            crate::answer!("stopped, all of it: {} lets it run on", continuing(&report.pids))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The command that continues these processes.
fn continuing(pids: &[i32]) -> String {
    /// More than these are not named one by one.
    const NAMED: usize = 20;
    if pids.len() > NAMED {
        return format!("kill -CONT for each of {} processes, pid {} the first,", pids.len(), pids[0]);
    }
    let pids: Vec<String> = pids.iter().map(i32::to_string).collect();
    format!("`kill -CONT {}`", pids.join(" "))
}
