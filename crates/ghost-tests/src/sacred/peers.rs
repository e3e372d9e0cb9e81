//! A peer that hangs up in each state of the protocol: never two running, never none.
//!
//! A proxy stands between a real `migrate` and a real `receive`. It knows the frames (a word of four bytes, a length, a
//! body) and cuts the line at a word; the ghost itself passes as it is.
use super::{Play, Row, Victim, alive, signal, stopped};
use crate::run::Running;
use crate::snapshot::Snapshot;
use rustix::process::Signal;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// The cases: where the line is cut, who runs afterwards, and whether the source knows.
pub const CASES: &[Row] = &[
    ("peer-gone::at-hello", |p| cut(p, Cut::Before("HELO"), Source::Runs)),
    ("peer-gone::at-welcome", |p| cut(p, Cut::Before("WELC"), Source::Runs)),
    ("peer-gone::in-the-stream", |p| cut(p, Cut::Stream(20_000), Source::Runs)),
    ("peer-gone::at-prepared", |p| cut(p, Cut::Before("PREP"), Source::Runs)),
    ("peer-gone::at-commit", |p| cut(p, Cut::Before("COMM"), Source::Stopped)),
    ("peer-gone::at-running", |p| cut(p, Cut::Before("RUNS"), Source::StoppedAndThere)),
    ("peer-gone::never", |p| cut(p, Cut::Never, Source::Gone)),
    ("peer-gone::nonsense", nonsense),
    ("peer-silent::before-welcome", |p| silent(p, Silence::BeforeWelcome)),
    ("peer-silent::not-reading", |p| silent(p, Silence::NotReading)),
    ("peer-silent::after-the-ghost", |p| silent(p, Silence::AfterTheGhost)),
    ("peer-silent::command", silent_command),
    ("peer-silent::source", silent_source),
];

