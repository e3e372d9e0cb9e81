//! Acting inside another process.

mod batch;
mod births;
mod crowd;
mod entered;
mod foothold;
mod memory;
mod process;
mod program;
mod puppet;
mod section;
mod stub;
mod swarm;
mod wait;

pub use batch::{Arg, Batch, Call, DataRef, Executor, Label, Outcome, RemoteError, Slot};
pub use entered::Entered;
pub use foothold::{Space, spare_constants, spare_ends};
pub use memory::{Memory, RemoteAddr};
pub(crate) use process::ending_program;
pub use puppet::{Hints, Puppet};
pub use section::aborts;
pub use stub::{ForkOptions, Stub, StubLayout, THREAD_ROOM};
pub use swarm::{Visit, visit_all};
