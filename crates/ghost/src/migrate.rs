//! Migration: export here, import there, and an agreement so that never two run and never none.
//!
//! Until COMMIT is said every failure, of either side or of the wire, lets the source run on and undoes the destination.
//! The source ends only once the destination has said RUNNING. If the wire breaks between the two words nobody here can know:
//! then the source is left stopped, and the error says how to resolve it.

use crate::protocol::{Word, hear, say};
use crate::{Action, After, Error, ExportOptions, ImportOptions, KindError, Pid, Pids, Report, Restored};
use ghost_core::export::Exporting;
use ghost_core::import::{Prepared, prepare};
use ghost_core::intake::Intake;
use std::io::{self, Read, Write};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How many times over a silence is borne after COMMIT.
const PATIENCE: u32 = 5;
/// For how long pids may stay taken after the source has said that its processes have ended: until their parents have waited for them.
const REAPING: Duration = Duration::from_secs(10);
/// The same when it has hung up without a word.
const PARTING: Duration = Duration::from_secs(1);

const UNTOUCHED: &str = "nothing was touched";
const ENDED_HERE: &str = "the process has ended here; the other side has its ghost";
const RUNS_HERE: &str = "the process runs again here; nothing is left there";

fn failed(pid: Pid, what: KindError, aftermath: &str) -> Error {
    let process = if pid == 0 { String::new() } else { format!("pid {pid}") };
    Error::Failed { action: Action::Migrate, process, what, aftermath: aftermath.to_owned() }
}

fn wire(step: &str) -> impl FnOnce(io::Error) -> KindError + '_ {
    move |e| {
        let (words, advice) = match e.kind() {
            io::ErrorKind::UnexpectedEof => ("the other side has hung up".to_owned(), "look there for the reason"),
            io::ErrorKind::InvalidData => {
                (e.to_string(), "see that both sides are ghosts, and of versions that go together")
            }
            _ => (e.to_string(), "look at the other side, and at the way there"),
        };
        KindError::conflict(step, words).advise(advice)
    }
}

fn unexpected(step: &str, word: &Word) -> KindError {
    match word {
        Word::Refused(why) | Word::Failed(why) | Word::Abort(why) => KindError::conflict(step, format!("there: {why}")),
        Word::Hello(_) => {
            KindError::conflict(step, "the other side greets as a source does, too: is it a `ghost receive`?")
        }
        other => KindError::conflict(step, format!("the other side said {other:?}")),
    }
}

/// Moves the process tree below `pid` to the ghost at the other end. Returns what it took and the pid there.
pub fn migrate(
    pid: Pid,
    from_peer: &mut dyn Read,
    to_peer: &mut (dyn Write + Send),
    options: &ExportOptions,
) -> Result<(Report, Pid), Error> {
    let hello = Word::Hello(Box::new(ghost_core::host::record_of_host(pid)));
    say(to_peer, &hello).map_err(|e| failed(pid, wire("greeting the other side")(e), UNTOUCHED))?;
    match hear(from_peer).map_err(|e| failed(pid, wire("being greeted")(e), UNTOUCHED))? {
        Word::Welcome => {}
        word => return Err(failed(pid, unexpected("being greeted", &word), UNTOUCHED)),
    }
    let mut exporting = match Exporting::begin(Action::Migrate, pid, options) {
        Ok(exporting) => exporting,
        Err(e) => {
            let _ = say(to_peer, &Word::Abort(e.to_string()));
            return Err(e);
        }
    };
    // Dropping `exporting` on any of these errors lets the source run on.
    exporting.write(&mut *to_peer)?;
    to_peer.flush().map_err(|e| failed(pid, wire("sending the ghost")(e), RUNS_HERE))?;
    let shares_pids = match hear(from_peer).map_err(|e| failed(pid, wire("waiting for PREPARED")(e), RUNS_HERE))? {
        Word::Prepared(shares_pids) => shares_pids,
        word => return Err(failed(pid, unexpected("building it there", &word), RUNS_HERE)),
    };
    ghost_core::failpoint::hit("migrate.prepared").map_err(|e| failed(pid, e, RUNS_HERE))?;
    // Should this ghost die from here on, nobody would end the source once it runs there: it must not run on by itself.
    exporting.stay_stopped();
    if let Err(e) = say(to_peer, &Word::Commit) {
        // A COMMIT that could not be sent whole was not heard whole.
        exporting.run_again();
        return Err(failed(pid, wire("saying COMMIT")(e), RUNS_HERE));
    }
    let heard = match ghost_core::failpoint::hit("migrate.committed") {
        Ok(()) => hear_patiently(from_peer),
        Err(e) => Err(io::Error::other(format!("{}: {}", e.step, e.cause))),
    };
    match heard {
        Ok(Word::Running(there)) => {
            exporting.report.stage("there");
            let report = exporting.end(After::Kill)?;
            // Who does not wait for it may have hung up.
            let _ = say(to_peer, &Word::Gone);
            match shares_pids.then(|| hear(from_peer)) {
                Some(Ok(Word::Running(there))) => Ok((report, there)),
                Some(Ok(Word::Failed(why))) => {
                    Err(failed(pid, unexpected("letting it run there", &Word::Failed(why)), ENDED_HERE))
                }
                // It has built it before, or says no more.
                _ => Ok((report, there)),
            }
        }
        // It was not able to let it run, undid it, and says so.
        Ok(Word::Failed(why)) => {
            exporting.run_again();
            Err(failed(pid, unexpected("letting it run there", &Word::Failed(why)), RUNS_HERE))
        }
        other => {
            exporting.end(After::Stop)?;
            let what = match other {
                Ok(word) => unexpected("waiting for RUNNING", &word),
                Err(e) => wire("waiting for RUNNING")(e),
            };
            let advice = format!("look there: if it runs, `kill -KILL {pid}` here; if not, `kill -CONT {pid}` here");
            Err(failed(
                pid,
                what.advise(advice),
                "in doubt: the process here is stopped and must not go on if it runs there",
            ))
        }
    }
}

