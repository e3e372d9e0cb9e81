//! What must end in a clear error, with nothing harmed.
use super::{Play, Row, signal};
use crate::snapshot::Snapshot;
use rustix::process::Signal;
use std::path::Path;
use std::process::Stdio;

/// The cases.
pub const CASES: &[Row] = &[
    ("errors::disk-full", disk_full),
    ("errors::directory-gone", |p| export_error(p, 1, "gone/a.ghost", &["No such file"])),
    ("errors::file-size-limit", file_size_limit),
    ("errors::nobody-reads-the-answer", unread_answer),
    ("errors::exists", exists),
    ("errors::plugin", plugin),
    ("errors::already-traced", traced),
    ("errors::zombie", zombie),
    ("errors::ghost-itself", itself),
    ("errors::pid-1", pid_1),
    ("errors::no-such-process", |p| never(p, "4000000", &["4000000"])),
    ("errors::not-ours", not_ours),
    ("errors::unreadable-proc", unreadable),
    ("errors::restart-of-nothing", |p| p.ghost(1, &["restart", "/no/such.ghost"]).map(drop)),
    ("freezing::exec", |p| changing(p, "while :; do /bin/sh -c 'exec /bin/true'; done")),
    ("freezing::exits", exits),
    ("freezing::threads", |p| moving(p, "thread/coming-and-going")),
    ("freezing::processes", |p| moving(p, "thread/processes-coming-and-going")),
];

fn says(said: &str, words: &[&str]) -> Result<(), String> {
    match words.iter().find(|w| !said.contains(**w)) {
        None => Ok(()),
        Some(w) => Err(format!("the message does not say {w:?}: {said}")),
    }
}

/// A checkpoint that must end so, after which the program is as it was.
fn export_error(p: &mut Play, code: i32, target: &str, words: &[&str]) -> Result<(), String> {
    let v = p.victim("thread/fifty-in-many-calls")?;
    let before = Snapshot::of_tree(v.pid);
    let done = p.ghost(code, &["checkpoint", &v.pid.to_string(), "-o", &p.file(target)])?;
    says(&done.stderr, words)?;
    p.undisturbed(&v, &before)?;
    p.verify(&v, &[v.pid])
}

fn disk_full(p: &mut Play) -> Result<(), String> {
    let at = p.make_dir("small")?;
    // In this case's own mount namespace: it goes with it.
    let at_text = at.to_string_lossy().into_owned();
    p.runner.expect(0, Path::new("/bin/mount"), &["-t", "tmpfs", "-o", "size=64k", "none", &at_text])?;
    export_error(p, 1, "small/a.ghost", &["No space left"])?;
    let left = std::fs::read_dir(&at).map_err(|e| e.to_string())?.count();
    if left == 0 { Ok(()) } else { Err(format!("{left} files are left on the full disk")) }
}

/// A limit on the size of files is an error of the write that meets it: SIGXFSZ must not end ghost.
fn file_size_limit(p: &mut Play) -> Result<(), String> {
    let target = p.make_dir("target")?;
    let v = p.victim("thread/fifty-in-many-calls")?;
    let before = Snapshot::of_tree(v.pid);
    let ghost = p.programs.ghost.to_string_lossy().into_owned();
    let script = format!("ulimit -f 16; exec {ghost} checkpoint {} -o {}/a.ghost", v.pid, target.display());
    let done = p.runner.expect(1, Path::new("/bin/bash"), &["-c", &script])?;
    says(&done.stderr, &["File too large", "ulimit -f", "runs again"])?;
    let left = std::fs::read_dir(&target).map_err(|e| e.to_string())?.count();
    if left != 0 {
        return Err(format!("{left} files are left"));
    }
    p.undisturbed(&v, &before)?;
    p.verify(&v, &[v.pid])
}

/// A reader of the answer that has gone wanted no more; a disk that is full where the answer goes is told, after all is done.
fn unread_answer(p: &mut Play) -> Result<(), String> {
    let v = p.victim("process/plain")?;
    let image = p.file("a.ghost");
    let ghost = p.programs.ghost.to_string_lossy().into_owned();
    let command = format!("{ghost} checkpoint {} -o {image} --replace", v.pid);
    // The reader is gone for certain before ghost says anything.
    let gone = format!("exec 3> >(exec true); sleep 0.2; {command} >&3 2>&3");
    p.runner.expect(0, Path::new("/bin/bash"), &["-c", &gone])?;
    p.ghost(0, &["verify", &image])?;
    let full = p.runner.expect(1, Path::new("/bin/bash"), &["-c", &format!("{command} > /dev/full")])?;
    says(&full.stderr, &["all is done", "No space left"])?;
    p.ghost(0, &["verify", &image])?;
    p.verify(&v, &[v.pid])
}

