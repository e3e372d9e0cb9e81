//! `--accept KIND`: what would be refused is lost by name, noted in the ghost, and said at both ends.
use ghost_tests::programs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

fn until(what: &str, done: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !done() {
        assert!(Instant::now() < end, "{what}: not in time");
        std::thread::sleep(Duration::from_millis(5));
    }
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
    // Into a file: the restarted program has what ghost had as its stderr, and a pipe would not end before the program does.
    let ghost = |args: &[&str]| {
        let words = dir.join("words");
        let out = std::fs::File::create(&words).unwrap();
        let mut command = Command::new(&programs.ghost);
        command.args(args).stdin(Stdio::null()).stdout(out.try_clone().unwrap()).stderr(out);
        let status = command.status().unwrap();
        (status.code(), std::fs::read_to_string(&words).unwrap())
    };
    let mut victim = Command::new(&programs.victim)
        .args([Path::new("refuse/keyring"), &v])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
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
    if taken.0 != Some(0) {
        let _ = victim.kill();
    }
    victim.wait().unwrap();
    assert_eq!(refused.0, Some(3), "{}", refused.1);
    assert!(refused.1.contains("keyring: it holds the key"), "{}", refused.1);
    assert_eq!(other.0, Some(3), "another kind accepts nothing of this one: {}", other.1);
    assert_eq!(taken.0, Some(0), "{}", taken.1);
    let note = "session keyring: lost, as accepted: it holds the key";
    assert!(taken.1.contains(note), "{}", taken.1);

    let inspected = ghost(&["inspect", image]);
    assert!(inspected.1.contains(note), "{}", inspected.1);
    let pidfile = dir.join("pidfile");
    let restarted = ghost(&["restart", image, "--pid", "new", "--detach", "--pidfile", pidfile.to_str().unwrap()]);
    assert_eq!(restarted.0, Some(0), "{}", restarted.1);
    assert!(restarted.1.contains(note), "{}", restarted.1);
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
