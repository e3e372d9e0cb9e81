//! `ghost duplicate`

use crate::args::{Cli, Duplicate};
use crate::fail::Fail;
use crate::say;
use ghost::ImportOptions;
use std::process::ExitCode;

/// Runs it: the pid of each new root on a line of its own.
pub fn run(cli: &Cli, args: &Duplicate) -> Result<ExitCode, Fail> {
    let accept = args.accept.iter().cloned().collect();
    let options = ImportOptions { detach: true, accept, ..ImportOptions::default() };
    for restored in ghost::duplicate(args.pid, args.copies, options)? {
        say::report(cli, &restored.report);
        if cli.json {
            let mut object = say::json(&restored.report);
            object["pid"] = restored.root.into();
            crate::answer!("{object}")?;
        } else {
            crate::answer!("{}", restored.root)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
