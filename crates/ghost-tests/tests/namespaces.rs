//! Restarts where the pid namespace is not what it was: its first process reaps nobody, or it is another (`--pid ns`).
use ghost_tests::programs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Where a script's victim is: `DIR/v`; its image, its words.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Place {
        let dir = std::env::temp_dir().join(format!("ghost-namespaces-{name}-{}", std::process::id()));
        let v = dir.join("v");
        std::fs::create_dir_all(&v).unwrap();
        for d in [&dir, &v] {
            std::fs::set_permissions(d, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        }
        Place(dir)
    }

    /// Runs a shell script after `first` with G (ghost), V (victim), D (the directory), and a function that waits for a file.
    fn play(&self, first: &[&str], script: &str) -> String {
        let programs = programs::find().expect("the programs are built");
        let begin = "until_there() { n=0; until ls $1 > /dev/null 2>&1; do n=$((n + 1)); [ $n -lt 2000 ] || exit 9; sleep 0.02; done; }\n";
        let words = self.0.join("words");
        let said = std::fs::File::create(&words).unwrap();
        let status = Command::new(first[0])
            .args(&first[1..])
            .args(["sh", "-c", &format!("{begin}{script}")])
            .envs([("G", &programs.ghost), ("V", &programs.victim), ("D", &self.0)])
            .stdin(Stdio::null())
            .stdout(said.try_clone().unwrap())
            .stderr(said)
            .status()
            .unwrap();
        let said = std::fs::read_to_string(&words).unwrap();
        assert!(status.success(), "{status}\n{said}");
        said
    }

    fn verdict(&self) -> String {
        let files = std::fs::read_dir(self.0.join("v")).unwrap().flatten();
        let result = files.map(|f| f.path()).find(|p| p.to_string_lossy().contains("/result."));
        std::fs::read_to_string(result.expect("a verdict")).unwrap()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn can(program: &str) -> bool {
    let there = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    let root = rustix::process::geteuid().is_root();
    if !there || !root {
        eprintln!("skipped: needs root and {program}");
    }
    there && root
}

#[test]
fn a_killed_tree_that_nobody_reaps_is_named_and_comes_back_under_other_pids() {
    if !can("perl") || !can("unshare") {
        return;
    }
    let place = Place::new("unreaped");
    // As in a container whose first process is the program itself: it waits for one child and for no orphan.
    let init = "my $p = fork; if (!$p) { exec @ARGV; die } waitpid($p, 0); exit($? >> 8)";
    let said = place.play(
        &["unshare", "-pf", "--mount-proc", "--kill-child", "perl", "-e", init],
        r#"(setsid "$V" tree/deep "$D/v" > /dev/null 2>&1 &)
        until_there "$D/v/ready"; read -r _ p < "$D/v/ready"
        "$G" checkpoint "$p" -o "$D/image" --kill; echo "killed: $?"
        for q in $(sed -n 's/^tree //p' "$D/v/ready"); do sed -n 's/^State:.*\(.\) (.*/state: \1/p' /proc/"$q"/status; done
        "$G" restart "$D/image" --detach; echo "same pids: $?"
        "$G" restart "$D/image" --detach --pid new > "$D/pid" 2> "$D/notes"; echo "new pids: $?"
        touch "$D/v/go"; until_there "$D/v/result.$(cat "$D/pid")""#,
    );
    assert!(said.contains("killed: 0"), "{said}");
    let (dead, all) = (said.matches("state: Z").count(), said.matches("state: ").count());
    // The last `state:` is that of the refusal.
    assert!(dead >= 10 && dead == all - 1, "all have ended: {said}");
    assert!(said.contains("has ended, but its parent 1 has not waited for it"), "{said}");
    assert!(said.contains("same pids: 3") && said.contains("new pids: 0"), "{said}");
    assert_eq!(place.verdict().trim(), "OK");
}

#[test]
fn a_segment_made_outside_of_the_new_pid_namespace_is_taken_again() {
    if !can("unshare") {
        return;
    }
    let place = Place::new("segment");
    let programs = programs::find().expect("the programs are built");
    let victim = programs.victim.to_string_lossy().into_owned();
    // As PostgreSQL has it: the segment is found by its key, and outlives its maker.
    let said = place.play(
        &[&victim, "ns"],
        r#"setsid "$V" memory/sysv-key "$D/v" > /dev/null 2>&1 & p=$!
        until_there "$D/v/ready"
        "$G" checkpoint $p -o "$D/image" --kill; echo "killed: $?"; wait $p
        "$G" restart "$D/image" --pid ns --detach --pidfile "$D/pid" > /dev/null; echo "in a namespace: $?"
        touch "$D/v/go"; until_there "$D/v/result.*""#,
    );
    assert!(said.contains("killed: 0") && said.contains("in a namespace: 0"), "{said}");
    // Of its maker, which is outside, the kernel says 0; all else is as it was.
    let verdict = place.verdict();
    let (expected, found) = verdict.trim().split_once(", found ").unwrap_or_else(|| panic!("{verdict}"));
    assert_eq!(verdict.lines().count(), 1, "{verdict}");
    let expected = expected.strip_prefix("BAD segment: expected ").unwrap_or_else(|| panic!("{verdict}"));
    let but_maker = |text: &str| text.rsplit_once(", ").map(|(most, _)| most.to_owned());
    assert_eq!(but_maker(expected), but_maker(found), "{verdict}");
    assert!(found.ends_with(", 0))"), "{verdict}");
}
