//! `ghost-bench`: what ghost takes, beside what the machine can do at all; and the experiment of 2005.
//!
//! Everything runs in pid, mount and network namespaces of its own (the bench starts itself again under `unshare(1)`), so the pids
//! of a program that was ended are free for its restart, and all that was started ends with the bench. docs/bench.md explains the
//! tables.

#![allow(clippy::cast_precision_loss)] // numbers for people: nobody reads the sixteenth digit

mod cases;
mod drive;
mod limit;
mod net;
mod seed;
mod svg;
mod table;
mod work;

use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::{Command, ExitCode};

/// Measures ghost.
#[derive(Parser)]
#[command(name = "ghost-bench", version)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Args, Clone)]
struct How {
    /// The command to measure; the one beside this program unless told otherwise.
    #[arg(long)]
    ghost: Option<PathBuf>,
    /// A directory on the disk to measure.
    #[arg(long, default_value = "/var/tmp/ghost-bench")]
    disk: PathBuf,
    /// A directory in memory.
    #[arg(long, default_value = "/dev/shm/ghost-bench")]
    tmpfs: PathBuf,
    /// How often each thing is measured; the median is shown.
    #[arg(long, default_value_t = 5)]
    reps: usize,
    /// Only these rows, by name.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
}

#[derive(Subcommand)]
enum Verb {
    /// Stop and copy, migration, start-up: each beside its limit, and at double the size.
    All {
        #[command(flatten)]
        how: How,
        /// Leave out the runs at double the size.
        #[arg(long)]
        no_double: bool,
    },
    /// Modified Gram-Schmidt for the seven sizes of the paper of 2005; writes seed.md and seed.svg.
    Seed {
        #[command(flatten)]
        how: How,
        /// Where table and plot go.
        #[arg(long, default_value = "docs")]
        docs: PathBuf,
    },
    /// Run one of the programs that are measured.
    Work {
        /// small, mem (MiB), thp (MiB), threads, fds, vmas, tree or mgs.
        name: String,
        /// How much of it.
        #[arg(default_value_t = 0)]
        n: usize,
        /// Of mgs: how often.
        #[arg(default_value_t = 1)]
        rounds: u64,
        /// Where it writes pid, beat and verify.
        #[arg(long, default_value = ".")]
        dir: PathBuf,
    },
    #[command(hide = true)]
    Limit { what: String, n: usize },
    #[command(hide = true)]
    Sink { port: u16 },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match &cli.verb {
        Verb::Work { name, n, rounds, dir } => work::run(name, *n, *rounds, dir.clone()),
        Verb::Limit { what, n } => limit::here(what, *n).map(|ms| println!("{ms}")),
        Verb::Sink { port } => net::sink(*port),
        Verb::All { .. } | Verb::Seed { .. } if std::process::id() != 1 => return apart(),
        Verb::All { how, no_double } => set_up(how).and_then(|ghost| cases::all(&ghost, how, !no_double)),
        Verb::Seed { how, docs } => set_up(how).and_then(|ghost| seed::run(&ghost, how, docs)),
    };
    let code = match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("ghost-bench: {why}");
            ExitCode::FAILURE
        }
    };
    if let Verb::All { how, .. } | Verb::Seed { how, .. } = &cli.verb {
        for dir in [&how.disk, &how.tmpfs] {
            let _ = std::fs::remove_dir_all(dir.join("program"));
            // Only if nothing else lies there.
            let _ = std::fs::remove_dir(dir);
        }
    }
    code
}

/// Starts this program again as pid 1 of namespaces of its own.
fn apart() -> ExitCode {
    let me = std::env::current_exe().unwrap_or_else(|_| "ghost-bench".into());
    let done = Command::new("unshare")
        .args(["--pid", "--fork", "--mount-proc", "--net", "--kill-child"])
        .arg(me)
        .args(std::env::args_os().skip(1))
        .status();
    match done {
        Ok(status) => ExitCode::from(status.code().unwrap_or(1) as u8),
        Err(e) => {
            eprintln!("ghost-bench: unshare (util-linux, as root): {e}");
            ExitCode::FAILURE
        }
    }
}

fn set_up(how: &How) -> drive::Res<drive::Ghost> {
    let beside = || std::env::current_exe().unwrap_or_default().with_file_name("ghost");
    let path = how.ghost.clone().unwrap_or_else(beside);
    let path = path
        .canonicalize()
        .map_err(|e| format!("{}: {e}; build it: cargo build --release -p ghost-cli", path.display()))?;
    for dir in [&how.disk, &how.tmpfs] {
        std::fs::create_dir_all(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    }
    let thp = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").unwrap_or_default();
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    println!("Linux {}, {cores} cores, huge pages: {}, median of {}\n", release.trim(), thp.trim(), how.reps);
    Ok(drive::Ghost { path })
}
