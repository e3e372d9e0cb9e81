//! `ghost demo`
use crate::args::Cli;
use crate::fail::Fail;
use std::process::ExitCode;

/// Runs it.
pub fn run(_cli: &Cli) -> Result<ExitCode, Fail> {
    Err(Fail::Words("the demo is being written".into()))
}
