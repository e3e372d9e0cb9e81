//! `--accept KIND`: what would be refused is lost by name, noted in the ghost, and said at both ends.
use ghost_tests::programs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

fn until(what: &str, done: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !done() {
        assert!(Instant::now() < end, "{what}: not in time");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn said(o: &Output) -> String {
    String::from_utf8_lossy(&o.stderr).into_owned() + &String::from_utf8_lossy(&o.stdout)
}

#[test]
fn an_accepted_loss_is_said_at_both_ends() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    let programs = programs::find().expect("the programs are built");
    let dir = std::env::temp_dir().join(format!("ghost-accept-{}", std::process::id()));
    let v = dir.join("v");
    std::fs::create_dir_all(&v).unwrap();
    let image = dir.join("image.ghost");
    let image = image.to_str().unwrap();
    let ghost = |args: &[&str]| Command::new(&programs.ghost).args(args).stdin(Stdio::null()).output().unwrap();
    let mut victim = Command::new(&programs.victim)
        .args([Path::new("refuse/keyring"), &v])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let pid = victim.id().to_string();
    until("the victim gets ready", || ["ready", "skip"].iter().any(|f| v.join(f).exists()));
    if v.join("skip").exists() {
        victim.wait().unwrap();
        std::fs::remove_dir_all(&dir).unwrap();
        eprintln!("skipped: no keyrings here");
        return;
    }

    let refused = ghost(&["checkpoint", &pid, "-o", image]);
    let other = ghost(&["checkpoint", &pid, "-o", image, "--accept", "tcp"]);
    let taken = ghost(&["checkpoint", &pid, "-o", image, "--accept", "keyring", "--kill"]);
    if !taken.status.success() {
        let _ = victim.kill();
    }
    victim.wait().unwrap();
    assert_eq!(refused.status.code(), Some(3), "{}", said(&refused));
    assert!(said(&refused).contains("keyring: it holds the key"), "{}", said(&refused));
    assert_eq!(other.status.code(), Some(3), "another kind accepts nothing of this one: {}", said(&other));
    assert!(taken.status.success(), "{}", said(&taken));
    let note = "session keyring: lost, as accepted: it holds the key";
    assert!(said(&taken).contains(note), "{}", said(&taken));

    let inspected = ghost(&["inspect", image]);
    assert!(said(&inspected).contains(note), "{}", said(&inspected));
    let pidfile = dir.join("pidfile");
    let restarted = ghost(&["restart", image, "--pid", "new", "--detach", "--pidfile", pidfile.to_str().unwrap()]);
    assert!(restarted.status.success(), "{}", said(&restarted));
    assert!(said(&restarted).contains(note), "{}", said(&restarted));
    // The key is really gone, and the program is told so when it asks for it.
    std::fs::write(v.join("go"), "").unwrap();
    let result = || {
        let mut files = std::fs::read_dir(&v).unwrap().flatten();
        files.find(|f| f.file_name().to_string_lossy().starts_with("result.")).map(|f| f.path())
    };
    until("a verdict", || result().is_some());
    let verdict = std::fs::read_to_string(result().unwrap()).unwrap();
    assert!(verdict.contains("BAD"), "{verdict}");
    std::fs::remove_dir_all(&dir).unwrap();
}
