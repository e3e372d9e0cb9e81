//! A real program at work: started, taken away, brought back, compared.
use crate::keep::{copy, put_back};
use crate::real::Program;
use crate::real_case::{LEFT, Mode, SERVER_TIME, instants, path_variable, read};
use crate::run::{Runner, pids};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

type Outputs = BTreeMap<&'static str, Vec<u8>>;

pub(crate) struct Case {
    pub(crate) ghost: PathBuf,
    pub(crate) victim: PathBuf,
    pub(crate) p: &'static Program,
    pub(crate) dir: PathBuf,
    pub(crate) runner: Runner,
    pub(crate) seed: u64,
    pub(crate) before: Vec<u32>,
}

impl Case {
    fn work(&self) -> PathBuf {
        self.dir.join("work")
    }

    fn file(&self, name: &str) -> String {
        self.dir.join(name).to_string_lossy().into_owned()
    }

    /// Processes of this namespace that are neither init nor the case.
    pub(crate) fn left(&self) -> Vec<u32> {
        pids().into_iter().filter(|p| !self.before.contains(p)).collect()
    }

    /// A random part of 1, in thousandths.
    fn thousandths(&mut self) -> u32 {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        (self.seed.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 40) as u32 % 1000
    }

    fn shell(&mut self, script: &str) -> Result<(), String> {
        if script.is_empty() {
            return Ok(());
        }
        let out = Command::new("timeout")
            .args(["120", "sh", "-c", script])
            .current_dir(self.work())
            .env("PATH", path_variable())
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .output()
            .map_err(|e| format!("sh: {e}"))?;
        if out.status.success() {
            return Ok(());
        }
        Err(format!("`{script}`: {}\n{}", out.status, String::from_utf8_lossy(&out.stderr)))
    }

    /// Makes the program's directory as it is before every run, and keeps a copy.
    fn prepare(&mut self) -> Result<(), String> {
        let work = self.work();
        fs::create_dir(&work).map_err(|e| e.to_string())?;
        for (name, content) in self.p.files {
            fs::write(work.join(name), content).map_err(|e| format!("{name}: {e}"))?;
        }
        self.shell(self.p.prepare)?;
        // Temporary files are kept with the rest.
        fs::create_dir_all(work.join("tmp")).map_err(|e| e.to_string())?;
        copy(&work, &self.dir.join("base"))
    }

    /// Starts the program in a fresh directory, leader of a session of its own.
    fn start(&mut self) -> Result<Child, String> {
        let work = self.work();
        fs::remove_dir_all(&work).map_err(|e| e.to_string())?;
        copy(&self.dir.join("base"), &work)?;
        let file = |n: &str| fs::File::create(work.join(n)).map_err(|e| format!("{n}: {e}"));
        let child = Command::new(&self.victim)
            .arg("bare")
            .args(self.p.run)
            .current_dir(&work)
            .env("PATH", path_variable())
            .env("LC_ALL", "C")
            .env("HOME", &work)
            .env("TMPDIR", work.join("tmp"))
            .env("PERL_HASH_SEED", "0")
            .stdin(Stdio::null())
            .stdout(file("out")?)
            .stderr(file("err")?)
            .spawn()
            .map_err(|e| format!("{}: {e}", self.p.run.join(" ")))?;
        self.shell(self.p.after_start)?;
        Ok(child)
    }

    /// Waits for the end of a program that is our child; it must exit with 0.
    fn ends(&self, child: &mut Child) -> Result<(), String> {
        loop {
            match child.try_wait() {
                Ok(Some(s)) if s.success() => return Ok(()),
                Ok(Some(s)) => return Err(format!("the program ended with {s}")),
                Ok(None) if Instant::now() > self.runner.deadline() => {
                    return Err("the program did not end in time".into());
                }
                Ok(None) => std::thread::sleep(Duration::from_millis(2)),
                Err(e) => return Err(format!("wait: {e}")),
            }
        }
    }

    /// Everything that must be the same.
    fn outputs(&self) -> Result<Outputs, String> {
        let standard = self.p.says_the_same.then_some("out");
        let names = self.p.outputs.iter().copied().chain(standard);
        names.map(|n| fs::read(self.work().join(n)).map(|b| (n, b)).map_err(|e| format!("{n}: {e}"))).collect()
    }

