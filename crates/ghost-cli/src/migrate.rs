//! `ghost migrate` and `ghost receive`
use crate::args::{Cli, Migrate, Receive};
use crate::fail::Fail;
use std::process::ExitCode;

/// Runs it.
pub fn run(_cli: &Cli, _args: &Migrate) -> Result<ExitCode, Fail> {
    Err(Fail::Words("being written".into()))
}
/// Runs it.
pub fn receive(_cli: &Cli, _args: &Receive) -> Result<ExitCode, Fail> {
    Err(Fail::Words("being written".into()))
}
