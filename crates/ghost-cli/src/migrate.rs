//! `ghost migrate` and `ghost receive`: over TCP, or through a command's pipes as rsync does with ssh.

use crate::args::{Cli, Migrate, Receive};
use crate::fail::Fail;
use crate::restart::{Forward, announce, options as making_options};
use crate::{say, stdio};
use ghost::resource::patient::Patient;
use ghost::resource::{Duplex, Options, tcp};
use ghost::{ExportOptions, Progress, Report};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// Runs `ghost migrate`.
pub fn run(cli: &Cli, args: &Migrate) -> Result<ExitCode, Fail> {
    let progress = Arc::new(Progress::default());
    let options = ExportOptions {
        progress: Some(Arc::clone(&progress)),
        accept: args.accept.iter().cloned().collect(),
        external: args.external.clone(),
        ..ExportOptions::default()
    };
    let bar = say::Bar::watch(cli, "migrate", &progress);
    let done = match (&args.node, &args.via) {
        (_, Some(command)) => through(args, command, &options),
        (Some(node), None) => to(args, node, &options),
        (None, None) => Err(Fail::Usage("where to? a node (tcp://HOST:PORT) or --via COMMAND".to_owned())),
    };
    drop(bar);
    let (report, there) = done?;
    say::report(cli, &report);
    if cli.json {
        let mut object = say::json(&report);
        object["pid"] = args.pid.into();
        object["pid_there"] = there.into();
        crate::answer!("{object}")?;
    } else if !cli.quiet {
        crate::answer!(
            "pid {} has moved: {}, frozen {}",
            args.pid,
            say::size(report.page_bytes),
            say::ms(report.frozen())
        )?;
    }
    Ok(ExitCode::SUCCESS)
}

fn address(url: &str) -> Result<&str, Fail> {
    // As --address-file has it.
    let is_plain =
        |u: &str| u.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
    match url.strip_prefix("tcp://").or_else(|| url.strip_prefix("tcp:")) {
        Some(address) => Ok(address),
        None if is_plain(url) => Ok(url),
        None => Err(Fail::Usage(format!("{url} is not tcp://HOST:PORT"))),
    }
}

fn to(args: &Migrate, node: &str, options: &ExportOptions) -> Result<(Report, i32), Fail> {
    let mut network = Options::default();
    network.network.retry_for = Duration::from_secs(args.wait);
    network.network.silence_timeout = Duration::from_secs(args.timeout);
    let duplex: Box<dyn Duplex> = Box::new(tcp::connect(address(node)?, &network)?);
    let (mut from, mut to) = duplex.split()?;
    Ok(ghost::migrate(args.pid, &mut from, &mut to, options)?)
}

/// The other ghost at the end of a command's pipes.
fn through(args: &Migrate, command: &str, options: &ExportOptions) -> Result<(Report, i32), Fail> {
    let mut child = Command::new("/bin/sh")
        .args(["-c", command])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| Fail::Words(format!("{command}: {e}")))?;
    let silence = Duration::from_secs(args.timeout);
    let to = child.stdin.take().expect("it was asked for");
    let from = child.stdout.take().expect("it was asked for");
    let mut to = Patient::of_own(to, command, silence).map_err(|e| Fail::Words(format!("{command}: {e}")))?;
    let mut from = Patient::new(from, command, silence);
    let done = ghost::migrate(args.pid, &mut from, &mut to, options);
    drop((to, from));
    let ended = if done.is_ok() { child.wait() } else { part(&mut child) };
    match (done, ended) {
        (Ok(done), _) => Ok(done),
        (Err(e), Ok(status)) if !status.success() && !e.is_refusal() => {
            crate::talk!("ghost: the command ended with {status}: {command}");
            Err(e.into())
        }
        (Err(e), _) => Err(e.into()),
    }
}

/// Waits for a command that has lost its pipes. One that hangs must not keep the user from learning what has become of the process.
fn part(child: &mut Child) -> std::io::Result<ExitStatus> {
    for _ in 0..100 {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    child.kill()?;
    child.wait()
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
        let silence = Duration::from_secs(args.timeout);
        let mut from = Patient::new(stdio::take_stdin()?, "the other side", silence);
        let mut to = Patient::new(stdio::take_stdout()?, "the other side", silence);
        ghost::receive(&mut from, &mut to, &options)?
    } else {
        let mut network = Options::default();
        network.network.address_file.clone_from(&args.address_file);
        network.network.silence_timeout = Duration::from_secs(args.timeout);
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