fn exists(p: &mut Play) -> Result<(), String> {
    let old = p.file("old.ghost");
    std::fs::write(&old, "mine").map_err(|e| e.to_string())?;
    export_error(p, 3, "old.ghost", &["old.ghost", "--replace"])?;
    if std::fs::read(&old).is_ok_and(|b| b == b"mine") { Ok(()) } else { Err("it was overwritten".into()) }
}

fn plugin(p: &mut Play) -> Result<(), String> {
    let v = p.victim("process/plain")?;
    let before = Snapshot::of_tree(v.pid);
    let bad = p.file("bad.so");
    std::fs::write(&bad, "no library").map_err(|e| e.to_string())?;
    let pid = v.pid.to_string();
    for args in [&["--plugin", &bad, "checkpoint", &pid, "-o", "x:y"][..], &["checkpoint", &pid, "-o", "nosuch:place"]]
    {
        let running = p.start(None, args)?;
        let done = p.runner.finish(running)?;
        if !matches!(done.status.code(), Some(1 | 2)) || done.stderr.trim().is_empty() {
            return Err(format!("{args:?}: {} {}", done.status, done.stderr));
        }
        p.undisturbed(&v, &before)?;
    }
    p.verify(&v, &[v.pid])
}

fn traced(p: &mut Play) -> Result<(), String> {
    let v = p.victim("process/plain")?;
    // Ghost itself is the tracer that is there first: `receive` of nobody keeps its source frozen meanwhile.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").map_err(|e| e.to_string())?;
    let at = listener.local_addr().map_err(|e| e.to_string())?;
    let mut first = p.start(None, &["migrate", &v.pid.to_string(), &format!("tcp://{at}")])?;
    let (mut peer, _) = listener.accept().map_err(|e| e.to_string())?;
    super::peers::welcome(&mut peer)?;
    let status = format!("/proc/{}/status", v.pid);
    p.until("it is traced", 10, || {
        std::fs::read_to_string(&status)
            .is_ok_and(|s| s.lines().any(|l| l.starts_with("TracerPid") && !l.ends_with("\t0")))
    })?;
    let done = p.ghost(3, &["checkpoint", &v.pid.to_string(), "-o", &p.file("a.ghost")])?;
    says(&done.stderr, &[&v.pid.to_string(), &first.pid().to_string(), "traced"])?;
    drop(peer);
    first.kill();
    p.runner.finish(first)?;
    p.verify(&v, &[v.pid])
}

fn zombie(p: &mut Play) -> Result<(), String> {
    // Not waited for until the end of the case.
    let mut child = std::process::Command::new("/bin/true").spawn().map_err(|e| e.to_string())?;
    let pid = child.id();
    p.until("it is a zombie", 5, || !super::alive(pid))?;
    let running = p.start(None, &["checkpoint", &pid.to_string(), "-o", &p.file("z.ghost")])?;
    let done = p.runner.finish(running)?;
    let told = matches!(done.status.code(), Some(1 | 3)) && done.stderr.contains(&pid.to_string());
    let status = child.wait().map_err(|e| e.to_string())?;
    if !told {
        return Err(format!("a zombie: {} {}", done.status, done.stderr));
    }
    if status.success() { Ok(()) } else { Err(format!("its parent was told {status}")) }
}

fn itself(p: &mut Play) -> Result<(), String> {
    let me = std::process::id().to_string();
    never(p, &me, &["ghost itself"])?;
    let ghost = p.programs.ghost.to_string_lossy().into_owned();
    let script = format!("exec {ghost} checkpoint $$ -o {}", p.file("me.ghost"));
    let running = p.runner.start(Path::new("/bin/sh"), &["-c", &script], Stdio::null(), None)?;
    let done = p.runner.finish(running)?;
    says(&done.stderr, &["ghost itself"])?;
    if done.status.code() == Some(3) { Ok(()) } else { Err(format!("expected 3, found {}", done.status)) }
}

