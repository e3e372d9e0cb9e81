//! The `ghost` command: one file a verb, errors to exit codes here.

mod args;
mod check;
mod checkpoint;
mod demo;
mod duplicate;
mod fail;
mod images;
mod migrate;
mod nsinit;
mod places;
mod restart;
mod say;
mod stdio;

use clap::{CommandFactory, Parser};
use fail::Fail;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = args::Cli::parse();
    // A limit on the size of files (ulimit -f) is an error of the write that meets it (EFBIG) and no reason to die. A handler, since what
    // ghost starts must not inherit a signal that is ignored. SIGPIPE is ignored already, by Rust, which gives it back to what it starts.
    let _ = signal_hook::flag::register(signal_hook::consts::SIGXFSZ, std::sync::Arc::default());
    match run(&cli) {
        Ok(code) => code,
        Err(fail) => fail.report(cli.json),
    }
}

fn run(cli: &args::Cli) -> Result<ExitCode, Fail> {
    if nsinit::inside() {
        nsinit::settle()?;
    }
    use args::Verb;
    match &cli.verb {
        Verb::Checkpoint(a) => checkpoint::run(cli, a),
        Verb::Restart(a) => restart::run(cli, a),
        Verb::Migrate(a) => migrate::run(cli, a),
        Verb::Receive(a) => migrate::receive(cli, a),
        Verb::Duplicate(a) => duplicate::run(cli, a),
        Verb::Inspect { url } => images::inspect(cli, url),
        Verb::Verify { url } => images::verify(cli, url),
        Verb::Check { pid } => check::run(cli, *pid),
        Verb::List { url } => images::list(cli, url),
        Verb::Remove { url } => images::remove(cli, url),
        Verb::Demo(a) => demo::run(cli, a),
        Verb::Completions { shell } => {
            clap_complete::generate(*shell, &mut args::Cli::command(), "ghost", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
        Verb::Failpoints => {
            for name in ghost::failpoint::names() {
                crate::answer!("{name}")?;
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}
