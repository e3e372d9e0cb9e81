//! Ghost killed at random instants: of an export, of an import, and of either side of a migration.
use super::{Play, Row, Victim, alive, kills, signal, stopped};
use crate::run::Running;
use crate::snapshot::Snapshot;
use rustix::process::Signal;
use std::path::Path;
use std::time::{Duration, Instant};

/// The cases.
pub const CASES: &[Row] = &[
    ("kills::checkpoint", checkpoint),
    ("kills::restart", restart),
    ("kills::migrate", |p| migrate(p, false, false)),
    ("kills::receive", |p| migrate(p, true, false)),
    ("kills::migrate-same-pids", |p| migrate(p, false, true)),
    ("kills::receive-same-pids", |p| migrate(p, true, true)),
    ("migrate-failpoints::new-pids", |p| points(p, "new")),
    ("migrate-failpoints::same-pids", |p| points(p, "same")),
];

const PROGRAM: &str = "thread/fifty-in-many-calls";

/// Kills a command after a random part of `time`, twice over; tells when.
fn kill_soon(p: &mut Play, running: &mut Running, time: Duration) -> String {
    let part = p.random(2000);
    let wait = time * part as u32 / 1000;
    std::thread::sleep(wait);
    running.kill();
    format!("killed after {} us", wait.as_micros())
}

fn checkpoint(p: &mut Play) -> Result<(), String> {
    let target = p.make_dir("target")?;
    let v = p.victim(PROGRAM)?;
    let pid = v.pid.to_string();
    let image = p.file("target/a.ghost");
    let begin = Instant::now();
    p.ghost(0, &["checkpoint", &pid, "-o", &image])?;
    let time = begin.elapsed();
    let before = Snapshot::of_tree(v.pid);
    let mut died = 0;
    for n in 0..kills() {
        let _ = std::fs::remove_file(&image);
        let mut running = p.start(None, &["checkpoint", &pid, "-o", &image])?;
        let when = kill_soon(p, &mut running, time);
        let done = p.runner.finish(running)?;
        died += u64::from(!done.status.success());
        let after = |e: String| format!("checkpoint {n}, {when}: {e}");
        p.undisturbed(&v, &before).map_err(after)?;
        // Whole or not at all.
        if Path::new(&image).exists() {
            p.ghost(0, &["verify", &image]).map_err(after)?;
        }
        let left =
            std::fs::read_dir(&target).map_err(|e| e.to_string())?.flatten().filter(|e| e.file_name() != "a.ghost");
        if let Some(left) = left.last() {
            return Err(after(format!("{} is left", left.path().display())));
        }
    }
    if died * 5 < kills() {
        return Err(format!("only {died} of {} were killed before their end: this proves too little", kills()));
    }
    p.verify(&v, &[v.pid])
}

fn restart(p: &mut Play) -> Result<(), String> {
    let image = p.file("a.ghost");
    for name in [PROGRAM, "files/nameless-and-named-at-once"] {
        let v = p.victim(name)?;
        let _ = std::fs::remove_file(&image);
        p.ghost(0, &["checkpoint", &v.pid.to_string(), "-o", &image, "--kill"])?;
        let files = Snapshot::of_directories(std::slice::from_ref(&v.dir));
        // What a restart takes is learnt from one that is undone at the very end.
        let begin = Instant::now();
        p.ghost_fails_at("import.prepared", false, &["restart", &image, "--detach"])?;
        let time = begin.elapsed();
        for n in 0..(kills() / 10).max(3) {
            // Only up to that end: a restart that is through leaves a program that runs, as it should.
            let mut running = p.start(Some("import.prepared=error"), &["restart", &image, "--detach"])?;
            let when = kill_soon(p, &mut running, time / 2);
            p.runner.finish(running)?;
            let after = |e: String| format!("restart {n} of {name}, {when}: {e}");
            p.nobody_left().map_err(after)?;
            p.files_are(&files, std::slice::from_ref(&v.dir)).map_err(after)?;
        }
        p.ghost(0, &["restart", &image, "--detach"])?;
        p.verify(&v, &[v.pid])?;
    }
    Ok(())
}

/// Both ends of a migration, each with a failpoint or nothing, neither waited for; their address is learnt from a file.
fn pair(p: &mut Play, v: &Victim, pids: &str, fail: [Option<&str>; 2]) -> Result<(Running, Running, String), String> {
    let address = p.file("address");
    let _ = std::fs::remove_file(&address);
    let args = ["receive", "tcp://127.0.0.1:0", "--address-file", &address, "--pid", pids, "--detach"];
    let receive = p.start(fail[1], &args)?;
    p.until("it listens", 10, || std::fs::read_to_string(&address).is_ok_and(|a| a.contains(':')))?;
    let at = std::fs::read_to_string(&address).map_err(|e| e.to_string())?;
    let at = at.trim().trim_start_matches("tcp://").to_owned();
    let migrate = p.start(fail[0], &["migrate", &v.pid.to_string(), &format!("tcp://{at}")])?;
    Ok((migrate, receive, at))
}

