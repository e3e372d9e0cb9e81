//! The experiment of 2005: modified Gram-Schmidt, checkpointed to and restarted from a local disk, for seven sizes.
//!
//! The paper ran it on Kerrighed 1.0.2 (Pentium III 1 GHz, 512 MB) and gave the size of each ghost, and both times as curves. Here
//! both times stand beside writing and reading as many bytes to and from the same disk in the same run. Restarts read a file that the
//! kernel was told to forget. The program must end with the same checksum as one that was never touched.

use crate::How;
use crate::drive::{Ghost, Program, Res, kib_line, median, until};
use crate::limit;
use crate::svg::{Line, plot};
use crate::table::{Table, ratio, time};
use std::path::Path;
use std::time::{Duration, Instant};

/// N, and the size of the ghost in the paper, in KB.
const PAPER: [(usize, u32); 7] =
    [(500, 4_229), (750, 9_354), (1000, 12_429), (1250, 20_629), (1500, 24_729), (1750, 28_833), (2000, 32_933)];

struct Row {
    n: usize,
    paper_kb: u32,
    ghost_kb: f64,
    dirty_kb: f64,
    checkpoint: f64,
    write: f64,
    restart: f64,
    read: f64,
}

impl Row {
    /// The pages that the program dirtied, and at most 3 % or 100 KB more.
    fn small_enough(&self) -> bool {
        self.ghost_kb <= self.dirty_kb + (self.dirty_kb * 0.03).max(100.0)
    }
}

/// Runs the seven sizes; writes the table and the plot.
pub fn run(ghost: &Ghost, how: &How, docs: &Path) -> Res {
    let mut rows = Vec::new();
    for (n, paper_kb) in PAPER {
        if how.only.is_empty() || how.only.iter().any(|o| *o == n.to_string()) {
            eprintln!("N = {n} …");
            rows.push(measure(ghost, how, n, paper_kb).map_err(|e| format!("N = {n}: {e}"))?);
        }
    }
    let text = told(&rows);
    println!("{text}");
    std::fs::create_dir_all(docs).map_err(|e| format!("{}: {e}", docs.display()))?;
    let about = "# The experiment of 2005\n\nModified Gram-Schmidt on N vectors of N doubles, checkpointed to a local disk (durable) and restarted from it with a cold \
                 cache. The paper: Kerrighed 1.0.2, Pentium III 1 GHz, 512 MB. Times in ms, medians; `write` and `read` are as many bytes to and from the same disk in \
                 the same run. After the last restart the program ran to its end, and its checksum was that of a run that nobody touched. \
                 `ghost-bench seed` makes this page.\n\n";
    let write = |name: &str, text: &str| std::fs::write(docs.join(name), text).map_err(|e| format!("{name}: {e}"));
    write("seed.md", &format!("{about}{text}\n![both times over the size](seed.svg)\n"))?;
    write("seed.svg", &picture(&rows))
}

fn measure(ghost: &Ghost, how: &How, n: usize, paper_kb: u32) -> Res<Row> {
    let dir = how.disk.join("program");
    let size = n.to_string();
    // Long enough for all measurements to fall into its life: as many rounds as fit into some seconds.
    let began = Instant::now();
    finish(&mut Program::start(&["mgs", &size, "1"], &dir)?)?;
    let rounds = (4.0 / began.elapsed().as_secs_f64().max(1e-3)).ceil().max(1.0).to_string();
    let expected = finish(&mut Program::start(&["mgs", &size, &rounds], &dir)?)?;

    let mut program = Program::start(&["mgs", &size, &rounds], &dir)?;
    let first = program.beat();
    // Past its first vectors: all of the matrix is written.
    until(Duration::from_secs(60), || program.beat() >= first + n as u64 / 8);
    let rollup = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", program.pid))
        .map_err(|e| format!("smaps_rollup: {e}"))?;
    let dirty_kb = kib_line(&rollup, "Private_Dirty:").ok_or("smaps_rollup has no Private_Dirty")? as f64 * 1.024;
    let (image, beside) = (how.disk.join("seed.ghost"), how.disk.join("limit"));
    let (mut checkpoints, mut writes, mut restarts, mut reads) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut ghost_kb = 0.0;
    for rep in 0..how.reps.max(1) {
        let _ = std::fs::remove_file(&image);
        let last = rep + 1 == how.reps.max(1);
        // The last one ends it: what is restarted then is the only one.
        let told = ghost.checkpoint(program.pid, &image, &[if last { "--kill" } else { "--live" }])?;
        checkpoints.push(told.wall_ms);
        ghost_kb = told.number("ghost_bytes") / 1e3;
        writes.push(limit::write(&beside, told.number("ghost_bytes") as u64)?);
    }
    program.gone()?;
    for rep in 0..how.reps.max(1) {
        limit::forget(&beside)?;
        reads.push(limit::read(&beside)?);
        limit::forget(&image)?;
        let beat = program.beat();
        restarts.push(ghost.restart(&image)?.wall_ms);
        program.next_beat(beat)?;
        if rep + 1 < how.reps.max(1) {
            crate::drive::signal(program.pid, rustix::process::Signal::KILL)?;
            program.gone()?;
        }
    }
    let found = finish(&mut program)?;
    for file in [&image, &beside] {
        let _ = std::fs::remove_file(file);
    }
    if found != expected {
        return Err(format!("after {} restarts it ends with {found:?}, untouched with {expected:?}", how.reps));
    }
    let (checkpoint, write) = (median(checkpoints), median(writes));
    Ok(Row { n, paper_kb, ghost_kb, dirty_kb, checkpoint, write, restart: median(restarts), read: median(reads) })
}

/// Waits for its end; what it printed.
fn finish(program: &mut Program) -> Res<String> {
    if !until(Duration::from_secs(600), || !crate::drive::alive(program.pid)) {
        return Err("it does not come to its end".into());
    }
    program.gone()?;
    let said = std::fs::read_to_string(program.dir.join("out")).unwrap_or_default();
    let said = said.trim();
    if said.contains("checksum=") { Ok(said.to_owned()) } else { Err(format!("it printed no checksum: {said:?}")) }
}

fn told(rows: &[Row]) -> String {
    let mut table = Table::new(&[
        "N",
        "paper KB",
        "ghost KB",
        "dirtied KB",
        "small enough",
        "checkpoint",
        "write",
        "ratio",
        "cold restart",
        "cold read",
        "ratio",
    ]);
    for r in rows {
        table.row(vec![
            r.n.to_string(),
            r.paper_kb.to_string(),
            format!("{:.0}", r.ghost_kb),
            format!("{:.0}", r.dirty_kb),
            if r.small_enough() { "yes" } else { "no" }.into(),
            time(r.checkpoint),
            time(r.write),
            ratio(r.checkpoint, r.write),
            time(r.restart),
            time(r.read),
            ratio(r.restart, r.read),
        ]);
    }
    table.text()
}

fn picture(rows: &[Row]) -> String {
    let line = |name, colour, dashed, y: fn(&Row) -> f64| Line {
        name,
        colour,
        dashed,
        points: rows.iter().map(|r| (r.ghost_kb, y(r))).collect(),
    };
    let lines = [
        line("checkpoint to disk", "#c03020", false, |r| r.checkpoint),
        line("writing as many bytes", "#c03020", true, |r| r.write),
        line("cold restart from disk", "#2050a0", false, |r| r.restart),
        line("reading as many bytes, cold", "#2050a0", true, |r| r.read),
    ];
    plot("Modified Gram-Schmidt, N = 500 to 2000", "size of the ghost, KB", "ms", &lines)
}
