//! `tcp://HOST:PORT`: a ghost sent to whoever listens there, or received from whoever connects.
//!
//! An export connects, an import listens and takes one peer. Interfaces: `tcp(7)`; `SO_KEEPALIVE` with its three
//! times, so that a peer that lost its power is noticed while it owes us bytes; `TCP_USER_TIMEOUT` (Linux 2.6.37),
//! so that it is noticed while we owe it some; `TCP_NODELAY`. Socket buffers are left to the kernel's autotuning,
//! which goes up to `tcp_rmem[2]`; setting them by hand turns it off, so that is done only where
//! `net.core.rmem_max` allows more than autotuning would reach.
//!
//! TCP tells an orderly end from a cut, but not a complete ghost from a program that closed early: that is what the
//! ghost's own commit mark is for. An exporter knows that the peer has read everything when the peer closes in turn,
//! which [`Written::durable`](crate::Written) says. Nothing is encrypted and no peer is authenticated here: use it on networks that
//! you trust, over loopback, or inside another tunnel.

mod stream;

pub use stream::TcpDuplex;

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::sockopt;

use crate::error::{Cause, Error, Result};
use crate::options::Network;
use crate::{ClassId, Direction, Duplex, GhostRead, GhostWrite, Options, Resource};
use stream::{TcpReader, TcpWriter};

/// What autotuning reaches by default (`tcp_rmem[2]`, 6 MiB); buffers are set by hand only beyond.
const AUTOTUNED_BYTES: usize = 6 << 20;
/// Between two attempts to connect.
const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// A TCP peer.
#[derive(Debug, Clone)]
pub struct Tcp {
    address: String,
    options: Network,
}

/// What to do about a host whose address is not found.
const UNKNOWN: &str = "check the host's name, and that it is known here (getent hosts NAME)";

impl Tcp {
    /// The peer at `HOST:PORT`, or that will connect there; IPv6 addresses stand in brackets.
    pub fn new(address: &str, options: &Options) -> Result<Self> {
        let refuse = |why: String| Err(Error::new("opening", format!("tcp://{address}"), Cause::Address(why)));
        let Some((host, port)) = address.rsplit_once(':') else {
            return refuse("the port is missing".into());
        };
        if port.parse::<u16>().is_err() {
            return refuse(format!("`{port}` is no port"));
        }
        let bracketed = host.starts_with('[') && host.ends_with(']');
        if host.is_empty() || (host.contains(':') && !bracketed) {
            return refuse(format!("`{host}` is no host; IPv6 addresses stand in brackets, as in tcp://[::1]:7000"));
        }
        Ok(Self { address: address.into(), options: options.network.clone() })
    }

    fn fail(&self, step: &'static str, cause: impl Into<Cause>) -> Error {
        Error::new(step, self.describe(), cause)
    }

    /// All addresses of the host.
    fn resolve(&self) -> Result<Vec<SocketAddr>> {
        let all: Vec<_> =
            self.address.to_socket_addrs().map_err(|e| self.fail("resolving", e).advise(UNKNOWN))?.collect();
        if all.is_empty() {
            return Err(self.fail("resolving", Cause::Address("the name has no address".into())).advise(UNKNOWN));
        }
        Ok(all)
    }

    /// Connects, again and again within [`Network::retry_for`] while nobody listens there.
    pub fn connect(&self) -> Result<TcpDuplex> {
        let addresses = self.resolve()?;
        if addresses.iter().any(|a| a.port() == 0) {
            return Err(self.fail("connecting to", Cause::Address("port 0 is only for the importing end".into())));
        }
        let deadline = Instant::now() + self.options.retry_for;
        loop {
            let mut last = None;
            for address in &addresses {
                match TcpStream::connect_timeout(address, self.options.connect_timeout) {
                    Ok(stream) => return self.adopt(stream),
                    Err(e) => last = Some(e),
                }
            }
            let error = last.unwrap_or_else(|| io::ErrorKind::AddrNotAvailable.into());
            let passing = matches!(
                error.kind(),
                io::ErrorKind::ConnectionRefused | io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable
            );
            if !passing || Instant::now() >= deadline {
                return Err(self.fail("connecting to", error));
            }
            std::thread::sleep(RETRY_PAUSE);
        }
    }

    /// Listens, and tells the bound address to whom [`Network`] says.
    pub fn listen(&self) -> Result<Listener> {
        let addresses = self.resolve()?;
        let listener = TcpListener::bind(&addresses[..]).map_err(|e| self.fail("listening on", e))?;
        // Before the handshake, since the window scale is agreed there.
        widen(&listener);
        let bound = listener.local_addr().map_err(|e| self.fail("listening on", e))?;
        if let Some(path) = &self.options.address_file {
            publish(path, bound).map_err(|e| {
                self.fail("listening on", e).advise(format!("make sure that {} can be written", path.display()))
            })?;
        }
        if let Some(tell) = &self.options.on_listen {
            tell(bound);
        }
        Ok(Listener { listener, tcp: self.clone(), bound })
    }

