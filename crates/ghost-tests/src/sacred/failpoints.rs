//! Every failpoint of export and import, once as an error and once as the death of ghost.
use super::{Play, Row};
use crate::snapshot::Snapshot;

/// The cases.
pub const CASES: &[Row] = &[
    ("export-failpoints::threads", |p| export(p, "thread/fifty-in-many-calls")),
    ("export-failpoints::descriptors", |p| export(p, "files/nameless-and-named-at-once")),
    ("export-failpoints::tree", |p| export(p, "tree/bushy")),
    ("import-failpoints::threads", |p| import(p, "thread/fifty-in-many-calls")),
    ("import-failpoints::descriptors", |p| import(p, "files/nameless-and-named-at-once")),
    ("import-failpoints::tree", |p| import(p, "tree/bushy")),
    ("import-failpoints::segment", segment),
    ("import-failpoints::stopped", |p| import(p, "tree/stopped-threads")),
];

/// The times at which a point that is passed again and again is tried: for each descriptor each of the first twenty, for each thread
/// the first few, then further and further apart.
fn times(name: &str) -> impl Iterator<Item = u64> {
    let each = if name.starts_with("settle.") || name.starts_with("go.") { 3 } else { 20 };
    (1..=each).chain(std::iter::successors(Some(each * 3 / 2 + 1), |n| Some(n + n / 2)))
}

/// Tries one point, with error and with death, until ghost comes by it no more; how often it came by. It fails at `last` then, or, if
/// there is none, is through, and what it made is ended.
fn walk(
    p: &mut Play,
    point: &str,
    last: Option<&str>,
    args: &[&str],
    check: &mut dyn FnMut(&mut Play) -> Result<(), String>,
) -> Result<u64, String> {
    let Some(name) = point.strip_suffix('#') else {
        for kill in [false, true] {
            let after = |e: String| format!("{point}, {}: {e}", if kill { "kill" } else { "error" });
            p.ghost_fails_at(point, kill, args).map_err(after)?;
            check(p).map_err(after)?;
        }
        return Ok(1);
    };
    let mut met = 0;
    for n in times(name) {
        for kill in [false, true] {
            let after = |e: String| format!("{name}#{n}, {}: {e}", if kill { "kill" } else { "error" });
            let came_by = p.ghost_fails_before(&format!("{name}#{n}"), kill, last, args).map_err(after)?;
            if !came_by && last.is_none() {
                // What ran may have left files of its own.
                p.end_all();
                return p.nobody_left().map(|()| met).map_err(after);
            }
            check(p).map_err(after)?;
            if !came_by {
                return Ok(met);
            }
        }
        met = n;
    }
    Ok(met)
}

fn export(p: &mut Play, name: &str) -> Result<(), String> {
    let points = p.points(&["export."])?;
    let target = p.make_dir("target")?;
    let fresh = p.file("target/fresh.ghost");
    let old = p.file("target/old.ghost");
    std::fs::write(&old, "an older ghost").map_err(|e| e.to_string())?;
    // One victim gives its verdict right after all this, the other after a restart.
    for later in [false, true] {
        let v = p.victim(name)?;
        let pid = v.pid.to_string();
        let before = Snapshot::of_tree(v.pid);
        let look = [target.clone(), v.dir.clone()];
        let files = Snapshot::of_directories(&look);
        let mut check = |p: &mut Play| p.undisturbed(&v, &before).and_then(|()| p.files_are(&files, &look));
        for point in &points {
            for args in [&["checkpoint", &pid, "-o", &fresh][..], &["checkpoint", &pid, "-o", &old, "--replace"]] {
                // Past the last one the ghost would be whole.
                walk(p, point, Some("export.commit"), args, &mut check)?;
            }
        }
        if std::fs::read(&old).is_ok_and(|b| b != b"an older ghost") {
            return Err("the older ghost has changed".into());
        }
        // Past the commit the ghost is whole, whatever becomes of its maker.
        for kill in [false, true] {
            p.ghost_fails_at("committed", kill, &["checkpoint", &pid, "-o", &fresh])?;
            p.undisturbed(&v, &before)?;
            p.ghost(0, &["verify", &fresh])?;
            std::fs::remove_file(&fresh).map_err(|e| e.to_string())?;
        }
        if later {
            p.ghost(0, &["checkpoint", &pid, "-o", &fresh, "--kill"])?;
            p.ghost(0, &["restart", &fresh, "--detach"])?;
        }
        p.verify(&v, &[v.pid])?;
        p.nobody_left()?;
    }
    Ok(())
}

