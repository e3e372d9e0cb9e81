//! Acting inside another process.

mod batch;
mod memory;
mod puppet;
mod stub;

pub use batch::{Arg, Batch, Call, DataRef, Executor, Outcome, RemoteError, Slot};
pub use memory::{Memory, RemoteAddr};
pub use puppet::Puppet;
pub use stub::{Stub, StubLayout};
