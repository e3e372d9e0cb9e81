//! Class ids: the numbers by which a resource is plugged in.
//!
//! The ghost of the 2005 paper was given a direction and a place in one number, `plug_resource_interface(DISK_WRITE,
//! ghost)`. Those six are kept, with ghost's own beside them; everybody else's begin at [`ClassId::FIRST_FOREIGN`].

use std::fmt;

/// A class of resource, in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClassId(pub u32);

/// Which way a ghost goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From a process into the resource.
    Export,
    /// From the resource into a process.
    Import,
}

impl ClassId {
    /// Export over the network.
    pub const NETWORK_SEND: Self = Self(1);
    /// Import from the network.
    pub const NETWORK_RECEIVE: Self = Self(2);
    /// Export into memory.
    pub const MEMORY_WRITE: Self = Self(3);
    /// Import from memory.
    pub const MEMORY_READ: Self = Self(4);
    /// Export to a disk.
    pub const DISK_WRITE: Self = Self(5);
    /// Import from a disk.
    pub const DISK_READ: Self = Self(6);
    /// Export into a pipe or an inherited descriptor.
    pub const PIPE_WRITE: Self = Self(7);
    /// Import from a pipe or an inherited descriptor.
    pub const PIPE_READ: Self = Self(8);
    /// The first number that is not ghost's: everybody else's plug-ins choose from here on.
    pub const FIRST_FOREIGN: Self = Self(0x10000);

    /// Free for plug-ins of others.
    pub fn is_foreign(self) -> bool {
        self >= Self::FIRST_FOREIGN
    }
}

impl fmt::Display for ClassId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match *self {
            Self::NETWORK_SEND => "NETWORK_SEND",
            Self::NETWORK_RECEIVE => "NETWORK_RECEIVE",
            Self::MEMORY_WRITE => "MEMORY_WRITE",
            Self::MEMORY_READ => "MEMORY_READ",
            Self::DISK_WRITE => "DISK_WRITE",
            Self::DISK_READ => "DISK_READ",
            Self::PIPE_WRITE => "PIPE_WRITE",
            Self::PIPE_READ => "PIPE_READ",
            Self(number) => return write!(f, "{number:#x}"),
        };
        f.write_str(name)
    }
}