/// A process that nobody may take.
fn never(p: &mut Play, pid: &str, words: &[&str]) -> Result<(), String> {
    let target = p.file("never.ghost");
    let running = p.start(None, &["checkpoint", pid, "-o", &target])?;
    let done = p.runner.finish(running)?;
    says(&done.stderr, words)?;
    let wanted = if pid == "4000000" { 1 } else { 3 };
    if done.status.code() != Some(wanted) {
        return Err(format!("expected exit status {wanted}, found {}: {}", done.status, done.stderr));
    }
    if Path::new(&target).exists() { Err("a ghost was made".into()) } else { Ok(()) }
}

/// The init of this case's own pid namespace, asked in every way to go: it is not even looked at by ptrace.
fn pid_1(p: &mut Play) -> Result<(), String> {
    // It starts the case before it opens its notes; only then it waits, and stays as it is.
    let reaped = p.dir.join("reaped");
    let waits = || std::fs::read_to_string("/proc/1/status").is_ok_and(|s| s.contains("State:\tS"));
    p.until("pid 1 waits for its children", 10, || reaped.exists() && waits())?;
    let before = Snapshot::of_tree(1);
    never(p, "1", &["pid 1"])?;
    for args in [&["check", "1"][..], &["duplicate", "1"]] {
        let done = p.ghost(3, args)?;
        says(&done.stderr, &["pid 1"])?;
    }
    // One that has no children but ours, in a namespace further down, asked from within.
    let ghost = p.programs.ghost.to_string_lossy().into_owned();
    let script = format!("sleep 60 & {ghost} checkpoint 1 -o {}; echo said $?; kill %1", p.file("init.ghost"));
    let words = ["-pf", "--mount-proc", "--kill-child", "/bin/bash", "-c", &script];
    let done = p.runner.expect(0, Path::new("/usr/bin/unshare"), &words)?;
    says(&done.stdout, &["said 3"])?;
    says(&done.stderr, &["pid 1"])?;
    // Its children come and go with the case; what is its own must be as it was.
    let now = Snapshot::of_tree(1);
    match before
        .difference(&now)
        .filter(|d| d.lines().any(|l| l.starts_with("pid 1 ") && !l.starts_with("pid 1 children")))
    {
        None => Ok(()),
        Some(d) => Err(format!("pid 1 is not as it was:\n{d}")),
    }
}

fn as_nobody(p: &mut Play, args: &[&str]) -> Result<crate::run::Done, String> {
    // Where nobody may look, the program is copied to where it may.
    let copy = p.file("ghost");
    if !Path::new(&copy).exists() {
        std::fs::copy(&p.programs.ghost, &copy).map_err(|e| e.to_string())?;
    }
    let words: Vec<&str> = ["--reuid", "65534", "--regid", "65534", "--clear-groups", &copy]
        .into_iter()
        .chain(args.iter().copied())
        .collect();
    let running = p.runner.start(Path::new("/usr/bin/setpriv"), &words, Stdio::null(), None)?;
    p.runner.finish(running)
}

fn not_ours(p: &mut Play) -> Result<(), String> {
    let v = p.victim("thread/fifty-in-many-calls")?;
    let before = Snapshot::of_tree(v.pid);
    let target = p.file("a.ghost");
    let done = as_nobody(p, &["checkpoint", &v.pid.to_string(), "-o", &target])?;
    says(&done.stderr, &[&v.pid.to_string(), "ermi", "root"])?;
    if !matches!(done.status.code(), Some(1 | 3)) {
        return Err(format!("{}", done.status));
    }
    p.undisturbed(&v, &before)?;
    p.verify(&v, &[v.pid])
}

fn unreadable(p: &mut Play) -> Result<(), String> {
    let v = p.victim("process/plain")?;
    let before = Snapshot::of_tree(v.pid);
    // Another file over one of its entries: as good as unreadable, in this mount namespace only.
    let over = format!("/proc/{}/smaps", v.pid);
    let maps = format!("/proc/{}/maps", v.pid);
    let empty = p.file("nonsense");
    std::fs::write(&empty, "no such format\n").map_err(|e| e.to_string())?;
    for at in [&over, &maps] {
        p.runner.expect(0, Path::new("/bin/mount"), &["--bind", &empty, at])?;
    }
    let running = p.start(None, &["checkpoint", &v.pid.to_string(), "-o", &p.file("a.ghost")])?;
    let done = p.runner.finish(running)?;
    for at in [&over, &maps] {
        p.runner.expect(0, Path::new("/bin/umount"), &[at])?;
    }
    says(&done.stderr, &[&v.pid.to_string()])?;
    if done.status.code() != Some(1) {
        return Err(format!("{}", done.status));
    }
    p.undisturbed(&v, &before)?;
    p.verify(&v, &[v.pid])
}