/// A migration that fails, or one of whose ends dies, at each named point.
fn points(p: &mut Play, pids: &str) -> Result<(), String> {
    p.runner.expect(0, Path::new("/bin/mount"), &["-t", "tmpfs", "none", "/var/tmp"])?;
    let all = [
        ("migrate.prepared", 0),
        ("migrate.committed", 0),
        ("export.pages", 0),
        ("migrate.taken", 1),
        ("import.records", 1),
        ("import.prepared", 1),
        ("import.go", 1),
    ];
    for (point, side) in all.into_iter().filter(|(point, _)| *point != "migrate.taken" || pids == "same") {
        for how in ["error", "kill"] {
            let v = p.victim(PROGRAM)?;
            let wish = format!("{point}={how}");
            let mut fail = [None, None];
            fail[side] = Some(wish.as_str());
            let (migrate, receive, _) = pair(p, &v, pids, fail)?;
            let ghosts = [migrate.pid(), receive.pid()];
            let (there, here) = (p.runner.finish(migrate)?, p.runner.finish(receive)?);
            let met = [&there, &here][side].status;
            let after = |e: String| format!("{wish}: {e}\n(migrate: {}; receive: {})", there.status, here.status);
            if met.success() {
                return Err(after("it was not met".into()));
            }
            one_runs(p, &v, &ghosts).map_err(after)?;
            while let Some(file) = kept() {
                std::fs::remove_file(file).map_err(|e| e.to_string())?;
            }
        }
    }
    Ok(())
}

/// Everything that runs the victim now, but for ghost's own processes.
fn copies(p: &Play, ghosts: &[u32]) -> Vec<u32> {
    let victim = p.programs.victim.clone();
    crate::run::pids()
        .into_iter()
        .filter(|q| !p.before.contains(q) && !ghosts.contains(q) && alive(*q))
        .filter(|q| std::fs::read_link(format!("/proc/{q}/exe")).is_ok_and(|e| e == victim))
        .collect()
}

fn migrate(p: &mut Play, kill_receiver: bool, same: bool) -> Result<(), String> {
    p.runner.expect(0, Path::new("/bin/mount"), &["-t", "tmpfs", "none", "/var/tmp"])?;
    let mut time = Duration::from_millis(400);
    for n in 0..=(kills() / 10).max(3) {
        let v = p.victim(PROGRAM)?;
        let begin = Instant::now();
        let (mut migrate, mut receive, at) = pair(p, &v, if same { "same" } else { "new" }, [None, None])?;
        let when = if n == 0 {
            "not killed".to_owned()
        } else if kill_receiver {
            kill_soon(p, &mut receive, time / 2)
        } else {
            kill_soon(p, &mut migrate, time / 2)
        };
        let ghosts = [migrate.pid(), receive.pid()];
        let there = p.runner.finish(migrate)?;
        if n == 0 {
            time = begin.elapsed();
        }
        if !there.status.success() {
            // Nobody came, or came and went.
            let _ = std::net::TcpStream::connect(at);
        }
        let here = p.runner.finish(receive)?;
        let after =
            |e: String| format!("migration {n}, {when}: {e}\n(migrate: {}; receive: {})", there.status, here.status);
        let verdict = one_runs(p, &v, &ghosts).map_err(after);
        verdict?;
        // One that was killed as it ran already had no time to remove it.
        while let Some(file) = kept() {
            std::fs::remove_file(file).map_err(|e| e.to_string())?;
        }
    }
    Ok(())
}

/// Exactly one copy runs, or is the stopped source while nobody runs, or lies in a file that was kept; and it is whole.
fn one_runs(p: &mut Play, v: &Victim, ghosts: &[u32]) -> Result<(), String> {
    // Those on their way out get a moment: half-built ones die with their ghost, and may be counted until they have.
    std::thread::sleep(Duration::from_millis(150));
    let _ = p.until("one copy", 3, || copies(p, ghosts).len() == 1);
    let all = copies(p, ghosts);
    let running: Vec<u32> = all.iter().copied().filter(|q| !stopped(*q)).collect();
    match (running.as_slice(), all.as_slice()) {
        ([one], [_]) => p.verify(v, &[*one]),
        ([one], [_, _]) => {
            let source = all.iter().find(|q| !running.contains(q)).copied().unwrap_or(0);
            if source != v.pid {
                return Err(format!("two copies, and the stopped one is not the source: {all:?}"));
            }
            signal(source, Signal::KILL);
            p.verify(v, &[*one])
        }
        ([], [one]) => {
            signal(*one, Signal::CONT);
            p.verify(v, &[*one])
        }
        ([], []) => {
            let kept = kept().ok_or("no copy runs, none is stopped, and no ghost was kept")?;
            p.ghost(0, &["restart", &kept, "--detach"])?;
            p.verify(v, &[v.pid])?;
            std::fs::remove_file(&kept).map_err(|e| format!("{kept}: {e}"))
        }
        _ => Err(format!("running {running:?} of {all:?}")),
    }
}

/// The ghost that the receiver kept: the case's own `/var/tmp` holds nothing else.
fn kept() -> Option<String> {
    let mut files = std::fs::read_dir("/var/tmp").ok()?.flatten();
    files.next().map(|f| f.path().to_string_lossy().into_owned())
}
