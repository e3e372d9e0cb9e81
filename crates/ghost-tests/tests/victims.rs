//! Every victim under every mechanism, as tests named `area/victim::mechanism`.
//!
//! Known gaps are in `open.txt` and shown as ignored with their reason; `GHOST_OPEN=1` runs them all the same and says which
//! of them pass. What the host cannot do is shown as ignored, too, and listed at the end.
use ghost_tests::case::{self, Outcome};
use ghost_tests::catalogue::{self, Victim};
use ghost_tests::mechanism::Mechanism;
use ghost_tests::pace::{self, Gate};
use ghost_tests::programs::{self, Programs};
use libtest_mimic::{Arguments, Completion, Trial};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

type Notes = Arc<Mutex<Vec<String>>>;

/// How many cases are played at once of those that keep a CPU busy, and in all.
const BUSY: usize = 3;
const AT_ONCE: usize = 8;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.first().is_some_and(|w| w == "--case") {
        return ExitCode::from(case::inside(&words[1..]) as u8);
    }
    let mut args = Arguments::from_args();
    args.test_threads = args.test_threads.or(Some(AT_ONCE));
    let found = programs::find().and_then(|p| {
        let victims = catalogue::victims(&p.victim)?;
        let gaps = catalogue::gaps(include_str!("../open.txt"), &victims)?;
        Ok((p, victims, gaps))
    });
    let (programs, victims, gaps) = match found {
        Ok(all) => all,
        Err(e) => {
            eprintln!("the harness cannot begin: {e}");
            return ExitCode::FAILURE;
        }
    };
    let base = PathBuf::from(format!("/tmp/gt{}", std::process::id()));
    let notes = Notes::default();
    let gate = Arc::new(Gate::new(BUSY));
    let (mut busy, mut asleep) = (Vec::new(), Vec::new());
    for v in &victims {
        for &m in Mechanism::ALL.iter().filter(|m| m.concerns(v)) {
            let gap = gaps.iter().find(|g| g.covers(&v.name, m)).map(|g| g.reason.clone());
            let gate = (!v.sleeps()).then(|| gate.clone());
            let list = if gate.is_some() { &mut busy } else { &mut asleep };
            list.push(trial(&programs, v, m, gap, gate, &base, &notes));
        }
    }
    let trials = pace::spread(busy, asleep);
    if !args.list
        && let Err(e) = std::fs::create_dir_all(&base)
    {
        eprintln!("the harness cannot begin: {}: {e}", base.display());
        return ExitCode::FAILURE;
    }
    let conclusion = libtest_mimic::run(&args, trials);
    let _ = std::fs::remove_dir(&base);
    let mut notes = notes.lock().expect("no test panics while it holds the notes").clone();
    notes.sort();
    for n in &notes {
        println!("{n}");
    }
    conclusion.exit_code()
}

/// `gate`: what it must pass, unless it sleeps most of its time.
fn trial(
    p: &Programs,
    v: &Victim,
    m: Mechanism,
    gap: Option<String>,
    gate: Option<Arc<Gate>>,
    base: &Path,
    notes: &Notes,
) -> Trial {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let (p, v, base, notes) = (p.clone(), v.clone(), base.to_owned(), notes.clone());
    let name = format!("{}::{}", v.name, m.name());
    Trial::ignorable_test(name.clone(), move || {
        let note = |text: String| notes.lock().expect("nobody panics while it holds the notes").push(text);
        if m == Mechanism::Stop && v.has("nostop") {
            return Ok(Completion::ignored_with("the victim can see a stop signal"));
        }
        if m == Mechanism::Duplicate {
            if v.has("samepid") {
                return Ok(Completion::ignored_with("the victim depends on its pid"));
            }
            if let Some(why) = v.value("nodup") {
                return Ok(Completion::ignored_with(why.to_owned()));
            }
        }
        let run_gaps = std::env::var_os("GHOST_OPEN").is_some();
        if let Some(reason) = gap.as_ref().filter(|_| !run_gaps) {
            note(format!("open: {name}: {reason}"));
            return Ok(Completion::ignored_with(format!("open: {reason}")));
        }
        let _way = gate.as_ref().map(|g| g.pass());
        let dir = || base.join(COUNT.fetch_add(1, Ordering::Relaxed).to_string());
        let play = || pace::timed(&name, || case::outside(&p, &v, m, &dir()));
        let mut outcome = play();
        // Victims that watch the clock can miss it on a busy machine. A second failure stands, and a repeat is always told.
        if let Outcome::Failed(text) = &outcome {
            note(format!("played twice: {name}: {}", text.lines().next().unwrap_or_default()));
            outcome = play();
        }
        match outcome {
            Outcome::Passed => {
                if gap.is_some() {
                    note(format!("passes now, remove it from open.txt: {name}"));
                }
                Ok(Completion::Completed)
            }
            Outcome::Skipped(why) => {
                note(format!("skipped: {name}: {why}"));
                Ok(Completion::ignored_with(why))
            }
            Outcome::Failed(text) => Err(text.into()),
        }
    })
}
