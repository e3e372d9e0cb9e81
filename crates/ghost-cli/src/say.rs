//! What the command says: the answer on stdout, the talk on stderr, a bar for long work on a terminal.

use crate::args::Cli;
use crate::fail::Fail;
use ghost::{Progress, Report};
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Says a line of the answer on stdout, formatted as by `println!`; an error is a [`Fail`].
#[macro_export]
macro_rules! answer {
    ($($words:tt)*) => { $crate::say::answer_line(format_args!($($words)*)) };
}

/// Says a line of the talk on stderr, formatted as by `eprintln!`, if anybody listens.
#[macro_export]
macro_rules! talk {
    ($($words:tt)*) => { $crate::say::talk_line(format_args!($($words)*)) };
}

/// What [`answer!`](crate::answer) does. Whoever has hung up (`| head`) wanted no more; any other error is told.
pub fn answer_line(words: std::fmt::Arguments<'_>) -> Result<(), Fail> {
    match writeln!(std::io::stdout().lock(), "{words}") {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Fail::Words(format!("all is done, but the answer cannot be written to stdout: {e}")))
        }
        _ => Ok(()),
    }
}

/// What [`talk!`](crate::talk) does.
pub fn talk_line(words: std::fmt::Arguments<'_>) {
    // There is nowhere left to tell of an error.
    let _ = writeln!(std::io::stderr().lock(), "{words}");
}

/// Milliseconds with one decimal.
pub fn ms(d: Duration) -> String {
    format!("{:.1} ms", d.as_secs_f64() * 1e3)
}

/// Bytes in a unit that fits.
pub fn size(bytes: u64) -> String {
    indicatif::HumanBytes(bytes).to_string()
}

/// The notes and, if asked for, the times of an action, on stderr.
pub fn report(cli: &Cli, report: &Report) {
    if !cli.quiet {
        for note in &report.notes {
            crate::talk!("ghost: note: {}", note_text(note));
        }
    }
    if cli.timings {
        for (stage, time) in &report.stages {
            crate::talk!("{stage:>10}  {}", ms(*time));
        }
        crate::talk!("{:>10}  {}", "total", ms(report.total()));
    }
}

/// A note in words; not every one is about one process.
pub fn note_text(note: &ghost::image::record::Note) -> String {
    let pid = if note.pid == 0 { String::new() } else { format!("pid {}, ", note.pid) };
    let (subject, text) = (ghost::printable(&note.subject), ghost::printable(&note.text));
    format!("{pid}{subject}: {text}")
}

/// The same as a JSON object.
pub fn json(report: &Report) -> serde_json::Value {
    let stages: serde_json::Map<_, _> =
        report.stages.iter().map(|(s, t)| ((*s).to_owned(), (t.as_secs_f64() * 1e3).into())).collect();
    let notes: Vec<_> = report
        .notes
        .iter()
        .map(|n| serde_json::json!({"pid": n.pid, "kind": n.kind, "subject": n.subject, "text": n.text}))
        .collect();
    serde_json::json!({"processes": report.processes, "threads": report.threads, "page_bytes": report.page_bytes,
        "ghost_bytes": report.ghost_bytes, "total_ms": report.total().as_secs_f64() * 1e3,
        "frozen_ms": report.frozen().as_secs_f64() * 1e3, "stages_ms": stages, "notes": notes})
}

/// A bar on stderr, once the work has taken more than a second; nothing when stderr is no terminal.
pub struct Bar {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Bar {
    /// Begins to watch.
    pub fn watch(cli: &Cli, what: &'static str, progress: &Arc<Progress>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        if cli.quiet || cli.json || !std::io::IsTerminal::is_terminal(&std::io::stderr()) {
            return Self { stop, thread: None };
        }
        let (stopped, progress) = (Arc::clone(&stop), Arc::clone(progress));
        // Where no thread is to be had, nobody watches.
        let thread = std::thread::Builder::new().spawn(move || {
            let mut bar = None;
            let began = std::time::Instant::now();
            while !stopped.load(Ordering::Relaxed) {
                std::thread::park_timeout(Duration::from_millis(100));
                if began.elapsed() > Duration::from_secs(1) {
                    let (done, total) = progress.get();
                    let bar = bar.get_or_insert_with(|| indicatif::ProgressBar::new(total).with_message(what));
                    bar.set_length(total.max(done));
                    bar.set_position(done);
                }
            }
            if let Some(bar) = bar {
                bar.finish_and_clear();
            }
        });
        Self { stop, thread: thread.ok() }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}
