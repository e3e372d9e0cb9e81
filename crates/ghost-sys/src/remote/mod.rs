//! Acting inside another process.

mod batch;
mod foothold;
mod memory;
mod program;
mod puppet;
mod stub;

pub use batch::{Arg, Batch, Call, DataRef, Executor, Outcome, RemoteError, Slot};
pub use memory::{Memory, RemoteAddr};
pub use puppet::{Entered, Puppet};
pub use stub::{Stub, StubLayout, THREAD_ROOM};
