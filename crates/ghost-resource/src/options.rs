//! How a resource is to be opened.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::Layer;

/// Wishes that a URL does not carry. Plug-ins ignore what does not concern them.
#[derive(Debug, Clone)]
pub struct Options {
    /// Swap in the new image where there is one already; the old one stays intact until the new one is whole.
    pub replace: bool,
    /// Wait until a finished image would survive a power cut. True unless told otherwise.
    pub durable: bool,
    /// Where `mem:` keeps its images, instead of the directory it would choose (see [`crate::memory`]).
    pub memory_root: Option<PathBuf>,
    /// What lies between the exporter and the place, the first one nearest to the exporter.
    pub layers: Vec<Layer>,
    /// What concerns the network.
    pub network: Network,
}

/// Wishes for network resources.
#[derive(Clone)]
pub struct Network {
    /// How long one attempt to connect may take.
    pub connect_timeout: Duration,
    /// For how long attempts are repeated while nobody listens there yet. Zero unless told otherwise: one attempt.
    pub retry_for: Duration,
    /// How long to wait for a peer to connect; without it, forever.
    pub accept_timeout: Option<Duration>,
    /// How long a connected peer may keep silent, or leave sent bytes unacknowledged, before it counts as gone.
    pub silence_timeout: Duration,
    /// Is told the address that was bound, as soon as peers can connect: of use with port 0.
    pub on_listen: Option<OnListen>,
    /// A file that receives the bound address as text, `HOST:PORT` and a newline, written whole or not at all.
    pub address_file: Option<PathBuf>,
}

/// What is called with the address that was bound.
pub type OnListen = Arc<dyn Fn(SocketAddr) + Send + Sync>;

impl Default for Options {
    fn default() -> Self {
        Self { replace: false, durable: true, memory_root: None, layers: Vec::new(), network: Network::default() }
    }
}

impl Default for Network {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(10),
            retry_for: Duration::ZERO,
            accept_timeout: None,
            silence_timeout: Duration::from_secs(60),
            on_listen: None,
            address_file: None,
        }
    }
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Network")
            .field("connect_timeout", &self.connect_timeout)
            .field("retry_for", &self.retry_for)
            .field("accept_timeout", &self.accept_timeout)
            .field("silence_timeout", &self.silence_timeout)
            .field("on_listen", &self.on_listen.is_some())
            .field("address_file", &self.address_file)
            .finish()
    }
}