#[derive(Clone, Copy, PartialEq)]
enum Cut {
    Before(&'static str),
    Stream(usize),
    Never,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Source {
    Runs,
    Stopped,
    StoppedAndThere,
    Gone,
}

/// Reads one word; its tag and the whole frame.
fn word(from: &mut TcpStream) -> Option<(String, Vec<u8>)> {
    let mut head = [0; 8];
    from.read_exact(&mut head).ok()?;
    let len = u32::from_le_bytes(head[4..].try_into().ok()?);
    let mut frame = head.to_vec();
    frame.resize(8 + len as usize, 0);
    from.read_exact(&mut frame[8..]).ok()?;
    Some((String::from_utf8_lossy(&head[..4]).into_owned(), frame))
}

/// Hears a HELLO and says WELCOME.
pub(super) fn welcome(peer: &mut TcpStream) -> Result<(), String> {
    match word(peer) {
        Some((tag, _)) if tag == "HELO" => peer.write_all(b"WELC\0\0\0\0").map_err(|e| e.to_string()),
        other => Err(format!("expected HELO, found {:?}", other.map(|w| w.0))),
    }
}

fn proxy(source: TcpStream, there: TcpStream, cut: Cut) {
    let both = |a: &TcpStream, b: &TcpStream| {
        let _ = a.shutdown(Shutdown::Both);
        let _ = b.shutdown(Shutdown::Both);
    };
    let (Ok(mut s), Ok(mut t)) = (source.try_clone(), there.try_clone()) else { return };
    // Towards the destination: HELLO, then whatever comes. COMMIT is the twelve bytes after PREPARED has passed.
    let prepared = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let seen = prepared.clone();
    let (mut back_from, mut back_to) = (there, source);
    let back = std::thread::spawn(move || {
        while let Some((tag, frame)) = word(&mut back_from) {
            if cut
                == Cut::Before(match tag.as_str() {
                    "WELC" => "WELC",
                    "PREP" => "PREP",
                    "RUNS" => "RUNS",
                    _ => "",
                })
            {
                break;
            }
            seen.fetch_or(tag == "PREP", std::sync::atomic::Ordering::SeqCst);
            if back_to.write_all(&frame).is_err() {
                break;
            }
        }
        both(&back_from, &back_to);
    });
    let mut passed = 0;
    let forth = |s: &mut TcpStream, t: &mut TcpStream| {
        let (tag, frame) = word(s)?;
        if cut == Cut::Before("HELO") || tag != "HELO" {
            return None;
        }
        t.write_all(&frame).ok()?;
        let mut piece = [0; 16384];
        loop {
            let n = s.read(&mut piece).ok().filter(|n| *n > 0)?;
            passed += n;
            if prepared.load(std::sync::atomic::Ordering::SeqCst) && cut == Cut::Before("COMM") {
                return None;
            }
            if matches!(cut, Cut::Stream(limit) if passed > limit) {
                return None;
            }
            t.write_all(&piece[..n]).ok()?;
        }
        #[allow(unreachable_code)]
        Some(())
    };
    let mut forth = forth;
    let _: Option<()> = forth(&mut s, &mut t);
    if cut != Cut::Never {
        both(&s, &t);
    }
    let _ = back.join();
}

fn cut(p: &mut Play, at: Cut, expected: Source) -> Result<(), String> {
    let v = p.victim("thread/fifty-in-many-calls")?;
    let before = Snapshot::of_tree(v.pid);
    let address = p.file("address");
    let pidfile = p.file("pidfile");
    let receive = p.start(
        None,
        &[
            "receive",
            "tcp://127.0.0.1:0",
            "--address-file",
            &address,
            "--pid",
            "new",
            "--detach",
            "--pidfile",
            &pidfile,
        ],
    )?;
    p.until("it listens", 10, || std::fs::read_to_string(&address).is_ok_and(|a| a.contains(':')))?;
    let there = std::fs::read_to_string(&address).map_err(|e| e.to_string())?;
    let there = there.trim().trim_start_matches("tcp://").to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").map_err(|e| e.to_string())?;
    let here = listener.local_addr().map_err(|e| e.to_string())?;
    let between = std::thread::spawn(move || {
        let (source, _) = listener.accept().ok()?;
        let there = TcpStream::connect(there).ok()?;
        proxy(source, there, at);
        Some(())
    });
    let migrate = p.start(None, &["migrate", &v.pid.to_string(), &format!("tcp://{here}")])?;
    let gone = p.runner.finish(migrate)?;
    let came = p.runner.finish(receive)?;
    let _ = between.join();
    let codes = (gone.status.code(), came.status.code());
    let wanted = match expected {
        Source::Runs | Source::Stopped => (Some(1), Some(1)),
        Source::StoppedAndThere => (Some(1), Some(0)),
        Source::Gone => (Some(0), Some(0)),
    };
    if codes != wanted {
        return Err(format!("migrate and receive: expected {wanted:?}, found {codes:?}"));
    }
    match expected {
        Source::Runs => {
            p.undisturbed(&v, &before)?;
            p.verify(&v, &[v.pid])
        }
        Source::Stopped | Source::StoppedAndThere => {
            p.until("the source is stopped", 2, || stopped(v.pid))?;
            for words in ["kill -CONT", "kill -KILL", "in doubt"] {
                if !gone.stderr.contains(words) {
                    return Err(format!("the message does not say {words:?}: {}", gone.stderr));
                }
            }
            if expected == Source::Stopped {
                signal(v.pid, Signal::CONT);
                return p.verify(&v, &[v.pid]);
            }
            signal(v.pid, Signal::KILL);
            p.verify(&v, &[pid_in(&pidfile)?])
        }
        Source::Gone => {
            if alive(v.pid) {
                return Err("the source is still there".into());
            }
            p.verify(&v, &[pid_in(&pidfile)?])
        }
    }
}

fn pid_in(file: &str) -> Result<u32, String> {
    let text = std::fs::read_to_string(file).map_err(|e| format!("{file}: {e}"))?;
    text.trim().parse().map_err(|_| format!("no pid in {text:?}"))
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Silence {
    BeforeWelcome,
    NotReading,
    AfterTheGhost,
}

/// The error of a silence: said soon, with nothing harmed.
fn silence_is_told(p: &mut Play, v: &Victim, before: &Snapshot, migrate: Running) -> Result<(), String> {
    let began = Instant::now();
    let gone = p.runner.finish(migrate)?;
    // The second is the kernel's word, for a peer whose window stays shut.
    let told = ["nothing happened for 1000 ms", "Connection timed out"].iter().any(|w| gone.stderr.contains(w));
    if gone.status.code() != Some(1) || !told {
        return Err(format!("{}: {}", gone.status, gone.stderr));
    }
    if began.elapsed() > Duration::from_secs(8) {
        return Err(format!("it took {:?}", began.elapsed()));
    }
    p.undisturbed(v, before)?;
    p.verify(v, &[v.pid])
}

/// A peer that keeps the connection open and says nothing more: the source runs on after `--timeout`.
fn silent(p: &mut Play, how: Silence) -> Result<(), String> {
    // Not reading is only felt by who has more to say than the connection holds.
    let v = p.victim(if how == Silence::NotReading { "memory/filled-64m" } else { "thread/fifty-in-many-calls" })?;
    let before = Snapshot::of_tree(v.pid);
    let listener = TcpListener::bind("127.0.0.1:0").map_err(|e| e.to_string())?;
    let at = listener.local_addr().map_err(|e| e.to_string())?;
    let migrate = p.start(None, &["migrate", &v.pid.to_string(), &format!("tcp://{at}"), "--timeout", "1"])?;
    let (mut peer, _) = listener.accept().map_err(|e| e.to_string())?;
    if how != Silence::BeforeWelcome {
        welcome(&mut peer)?;
    }
    let reading = (how == Silence::AfterTheGhost).then(|| {
        let mut peer = peer.try_clone();
        std::thread::spawn(move || std::io::copy(peer.as_mut().ok()?, &mut std::io::sink()).ok())
    });
    silence_is_told(p, &v, &before, migrate)?;
    drop(peer);
    drop(reading.map(std::thread::JoinHandle::join));
    Ok(())
}

/// A command in the place of a peer that hangs: it is ended, too.
fn silent_command(p: &mut Play) -> Result<(), String> {
    let v = p.victim("thread/fifty-in-many-calls")?;
    let before = Snapshot::of_tree(v.pid);
    let migrate = p.start(None, &["migrate", &v.pid.to_string(), "--timeout", "1", "--via", "exec sleep 60"])?;
    silence_is_told(p, &v, &before, migrate)
}

/// A source that connects and says nothing.
fn silent_source(p: &mut Play) -> Result<(), String> {
    let address = p.file("address");
    let receive = p.start(None, &["receive", "tcp://127.0.0.1:0", "--address-file", &address, "--timeout", "1"])?;
    p.until("it listens", 10, || std::fs::read_to_string(&address).is_ok_and(|a| a.contains(':')))?;
    let at = std::fs::read_to_string(&address).map_err(|e| e.to_string())?;
    let source = TcpStream::connect(at.trim()).map_err(|e| e.to_string())?;
    let done = p.runner.finish(receive)?;
    drop(source);
    if done.status.code() != Some(1) || !done.stderr.contains("nothing was left behind") {
        return Err(format!("{}: {}", done.status, done.stderr));
    }
    Ok(())
}

/// Peers that do not speak the protocol, or say what they must not say yet.
fn nonsense(p: &mut Play) -> Result<(), String> {
    let v = p.victim("thread/fifty-in-many-calls")?;
    let before = Snapshot::of_tree(v.pid);
    for said in [
        &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
        b"RUNS\x04\0\0\0\x07\0\0\0",
        b"WELC\xff\xff\xff\xff",
        b"COMM\0\0\0\0",
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").map_err(|e| e.to_string())?;
        let at = listener.local_addr().map_err(|e| e.to_string())?;
        let peer = std::thread::spawn(move || {
            let (mut peer, _) = listener.accept().ok()?;
            let _ = word(&mut peer);
            let _ = peer.write_all(said);
            let mut rest = Vec::new();
            peer.read_to_end(&mut rest).ok()
        });
        p.ghost(1, &["migrate", &v.pid.to_string(), &format!("tcp://{at}")])?;
        let _ = peer.join();
        p.undisturbed(&v, &before)?;
    }
    p.verify(&v, &[v.pid])
}