/// A shell with nothing but its standard descriptors.
fn bare(p: &mut Play, script: &str) -> Result<crate::run::Running, String> {
    let victim = p.programs.victim.clone();
    let shell = p.runner.start(&victim, &["bare", "/bin/sh", "-c", script], Stdio::null(), None)?;
    let exe = format!("/proc/{}/exe", shell.pid());
    p.until("it is the shell", 5, || std::fs::read_link(&exe).is_ok_and(|e| e != victim))?;
    Ok(shell)
}

/// A shell whose children come, become others and go while ghost freezes them, over and over.
fn changing(p: &mut Play, script: &str) -> Result<(), String> {
    let mut shell = bare(p, script)?;
    let pid = shell.pid();
    let image = p.file("a.ghost");
    let mut good = 0;
    for n in 0..15 {
        let running = p.start(None, &["checkpoint", &pid.to_string(), "-o", &image, "--replace"])?;
        let done = p.runner.finish(running)?;
        match done.status.code() {
            Some(0) => good += 1,
            // The shell was inside vfork just then: said so, and nothing is harmed.
            Some(3) if done.stderr.contains("vfork") => {}
            _ => return Err(format!("checkpoint {n}: {} {}", done.status, done.stderr)),
        }
        if !super::alive(pid) || super::stopped(pid) {
            return Err(format!("after checkpoint {n} the shell does not run"));
        }
    }
    shell.kill();
    p.runner.finish(shell)?;
    if good == 0 { Err("not one checkpoint was made".into()) } else { Ok(()) }
}

/// A program that ends while it is being frozen: an image or an error, and its end is its own.
fn exits(p: &mut Play) -> Result<(), String> {
    for n in 0..25u64 {
        let script = format!("sleep 0.0{:02}; exit 7", p.random(40));
        let program = bare(p, &script)?;
        let image = p.file(&format!("{n}.ghost"));
        let running = p.start(None, &["checkpoint", &program.pid().to_string(), "-o", &image])?;
        let done = p.runner.finish(running)?;
        let ended = p.runner.finish(program)?;
        let refused =
            done.status.code() == Some(3) && ["vfork", "it has ended"].iter().any(|w| done.stderr.contains(w));
        if !(refused || matches!(done.status.code(), Some(0 | 1))) || ended.status.code() != Some(7) {
            return Err(format!("{n}: ghost {}, the program {}: {}", done.status, ended.status, done.stderr));
        }
        if (done.status.code() == Some(0)) != Path::new(&image).exists() {
            return Err(format!("{n}: ghost ended with {}, but the image says otherwise", done.status));
        }
    }
    Ok(())
}

/// A victim whose threads or children come and go all the time: left running, and killed ghosts too.
fn moving(p: &mut Play, name: &str) -> Result<(), String> {
    let v = p.victim(name)?;
    let pid = v.pid.to_string();
    let image = p.file("a.ghost");
    for n in 0..10u64 {
        let mut running = p.start(None, &["checkpoint", &pid, "-o", &image, "--replace"])?;
        if n % 2 == 1 {
            std::thread::sleep(std::time::Duration::from_micros(p.random(60_000)));
            running.kill();
        }
        let done = p.runner.finish(running)?;
        // A thread that the killed ghost left on its way home: said so, and over within two seconds.
        let transient = ["vfork", "come home"].iter().any(|w| done.stderr.contains(w));
        if n % 2 == 0 && done.status.code() != Some(0) && !transient {
            return Err(format!("checkpoint {n}: {} {}", done.status, done.stderr));
        }
    }
    // A stop that was left would keep it from its verdict; SIGCONT is not sent.
    p.verify(&v, &[v.pid]).inspect_err(|_| signal(v.pid, Signal::KILL))
}
