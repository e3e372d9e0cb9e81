//! A resource of one's own, `tally:URL`: counts what goes to another one. `cargo run -p ghost --example resource_plugin`, as root.

use ghost::resource::{Error, GhostRead, GhostWrite, Options, Written};
use ghost::{ClassId, ExportOptions, Registry, Resource, resource::Direction};
use std::io::{self, Write};
use std::process::{Command, Stdio};
use std::sync::Arc;

/// Everybody's own class ids begin at 0x10000: one for writing, one for reading.
const TALLY: [ClassId; 2] = [ClassId(0x3_0000), ClassId(0x3_0001)];

struct Tally(Box<dyn Resource>);

impl Resource for Tally {
    fn class(&self, direction: Direction) -> ClassId {
        if matches!(direction, Direction::Export) { TALLY[0] } else { TALLY[1] }
    }
    fn describe(&self) -> String {
        format!("tally:{}", self.0.describe())
    }
    fn open_export(&mut self) -> Result<Box<dyn GhostWrite>, Error> {
        Ok(Box::new(Counting { to: self.0.open_export()?, writes: 0, bytes: 0 }))
    }
    fn open_import(&mut self) -> Result<Box<dyn GhostRead>, Error> {
        self.0.open_import()
    }
}

/// The open end. The other methods have defaults that end in `write`.
struct Counting {
    to: Box<dyn GhostWrite>,
    writes: u64,
    bytes: u64,
}

impl Write for Counting {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let len = self.to.write(bytes)?;
        self.writes += 1;
        self.bytes += len as u64;
        Ok(len)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

impl GhostWrite for Counting {
    fn finish(self: Box<Self>) -> Result<Written, Error> {
        println!("tally: {} bytes in {} writes", self.bytes, self.writes);
        self.to.finish()
    }
    fn abort(self: Box<Self>) {
        self.to.abort();
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut registry = Registry::with_defaults();
    let others = registry.clone();
    let factory = move |address: &str, options: &Options| -> Result<Box<dyn Resource>, Error> {
        Ok(Box::new(Tally(others.open_url(address, options)?)))
    };
    registry.register("tally", TALLY[0], TALLY[1], Arc::new(factory))?;

    let null = Stdio::null;
    let mut program = Command::new("sleep").arg("60").stdin(null()).stdout(null()).stderr(null()).spawn()?;
    std::thread::sleep(std::time::Duration::from_millis(100));
    let place = registry.open_url("tally:mem:resource-plugin-example", &Options::default())?;
    let done = ghost::checkpoint(program.id() as i32, place, &ExportOptions::default());
    program.kill()?;
    program.wait()?;
    println!("the ghost has {} bytes", done?.ghost_bytes);
    let kept = registry.open_url("mem:resource-plugin-example", &Options::default())?;
    kept.store().ok_or("memory keeps images")?.remove()?;
    Ok(())
}
