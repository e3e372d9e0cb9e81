//! The vDSO and its data pages: mapped by the kernel at exec, moved by `mremap(2)`.
//!
//! A process under construction has them where its own exec put them; the program knows them at another address (its libc
//! keeps pointers into it). On the same kernel they are the same pages, so moving them is exact. A vDSO of another size is
//! another kernel's: refused.

use crate::error::{Context, KindError};
use crate::import::ImportCx;
use ghost_image::record as rec;
use ghost_image::record::vma::Special;
use ghost_sys::proc::{self, ProcDir};

/// Where the kernel's mappings are in a process under construction, the same in all that were cloned from the first.
#[derive(Debug, Default)]
pub struct Here {
    /// (what, start, end).
    maps: Vec<(Special, u64, u64)>,
}

impl Here {
    /// Looks at the first process.
    pub fn of(cx: &ImportCx<'_>) -> Result<Self, KindError> {
        let Some(first) = cx.building.first().filter(|b| b.leader.is_some()) else { return Ok(Self::default()) };
        let dir = ProcDir::open(first.pid).step("opening a new process")?;
        let maps = proc::read_maps(&dir).step("reading the mappings of a new process")?;
        let maps = maps.iter().filter_map(|m| {
            let what = match m.name.as_slice() {
                b"[vdso]" => Special::Vdso,
                b"[vvar]" => Special::Vvar,
                b"[vvar_vclock]" => Special::VvarVclock,
                _ => return None,
            };
            Some((what, m.start, m.end))
        });
        Ok(Self { maps: maps.collect() })
    }

    /// Queues the moves out of the way, to the room behind the executor, so that any address is free for the program's.
    pub fn park(&self, cx: &mut ImportCx<'_>, index: usize, mm: &rec::Mm) -> Result<(), KindError> {
        for vma in specials(mm) {
            let what = vma.special();
            let size = self.maps.iter().find(|m| m.0 == what).map_or(0, |m| m.2 - m.1);
            if size != vma.end - vma.start {
                return Err(KindError::refusal(
                    "moving the vDSO",
                    format!("it has {} bytes in the ghost and {size} under this kernel", vma.end - vma.start),
                )
                .on(cx.record(index).pid, "vDSO")
                .advise("restart it on a host with the kernel that the ghost names (ghost inspect)"));
            }
        }
        for (i, &(_, start, end)) in self.maps.iter().enumerate() {
            let to = Self::parking(cx, i);
            let batch = &mut cx.building[index].batch;
            if specials(mm).any(|v| v.special() == self.maps[i].0) {
                remap(batch, start, end - start, to);
            } else {
                batch.call(
                    "munmap of a vDSO that the program had unmapped",
                    libc::SYS_munmap,
                    &[start.into(), (end - start).into()],
                );
            }
        }
        Ok(())
    }

    /// Queues the moves to the program's addresses.
    pub fn place(&self, cx: &mut ImportCx<'_>, index: usize, mm: &rec::Mm) -> Result<(), KindError> {
        for vma in specials(mm) {
            if let Some(i) = self.maps.iter().position(|m| m.0 == vma.special()) {
                let from = Self::parking(cx, i);
                remap(&mut cx.building[index].batch, from, vma.end - vma.start, vma.start);
            }
        }
        Ok(())
    }

    fn parking(cx: &ImportCx<'_>, i: usize) -> u64 {
        cx.layout.base.0 + cx.layout.len() + (i as u64) * PARKING_STEP
    }
}

/// Room behind the executor that [`Here::park`] needs.
pub const PARKING: u64 = 4 * PARKING_STEP;
const PARKING_STEP: u64 = 64 * 1024;

fn specials(mm: &rec::Mm) -> impl Iterator<Item = &rec::Vma> {
    mm.vmas.iter().filter(|v| matches!(v.special(), Special::Vdso | Special::Vvar | Special::VvarVclock))
}

fn remap(batch: &mut ghost_sys::remote::Batch, from: u64, len: u64, to: u64) {
    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
    batch.call("mremap of the vDSO", libc::SYS_mremap, &[from.into(), len.into(), len.into(), flags.into(), to.into()]);
}