/// Hears the word after COMMIT. By then giving up decides nothing any more, and the other side may have much to write to a disk: a
/// silence is borne a few times as long as elsewhere.
fn hear_patiently(from: &mut dyn Read) -> io::Result<Word> {
    for _ in 0..PATIENCE {
        match hear(from) {
            Err(e) if e.kind() == io::ErrorKind::TimedOut => {}
            other => return other,
        }
    }
    hear(from)
}

/// Receives one migrating process tree and lets it run once the source has given it away.
pub fn receive(
    from_peer: &mut (dyn Read + Send),
    to_peer: &mut dyn Write,
    options: &ImportOptions,
) -> Result<Restored, Error> {
    let fail = |what| failed(0, what, "nothing was left behind");
    let host = match hear(from_peer).map_err(|e| fail(wire("being greeted")(e)))? {
        Word::Hello(host) => host,
        word => return Err(fail(unexpected("being greeted", &word))),
    };
    if let Err(e) = ghost_core::host::check(&host) {
        let _ = say(to_peer, &Word::Refused(format!("{}: {}", e.step, e.cause)));
        return Err(fail(e));
    }
    say(to_peer, &Word::Welcome).map_err(|e| fail(wire("greeting the other side")(e)))?;
    let options = &ImportOptions { wait_for_pids_ms: 0, ..borrow(options) };
    let result = take(from_peer, to_peer, &host, options);
    if let Err(e) = &result {
        let _ = say(to_peer, &Word::Failed(e.to_string()));
    }
    result
}

/// A copy of the options but for the descriptors, which can only be used once.
fn borrow(o: &ImportOptions) -> ImportOptions {
    ImportOptions {
        pids: o.pids,
        map_files: o.map_files.clone(),
        inherit: o.inherit.iter().filter_map(|(n, fd)| Some((n.clone(), fd.try_clone().ok()?))).collect(),
        accept: o.accept.clone(),
        progress: o.progress.clone(),
        detach: o.detach,
        replace: false,
        wait_for_pids_ms: o.wait_for_pids_ms,
    }
}

fn take(
    from_peer: &mut (dyn Read + Send),
    to_peer: &mut dyn Write,
    host: &ghost_image::record::Host,
    options: &ImportOptions,
) -> Result<Restored, Error> {
    let fail = |what| failed(0, what, "nothing was left behind");
    let mut head = [0; 4];
    from_peer.read_exact(&mut head).map_err(|e| fail(wire("waiting for the ghost")(e)))?;
    let mut from_peer = (&head[..]).chain(from_peer);
    if &head == b"ABRT" {
        let word = hear(&mut from_peer).map_err(|e| fail(wire("waiting for the ghost")(e)))?;
        return Err(fail(unexpected("waiting for the ghost", &word)));
    }
    let from_peer = &mut from_peer;
    // The source lives in this very pid namespace: its pids are free only after it has ended.
    let shared = options.pids == Pids::Same && ghost_core::import::pid_in_use(host.root_pid);
    if shared {
        return take_over(from_peer, to_peer, host.root_pid, options);
    }
    let mut intake = Intake::stream(Box::new(&mut *from_peer)).map_err(fail)?;
    let prepared = prepare(Action::Migrate, &mut intake, options)?;
    drop(intake);
    let root = prepared.root();
    say(to_peer, &Word::Prepared(false)).map_err(|e| fail(wire("saying PREPARED")(e)))?;
    match hear(from_peer).map_err(|e| fail(wire("waiting for COMMIT")(e)))? {
        Word::Commit => {}
        word => return Err(fail(unexpected("waiting for COMMIT", &word))),
    }
    let restored = prepared.go()?;
    // If this is lost the source stays stopped: it runs here and only here.
    let _ = say(to_peer, &Word::Running(root));
    Ok(restored)
}

