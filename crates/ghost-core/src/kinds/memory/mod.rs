//! Address spaces: their mappings, what is in them, and the kernel's notes about them (`prctl(2)`, PR_SET_MM_MAP).
//!
//! Read: mappings with their flags (`mappings.rs`), `/proc/PID/stat`, PAGEMAP_SCAN (Linux 6.7) for what is there to copy.
//! Rebuilt: `mmap(2)` at the final addresses by the process itself, writable while the pages arrive; protections, advice,
//! locks, names and seals in `finish`. Of a file mapping only the private pages travel; the file must be there.
//!
//! Lost: the split of neighbouring mappings that the kernel would have merged; which pages were resident but zero.
//! Refused: see [`vma::check`].

pub mod aio;
pub mod ask;
pub mod common;
pub mod exe;
pub mod ldt;
pub mod number;
pub mod outside;
pub mod pages;
pub mod pages_out;
pub mod policy;
mod probes;
pub mod secret;
pub mod sysv;
pub mod together;
pub mod vdso;
pub mod vma;

use crate::abreast;
use crate::error::{Blocker, Context, KindError};
use crate::export::{ExportCx, PageSource};
use crate::import::ImportCx;
use crate::view::{ProcessView, TreeView};
use ghost_image::record as rec;
use ghost_image::record::vma::Special;
use ghost_sys::remote::Batch;

/// Names the mappings that cannot travel.
pub fn check(view: &TreeView, out: &mut Vec<Blocker>) {
    for process in &view.processes {
        vma::check(process, out);
    }
    number::check(view, out);
    outside::check(view, out);
    sysv::check(view, out);
}

/// Writes one [`rec::Mm`] for every address space of the tree.
pub fn export(cx: &mut ExportCx<'_>) -> Result<(), KindError> {
    let view = cx.view;
    let owners = view.processes.iter().enumerate().filter(|(_, p)| !p.is_zombie() && p.shares_mm.is_none());
    let owners: Vec<_> = owners.collect();
    let read = abreast::each(&owners, abreast::PROCESSES, |(_, process)| {
        Ok((facts(process)?, crate::kinds::fd::path_of_link(process.pid, &process.dir, "exe")?, pages::runs(process)?))
    });
    for ((index, process), read) in owners.into_iter().zip(read) {
        let id = cx.model.mms.len() as u32 + 1;
        let (facts, exe, runs) = read?;
        let exe_file_id = crate::kinds::fd::export_exe(cx, index, &exe)?;
        let brk = cx.answers.processes[index].brk;
        let mut mm = rec::Mm { id, brk, exe: Some(exe), exe_file_id, ..facts };
        let answers = &cx.answers.processes[index].memory;
        mm.ldt.clone_from(&answers.ldt);
        (mm.mlock_future, mm.mlock_onfault) = (answers.lock_future, answers.lock_onfault);
        for smap in &process.smaps {
            if let Some(vma) = vma::export(cx, index, smap, &runs)? {
                match vma.special() {
                    Special::Vdso => mm.vdso = vma.start,
                    Special::AioRing => mm.aio.push(aio::export(cx, index, &vma)?),
                    _ => {}
                }
                mm.vmas.push(vma);
            }
        }
        let (common, runs) = (runs.common().to_vec(), pages::to_copy(&runs, &mm.vmas));
        cx.pages.push(PageSource::Memory { mm_id: id, process: index, runs, common, also: Vec::new() });
        cx.model.mms.push(mm);
    }
    share(cx);
    Ok(())
}

/// Leaves each page that several have in common to the first of them.
fn share(cx: &mut ExportCx<'_>) {
    let view = cx.view;
    let spaces = cx.pages.iter().filter_map(|source| match source {
        PageSource::Memory { mm_id, process, runs, common, .. } => {
            Some(common::Space { id: *mm_id, dir: &view.processes[*process].dir, runs, common })
        }
        _ => None,
    });
    let spaces: Vec<common::Space<'_>> = spaces.collect();
    let Some(shares) = common::find(&spaces) else { return };
    let mut shares = shares.into_iter();
    for source in &mut cx.pages {
        if let PageSource::Memory { runs, also, .. } = source
            && let Some(share) = shares.next()
        {
            (*runs, *also) = (share.runs, share.also);
        }
    }
}

/// The id of the address space of the process at `index`, which [`export`] has given or will give.
pub fn mm_id(view: &TreeView, index: usize) -> u32 {
    let owner = view.processes[index].shares_mm.unwrap_or(index);
    view.processes[..=owner].iter().filter(|p| !p.is_zombie() && p.shares_mm.is_none()).count() as u32
}

/// What procfs tells of an address space as a whole.
fn facts(process: &ProcessView) -> Result<rec::Mm, KindError> {
    let s = &process.stat;
    let auxv = process.dir.bytes("auxv").step_on(process.pid, String::new, "reading its auxv")?;
    Ok(rec::Mm {
        start_code: s.start_code,
        end_code: s.end_code,
        start_data: s.start_data,
        end_data: s.end_data,
        start_brk: s.start_brk,
        start_stack: s.start_stack,
        arg_start: s.arg_start,
        arg_end: s.arg_end,
        env_start: s.env_start,
        env_end: s.env_end,
        auxv,
        ..rec::Mm::default()
    })
}