    fn same(&self, when: &str, expected: &Outputs) -> Result<(), String> {
        let found = self.outputs()?;
        for (name, bytes) in expected {
            let other = &found[name];
            if bytes != other {
                let at = bytes.iter().zip(other).take_while(|(a, b)| a == b).count();
                let (a, b) = (bytes.len(), other.len());
                return Err(format!(
                    "{when}: {name} differs from the undisturbed run: {b} bytes, not {a}; first at byte {at}"
                ));
            }
        }
        let end = Instant::now() + Duration::from_secs(2);
        while !self.left().is_empty() {
            if Instant::now() > end {
                return Err(format!("{when}: processes are left behind"));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// An undisturbed run: its outputs, and how long it took.
    fn reference(&mut self) -> Result<(Outputs, Duration), String> {
        let mut child = self.start()?;
        let begin = Instant::now();
        if !self.p.finish.is_empty() {
            std::thread::sleep(SERVER_TIME);
            self.shell(self.p.finish)?;
        }
        self.ends(&mut child).map_err(|e| format!("undisturbed: {e}"))?;
        let time = begin.elapsed();
        Ok((self.outputs()?, time))
    }

    pub(crate) fn play(&mut self, mode: Mode) -> Result<(), String> {
        self.prepare()?;
        let (expected, time) = self.reference()?;
        match mode {
            Mode::Alone => {
                self.reference()?;
                self.same("a second undisturbed run", &expected)
            }
            Mode::Kill => self.kill(&expected, time),
            Mode::Leave => self.leave(&expected, time),
        }
    }

    fn kill(&mut self, expected: &Outputs, time: Duration) -> Result<(), String> {
        let mut done = 0;
        let mut tries = 0;
        while done < instants() {
            tries += 1;
            if tries > 3 * instants() + 5 {
                return Err(format!("in {tries} tries the program was mostly over before its instant came"));
            }
            let part = self.thousandths();
            let when = format!("killed at {part}/1000 of {} ms", time.as_millis());
            let mut child = self.start()?;
            std::thread::sleep(time * part / 1000);
            if child.try_wait().map_err(|e| e.to_string())?.is_some() {
                continue;
            }
            let image = self.file(&format!("{done}.ghost"));
            let pid = child.id().to_string();
            let taken = self.ghost(0, &["checkpoint", &pid, "-o", &image, "--kill"]);
            if let Err(e) = taken {
                // A program that came to its end just then is no failure of ghost.
                if child.try_wait().map_err(|e| e.to_string())?.is_some_and(|s| s.success()) {
                    continue;
                }
                return Err(format!("{when}: {e}"));
            }
            let status = child.wait().map_err(|e| e.to_string())?;
            if std::os::unix::process::ExitStatusExt::signal(&status) != Some(9) {
                return Err(format!("{when}: the parent was told {status}, not SIGKILL"));
            }
            if done % 2 == 0 { self.restart(&image) } else { self.restart_detached(&image) }
                .map_err(|e| format!("{when}: {e}"))?;
            self.same(&when, expected)?;
            let _ = fs::remove_file(&image);
            done += 1;
        }
        Ok(())
    }

    fn leave(&mut self, expected: &Outputs, time: Duration) -> Result<(), String> {
        let mut child = self.start()?;
        let mut taken = Vec::new();
        for n in 0..LEFT {
            std::thread::sleep(time / (LEFT + 2));
            if child.try_wait().map_err(|e| e.to_string())?.is_some() {
                break;
            }
            let image = self.file(&format!("{n}.ghost"));
            let pid = child.id().to_string();
            if n % 2 == 1 {
                // Left running, and the image only read: by the time of a restart its files would be those of later.
                let live = self.file(&format!("{n}.live.ghost"));
                let done = self.ghost(0, &["checkpoint", &pid, "-o", &live]);
                if let Err(e) = done.and_then(|_| self.ghost(0, &["verify", &live])) {
                    if over(&mut child) {
                        break;
                    }
                    return Err(e);
                }
                let _ = fs::remove_file(live);
            }
            // Left stopped for as long as its files are copied: the copy is of that very instant.
            if let Err(e) = self.ghost(0, &["checkpoint", &pid, "-o", &image, "--stop"]) {
                if over(&mut child) {
                    break;
                }
                return Err(e);
            }
            let snap = self.dir.join(format!("snap{n}"));
            copy(&self.work(), &snap)?;
            for p in self.left() {
                if let Some(p) = rustix::process::Pid::from_raw(p as i32) {
                    let _ = rustix::process::kill_process(p, rustix::process::Signal::CONT);
                }
            }
            taken.push((image, snap));
        }
        if taken.is_empty() {
            return Err("the program was over before the first checkpoint".into());
        }
        self.shell(self.p.finish)?;
        self.ends(&mut child).map_err(|e| format!("after {LEFT} checkpoints that leave it running: {e}"))?;
        self.same("after checkpoints that leave it running", expected)?;
        for (image, snap) in taken {
            put_back(&snap, &self.work())?;
            self.restart(&image).map_err(|e| format!("restart of {image}: {e}"))?;
            self.same(&format!("restart of {image}"), expected)?;
        }
        Ok(())
    }

    fn ghost(&mut self, code: i32, args: &[&str]) -> Result<crate::run::Done, String> {
        let ghost = self.ghost.clone();
        self.runner.expect(code, &ghost, args)
    }

    /// Restart in the foreground: it exits as the program does.
    fn restart(&mut self, image: &str) -> Result<(), String> {
        let ghost = self.ghost.clone();
        let running = self.runner.start(&ghost, &["restart", image], Stdio::null(), None)?;
        if !self.p.finish.is_empty() {
            std::thread::sleep(SERVER_TIME);
            self.shell(self.p.finish)?;
        }
        self.runner.expect_of(0, running).map(drop)
    }

    /// Restart that leaves the program to init, whose note tells how it ended.
    fn restart_detached(&mut self, image: &str) -> Result<(), String> {
        let pidfile = self.file("pidfile");
        let _ = fs::remove_file(&pidfile);
        let reaped = |case: &Case| read(&case.dir.join("reaped"));
        let earlier = reaped(self).lines().count();
        self.ghost(0, &["restart", image, "--detach", "--pidfile", &pidfile])?;
        let pid = read(Path::new(&pidfile)).trim().to_owned();
        self.shell(self.p.finish)?;
        loop {
            let text = reaped(self);
            if let Some(l) = text.lines().skip(earlier).find(|l| l.starts_with(&format!("{pid} "))) {
                return if l.ends_with(" 0x0") { Ok(()) } else { Err(format!("init was told of the program: {l}")) };
            }
            if Instant::now() > self.runner.deadline() {
                return Err(format!("the program (pid {pid}) did not end in time"));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Whether the program came to its end by itself while a checkpoint was looking at it: then that checkpoint rightly failed.
fn over(child: &mut Child) -> bool {
    std::thread::sleep(Duration::from_millis(500));
    matches!(child.try_wait(), Ok(Some(_)))
}
