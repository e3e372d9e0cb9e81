//! A process being exported is sacred: ghost fails, dies or is refused at every step, and nothing is harmed or left.
use ghost_tests::case::Outcome;
use ghost_tests::{programs, sacred};
use libtest_mimic::{Arguments, Completion, Trial};
use std::path::PathBuf;
use std::process::ExitCode;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.first().is_some_and(|w| w == "--case") {
        return ExitCode::from(sacred::inside(&words[1..]) as u8);
    }
    let mut args = Arguments::from_args();
    args.test_threads = args.test_threads.or(Some(2));
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
    let cases = sacred::CASES.iter().copied().flatten();
    let trials = cases.map(|&(name, _)| {
        let (programs, dir) = (programs.clone(), base.join(name));
        Trial::ignorable_test(name, move || {
            let mut outcome = sacred::outside(&programs, name, &dir);
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
