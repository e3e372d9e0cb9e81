//! Running victims without ghost: undisturbed, or stopped and continued; and the namespace for a test case.
use crate::sys::{c, errno, sleep_ms};
use crate::{Flag, areas, call, must};
use std::io::Write as _;
use std::process::{Child, Command, ExitCode, Stdio};

/// What is done to a victim while it waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disturb {
    /// Nothing.
    Nothing,
    /// SIGSTOP and SIGCONT to all of its processes.
    Stop,
    /// What they have open is spoiled.
    Spoil,
}

fn chosen(name: &str, filters: &[&str]) -> bool {
    filters.is_empty() || filters.iter().any(|f| name.contains(f))
}

/// Spoils what each victim has open and tells those that do not notice; they may have nothing that this can spoil.
pub fn spoil(filters: &[&str]) -> ExitCode {
    let (mut noticed, mut not) = (0, 0);
    for (name, v) in areas::all().filter(|(name, _)| chosen(name, filters)) {
        let dir = format!("/tmp/gv{}", std::process::id());
        let verdict = one(&name, &dir, Disturb::Spoil, v.flags.contains(&Flag::Terminal));
        let _ = std::fs::remove_dir_all(&dir);
        match verdict {
            Ok(None) => {
                println!("{name}: did not notice");
                not += 1;
            }
            Ok(Some(_)) => {}
            Err(_) => noticed += 1,
        }
    }
    println!("{noticed} noticed, {not} did not");
    ExitCode::SUCCESS
}

/// Runs each victim whose name holds one of `filters` (all, when there is none).
pub fn run(filters: &[&str], disturb: Disturb) -> ExitCode {
    let (mut good, mut bad, mut skipped) = (0, 0, 0);
    for (name, v) in areas::all() {
        if !chosen(&name, filters) || disturb == Disturb::Stop && v.flags.contains(&Flag::NoStop) {
            continue;
        }
        let begin = std::time::Instant::now();
        let dir = format!("/tmp/gv{}", std::process::id());
        let verdict = one(&name, &dir, disturb, v.flags.contains(&Flag::Terminal));
        let _ = std::fs::remove_dir_all(&dir);
        let word = match &verdict {
            Ok(None) => "ok".to_owned(),
            Ok(Some(why)) => format!("skipped: {why}"),
            Err(text) => format!("FAILED\n    {}", text.trim().replace('\n', "\n    ")),
        };
        println!("{name} ({} ms): {word}", begin.elapsed().as_millis());
        match verdict {
            Ok(None) => good += 1,
            Ok(Some(_)) => skipped += 1,
            Err(_) => bad += 1,
        }
    }
    println!("{good} passed, {bad} failed, {skipped} skipped");
    ExitCode::from(u8::from(bad > 0))
}

