//! What the demo puts on the screen: sentences, the commands as typed, their answers, the checks.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Where the demo speaks, and how many checks have passed.
pub struct Screen {
    colours: bool,
    began: Instant,
    passed: usize,
}

impl Screen {
    /// Colours only on a terminal that has not been told otherwise.
    pub fn new() -> Self {
        let colours = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self { colours, began: Instant::now(), passed: 0 }
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    // A reader that has gone away is no reason to stop: what matters is the exit code.
    fn line(text: &str) {
        let _ = writeln!(std::io::stdout(), "{text}");
    }

    /// A new step.
    pub fn step(&self, title: &str) {
        Self::line(&format!("\n{}", self.paint("1", title)));
    }

    /// A sentence.
    pub fn say(text: &str) {
        Self::line(&format!("  {text}"));
    }

    /// A command, before it runs.
    pub fn command(&self, text: &str) {
        Self::line(&format!("  {}", self.paint("36", &format!("$ {text}"))));
    }

    /// What it answered, and how long it took.
    pub fn answer(&self, text: &str, took: Duration) {
        for line in text.lines() {
            Self::line(&format!("    {line}"));
        }
        Self::line(&format!("    {}", self.paint("2", &format!("({})", crate::say::ms(took)))));
    }

    /// A check that held; one that did not is the end of the demo.
    pub fn check(&mut self, what: &str, held: bool) -> Result<(), String> {
        if !held {
            return Err(format!("this did not hold: {what}"));
        }
        self.passed(what);
        Ok(())
    }

    /// What the steps before would have failed on, had it not held.
    pub fn passed(&mut self, what: &str) {
        self.passed += 1;
        Self::line(&format!("  {} {what}", self.paint("32", "checked:")));
    }

    /// The end, when all is well.
    pub fn end(&self) {
        let all = format!("{} checks passed in {:.1} s.", self.passed, self.began.elapsed().as_secs_f64());
        Self::line(&format!("\n{}", self.paint("1;32", &all)));
    }
}
