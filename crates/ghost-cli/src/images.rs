//! Ghosts at rest: `inspect`, `verify`, `list`, `remove`.

use crate::args::Cli;
use crate::fail::Fail;
use crate::{places, say};
use ghost::image::{ImageReader, Section, Tag, record as rec};
use ghost::resource::open_import_auto;
use std::io::Read as _;
use std::path::Path;
use std::process::ExitCode;

fn bad(url: &str, e: &ghost::image::Error) -> Fail {
    let advice = e.advice().map(|words| format!("\n  try:   {words}")).unwrap_or_default();
    Fail::Words(format!("{url} is no whole ghost\n  why:   {e}{advice}\n  state: nothing was touched"))
}

/// What is in a ghost, from its records; the pages are read over and checked.
pub fn inspect(cli: &Cli, url: &str) -> Result<ExitCode, Fail> {
    let input = open_import_auto(places::source(cli, url)?.as_mut())?;
    let mut reader = ImageReader::open(input).map_err(|e| bad(url, &e))?;
    let kernel = reader.header().kernel.clone();
    let version = reader.header().version;
    let (mut host, mut processes, mut files) = (rec::Host::default(), Vec::<rec::Process>::new(), 0_u64);
    let mut mms = Vec::<rec::Mm>::new();
    let (mut data, mut zero) = (0_u64, 0_u64);
    while let Some(section) = reader.next().map_err(|e| bad(url, &e))? {
        match section {
            Section::Record(r) => match r.tag {
                Tag::Host => host = r.decode().map_err(|e| bad(url, &e))?,
                Tag::Process => processes.push(r.decode().map_err(|e| bad(url, &e))?),
                Tag::Mm => mms.push(r.decode().map_err(|e| bad(url, &e))?),
                Tag::File => files += 1,
                _ => {}
            },
            Section::Pages(p) => {
                for run in &p.head.runs {
                    *(if run.zero { &mut zero } else { &mut data }) += run.pages;
                }
            }
        }
    }
    let threads: usize = processes.iter().map(|p| p.threads.len()).sum();
    if cli.json {
        let list: Vec<_> = processes
            .iter()
            .map(|p| {
                serde_json::json!({"pid": p.pid, "ppid": p.ppid, "pgid": p.pgid, "sid": p.sid, "threads": p.threads.len(),
                    "comm": p.threads.first().map(|t| t.comm.clone()), "zombie": p.zombie.is_some()})
            })
            .collect();
        let notes: Vec<_> = host
            .notes
            .iter()
            .map(|n| serde_json::json!({"pid": n.pid, "kind": n.kind, "subject": n.subject, "text": n.text}))
            .collect();
        crate::answer!(
            "{}",
            serde_json::json!({"url": url, "format": format!("{}.{}", version.major, version.minor), "kernel": kernel,
                "hostname": host.hostname, "root_pid": host.root_pid, "taken_at_ns": host.realtime_ns, "processes": list,
                "threads": threads, "descriptions": files, "data_pages": data, "zero_pages": zero, "notes": notes})
        )?;
        return Ok(ExitCode::SUCCESS);
    }
    crate::answer!("{url}: a ghost of format {}.{}, whole", version.major, version.minor)?;
    crate::answer!("  from     {} (Linux {kernel}), ghost {}", host.hostname, host.ghost_version)?;
    crate::answer!("  holds    {} processes, {threads} threads, {files} open file descriptions", processes.len())?;
    crate::answer!("  memory   {} in pages with data, {} pages of zeros", say::size(data * 4096), zero)?;
    for p in &processes {
        let comm = ghost::printable(p.threads.first().map_or("(zombie)", |t| t.comm.as_str()));
        let exe = mms.iter().find(|m| m.id == p.mm_id).and_then(|m| m.exe.as_ref());
        let exe = exe.map(|e| String::from_utf8_lossy(&e.path).into_owned()).unwrap_or_default();
        let exe = ghost::printable(&exe);
        crate::answer!("  pid {:>7}  parent {:>7}  threads {:>4}  {comm}  {exe}", p.pid, p.ppid, p.threads.len())?;
    }
    for n in &host.notes {
        crate::answer!("  note     {}", say::note_text(n))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Every byte of it.
pub fn verify(cli: &Cli, url: &str) -> Result<ExitCode, Fail> {
    let input = open_import_auto(places::source(cli, url)?.as_mut())?;
    let counts = ghost::image::verify(input).map_err(|e| bad(url, &e))?;
    let records: u64 = counts.records.values().sum();
    if cli.json {
        crate::answer!(
            "{}",
            serde_json::json!({"url": url, "ok": true, "bytes": counts.bytes, "records": records,
                "data_pages": counts.data_pages, "zero_pages": counts.zero_pages, "skipped": counts.skipped})
        )?;
    } else if !cli.quiet {
        crate::answer!("{url} is whole: {}, {records} records, {} pages", say::size(counts.bytes), counts.data_pages)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The ghosts of a store.
pub fn list(cli: &Cli, url: &str) -> Result<ExitCode, Fail> {
    let resource = places::source(cli, url)?;
    let Some(store) = resource.store() else { return Err(no_store(url)) };
    for entry in store.list()? {
        let seconds =
            entry.modified.and_then(|t| t.duration_since(std::time::UNIX_EPOCH).ok()).map_or(0, |d| d.as_secs());
        if cli.json {
            crate::answer!(
                "{}",
                serde_json::json!({"url": entry.url, "bytes": entry.len_bytes, "modified_s": seconds})
            )?;
        } else {
            crate::answer!("{:>12}  {}", say::size(entry.len_bytes), entry.url)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// One ghost less. A damaged one may go, a file that never was one stays.
pub fn remove(cli: &Cli, url: &str) -> Result<ExitCode, Fail> {
    let mut resource = places::source(cli, url)?;
    let label = resource.describe();
    if label.starts_with("disk:") && Path::new(&label).extension().is_none_or(|e| e != "ghost") {
        let mut first = Vec::new();
        let read = resource.open_import()?.take(8).read_to_end(&mut first);
        read.map_err(|e| Fail::Words(format!("{label} cannot be read: {e}")))?;
        if first != ghost::image::MAGIC && !ghost::resource::layer::is_layer(&first) {
            let words = format!("{url} is no ghost\n  try:   rm, if it is to go\n  state: nothing was touched");
            return Err(Fail::Words(words));
        }
    }
    let Some(store) = resource.store() else { return Err(no_store(url)) };
    store.remove()?;
    if !cli.quiet && !cli.json {
        crate::answer!("{url} is removed")?;
    }
    Ok(ExitCode::SUCCESS)
}

fn no_store(url: &str) -> Fail {
    Fail::Usage(format!("{url} is a passage, not a store: there is nothing to list or remove"))
}