fn one(name: &str, dir: &str, disturb: Disturb, terminal: bool) -> Result<Option<String>, String> {
    use std::os::unix::fs::PermissionsExt as _;
    let text = |e: std::io::Error| e.to_string();
    std::fs::create_dir(dir).map_err(text)?;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o777)).map_err(text)?;
    let me = std::env::current_exe().map_err(text)?;
    // Held until the end: without its master a terminal hangs up.
    let terminal = terminal.then(crate::areas::refuse::pty).transpose().map_err(String::from)?;
    let stdio = || match &terminal {
        // SAFETY: the number is ours, and the descriptor made of it is a duplicate.
        Some((_, t)) => unsafe { std::os::fd::BorrowedFd::borrow_raw(*t) }.try_clone_to_owned().map(Stdio::from),
        None => Ok(Stdio::null()),
    };
    let mut child = Command::new(me)
        .args([name, dir])
        .stdin(stdio().map_err(text)?)
        .stdout(stdio().map_err(text)?)
        .stderr(stdio().map_err(text)?)
        .spawn()
        .map_err(text)?;
    let root = child.id();
    let result = format!("{dir}/result.{root}");
    let outcome = (|| {
        until(&mut child, 40, "ready", &[&format!("{dir}/ready"), &format!("{dir}/skip"), &result])?;
        if let Ok(why) = std::fs::read_to_string(format!("{dir}/skip")) {
            return Ok(Some(why));
        }
        if disturb == Disturb::Spoil {
            crate::spoil::tree(&crate::proc::tree(root));
        }
        if disturb == Disturb::Stop {
            let tree = crate::proc::tree(root);
            for sig in [libc::SIGSTOP, libc::SIGCONT] {
                for &p in &tree {
                    call!(kill(p as i32, sig));
                }
                sleep_ms(150);
            }
        }
        // Timers, sleeps and pending things get some time to go wrong.
        sleep_ms(100);
        std::fs::write(format!("{dir}/go"), "").map_err(text)?;
        // One that spoiling made wait for ever has noticed, too.
        let limit = if disturb == Disturb::Spoil { 4 } else { 40 };
        until(&mut child, limit, "the verdict", &[&result])?;
        let verdict = std::fs::read_to_string(&result).map_err(text)?;
        if verdict.trim() == "OK" { Ok(None) } else { Err(verdict) }
    })();
    if outcome.is_err() {
        for p in crate::proc::tree(root).into_iter().rev() {
            call!(kill(p as i32, libc::SIGKILL));
        }
    }
    let status = child.wait().map_err(text)?;
    if let Some((m, t)) = terminal {
        call!(close(m));
        call!(close(t));
    }
    match outcome {
        Ok(None) if !status.success() => Err(format!("verdict OK, but {status}")),
        other => other,
    }
}

fn until(child: &mut Child, seconds: u32, what: &str, files: &[&str]) -> Result<(), String> {
    for _ in 0..seconds * 500 {
        let there = || files.iter().any(|f| std::path::Path::new(f).exists());
        if there() {
            return Ok(());
        }
        if let Ok(Some(status)) = child.try_wait() {
            return if there() { Ok(()) } else { Err(format!("ended before {what}: {status}")) };
        }
        sleep_ms(2);
    }
    Err(format!("no {what} within {seconds} s; wchan {}", crate::proc::read(&format!("/proc/{}/wchan", child.id()))))
}

/// Runs a command in its own pid and mount namespace under an init that reaps; gives back its exit status.
///
/// Every process that init reaps is noted in `reaped` as `pid status`. When the command ends, the namespace ends,
/// and with it everything that is left in it; when the caller dies, too.
pub fn namespace(reaped: Option<&str>, cmd: &[&str]) -> ExitCode {
    must!(prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL));
    // System V objects outlive a victim that is killed: they end with the namespace.
    must!(unshare(libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWIPC));
    let init = must!(fork());
    if init == 0 {
        call!(_exit(as_init(reaped, cmd)));
    }
    let mut status = 0;
    while call!(waitpid(init, &mut status, 0)) == -1 && errno() == libc::EINTR {}
    ExitCode::from(exit_code(status) as u8)
}

fn as_init(reaped: Option<&str>, cmd: &[&str]) -> i32 {
    must!(prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL));
    let (none, root, proc) = (c("none"), c("/"), c("proc"));
    let at = c("/proc");
    must!(mount(none.as_ptr(), root.as_ptr(), std::ptr::null(), libc::MS_REC | libc::MS_PRIVATE, std::ptr::null()));
    must!(mount(proc.as_ptr(), at.as_ptr(), proc.as_ptr(), 0, std::ptr::null()));
    let main = match Command::new(cmd[0]).args(&cmd[1..]).spawn() {
        Ok(child) => child.id() as i32,
        Err(e) => {
            eprintln!("victim ns: {}: {e}", cmd[0]);
            return 127;
        }
    };
    let mut notes = reaped.map(|f| std::fs::File::create(f).expect("the file for the reaped"));
    loop {
        let mut status = 0;
        let pid = call!(waitpid(-1, &mut status, 0));
        if pid == main {
            return exit_code(status);
        }
        if let (true, Some(f)) = (pid > 0, notes.as_mut()) {
            let _ = writeln!(f, "{pid} {status:#x}");
        }
    }
}

fn exit_code(status: i32) -> i32 {
    if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { 128 + libc::WTERMSIG(status) }
}