/// Keeps the whole ghost, takes the process over, and builds it when the source is gone.
fn take_over(
    from_peer: &mut (dyn Read + Send),
    to_peer: &mut dyn Write,
    root: Pid,
    options: &ImportOptions,
) -> Result<Restored, Error> {
    let fail = |what| failed(0, what, "nothing was left behind");
    let mut intake = Intake::stream(Box::new(&mut *from_peer)).map_err(fail)?;
    let mut kept = Vec::new();
    intake.keep(&mut kept).map_err(fail)?;
    drop(intake);
    say(to_peer, &Word::Prepared(true)).map_err(|e| fail(wire("saying PREPARED")(e)))?;
    match hear(from_peer).map_err(|e| fail(wire("waiting for COMMIT")(e)))? {
        Word::Commit => {}
        word => return Err(fail(unexpected("waiting for COMMIT", &word))),
    }
    // It is ours now, and the source ends on the next word: the ghost is all there is then, and must outlive us, too.
    let path = rescue(&kept, root).map_err(|e| fail(wire("keeping the ghost while its process moves")(e)))?;
    let _ = say(to_peer, &Word::Running(0));
    ghost_core::failpoint::hit("migrate.taken")
        .map_err(|what| failed(0, what, &format!("the process has ended there; its ghost is kept in {path}")))?;
    // The source ends its processes now, and says so, or fails to, and hangs up.
    let parted = Mutex::new(None);
    let built = std::thread::scope(|s| {
        s.spawn(|| {
            let said_gone = matches!(hear(from_peer), Ok(Word::Gone));
            *parted.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some((Instant::now(), said_gone));
        });
        let left = wait_until_gone(root, &parted).map_err(fail)?;
        let options = ImportOptions { wait_for_pids_ms: left.as_millis() as u64, ..borrow(options) };
        let mut intake = Intake::whole(&kept).map_err(fail)?;
        prepare(Action::Migrate, &mut intake, &options).and_then(Prepared::go)
    });
    match built {
        Ok(restored) => {
            let _ = std::fs::remove_file(&path);
            // The source waits for this word, or has hung up.
            let _ = say(to_peer, &Word::Running(restored.root));
            Ok(restored)
        }
        Err(e) => Err(with_aftermath(
            e,
            format!("its ghost is kept in {path}: ghost restart {path}, once it does not run there any more"),
        )),
    }
}

/// Waits until the root of the source is gone; how long the rest may still take. An error when the source was not ended.
fn wait_until_gone(root: Pid, parted: &Mutex<Option<(Instant, bool)>>) -> Result<Duration, KindError> {
    let began = Instant::now();
    loop {
        let taken = ghost_core::import::pid_in_use(root);
        let how = *parted.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (since, limit) = match how {
            None => (began, REAPING),
            Some((since, true)) => (since, REAPING),
            Some((since, false)) if ghost_core::import::has_ended(root) => (since, REAPING),
            Some((since, false)) => (since, PARTING),
        };
        let left = limit.saturating_sub(since.elapsed());
        if !taken {
            return Ok(left.max(PARTING));
        }
        if left.is_zero() {
            const STEP: &str = "waiting for its pids";
            if !ghost_core::import::has_ended(root) {
                let why = format!("the other side has not ended it: pid {root} is still there");
                return Err(KindError::conflict(STEP, why));
            }
            let parent = ghost_core::import::parent_of(root);
            let why = format!("pid {root} has ended, but its parent{parent} has not waited for it");
            return Err(KindError::conflict(STEP, why).advise("end that parent, or receive with --pid new or --pid ns"));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn with_aftermath(e: Error, text: String) -> Error {
    match e {
        Error::Failed { action, process, what, .. } => Error::Failed { action, process, what, aftermath: text },
        refused @ Error::Refused { .. } => refused,
    }
}

/// Writes a ghost that must not be lost to a file of its own, named after the process.
fn rescue(ghost: &[u8], pid: Pid) -> io::Result<String> {
    use std::os::unix::fs::OpenOptionsExt;
    for n in 0.. {
        let path = format!("/var/tmp/ghost-rescued-{pid}-{}-{n}.ghost", std::process::id());
        match std::fs::File::options().write(true).create_new(true).mode(0o600).open(&path) {
            // Another ghost's, in another pid namespace perhaps.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e),
            Ok(mut file) => {
                let written = file.write_all(ghost).and_then(|()| file.sync_all());
                return match written {
                    Ok(()) => Ok(path),
                    Err(e) => {
                        let _ = std::fs::remove_file(&path);
                        Err(e)
                    }
                };
            }
        }
    }
    unreachable!("the loop ends only by return")
}
