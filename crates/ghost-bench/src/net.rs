//! A migration of one process across two network namespaces and a veth, beside one plain TCP stream of as many bytes.

use crate::How;
use crate::drive::{Ghost, Program, Res, median, ms, spare, until};
use crate::table::{Table, ratio, time};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const THERE: &str = "10.77.0.2";

/// Another host: network, pid and mount namespaces of its own, joined to ours by a veth.
struct Node {
    keeper: Child,
    /// The first process in it.
    inside: i32,
}

fn sh(words: &[&str]) -> Res {
    let out = Command::new(words[0]).args(&words[1..]).output().map_err(|e| format!("{}: {e}", words[0]))?;
    if out.status.success() {
        Ok(())
    } else {
        Err(format!("{}: {}", words.join(" "), String::from_utf8_lossy(&out.stderr).trim()))
    }
}

impl Node {
    fn make() -> Res<Self> {
        let mut unshare = Command::new("unshare");
        unshare.args(["--net", "--pid", "--fork", "--mount-proc", "--kill-child", "sleep", "3600"]);
        let keeper = unshare.stdin(Stdio::null()).spawn().map_err(|e| format!("unshare: {e}"))?;
        let pid = keeper.id() as i32;
        spare(pid);
        let children = format!("/proc/{pid}/task/{pid}/children");
        let first =
            || std::fs::read_to_string(&children).ok().and_then(|t| t.split_whitespace().next()?.parse::<i32>().ok());
        until(Duration::from_secs(10), || first().is_some());
        let inside = first().ok_or("unshare made no process")?;
        spare(inside);
        let node = Self { keeper, inside };
        // Only once it is in its namespaces.
        let comm = format!("/proc/{inside}/comm");
        until(Duration::from_secs(10), || std::fs::read_to_string(&comm).is_ok_and(|c| c.trim() == "sleep"));
        let netns = inside.to_string();
        sh(&["ip", "link", "add", "veth0", "type", "veth", "peer", "name", "veth1", "netns", &netns])?;
        sh(&["ip", "address", "add", "10.77.0.1/24", "dev", "veth0"])?;
        sh(&["ip", "link", "set", "veth0", "up"])?;
        sh(&["ip", "link", "set", "lo", "up"])?;
        for words in [
            &["address", "add", "10.77.0.2/24", "dev", "veth1"][..],
            &["link", "set", "veth1", "up"],
            &["link", "set", "lo", "up"],
        ] {
            sh(&[&["nsenter", "-t", &netns, "-n", "ip"][..], words].concat())?;
        }
        Ok(node)
    }

    /// A command that runs there.
    fn command(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.inside.to_string(), "-n", "-p", "-m"]).stdin(Stdio::null());
        command
    }

    fn run(&self, words: &[&str]) -> Res {
        let status = self.command().args(words).status().map_err(|e| format!("nsenter: {e}"))?;
        if status.success() { Ok(()) } else { Err(format!("{}: {status}", words.join(" "))) }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}

/// Takes one stream to its end and answers with one byte: the other half of the limit.
pub fn sink(port: u16) -> Res {
    let take = || -> std::io::Result<()> {
        let (mut peer, _) = TcpListener::bind(("0.0.0.0", port))?.accept()?;
        let mut piece = vec![0; 1 << 20];
        while peer.read(&mut piece)? > 0 {}
        peer.write_all(b"k")
    };
    take().map_err(|e| format!("sink: {e}"))
}

fn connect(port: u16) -> Res<TcpStream> {
    let mut peer = None;
    until(Duration::from_secs(10), || {
        peer = TcpStream::connect((THERE, port)).ok();
        peer.is_some()
    });
    peer.ok_or(format!("nobody listens on {THERE}:{port}"))
}

/// Sends this many bytes through one plain stream.
fn plain(node: &Node, port: u16, bytes: u64) -> Res<f64> {
    let me = std::env::current_exe().map_err(|e| format!("my own path: {e}"))?;
    let mut sink =
        node.command().arg(me).args(["sink", &port.to_string()]).spawn().map_err(|e| format!("nsenter: {e}"))?;
    let mut peer = connect(port)?;
    let piece = vec![7; 1 << 20];
    let began = Instant::now();
    let mut send = || -> std::io::Result<()> {
        let mut left = bytes;
        while left > 0 {
            let now = left.min(piece.len() as u64);
            peer.write_all(&piece[..now as usize])?;
            left -= now;
        }
        peer.shutdown(std::net::Shutdown::Write)?;
        peer.read_exact(&mut [0])
    };
    send().map_err(|e| format!("sending: {e}"))?;
    let took = ms(began.elapsed());
    let _ = sink.wait();
    Ok(took)
}

/// Migrates a program of this many MiB; the table of the row.
pub fn migrate(ghost: &Ghost, how: &How, mib: usize) -> Res<String> {
    let node = Node::make()?;
    let (mut took, mut limits, mut down) = (Vec::new(), Vec::new(), Vec::new());
    for rep in 0..how.reps.max(1) as u16 {
        let dir = how.tmpfs.join("program");
        let mut program = Program::start(&["mem", &mib.to_string()], &dir)?;
        limits.push(plain(&node, 7100 + rep, (mib as u64) << 20)?);
        let url = format!("tcp://{THERE}:{}", 7200 + rep);
        let mut receive = node.command();
        receive.arg(&ghost.path).args(["receive", &url, "--detach"]).stdout(Stdio::null());
        let mut receive = receive.spawn().map_err(|e| format!("nsenter: {e}"))?;
        std::thread::sleep(Duration::from_millis(200));
        let told = ghost.run(&["migrate", &program.pid.to_string(), &url])?;
        let beat = program.beat();
        let arrived = receive.wait().map_err(|e| format!("waiting for the receiver: {e}"))?;
        if !arrived.success() {
            return Err(format!("ghost receive: {arrived}"));
        }
        program.next_beat(beat)?;
        took.push(told.wall_ms);
        down.push(told.number("frozen_ms"));
        // It has its old pid there, which only that namespace knows.
        let _ = std::fs::remove_file(dir.join("verify"));
        let pid = std::fs::read_to_string(dir.join("pid")).unwrap_or_default();
        node.run(&["kill", "-USR1", pid.trim()])?;
        let verdict = || std::fs::read_to_string(dir.join("verify")).unwrap_or_default();
        if !until(Duration::from_secs(60), || !verdict().is_empty()) || verdict() != "OK" {
            return Err(format!("after the migration it says {:?}", verdict()));
        }
        node.run(&["kill", "-TERM", pid.trim()])?;
        program.moved();
    }
    let (took, limit, down) = (median(took), median(limits), median(down));
    let mut rows = Table::new(&["case", "migrate", "downtime", "plain TCP stream", "ratio", "wanted"]);
    rows.row(vec![
        format!("{mib} MiB, stop and copy"),
        time(took),
        time(down),
        time(limit),
        ratio(took, limit),
        "1.25×".into(),
    ]);
    Ok(rows.text())
}
