//! What is there now: of a process tree all that ghost could leave behind in it, of directories every entry.
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// A tree of facts as `subject → what is so`, comparable line by line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot(BTreeMap<String, String>);

impl Snapshot {
    /// Of a process and everything below it: descriptors, mappings, children, threads with their masks, who traces them, and
    /// whether they are stopped; namespaces; root and working directory.
    pub fn of_tree(root: u32) -> Snapshot {
        let mut facts = BTreeMap::new();
        let mut queue = vec![root];
        while let Some(pid) = queue.pop() {
            let below = children(pid);
            facts.insert(format!("pid {pid} children"), format!("{below:?}"));
            queue.extend(below);
            process(pid, &mut facts);
        }
        Snapshot(facts)
    }

    /// Of everything in these directories and below: kind, mode and length of each entry; sockets, FIFOs and all.
    pub fn of_directories(all: &[PathBuf]) -> Snapshot {
        let mut facts = BTreeMap::new();
        for d in all {
            directory(d, &mut facts);
        }
        Snapshot(facts)
    }

    /// How `now` differs, a line each; none when it does not.
    pub fn difference(&self, now: &Snapshot) -> Option<String> {
        let mut text = String::new();
        for (what, was) in &self.0 {
            match now.0.get(what) {
                Some(is) if is == was => {}
                Some(is) => drop(writeln!(text, "{what}: was {was}, is {is}")),
                None => drop(writeln!(text, "{what}: was {was}, is gone")),
            }
        }
        for (what, is) in now.0.iter().filter(|(what, _)| !self.0.contains_key(*what)) {
            let _ = writeln!(text, "{what}: is new: {is}");
        }
        if text.is_empty() { None } else { Some(text) }
    }
}

fn read(path: &str) -> String {
    std::fs::read(path).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default()
}

fn link(path: &Path) -> String {
    std::fs::read_link(path).map(|p| p.to_string_lossy().into_owned()).unwrap_or_default()
}

fn numbers(dir: &str) -> Vec<u32> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut all: Vec<u32> = entries.filter_map(|e| e.file_name().to_str()?.parse().ok()).collect();
    all.sort_unstable();
    all
}

fn children(pid: u32) -> Vec<u32> {
    let tasks = numbers(&format!("/proc/{pid}/task"));
    let text: String = tasks.iter().map(|t| read(&format!("/proc/{pid}/task/{t}/children"))).collect();
    let mut all: Vec<u32> = text.split_whitespace().filter_map(|w| w.parse().ok()).collect();
    all.sort_unstable();
    all
}

fn process(pid: u32, facts: &mut BTreeMap<String, String>) {
    for n in numbers(&format!("/proc/{pid}/fd")) {
        let info = read(&format!("/proc/{pid}/fdinfo/{n}"));
        let flags = info.lines().find_map(|l| l.strip_prefix("flags:")).unwrap_or_default().trim();
        let target = link(Path::new(&format!("/proc/{pid}/fd/{n}")));
        facts.insert(format!("pid {pid} fd {n}"), format!("{target} {flags}"));
    }
    for line in read(&format!("/proc/{pid}/maps")).lines() {
        let (range, rest) = line.split_once(' ').unwrap_or((line, ""));
        // These two grow by themselves, one at each end.
        let range = match (range.split_once('-'), rest.rsplit(' ').next()) {
            (Some((_, end)), Some("[stack]")) => end,
            (Some((start, _)), Some("[heap]")) => start,
            _ => range,
        };
        facts.insert(format!("pid {pid} mapping {range}"), rest.to_owned());
    }
    for name in ["root", "cwd", "exe"].map(str::to_owned).into_iter().chain(namespaces(pid)) {
        facts.insert(format!("pid {pid} {name}"), link(Path::new(&format!("/proc/{pid}/{name}"))));
    }
    for tid in numbers(&format!("/proc/{pid}/task")) {
        let status = read(&format!("/proc/{pid}/task/{tid}/status"));
        let of = |field: &str| status.lines().find_map(|l| l.strip_prefix(field)).unwrap_or("gone").trim().to_owned();
        // Running or asleep is the program's own affair.
        let state = match of("State:").chars().next() {
            Some('T' | 't') => "stopped",
            Some('Z' | 'X') => "dead",
            _ => "alive",
        };
        let text = format!(
            "{state}, traced by {}, blocked {}, pending {} {}, seccomp {}",
            of("TracerPid:"),
            of("SigBlk:"),
            of("SigPnd:"),
            of("ShdPnd:"),
            of("Seccomp:")
        );
        facts.insert(format!("pid {pid} tid {tid}"), text);
    }
}

fn namespaces(pid: u32) -> Vec<String> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/ns")).into_iter().flatten().flatten();
    entries.map(|e| format!("ns/{}", e.file_name().to_string_lossy())).collect()
}

fn directory(dir: &Path, facts: &mut BTreeMap<String, String>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(meta) = std::fs::symlink_metadata(&path) else { continue };
        let mode = std::os::unix::fs::MetadataExt::mode(&meta);
        let len = if meta.is_file() { meta.len() } else { 0 };
        facts.insert(path.to_string_lossy().into_owned(), format!("mode {mode:o}, {len} bytes"));
        if meta.is_dir() {
            directory(&path, facts);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_descriptor_and_a_new_file_are_seen() {
        let dir = std::env::temp_dir().join(format!("ghost-snapshot-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        let (before, files) =
            (Snapshot::of_tree(std::process::id()), Snapshot::of_directories(std::slice::from_ref(&dir)));
        assert_eq!(files.difference(&Snapshot::of_directories(std::slice::from_ref(&dir))), None);
        let made = std::fs::File::create(dir.join("new")).unwrap();
        let seen = before.difference(&Snapshot::of_tree(std::process::id())).unwrap();
        assert!(seen.contains("/new"), "{seen}");
        assert!(
            files.difference(&Snapshot::of_directories(std::slice::from_ref(&dir))).unwrap().contains("/new: is new")
        );
        drop(made);
        std::fs::remove_dir_all(dir).unwrap();
    }
}
