//! Real programs, as tests named `program::mode`: undisturbed, killed and restarted at random instants, left running.
//!
//! `GHOST_WIDE` adds those of `real_wide`. `GHOST_INSTANTS` says at how many instants each is killed (3; the full run takes 25), `GHOST_SEED` repeats a run. What is
//! not installed is shown as ignored, with the command that is missing.
use ghost_tests::real_case::{self, Mode};
use ghost_tests::{pace, real, real_wide};
use libtest_mimic::{Arguments, Completion, Trial};
use std::path::PathBuf;
use std::process::ExitCode;

/// One more than there are CPUs: they wait for their programs to come to an instant, and for disks.
const AT_ONCE: usize = 3;

/// The longest, which must not come last.
const FIRST: &[&str] = &[
    "xz::",
    "redis::leave",
    "cc1::leave",
    "redis::kill",
    "postgres::leave",
    "make::leave",
    "sqlite3::leave",
    "tmux::leave",
];

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.first().is_some_and(|w| w == "--case") {
        return ExitCode::from(real_case::inside(&words[1..]) as u8);
    }
    let mut args = Arguments::from_args();
    args.test_threads = args.test_threads.or(Some(AT_ONCE));
    let programs = match ghost_tests::programs::find() {
        Ok(p) => p,
        Err(e) => {
            eprintln!("the harness cannot begin: {e}");
            return ExitCode::FAILURE;
        }
    };
    let base = PathBuf::from(format!("/tmp/gp{}", std::process::id()));
    if !args.list
        && let Err(e) = std::fs::create_dir_all(&base)
    {
        eprintln!("the harness cannot begin: {}: {e}", base.display());
        return ExitCode::FAILURE;
    }
    let mut trials = Vec::new();
    let wide = std::env::var_os("GHOST_WIDE").is_some();
    let more = real_wide::ALL.iter().chain(real_wide::STRESSORS).filter(|_| wide);
    let all = real::ALL.iter().chain(more).flat_map(|p| Mode::ALL.map(|mode| (p, mode)));
    let mut all: Vec<_> = all.collect();
    pace::first(&mut all, FIRST, |(p, mode)| format!("{}::{}", p.name, mode.name()));
    for (p, mode) in all {
        let (programs, dir) = (programs.clone(), base.join(format!("{}-{}", p.name, mode.name())));
        let name = format!("{}::{}", p.name, mode.name());
        trials.push(Trial::ignorable_test(name.clone(), move || {
            if let Some(command) = real_case::missing(p) {
                return Ok(Completion::ignored_with(format!("{command} is not installed")));
            }
            // The instants are random and the machine may be busy. A second failure stands, and a repeat is always told.
            if let Err(first) = pace::timed(&name, || real_case::outside(&programs, p, mode, &dir)) {
                println!("played twice: {name}: {first}");
                real_case::outside(&programs, p, mode, &dir.with_extension("again"))?;
            }
            Ok(Completion::Completed)
        }));
    }
    let conclusion = libtest_mimic::run(&args, trials);
    let _ = std::fs::remove_dir(&base);
    conclusion.exit_code()
}
