//! A process being exported is sacred: ghost fails, dies or is refused at every step, and nothing is harmed or left.
use ghost_tests::case::Outcome;
use ghost_tests::{pace, programs, sacred};
use libtest_mimic::{Arguments, Completion, Trial};
use std::path::PathBuf;
use std::process::ExitCode;

/// Most of these wait: for instants, for ends, for silence.
const AT_ONCE: usize = 4;

/// The longest, which must not come last.
const FIRST: &[&str] = &[
    "kills::receive-same-pids",
    "kills::receive",
    "export-failpoints::tree",
    "kills::checkpoint",
    "migrate-failpoints::same-pids",
    "kills::migrate",
];

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.first().is_some_and(|w| w == "--case") {
        return ExitCode::from(sacred::inside(&words[1..]) as u8);
    }
    let mut args = Arguments::from_args();
    args.test_threads = args.test_threads.or(Some(AT_ONCE));
    let programs = match programs::find() {
        Ok(p) => p,
        Err(e) => {
            eprintln!("the harness cannot begin: {e}");
            return ExitCode::FAILURE;
        }
    };
    let base = PathBuf::from(format!("/tmp/gs{}", std::process::id()));
    if !args.list
        && let Err(e) = std::fs::create_dir_all(&base)
    {
        eprintln!("the harness cannot begin: {}: {e}", base.display());
        return ExitCode::FAILURE;
    }
    let mut cases: Vec<&str> = sacred::CASES.iter().copied().flatten().map(|(name, _)| *name).collect();
    pace::first(&mut cases, FIRST, |name| (*name).to_owned());
    let trials = cases.into_iter().map(|name| {
        let (programs, dir) = (programs.clone(), base.join(name));
        Trial::ignorable_test(name, move || {
            let mut outcome = pace::timed(name, || sacred::outside(&programs, name, &dir));
            // Many of these race with the clock on purpose. A second failure stands, and a repeat is always told.
            if let Outcome::Failed(text) = &outcome {
                println!("played twice: {name}: {text}");
                outcome = sacred::outside(&programs, name, &dir.with_extension("again"));
            }
            match outcome {
                Outcome::Passed => Ok(Completion::Completed),
                Outcome::Skipped(why) => Ok(Completion::ignored_with(why)),
                Outcome::Failed(text) => Err(text.into()),
            }
        })
    });
    let conclusion = libtest_mimic::run(&args, trials.collect());
    let _ = std::fs::remove_dir(&base);
    conclusion.exit_code()
}