    fn adopt(&self, stream: TcpStream) -> Result<TcpDuplex> {
        let peer = stream.peer_addr().map_or_else(|_| self.describe(), |a| format!("tcp://{a}"));
        tune(&stream, self.options.silence_timeout).map_err(|e| Error::new("setting up", &peer, io::Error::from(e)))?;
        Ok(TcpDuplex::new(stream, peer, self.options.silence_timeout))
    }
}

/// Connects to a peer, for protocols in which it answers.
pub fn connect(address: &str, options: &Options) -> Result<TcpDuplex> {
    Tcp::new(address, options)?.connect()
}

/// Listens for peers, for protocols in which we answer.
pub fn listen(address: &str, options: &Options) -> Result<Listener> {
    Tcp::new(address, options)?.listen()
}

/// Sets what every connection of ours has.
fn tune(stream: &TcpStream, silence: Duration) -> rustix::io::Result<()> {
    sockopt::set_tcp_nodelay(stream, true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    // A third of the time until the first probe, the rest for eight of them.
    let part = (silence / 12).max(Duration::from_secs(1));
    sockopt::set_tcp_keepidle(stream, (silence / 3).max(Duration::from_secs(1)))?;
    sockopt::set_tcp_keepintvl(stream, part)?;
    sockopt::set_tcp_keepcnt(stream, 8)?;
    sockopt::set_tcp_user_timeout(stream, u32::try_from(silence.as_millis()).unwrap_or(u32::MAX))?;
    widen(stream);
    Ok(())
}

/// Larger buffers, where the administrator allows more than autotuning uses. A hint; failing changes nothing.
fn widen(socket: impl std::os::fd::AsFd) {
    let limit = |name: &str| {
        let text = std::fs::read_to_string(format!("/proc/sys/net/core/{name}")).ok()?;
        text.trim().parse::<usize>().ok().filter(|max| *max > AUTOTUNED_BYTES)
    };
    if let Some(max) = limit("rmem_max") {
        let _ = sockopt::set_socket_recv_buffer_size(&socket, max.min(64 << 20));
    }
    if let Some(max) = limit("wmem_max") {
        let _ = sockopt::set_socket_send_buffer_size(&socket, max.min(64 << 20));
    }
}

/// Writes the address beside its place and renames it there, so that nobody reads half of it.
fn publish(path: &Path, bound: SocketAddr) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}.new", std::process::id()));
    std::fs::write(&beside, format!("{bound}\n"))
        .and_then(|()| std::fs::rename(&beside, path))
        .inspect_err(|_| _ = std::fs::remove_file(&beside))
}

/// A bound socket that peers can connect to; closed on drop.
#[derive(Debug)]
pub struct Listener {
    listener: TcpListener,
    tcp: Tcp,
    bound: SocketAddr,
}

impl Listener {
    /// The address that was bound, with the port that the kernel chose for port 0.
    pub fn local_addr(&self) -> SocketAddr {
        self.bound
    }

    /// Waits for a peer, as long as [`Network::accept_timeout`] allows.
    pub fn accept(&self) -> Result<TcpDuplex> {
        if let Some(limit) = self.tcp.options.accept_timeout {
            self.await_peer(limit)?;
        }
        let (stream, _) = self.listener.accept().map_err(|e| self.tcp.fail("accepting a peer on", e))?;
        self.tcp.adopt(stream)
    }

    fn await_peer(&self, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
            match rustix::event::poll(&mut [PollFd::new(&self.listener, PollFlags::IN)], Some(&timeout)) {
                Ok(0) => return Err(self.tcp.fail("waiting for a peer on", Cause::Timeout(limit.as_millis()))),
                Ok(_) => return Ok(()),
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(self.tcp.fail("waiting for a peer on", io::Error::from(e))),
            }
        }
    }
}

impl Resource for Tcp {
    fn class(&self, direction: Direction) -> ClassId {
        match direction {
            Direction::Export => ClassId::NETWORK_SEND,
            Direction::Import => ClassId::NETWORK_RECEIVE,
        }
    }
    fn describe(&self) -> String {
        format!("tcp://{}", self.address)
    }
    fn open_export(&mut self) -> Result<Box<dyn GhostWrite>> {
        Ok(Box::new(TcpWriter::new(self.connect()?)))
    }
    fn open_import(&mut self) -> Result<Box<dyn GhostRead>> {
        Ok(Box::new(TcpReader::new(self.listen()?.accept()?)))
    }
    fn open_duplex(&mut self, listen: bool) -> Result<Box<dyn Duplex>> {
        Ok(Box::new(if listen { self.listen()?.accept()? } else { self.connect()? }))
    }
}
