//! C programs against the library: what they may do wrong, and the seed's `disk_checkpoint` and `disk_restart` on programs
//! that were not written for it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("ghost-capi-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }
}
impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Compiles a C program against the library, as its user would: by `-lghost`.
fn build(dir: &Path, source: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    // The library lies where this test does: target/PROFILE/deps.
    let library = std::env::current_exe().unwrap().with_file_name("libghost_capi.so");
    let link = dir.join("libghost.so");
    if link.symlink_metadata().is_err() {
        std::os::unix::fs::symlink(library, link).unwrap();
    }
    let program = dir.join(Path::new(source).file_stem().unwrap());
    let built = Command::new("cc")
        .args(["-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-I"])
        .arg(root.join("include"))
        .arg(root.join(source))
        .arg("-L")
        .arg(dir)
        .args(["-lghost", "-pthread", "-o"])
        .arg(&program)
        .output()
        .expect("a C compiler is needed: install gcc");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    program
}

fn told(out: &Output) -> String {
    format!("{}\n{}{}", out.status, String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
}

fn is_root() -> bool {
    let yes = Command::new("id").arg("-u").output().is_ok_and(|o| o.stdout == b"0\n");
    if !yes {
        eprintln!("skipped: root is needed to make a pid namespace and to give pids");
    }
    yes
}

#[test]
fn wrong_calls_are_errors_and_exports_harm_nobody() {
    let dir = Scratch::new("border");
    let program = build(&dir.0, "crates/ghost-capi/tests/c/border.c");
    let out =
        Command::new("timeout").arg("90").arg(&program).arg(&dir.0).env("LD_LIBRARY_PATH", &dir.0).output().unwrap();
    assert!(out.status.success(), "{}", told(&out));
}

#[test]
fn c_takes_a_program_there_and_back() {
    if !is_root() {
        return;
    }
    let dir = Scratch::new("journey");
    let program = build(&dir.0, "crates/ghost-capi/tests/c/journey.c");
    // What this test inherited leads outside; pids of the program are far from those that are used up meanwhile.
    let script = r#"for fd in /proc/$$/fd/*; do fd=${fd##*/}; [ "$fd" -le 2 ] || eval "exec $fd>&-"; done
        echo 3000 > /proc/sys/kernel/ns_last_pid; "$0" "$1"; exit $?"#;
    let out = Command::new("timeout")
        .args(["-k", "5", "90", "unshare", "-pf", "--mount-proc", "--kill-child", "bash", "-c", script])
        .args([&program, &dir.0])
        .env("LD_LIBRARY_PATH", &dir.0)
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", told(&out));
}

/// Runs a program in a pid namespace through checkpoint, kill, restart, restart over the running one; it must go on counting each
/// time from where its ghost was taken.
fn there_and_back(name: &str, program: &str) {
    if !is_root() {
        return;
    }
    let dir = Scratch::new(name);
    build(&dir.0, "examples/seed.c");
    let script = r#"
        set -eu
        cd "$DIR"
        # What this test inherited leads outside.
        for fd in /proc/$$/fd/*; do fd=${fd##*/}; [ "$fd" -le 2 ] || eval "exec $fd>&-"; done
        count() { tail -n 1 count 2>/dev/null | grep . || echo 0; }
        until_more() { n=$1; for i in $(seq 200); do c=$(count); [ -n "$c" ] && [ "$c" -gt "$n" ] && return; sleep 0.05; done; echo "it does not count beyond $n"; exit 1; }
        mkfifo wait
        # The pid is far from those that the shell itself uses up meanwhile.
        echo 3000 > /proc/sys/kernel/ns_last_pid
        setsid $PROGRAM > /dev/null 2>&1 < /dev/null &
        pid=$!
        until_more 5
        at=$(count) # at least there its ghost will be
        ./seed checkpoint $pid || { echo "checkpoint: $?"; exit 1; }
        until_more $(($(count) + 3))
        kill -KILL $pid
        wait $pid || true
        sleep 0.2
        echo 100000 >> count
        [ "$(./seed restart $pid)" = $pid ] || { echo "restart: not pid $pid"; exit 1; }
        # It writes its own count over ours, and goes on from its ghost.
        for i in $(seq 200); do c=$(count); [ -n "$c" ] && [ "$c" -lt 100000 ] && break; sleep 0.05; done
        [ "$c" -ge "$at" ] && [ "$c" -lt 100000 ] || { echo "it was at $at and is at $c"; exit 1; }
        until_more $((c + 60))
        # Again, over the one that runs: the count falls back.
        high=$(count)
        [ "$(./seed restart $pid)" = $pid ] || { echo "second restart: not pid $pid"; exit 1; }
        for i in $(seq 200); do c=$(count); [ -n "$c" ] && [ "$c" -lt $high ] && break; sleep 0.01; done
        [ "$c" -ge "$at" ] && [ "$c" -lt $high ] || { echo "second: it was at $high and is at $c"; exit 1; }
        until_more $((c + 5))
        kill -KILL $pid
        # The pid is another program's now: that one is left alone.
        while [ -d /proc/$pid ]; do sleep 0.02; done
        echo $((pid - 1)) > /proc/sys/kernel/ns_last_pid
        sleep 60 &
        [ $! = $pid ]
        if ./seed restart $pid 2> error; then exit 1; fi
        grep -q "pid $pid is another program now: sleep" error && kill -0 $pid
        # A ghost that is not there is a failure with all five answers.
        if ./seed restart 99 2> error; then exit 1; else [ $? = 1 ] || exit 1; fi
        grep -q 'why:' error && grep -q 'state: nothing was touched' error
        echo whole
    "#;
    std::fs::write(dir.0.join("count.py"), COUNT_PY).unwrap();
    std::fs::write(dir.0.join("count.sh"), COUNT_SH).unwrap();
    let out = Command::new("timeout")
        .args(["-k", "5", "90", "unshare", "-pf", "--mount-proc", "--kill-child", "bash", "-c", script])
        .env("DIR", &dir.0)
        .env("PROGRAM", program)
        .env("LD_LIBRARY_PATH", &dir.0)
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    assert!(out.status.success() && String::from_utf8_lossy(&out.stdout).contains("whole"), "{}", told(&out));
}

/// Both write at the end of a file, in one call a line: it is the same file whenever the ghost is taken. Both wait between the lines, the
/// shell at a FIFO that nobody writes to: one that did not might be past the old count again before that is looked at.
const COUNT_SH: &str = "\
n=0
while :; do
    n=$((n+1))
    echo $n >> count
    read -t 0.02 <> wait
    for i in 1 2 3 4 5 6 7 8 9; do :; done
done
";
const COUNT_PY: &str = "\
import time
n, kept = 0, list(range(100000))
while sum(kept) == 4999950000:
    n += 1
    with open('count', 'a') as f:
        f.write(f'{n}\\n')
    time.sleep(0.02)
";

#[test]
fn the_seed_carries_a_shell_loop() {
    there_and_back("shell", "bash count.sh");
}

#[test]
fn the_seed_carries_python() {
    if Command::new("python3").arg("--version").output().is_err() {
        eprintln!("skipped: no python3");
        return;
    }
    there_and_back("python", "python3 count.py");
}
