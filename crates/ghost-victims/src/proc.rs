//! Readers of `/proc` for the checks (`proc(5)`): text in, text or numbers out.
use std::collections::BTreeMap;

/// A file's text, or the error's.
pub fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| format!("<{path}: {e}>"))
}

/// A field of `/proc/self/status`.
pub fn status(field: &str) -> String {
    field_of("/proc/self/status", field)
}

/// A field of the calling thread's status.
pub fn thread_status(field: &str) -> String {
    field_of("/proc/thread-self/status", field)
}

/// A `Name: value` field of a file.
pub fn field_of(path: &str, field: &str) -> String {
    let text = read(path);
    text.lines()
        .find_map(|l| {
            l.strip_prefix(field)?.strip_prefix(':').map(|v| v.split_whitespace().collect::<Vec<_>>().join(" "))
        })
        .unwrap_or_else(|| format!("<no {field} in {path}: {}>", text.lines().next().unwrap_or("")))
}

/// Field `n` of `/proc/PID/stat`, counted from 1 as in `proc_pid_stat(5)`.
pub fn stat(pid: u32, n: usize) -> String {
    let text = read(&format!("/proc/{pid}/stat"));
    let Some((_, rest)) = text.rsplit_once(')') else { return format!("<no stat of {pid}: {text}>") };
    rest.split_whitespace().nth(n.saturating_sub(3)).unwrap_or("<none>").to_owned()
}

/// A symbolic link's target, or the error's text.
pub fn link(path: &str) -> String {
    std::fs::read_link(path).map_or_else(|e| format!("<{path}: {e}>"), |p| p.to_string_lossy().into_owned())
}

/// A process and everything below it, the process first.
pub fn tree(pid: u32) -> Vec<u32> {
    let mut all = vec![pid];
    let mut i = 0;
    while i < all.len() {
        if let Ok(tasks) = std::fs::read_dir(format!("/proc/{}/task", all[i])) {
            for task in tasks.flatten() {
                let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
                all.extend(children.split_whitespace().filter_map(|c| c.parse::<u32>().ok()));
            }
        }
        i += 1;
    }
    all
}

/// The children of this process as the kernel lists them now, oldest first.
pub fn children() -> Vec<i32> {
    let mut all = Vec::new();
    for task in std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
        let text = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        all.extend(text.split_whitespace().filter_map(|c| c.parse::<i32>().ok()));
    }
    all
}

/// The state letter of a process.
pub fn state(pid: i32) -> String {
    stat(pid as u32, 3)
}

/// One entry of `/proc/self/smaps`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vma {
    /// First address.
    pub start: usize,
    /// Address after the last.
    pub end: usize,
    /// `rwxp` or `rwxs`.
    pub perms: String,
    /// Offset in the file.
    pub offset: u64,
    /// Path or bracketed name.
    pub name: String,
    /// The fields: kB values and `VmFlags`.
    pub fields: BTreeMap<String, String>,
}

impl Vma {
    /// A kB field of smaps.
    pub fn kb(&self, field: &str) -> u64 {
        self.fields.get(field).and_then(|v| v.split(' ').next()?.parse().ok()).unwrap_or(u64::MAX)
    }

    /// Whether VmFlags holds this two-letter flag.
    pub fn has(&self, flag: &str) -> bool {
        self.fields.get("VmFlags").is_some_and(|f| f.split(' ').any(|x| x == flag))
    }

    /// What must stay: range, rights, offset, name, and the VmFlags that a program sets (not `sd`, `ht`…).
    pub fn shape(&self) -> String {
        const KEPT: &[&str] = &[
            "rd", "wr", "ex", "sh", "gd", "lo", "sr", "rr", "dc", "dd", "de", "ac", "nr", "wf", "hg", "nh", "mg", "lf",
            "sl", "dp",
        ];
        let flags: Vec<&str> =
            self.fields.get("VmFlags").map_or(Vec::new(), |f| f.split(' ').filter(|x| KEPT.contains(x)).collect());
        format!("{:x}-{:x} {} {:x} {} [{}]", self.start, self.end, self.perms, self.offset, self.name, flags.join(" "))
    }
}

/// All VMAs of this process, from smaps.
pub fn smaps() -> Vec<Vma> {
    let mut out: Vec<Vma> = Vec::new();
    for l in read("/proc/self/smaps").lines() {
        let mut w = l.split_whitespace();
        let head = w.next().unwrap_or("");
        let range = head
            .split_once('-')
            .and_then(|(a, b)| Some((usize::from_str_radix(a, 16).ok()?, usize::from_str_radix(b, 16).ok()?)));
        if let Some((start, end)) = range {
            let perms = w.next().unwrap_or("").to_owned();
            let offset = u64::from_str_radix(w.next().unwrap_or("0"), 16).unwrap_or(0);
            let name = w.skip(2).collect::<Vec<_>>().join(" ");
            out.push(Vma { start, end, perms, offset, name, fields: BTreeMap::new() });
        } else if let (Some(v), Some((k, value))) = (out.last_mut(), l.split_once(':')) {
            v.fields.insert(k.to_owned(), value.split_whitespace().collect::<Vec<_>>().join(" "));
        }
    }
    out
}

/// The VMA that holds an address.
pub fn vma_at(addr: usize) -> Option<Vma> {
    smaps().into_iter().find(|v| v.start <= addr && addr < v.end)
}

/// The shapes of all VMAs that meet `start..end`; see [`Vma::shape`].
pub fn shapes(start: usize, end: usize) -> Vec<String> {
    smaps().iter().filter(|v| v.start < end && start < v.end).map(Vma::shape).collect()
}
