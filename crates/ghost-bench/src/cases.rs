//! Every case of stop and copy, restart, network and start-up, each beside its limit.

use crate::drive::{Ghost, Program, Res, alive, median};
use crate::table::{Table, ratio, time};
use crate::{How, limit, net};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// One program at one size.
struct Case {
    name: &'static str,
    work: &'static str,
    n: usize,
    on_disk: bool,
    /// What sets the limit, out and in.
    limits: [&'static str; 2],
    out: fn(&Program, usize, u64, &Path) -> Res<f64>,
    into: fn(usize, u64, &Path) -> Res<f64>,
    /// What ghost must reach, by docs: checkpoint / of it frozen / restart, in ms.
    wanted: &'static str,
}

const CASES: [Case; 9] = [
    Case {
        name: "small",
        work: "small",
        n: 0,
        on_disk: false,
        limits: ["freeze + exec", "exec"],
        out: |p, _, _, _| Ok(limit::freeze(p.pid)? + limit::exec()?),
        into: |_, _, _| limit::exec(),
        wanted: "3 / 0.8 / 2.5",
    },
    Case {
        name: "mem64",
        work: "mem",
        n: 64,
        on_disk: false,
        limits: ["copy", "copy to fresh"],
        out: |_, _, bytes, _| Ok(limit::copy(bytes)),
        into: |_, bytes, _| Ok(limit::copy_fresh(bytes)),
        wanted: "14 / 8 / 12",
    },
    Case {
        name: "mem1g-tmpfs",
        work: "mem",
        n: 1024,
        on_disk: false,
        limits: ["write to tmpfs", "copy to fresh"],
        out: |_, _, bytes, beside| limit::write(beside, bytes),
        into: |_, bytes, _| Ok(limit::copy_fresh(bytes)),
        wanted: "330 / — / 190",
    },
    Case {
        name: "thp1g-tmpfs",
        work: "thp",
        n: 1024,
        on_disk: false,
        limits: ["write to tmpfs", "copy to fresh"],
        out: |_, _, bytes, beside| limit::write(beside, bytes),
        into: |_, bytes, _| Ok(limit::copy_fresh(bytes)),
        wanted: "330 / — / 120",
    },
    Case {
        name: "mem1g-disk",
        work: "mem",
        n: 1024,
        on_disk: true,
        limits: ["write + fsync", "read, warm"],
        out: |_, _, bytes, beside| limit::write(beside, bytes),
        into: |_, _, image| limit::read(image),
        wanted: "300 / — / 200",
    },
    Case {
        name: "threads200",
        work: "threads",
        n: 200,
        on_disk: false,
        limits: ["freeze", "spawn"],
        out: |p, _, _, _| limit::freeze(p.pid),
        into: |n, _, _| Ok(limit::threads(n)),
        wanted: "8 / 5 / 8",
    },
    Case {
        name: "fds1000",
        work: "fds",
        n: 1000,
        on_disk: false,
        limits: ["readlink + fdinfo", "open"],
        out: |p, _, _, _| limit::look_at_fds(p.pid),
        into: |n, _, _| limit::open_fds(n),
        wanted: "8 / 6 / 5",
    },
    Case {
        name: "vmas5000",
        work: "vmas",
        n: 5000,
        on_disk: false,
        limits: ["read maps + copy", "mmap + copy to fresh"],
        out: |p, _, bytes, _| Ok(limit::look_at_maps(p.pid)? + limit::copy(bytes)),
        into: |n, bytes, _| Ok(limit::map(n)? + limit::copy_fresh(bytes)),
        wanted: "8 / 6 / 8",
    },
    Case {
        name: "tree100",
        work: "tree",
        n: 100,
        on_disk: false,
        limits: ["freeze + copy", "fork + copy to fresh"],
        out: |p, _, bytes, _| Ok(limit::freeze(p.pid)? + limit::copy(bytes)),
        into: |n, bytes, _| Ok(limit::forks(n)? + limit::copy_fresh(bytes)),
        wanted: "40 / 25 / 30",
    },
];

/// Medians of one case at one size.
#[derive(Default)]
struct Measured {
    live: f64,
    frozen: f64,
    kill: f64,
    restart: f64,
    first_beat: f64,
    image_kb: f64,
    out_limit: f64,
    in_limit: f64,
    peak_kib: u64,
}

/// Prints every row; a row that fails is told and the others go on.
pub fn all(ghost: &Ghost, how: &How, double: bool) -> Res {
    let chosen = |name: &str| how.only.is_empty() || how.only.iter().any(|o| o == name);
    let mut failed = Vec::new();
    let mut rows = Table::new(&[
        "case",
        "live",
        "frozen",
        "kill",
        "restart",
        "first beat",
        "image KB",
        "limit out",
        "ratio",
        "limit in",
        "ratio",
        "wanted: checkpoint / frozen / restart",
    ]);
    let mut growth = Table::new(&["doubled", "checkpoint", "at double", "growth", "restart", "at double", "growth"]);
    let mut peak = 0;
    for case in CASES.iter().filter(|c| chosen(c.name)) {
        eprintln!("{} …", case.name);
        let m = match measure(ghost, how, case, case.n) {
            Ok(m) => m,
            Err(why) => {
                failed.push(format!("{}: {why}", case.name));
                continue;
            }
        };
        peak = peak.max(m.peak_kib);
        rows.row(vec![
            case.name.into(),
            time(m.live),
            time(m.frozen),
            time(m.kill),
            time(m.restart),
            time(m.first_beat),
            format!("{:.0}", m.image_kb),
            format!("{} {}", time(m.out_limit), case.limits[0]),
            ratio(m.live, m.out_limit),
            format!("{} {}", time(m.in_limit), case.limits[1]),
            ratio(m.restart, m.in_limit),
            case.wanted.into(),
        ]);
        if double && case.n > 0 {
            match measure(ghost, how, case, case.n * 2) {
                Ok(d) => growth.row(vec![
                    format!("{} to {}", case.name, case.n * 2),
                    time(m.live),
                    time(d.live),
                    ratio(d.live, m.live),
                    time(m.restart),
                    time(d.restart),
                    ratio(d.restart, m.restart),
                ]),
                Err(why) => failed.push(format!("{} at double the size: {why}", case.name)),
            }
        }
    }
    if !rows.is_empty() {
        println!("Stop and copy, ms\n\n{}", rows.text());
    }
    if !growth.is_empty() {
        println!("At double the size, ms; linear is 2.00× or less\n\n{}", growth.text());
    }
    if chosen("migrate1g") {
        eprintln!("migrate1g …");
        match net::migrate(ghost, how, 1024) {
            Ok(text) => println!("Across two network namespaces and a veth, ms\n\n{text}"),
            Err(why) => failed.push(format!("migrate1g: {why}")),
        }
    }
    if chosen("start") {
        match start(ghost, how, peak) {
            Ok(text) => println!("The command itself\n\n{text}"),
            Err(why) => failed.push(format!("start: {why}")),
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(failed.join("\n")) }
}

fn measure(ghost: &Ghost, how: &How, case: &Case, n: usize) -> Res<Measured> {
    let place = if case.on_disk { &how.disk } else { &how.tmpfs };
    let (image, beside): (PathBuf, PathBuf) = (place.join("bench.ghost"), place.join("limit"));
    let mut all: [Vec<f64>; 8] = Default::default();
    let mut peak_kib = 0;
    for _ in 0..how.reps.max(1) {
        let mut program = Program::start(&[case.work, &n.to_string()], &how.tmpfs.join("program"))?;
        std::thread::sleep(Duration::from_millis(50));
        let live = ghost.checkpoint(program.pid, &image, &["--live"])?;
        program.next_beat(program.beat())?;
        let ghost_bytes = live.number("ghost_bytes");
        let out_limit = (case.out)(&program, n, ghost_bytes as u64, &beside)?;
        // Giving back what lies there already is not part of it.
        for file in [&image, &beside] {
            let _ = std::fs::remove_file(file);
        }
        let kill = ghost.checkpoint(program.pid, &image, &["--kill"])?;
        program.gone()?;
        let beat = program.beat();
        let in_limit = (case.into)(n, ghost_bytes as u64, &image)?;
        let began = Instant::now();
        let restart = ghost.restart(&image)?;
        program.next_beat(beat)?;
        let first_beat = crate::drive::ms(began.elapsed());
        if !alive(program.pid) {
            return Err(format!("pid {} is not there after the restart", program.pid));
        }
        program.verify()?;
        crate::drive::signal(program.pid, rustix::process::Signal::TERM)?;
        program.gone()?;
        peak_kib = [&live, &kill, &restart].iter().map(|t| t.peak_kib).max().unwrap_or(0).max(peak_kib);
        let values = [
            live.wall_ms,
            live.number("frozen_ms"),
            kill.wall_ms,
            restart.wall_ms,
            first_beat,
            ghost_bytes / 1e3,
            out_limit,
            in_limit,
        ];
        all.iter_mut().zip(values).for_each(|(column, value)| column.push(value));
    }
    for file in [&image, &beside] {
        let _ = std::fs::remove_file(file);
    }
    let [live, frozen, kill, restart, first_beat, image_kb, out_limit, in_limit] = all.map(median);
    Ok(Measured { live, frozen, kill, restart, first_beat, image_kb, out_limit, in_limit, peak_kib })
}

/// Start-up, and memory beside the largest ghost of this run.
fn start(ghost: &Ghost, how: &How, peak_kib: u64) -> Res<String> {
    let mut starts = Vec::new();
    let mut execs = Vec::new();
    for _ in 0..how.reps.max(1) * 4 {
        let began = Instant::now();
        let out = std::process::Command::new(&ghost.path).arg("--version").output();
        out.map_err(|e| format!("{}: {e}", ghost.path.display()))?;
        starts.push(crate::drive::ms(began.elapsed()));
        execs.push(limit::exec()?);
    }
    let mut rows = Table::new(&["", "found", "limit", "wanted"]);
    rows.row(vec![
        "start to end of `ghost --version`, ms".into(),
        time(median(starts)),
        format!("{} /bin/true", time(median(execs))),
        "2".into(),
    ]);
    if peak_kib > 0 {
        rows.row(vec![
            "most memory of any run above, MB".into(),
            format!("{:.1}", peak_kib as f64 / 1e3),
            "—".into(),
            "64".into(),
        ]);
    }
    Ok(rows.text())
}
