//! Trees that are larger than ghost's own limits: they travel, or are refused before anything happens.
use ghost_tests::programs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A victim that waits, in a directory of its own.
struct Victim {
    child: Child,
    dir: std::path::PathBuf,
}

fn victim(name: &str) -> Victim {
    let programs = programs::find().expect("the programs are built");
    let dir = std::env::temp_dir().join(format!("ghost-limits-{}-{}", std::process::id(), name.replace('/', "-")));
    std::fs::create_dir_all(&dir).unwrap();
    let mut command = Command::new(&programs.victim);
    command.args([Path::new(name), &dir]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let child = command.spawn().unwrap();
    let end = Instant::now() + Duration::from_secs(30);
    while !dir.join("ready").exists() {
        assert!(Instant::now() < end, "the victim gets ready");
        std::thread::sleep(Duration::from_millis(5));
    }
    Victim { child, dir }
}

impl Victim {
    /// Runs ghost with a hard limit on open files and without the right to raise it: exit code and words.
    fn ghost(&self, limit: usize, args: &[&str]) -> (Option<i32>, String) {
        let programs = programs::find().expect("the programs are built");
        let words = self.dir.join("words");
        let out = std::fs::File::create(&words).unwrap();
        let mut command = Command::new("prlimit");
        let drop = ["setpriv", "--bounding-set=-sys_resource", "--inh-caps=-sys_resource"];
        command.arg(format!("--nofile={limit}")).args(drop).arg(&programs.ghost).args(args);
        command.stdin(Stdio::null()).stdout(out.try_clone().unwrap()).stderr(out);
        let status = command.status().unwrap();
        (status.code(), std::fs::read_to_string(&words).unwrap())
    }

    /// Lets it go on; it must end well.
    fn finish(mut self) {
        std::fs::write(self.dir.join("go"), "").unwrap();
        assert!(self.child.wait().unwrap().success());
        std::fs::remove_dir_all(&self.dir).unwrap();
    }
}

#[test]
fn a_tree_with_more_descriptors_than_ghost_may_have() {
    let can = |program: &str| Command::new(program).arg("--version").stdout(Stdio::null()).status().is_ok();
    if !rustix::process::geteuid().is_root() || !can("prlimit") || !can("setpriv") {
        eprintln!("skipped: needs root, prlimit and setpriv");
        return;
    }
    // 300 descriptors in each of six processes, nearly all inherited.
    let v = victim("files/inherited-by-many");
    let pid = v.child.id().to_string();
    let image = v.dir.join("image.ghost");
    let image = image.to_str().unwrap();
    let refused = v.ghost(200, &["checkpoint", &pid, "-o", image]);
    assert_eq!(refused.0, Some(3), "{}", refused.1);
    assert!(refused.1.contains("descriptors open, and ghost may have"), "{}", refused.1);
    let taken = v.ghost(700, &["checkpoint", &pid, "-o", image]);
    assert_eq!(taken.0, Some(0), "{}", taken.1);
    let restarted = v.ghost(200, &["restart", image, "--pid", "new"]);
    assert_eq!(restarted.0, Some(3), "{}", restarted.1);
    assert!(restarted.1.contains("descriptors to rebuild it, and ghost may have"), "{}", restarted.1);
    v.finish();
}
