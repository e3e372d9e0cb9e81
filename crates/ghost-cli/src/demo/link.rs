//! Two network namespaces and a wire between them: a veth pair, made by rtnetlink so that iproute2 is not needed.
//!
//! `rtnetlink(7)`: RTM_NEWLINK with IFLA_INFO_KIND "veth" and the peer's namespace as IFLA_NET_NS_FD (Linux 2.6.24, 3.0),
//! RTM_NEWADDR. Needs CAP_NET_ADMIN in both namespaces. All of it ends with the namespaces.

use ghost_sys::namespace;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, recv, send, socket};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// The address of the first namespace and of the second.
pub const ADDRESSES: [[u8; 4]; 2] = [[10, 77, 0, 1], [10, 77, 0, 2]];
/// The device has this name on both sides.
pub const DEVICE: &str = "wire";

const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const REQUEST_ACK: u16 = 1 | 4;
const CREATE_EXCL: u16 = 0x400 | 0x200;
const LOOPBACK: i32 = 1;
/// Chosen rather than asked for: the namespaces are new and hold only the loopback.
const WIRE: i32 = 77;

/// The second network namespace, which ends with this and the processes in it.
pub struct Second {
    /// Its descriptor.
    pub net: File,
    /// Whether it is reached by its own address; else only from inside, by its loopback.
    pub wired: bool,
}

/// Makes it, and the wire to it where this kernel has veth.
pub fn second() -> io::Result<Second> {
    let net = namespace::run_in_new(libc::CLONE_NEWNET, || File::open("/proc/thread-self/ns/net"))??;
    let (here, there) = (Route::open()?, namespace::run_in(&[net.as_fd()], Route::open)??);
    for route in [&here, &there] {
        route.up(LOOPBACK)?;
    }
    let wired = match here.pair(&net) {
        Ok(()) => true,
        Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => false,
        Err(e) => return Err(e),
    };
    if wired {
        for (route, address) in [&here, &there].into_iter().zip(ADDRESSES) {
            route.address(WIRE, address)?;
            route.up(WIRE)?;
        }
    }
    Ok(Second { net, wired })
}

/// An rtnetlink socket; it speaks of the namespace in which it was made.
struct Route(OwnedFd);

impl Route {
    fn open() -> io::Result<Self> {
        // NETLINK_ROUTE is protocol 0.
        Ok(Self(socket(AddressFamily::NETLINK, SocketType::RAW, None)?))
    }

    fn ask(&self, kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
        let mut message = Vec::with_capacity(16 + body.len());
        message.extend((16 + body.len() as u32).to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend((REQUEST_ACK | flags).to_ne_bytes());
        message.extend([0; 8]); // sequence, port
        message.extend(body);
        send(&self.0, &message, SendFlags::empty())?;
        let mut answer = [0_u8; 4096];
        let (len, _) = recv(&self.0, &mut answer[..], RecvFlags::empty())?;
        // The acknowledgement: a header, then zero or a negative error number.
        match answer[..len].get(16..20).and_then(|b| b.try_into().ok()).map(i32::from_ne_bytes) {
            Some(0) => Ok(()),
            Some(e) => Err(io::Error::from_raw_os_error(-e)),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    fn up(&self, index: i32) -> io::Result<()> {
        self.ask(RTM_NEWLINK, 0, &link(index, libc::IFF_UP as u32))
    }

    fn address(&self, index: i32, address: [u8; 4]) -> io::Result<()> {
        let mut body = vec![libc::AF_INET as u8, 24, 0, 0];
        body.extend(index.to_ne_bytes());
        attribute(&mut body, libc::IFA_LOCAL, &address);
        attribute(&mut body, libc::IFA_ADDRESS, &address);
        self.ask(RTM_NEWADDR, CREATE_EXCL, &body)
    }

    /// A veth pair, one end here and one in `peer`.
    fn pair(&self, peer: &File) -> io::Result<()> {
        const VETH_INFO_PEER: u16 = 1;
        let name = format!("{DEVICE}\0");
        let mut end = link(WIRE, 0);
        attribute(&mut end, libc::IFLA_IFNAME, name.as_bytes());
        attribute(&mut end, libc::IFLA_NET_NS_FD, &peer.as_raw_fd().to_ne_bytes());
        let (mut data, mut info, mut body) = (Vec::new(), Vec::new(), link(WIRE, 0));
        attribute(&mut data, VETH_INFO_PEER, &end);
        attribute(&mut info, libc::IFLA_INFO_KIND, b"veth");
        attribute(&mut info, libc::IFLA_INFO_DATA, &data);
        attribute(&mut body, libc::IFLA_IFNAME, name.as_bytes());
        attribute(&mut body, libc::IFLA_LINKINFO, &info);
        self.ask(RTM_NEWLINK, CREATE_EXCL, &body)
    }
}

/// A `struct ifinfomsg`.
fn link(index: i32, flags: u32) -> Vec<u8> {
    let mut body = vec![0; 4]; // family, padding, type
    body.extend(index.to_ne_bytes());
    body.extend(flags.to_ne_bytes());
    body.extend(flags.to_ne_bytes()); // which of them change
    body
}

/// A `struct rtattr`: length, type, value, padded to four bytes.
fn attribute(to: &mut Vec<u8>, kind: u16, value: &[u8]) {
    to.extend((4 + value.len() as u16).to_ne_bytes());
    to.extend(kind.to_ne_bytes());
    to.extend(value);
    to.resize(to.len().next_multiple_of(4), 0);
}
