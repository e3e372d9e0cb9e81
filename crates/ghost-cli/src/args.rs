//! The words of the command line; one definition feeds parser, help and completions.

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Checkpoint, restart, migrate and duplicate Linux processes.
///
/// A ghost is a process on its way: to a file, to memory, through a pipe, to another host. URLs say where:
/// `app.ghost` or `disk:/p/app.ghost`, `mem:NAME`, `tcp://HOST:PORT`, `-` (pipe), `fd:N`.
///
/// Exit codes: 0 done, 1 failed, 2 usage, 3 refused (nothing was touched).
#[derive(Parser, Debug)]
#[command(name = "ghost", version, max_term_width = 100)]
pub struct Cli {
    /// Say the answer as JSON, one object a line.
    #[arg(long, global = true)]
    pub json: bool,
    /// Say nothing but errors.
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Show the time of each stage.
    #[arg(long, global = true)]
    pub timings: bool,
    /// Load a resource plug-in from a shared library.
    #[arg(long, global = true, value_name = "FILE.so")]
    pub plugin: Vec<PathBuf>,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// What to do.
#[derive(Subcommand, Debug)]
pub enum Verb {
    /// Take a process and everything below it into a ghost; it runs on unless told otherwise.
    Checkpoint(Checkpoint),
    /// Make processes of a ghost, with their old pids unless told otherwise.
    Restart(Restart),
    /// Move a process to another host, where `ghost receive` listens or is started by a command such as ssh.
    Migrate(Migrate),
    /// Receive a migrating process.
    Receive(Receive),
    /// Make more of a running process, with pids of their own.
    Duplicate(Duplicate),
    /// Say what is in a ghost.
    Inspect {
        /// The ghost.
        url: String,
    },
    /// Read a ghost to its end and check every byte of it.
    Verify {
        /// The ghost.
        url: String,
    },
    /// Say what this host can do, or what of a process can travel.
    Check {
        /// The process.
        #[arg(value_parser = pid)]
        pid: Option<i32>,
    },
    /// List the ghosts in memory, or those in a directory.
    List {
        /// Where to look.
        #[arg(default_value = "mem:")]
        url: String,
    },
    /// Remove a ghost.
    Remove {
        /// The ghost.
        url: String,
    },
    /// See the main job: a program checkpointed, restarted, duplicated and migrated.
    Demo(Demo),
    /// Print completions for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// List the places where a test can make a step fail (GHOST_FAIL=NAME=error or NAME=kill).
    #[command(hide = true)]
    Failpoints,
}

/// What lies between the process and the place.
#[derive(Args, Debug)]
pub struct Target {
    /// Swap the ghost in where there is one already; the old one stays until the new one is whole.
    #[arg(long)]
    pub replace: bool,
    /// Compress: zstd, zstd:LEVEL or lz4.
    #[arg(long, value_name = "HOW")]
    pub compress: Option<String>,
    /// Bytes a second at most (1m, 200k, ...).
    #[arg(long, value_name = "BYTES")]
    pub rate: Option<String>,
    /// Do not wait until the ghost would survive a power cut.
    #[arg(long)]
    pub no_sync: bool,
}

#[derive(Args, Debug)]
/// Arguments of `checkpoint`.
pub struct Checkpoint {
    /// The process; everything below it goes with it.
    #[arg(value_parser = pid)]
    pub pid: i32,
    /// Where the ghost goes.
    #[arg(short, long, value_name = "URL")]
    pub output: String,
    /// Leave it running (the default).
    #[arg(long, group = "after")]
    pub live: bool,
    /// Leave it stopped, as by SIGSTOP.
    #[arg(long, group = "after")]
    pub stop: bool,
    /// End it, as by SIGKILL.
    #[arg(long, group = "after")]
    pub kill: bool,
    /// Leave this description behind (`pipe:[123]`, `fd:5`); at the restart another takes its place by --inherit-fd.
    #[arg(long, value_name = "NAME")]
    pub external: Vec<String>,
    /// Accept the loss of this kind of object; the ghost notes it.
    #[arg(long, value_name = "KIND")]
    pub accept: Vec<String>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub target: Target,
}

/// Which pids the processes get.
#[derive(ValueEnum, Clone, Copy, Debug, Default)]
pub enum PidChoice {
    /// Those they had.
    #[default]
    Same,
    /// Any that are free.
    New,
    /// Those they had, in a pid namespace of their own.
    Ns,
}

#[derive(Args, Debug)]
/// How processes are made of a ghost.
pub struct Making {
    /// Which pids the processes get.
    #[arg(long, value_enum, default_value = "same")]
    pub pid: PidChoice,
    /// Return once everything runs, instead of staying its parent.
    #[arg(long)]
    pub detach: bool,
    /// Write the pid of the root process here.
    #[arg(long, value_name = "FILE")]
    pub pidfile: Option<PathBuf>,
    /// A file that has another name now.
    #[arg(long, value_name = "OLD=NEW")]
    pub map_file: Vec<String>,
    /// A descriptor of ours in the place of one that stayed behind: its name in the ghost (`fd:5`, `pipe:[123]`) and our number.
    #[arg(long, value_name = "NAME=FD")]
    pub inherit_fd: Vec<String>,
    /// Accept the loss of this kind of object.
    #[arg(long, value_name = "KIND")]
    pub accept: Vec<String>,
}

#[derive(Args, Debug)]
/// Arguments of `restart`.
pub struct Restart {
    /// The ghost.
    pub url: String,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub making: Making,
    /// If the program still runs under its pid, end it first.
    #[arg(long)]
    pub replace: bool,
}

#[derive(Args, Debug)]
/// Arguments of `migrate`.
pub struct Migrate {
    /// The process; everything below it goes with it.
    #[arg(value_parser = pid)]
    pub pid: i32,
    /// Where `ghost receive` listens: tcp://HOST:PORT.
    #[arg(required_unless_present = "via")]
    pub node: Option<String>,
    /// A command that starts `ghost receive -` there and carries its stdin and stdout, such as "ssh HOST ghost receive - --detach".
    #[arg(long, value_name = "COMMAND", conflicts_with = "node")]
    pub via: Option<String>,
    /// Freeze, send, run there (the default and only way so far).
    #[arg(long)]
    pub stop_copy: bool,
    /// Leave this description behind (`pipe:[123]`, `fd:5`); the other side puts another in its place by --inherit-fd.
    #[arg(long, value_name = "NAME")]
    pub external: Vec<String>,
    /// Accept the loss of this kind of object; the ghost notes it.
    #[arg(long, value_name = "KIND")]
    pub accept: Vec<String>,
    /// Wait this many seconds for the other side to listen.
    #[arg(long, default_value_t = 10)]
    pub wait: u64,
    /// Give up, and let the process run on here, when the other side has been silent for this many seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    pub timeout: u64,
}

#[derive(Args, Debug)]
/// Arguments of `receive`.
pub struct Receive {
    /// Where to listen, tcp://ADDRESS:PORT, or - for a pipe both ways.
    #[arg(default_value = "-")]
    pub url: String,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub making: Making,
    /// Write the address that was bound here (with port 0).
    #[arg(long, value_name = "FILE")]
    pub address_file: Option<PathBuf>,
    /// Give up when the other side, once it has connected, has been silent for this many seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    pub timeout: u64,
}

#[derive(Args, Debug)]
/// Arguments of `duplicate`.
pub struct Duplicate {
    /// The process; everything below it goes with it.
    #[arg(value_parser = pid)]
    pub pid: i32,
    /// How many more.
    #[arg(short = 'n', long, default_value_t = 1, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..))]
    pub copies: usize,
    /// Accept the loss of this kind of object in the duplicate; it is noted.
    #[arg(long, value_name = "KIND")]
    pub accept: Vec<String>,
}

#[derive(Args, Debug)]
/// Arguments of `demo`.
pub struct Demo {
    /// How the demo starts itself in its namespaces.
    #[arg(long, hide = true)]
    pub inside: Option<PathBuf>,
}

/// A pid, as a user writes it.
fn pid(text: &str) -> Result<i32, &'static str> {
    text.parse().ok().filter(|pid| *pid > 0).ok_or("a pid is a number from 1 up; see ps(1)")
}