/// Points that only some programs come by, and what must come by them: so that a point that nobody passes is noticed.
const NEEDED: &[(&str, &[&str])] = &[
    ("thread/fifty-in-many-calls", &["settle.registers#", "go.thread#"]),
    (
        "files/nameless-and-named-at-once",
        &["import.description#", "import.bound#", "import.momentary#", "finish.placing#"],
    ),
    ("tree/bushy", &["go.thread#"]),
    ("tree/stopped-threads", &["go.stopping#", "go.stopped#"]),
];

fn import(p: &mut Play, name: &str) -> Result<(), String> {
    let points = p.points(&["import.", "finish.", "settle.", "go."])?;
    let image = p.file("image.ghost");
    let v = p.victim(name)?;
    p.ghost(0, &["checkpoint", &v.pid.to_string(), "-o", &image, "--kill"])?;
    p.nobody_left()?;
    let bytes = std::fs::read(&image).map_err(|e| e.to_string())?;
    let look = [v.dir.clone()];
    let restart = ["restart", &image, "--detach"];
    // Once with the names of its sockets taken by stale files, as a killed program leaves them, and once with these free.
    for free in [false, true] {
        let socket = v.dir.join("socket");
        if free && (!socket.exists() || std::fs::remove_file(&socket).is_err()) {
            continue;
        }
        let before = Snapshot::of_directories(&look);
        let mut check = |p: &mut Play| p.nobody_left().and_then(|()| p.files_are(&before, &look));
        for point in &points {
            // Nothing can fail once all are let go.
            let last = if point.starts_with("go.") { None } else { Some("import.prepared") };
            let met = walk(p, point, last, &restart, &mut check)?;
            if free && last.is_none() {
                std::fs::remove_file(&socket).map_err(|e| format!("{point}: the socket of what ran: {e}"))?;
            }
            let needed = NEEDED.iter().any(|(n, all)| *n == name && all.contains(&point.as_str()));
            if needed && met == 0 {
                return Err(format!("{point}: {name} does not come by"));
            }
        }
    }
    if std::fs::read(&image).is_ok_and(|b| b != bytes) {
        return Err("the image has changed".into());
    }
    p.ghost(0, &restart)?;
    p.verify(&v, &[v.pid])
}

/// What the kernel lists of the segments, but for the times and who was there last.
fn segments() -> Vec<String> {
    let text = std::fs::read_to_string("/proc/sysvipc/shm").unwrap_or_default();
    let kept = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        [0, 1, 2, 3, 4, 6, 7, 8, 9, 10].map(|i| words.get(i).copied().unwrap_or_default()).join(" ")
    };
    text.lines().skip(1).map(kept).collect()
}

/// A System V segment outlives its program: a restart that fails leaves it, or leaves none where none was.
fn segment(p: &mut Play) -> Result<(), String> {
    let mut points = p.points(&["import.", "finish."])?;
    points.retain(|point| !point.ends_with('#'));
    let image = p.file("image.ghost");
    for there in [true, false] {
        let v = p.victim("memory/sysv-key")?;
        p.ghost(0, &["checkpoint", &v.pid.to_string(), "-o", &image, "--replace", "--kill"])?;
        p.nobody_left()?;
        let removed = |line: &String| {
            let id = line.split(' ').nth(1).unwrap_or_default();
            std::process::Command::new("ipcrm").args(["-m", id]).status().is_ok_and(|s| s.success())
        };
        if !there && !segments().iter().all(removed) {
            return Err("ipcrm does not remove the segment".into());
        }
        let before = segments();
        if before.len() != usize::from(there) {
            return Err(format!("not the segments that are expected: {before:?}"));
        }
        for point in &points {
            for kill in [false, true] {
                let after = |e: String| format!("{point}, {}: {e}", if kill { "kill" } else { "error" });
                p.ghost_fails_at(point, kill, &["restart", &image, "--detach"]).map_err(after)?;
                p.nobody_left().map_err(after)?;
                let mut now = segments();
                if kill && !there {
                    // A ghost that is killed may leave the one that it has just made: nobody uses it.
                    now.retain(|line| line.split(' ').nth(5) != Some("0") || !removed(line));
                }
                if now != before {
                    return Err(after(format!("the segments were {before:?} and are {now:?}")));
                }
            }
        }
        p.ghost(0, &["restart", &image, "--detach"])?;
        p.verify(&v, &[v.pid])?;
    }
    Ok(())
}
