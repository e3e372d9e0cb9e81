//! `ghost migrate` and `ghost receive`: over TCP, or through a command's pipes as rsync does with ssh.

use crate::args::{Cli, Migrate, Receive};
use crate::fail::Fail;
use crate::restart::{Forward, announce, options as making_options};
use crate::{say, stdio};
use ghost::resource::{Duplex, Options, tcp};
use ghost::{ExportOptions, Progress, Report};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// Runs `ghost migrate`.
pub fn run(cli: &Cli, args: &Migrate) -> Result<ExitCode, Fail> {
    let progress = Arc::new(Progress::default());
    let options = ExportOptions { progress: Some(Arc::clone(&progress)), ..ExportOptions::default() };
    let bar = say::Bar::watch(cli, "migrate", &progress);
    let done = match (&args.node, &args.via) {
        (_, Some(command)) => through(args.pid, command, &options),
        (Some(node), None) => to(args.pid, node, args.wait, &options),
        (None, None) => Err(Fail::Usage("where to? a node (tcp://HOST:PORT) or --via COMMAND".to_owned())),
    };
    drop(bar);
    let (report, there) = done?;
    say::report(cli, &report);
    if cli.json {
        let mut object = say::json(&report);
        object["pid"] = args.pid.into();
        object["pid_there"] = there.into();
        println!("{object}");
    } else if !cli.quiet {
        println!("pid {} has moved: {}, frozen {}", args.pid, say::size(report.page_bytes), say::ms(report.frozen()));
    }
    Ok(ExitCode::SUCCESS)
}

fn address(url: &str) -> Result<&str, Fail> {
    match url.strip_prefix("tcp://").or_else(|| url.strip_prefix("tcp:")) {
        Some(address) => Ok(address),
        None => Err(Fail::Usage(format!("{url} is not tcp://HOST:PORT"))),
    }
}

fn to(pid: i32, node: &str, wait_s: u64, options: &ExportOptions) -> Result<(Report, i32), Fail> {
    let mut network = Options::default();
    network.network.retry_for = Duration::from_secs(wait_s);
    let duplex: Box<dyn Duplex> = Box::new(tcp::connect(address(node)?, &network)?);
    let (mut from, mut to) = duplex.split()?;
    Ok(ghost::migrate(pid, &mut from, &mut to, options)?)
}

/// The other ghost at the end of a command's pipes.
fn through(pid: i32, command: &str, options: &ExportOptions) -> Result<(Report, i32), Fail> {
    let mut child = Command::new("/bin/sh")
        .args(["-c", command])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| Fail::Words(format!("{command}: {e}")))?;
    let mut to = child.stdin.take().expect("it was asked for");
    let mut from = child.stdout.take().expect("it was asked for");
    let done = ghost::migrate(pid, &mut from, &mut to, options);
    drop((to, from));
    let ended = child.wait();
    match (done, ended) {
        (Ok(done), _) => Ok(done),
        (Err(e), Ok(status)) if !status.success() && !e.is_refusal() => {
            eprintln!("ghost: the command ended with {status}: {command}");
            Err(e.into())
        }
        (Err(e), _) => Err(e.into()),
    }
}

/// Runs `ghost receive`.
pub fn receive(cli: &Cli, args: &Receive) -> Result<ExitCode, Fail> {
    if matches!(args.making.pid, crate::args::PidChoice::Ns) && !crate::nsinit::inside() {
        return crate::nsinit::enter(cli, &args.making);
    }
    let options = making_options(&args.making)?;
    let signals = if args.making.detach && !crate::nsinit::inside() { None } else { Some(Forward::start()?) };
    let restored = if args.url == "-" {
        // What the new process prints must not run into the protocol.
        let (mut from, mut to) = (stdio::take_stdin()?, stdio::take_stdout()?);
        ghost::receive(&mut from, &mut to, &options)?
    } else {
        let mut network = Options::default();
        network.network.address_file.clone_from(&args.address_file);
        let duplex: Box<dyn Duplex> = Box::new(tcp::listen(address(&args.url)?, &network)?.accept()?);
        let (mut from, mut to) = duplex.split()?;
        ghost::receive(&mut from, &mut to, &options)?
    };
    if args.url == "-" {
        let quiet =
            Cli { quiet: true, json: false, timings: false, plugin: Vec::new(), verb: crate::args::Verb::Failpoints };
        announce(&quiet, &args.making, &restored)?;
    } else {
        announce(cli, &args.making, &restored)?;
    }
    match signals {
        None => Ok(ExitCode::SUCCESS),
        Some(signals) => signals.until_end(restored.root),
    }
}
