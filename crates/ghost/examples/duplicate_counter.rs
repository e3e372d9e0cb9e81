//! A counter becomes two, each of which counts on: `cargo run -p ghost --example duplicate_counter`, as root.

use ghost::ImportOptions;
use std::error::Error;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

/// The shell asks /proc for its pid: `$$` is what it was born with, and a duplicate was not born.
const COUNTER: &str = r#"
n=0
while :; do
    n=$((n + 1))
    read pid rest < /proc/self/stat
    echo "pid $pid counts $n" >> counter.log
    sleep 0.1
done"#;

fn main() -> Result<(), Box<dyn Error>> {
    let directory = std::env::temp_dir().join(format!("duplicate-counter-{}", std::process::id()));
    std::fs::create_dir(&directory)?;
    let mut counter = Command::new("sh")
        .args(["-c", COUNTER])
        .current_dir(&directory)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    sleep(Duration::from_millis(500));
    let outcome = twice(counter.id() as i32, &directory);
    counter.kill()?;
    counter.wait()?;
    std::fs::remove_dir_all(&directory)?;
    outcome
}

fn twice(pid: i32, directory: &Path) -> Result<(), Box<dyn Error>> {
    // Frozen for some milliseconds, copied in memory, and it runs on. The copy outlives this program unless it is ended.
    let copies = ghost::duplicate(pid, 1, ImportOptions { detach: true, ..ImportOptions::default() })?;
    let copy = copies[0].root;
    sleep(Duration::from_millis(500));
    Command::new("kill").arg(copy.to_string()).status()?;
    print!("{}", std::fs::read_to_string(directory.join("counter.log"))?);
    println!("pid {copy} is a copy of pid {pid}");
    Ok(())
}