/// Makes the mappings of every address space, empty and writable where pages will come.
pub fn import(cx: &mut ImportCx<'_>) -> Result<(), KindError> {
    let model = cx.model;
    let first_user = crate::import::first_users(model);
    vma::import_shmem(cx, &first_user)?;
    sysv::import(cx, &first_user)?;
    let here = vdso::Here::of(cx)?;
    let owners = owners(model, &first_user);
    let mut handed = vma::hand_over_files(cx, &owners, |_| true)?;
    for (mm, index) in owners {
        let numbers = handed.remove(&index).unwrap_or_default();
        // Before the others: to move a mapping the kernel wants room for four more.
        here.park(cx, index, mm)?;
        here.place(cx, index, mm)?;
        sysv::attach(cx, index, mm);
        for vma in together::gathered(&mm.vmas) {
            vma::import(&mut cx.building[index].batch, &vma, &numbers);
            if cx.building[index].batch.len() > 3000 {
                cx.flush(index)?;
            }
        }
        for number in vma::distinct(&numbers) {
            cx.building[index].batch.call("close of a mapped file", libc::SYS_close, &[number.into()]);
        }
        aio::import(cx, index, mm)?;
    }
    cx.flush_all()?;
    sysv::release(cx);
    Ok(())
}

/// Makes the mappings that had to wait for the seals of what they map. Called while descriptors may still be closed.
pub fn import_sealed(cx: &mut ImportCx<'_>) -> Result<(), KindError> {
    let model = cx.model;
    let mut owners = owners(model, &crate::import::first_users(model));
    owners.retain(|(mm, _)| mm.vmas.iter().any(vma::is_after_seals));
    let mut handed = vma::hand_over_files(cx, &owners, vma::is_after_seals)?;
    for (mm, index) in owners {
        let numbers = handed.remove(&index).unwrap_or_default();
        for vma in mm.vmas.iter().filter(|v| vma::is_after_seals(v)) {
            vma::import_sealed(&mut cx.building[index].batch, vma, &numbers);
        }
        for number in vma::distinct(&numbers) {
            cx.building[index].batch.call("close of a mapped file", libc::SYS_close, &[number.into()]);
        }
    }
    Ok(())
}

/// Gives the mappings their protection, advice, locks, names and seals, and the kernel its notes.
pub fn finish(cx: &mut ImportCx<'_>) -> Result<(), KindError> {
    let model = cx.model;
    let mut owners = owners(model, &crate::import::first_users(model));
    owners.sort_unstable_by_key(|(_, index)| *index);
    let exes = owners.iter().map(|(mm, index)| {
        let known = cx.files.contains_key(&mm.exe_file_id);
        (*index, if known { vec![mm.exe_file_id] } else { Vec::new() })
    });
    let exes: Vec<_> = exes.collect();
    let exes = cx.hand_over_files(&exes)?;
    for (mm, index) in owners {
        for vma in &mm.vmas {
            vma::finish(&mut cx.building[index].batch, vma);
            if cx.building[index].batch.len() > 3000 {
                cx.flush(index)?;
            }
        }
        mm_map(&mut cx.building[index].batch, mm, exes[&index].first().copied().unwrap_or(-1));
        for vma in mm.vmas.iter().filter(|v| v.sealed) {
            vma::seal(&mut cx.building[index].batch, vma);
        }
        ldt::finish(cx, index, mm)?;
        if mm.mlock_future {
            // What is there already keeps what it has.
            let flags = libc::MCL_FUTURE | if mm.mlock_onfault { libc::MCL_ONFAULT } else { 0 };
            cx.building[index].batch.call("mlockall", libc::SYS_mlockall, &[flags.into()]);
        }
    }
    // Made together with what the next kinds queue: each round visits every process once more.
    Ok(())
}

fn owners<'m>(
    model: &'m crate::model::Model,
    first_user: &std::collections::HashMap<u32, usize>,
) -> Vec<(&'m rec::Mm, usize)> {
    model.mms.iter().filter_map(|mm| first_user.get(&mm.id).map(|&i| (mm, i))).collect()
}

/// PR_SET_MM_MAP (Linux 3.18; CAP_SYS_RESOURCE is not needed for it): what `/proc/PID/{stat,cmdline,environ,auxv,exe}` tell.
fn mm_map(batch: &mut Batch, mm: &rec::Mm, exe: i32) {
    let map = ghost_sys::prctl_mm::MmMap {
        start_code: mm.start_code,
        end_code: mm.end_code,
        start_data: mm.start_data,
        end_data: mm.end_data,
        start_brk: mm.start_brk,
        brk: mm.brk,
        start_stack: mm.start_stack,
        arg_start: mm.arg_start,
        arg_end: mm.arg_end,
        env_start: mm.env_start,
        env_end: mm.env_end,
        exe_fd: exe,
    };
    ghost_sys::prctl_mm::call(batch, &map, &mm.auxv);
    if exe >= 0 {
        batch.call("close of the executable", libc::SYS_close, &[exe.into()]);
    }
}
