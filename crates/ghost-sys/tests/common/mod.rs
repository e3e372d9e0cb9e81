//! Victims: this test binary run again, one ignored test in it.

#![allow(dead_code)] // each test binary uses a part of this

use ghost_sys::ptrace::{self, Stopped, Waited};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

/// A victim of ours, killed at the end.
pub struct Victim {
    pub child: Child,
    out: BufReader<std::process::ChildStdout>,
}

impl Victim {
    pub fn start(name: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("own path"))
            .args([name, "--exact", "--ignored", "--nocapture", "--test-threads=1"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("victim");
        let mut victim = Self { out: BufReader::new(child.stdout.take().expect("pipe")), child };
        victim.line("ready");
        victim
    }
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }
    /// Reads up to the line that contains `word`.
    pub fn line(&mut self, word: &str) -> String {
        let mut line = String::new();
        loop {
            line.clear();
            assert!(
                self.out.read_line(&mut line).expect("victim speaks") > 0,
                "the victim ended before it said {word}"
            );
            if line.contains("bad:") {
                panic!("the victim says: {line}");
            }
            if line.contains(word) {
                return line;
            }
        }
    }
    pub fn threads(&self) -> Vec<i32> {
        let mut all: Vec<i32> = std::fs::read_dir(format!("/proc/{}/task", self.pid()))
            .expect("tasks")
            .map(|t| t.unwrap().file_name().to_str().unwrap().parse().unwrap())
            .collect();
        all.sort_unstable();
        all
    }
    pub fn freeze(&self) -> Vec<Stopped> {
        let running: Vec<_> = self.threads().into_iter().map(|t| ptrace::seize(t, 0).expect("seize")).collect();
        running.into_iter().map(stop).collect()
    }
    pub fn maps(&self) -> Vec<String> {
        let text = std::fs::read_to_string(format!("/proc/{}/maps", self.pid())).expect("maps");
        text.lines().map(str::to_owned).collect()
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn stop(running: ptrace::Running) -> Stopped {
    match running.stop().expect("stop") {
        Waited::Stopped(s, _) => s,
        Waited::Gone(status) => panic!("victim gone: {status:#x}"),
    }
}
