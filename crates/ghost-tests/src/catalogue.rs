//! The victims and their flags, and the known gaps.
use crate::mechanism::Mechanism;
use std::path::Path;
use std::process::Command;

/// A victim as `victim list` tells it.
#[derive(Clone, Debug)]
pub struct Victim {
    /// `area/name`.
    pub name: String,
    /// The flags, as in the README of ghost-victims.
    pub flags: Vec<String>,
}

impl Victim {
    /// Whether it has this flag.
    pub fn has(&self, flag: &str) -> bool {
        self.flags.iter().any(|f| f == flag)
    }

    /// The value of a `flag=value`.
    pub fn value(&self, flag: &str) -> Option<&str> {
        self.flags.iter().find_map(|f| f.strip_prefix(flag)?.strip_prefix('='))
    }

    /// How long one case of it may take, in seconds.
    pub fn seconds(&self) -> u64 {
        self.value("seconds").and_then(|s| s.parse().ok()).unwrap_or(60)
    }

    /// Whether its cases sleep most of their time: those of calls and timers that a second must pass for.
    pub fn sleeps(&self) -> bool {
        ["syscall/", "timer/"].iter().any(|area| self.name.starts_with(area))
    }
}

/// All victims of this binary.
pub fn victims(binary: &Path) -> Result<Vec<Victim>, String> {
    let out = Command::new(binary).arg("list").output().map_err(|e| format!("{} list: {e}", binary.display()))?;
    let text = String::from_utf8_lossy(&out.stdout);
    let list: Vec<Victim> = text
        .lines()
        .map(|l| {
            let mut words = l.split('\t').map(str::to_owned);
            Victim { name: words.next().unwrap_or_default(), flags: words.collect() }
        })
        .collect();
    if list.is_empty() { Err(format!("{} list: no victims", binary.display())) } else { Ok(list) }
}

/// A line of `open.txt`: what does not work yet, and why.
#[derive(Clone, Debug)]
pub struct Gap {
    victim: String,
    mechanism: String,
    /// What is missing.
    pub reason: String,
}

impl Gap {
    /// Whether it speaks of this case.
    pub fn covers(&self, victim: &str, mechanism: Mechanism) -> bool {
        (self.victim == victim || self.victim.strip_suffix('*').is_some_and(|area| victim.starts_with(area)))
            // What fails without ghost is no gap of ghost's.
            && (self.mechanism == "*" && !matches!(mechanism, Mechanism::Alone | Mechanism::Stop) || self.mechanism == mechanism.name())
    }
}

/// Reads `open.txt`; a line that speaks of no case, or gives no reason, is an error.
pub fn gaps(text: &str, victims: &[Victim]) -> Result<Vec<Gap>, String> {
    let mut out = Vec::new();
    for (n, line) in text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty() && !l.starts_with('#')) {
        let mut words = line.splitn(3, char::is_whitespace);
        let (Some(victim), Some(mechanism), Some(reason)) = (words.next(), words.next(), words.next().map(str::trim))
        else {
            return Err(format!("open.txt line {}: not `victim mechanism reason`: {line}", n + 1));
        };
        let gap = Gap { victim: victim.into(), mechanism: mechanism.into(), reason: reason.into() };
        if !victims.iter().any(|v| Mechanism::ALL.iter().any(|&m| gap.covers(&v.name, m))) {
            return Err(format!("open.txt line {}: there is no such case: {line}", n + 1));
        }
        out.push(gap);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_covers_what_it_names_and_nothing_else() {
        let all = [Victim { name: "memory/guard".into(), flags: vec![] }];
        let gaps_ = gaps("# comment\n\nmemory/guard disk not yet\nmemory/* pipe why not\n", &all).unwrap();
        assert!(gaps_[0].covers("memory/guard", Mechanism::Disk));
        assert!(!gaps_[0].covers("memory/guard", Mechanism::Pipe));
        assert!(gaps_[1].covers("memory/guard", Mechanism::Pipe));
        let any = gaps("memory/guard * because", &all).unwrap();
        assert!(any[0].covers("memory/guard", Mechanism::Twice) && !any[0].covers("memory/guard", Mechanism::Alone));
        assert!(!gaps_[1].covers("thread/one", Mechanism::Pipe));
        assert!(gaps("memory/gone disk reason", &all).is_err());
        assert!(gaps("memory/guard disk", &all).is_err());
    }
}
