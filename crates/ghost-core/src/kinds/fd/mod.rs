//! fd/mod.rs
use crate::error::{Blocker, KindError};
use crate::export::ExportCx;
use crate::import::ImportCx;
use crate::view::TreeView;
/// See the table.
pub fn check(_view: &TreeView, _out: &mut Vec<Blocker>) {}
/// See the table.
pub fn export(_cx: &mut ExportCx<'_>) -> Result<(), KindError> { Ok(()) }
/// See the table.
pub fn import(_cx: &mut ImportCx<'_>) -> Result<(), KindError> { Ok(()) }
/// See the table.
pub fn finish(_cx: &mut ImportCx<'_>) -> Result<(), KindError> { Ok(()) }

/// The record of the file behind a mapping, one for each inode and access mode.
pub fn export_mapping(_cx: &mut ExportCx<'_>, _process: usize, _smap: &ghost_sys::proc::Smap) -> Result<u32, KindError> { Ok(0) }
/// The record of the file that /proc/PID/exe names.
pub fn export_exe(_cx: &mut ExportCx<'_>, _process: usize) -> Result<u32, KindError> { Ok(0) }
/// What a link of /proc/PID (`exe`, `cwd`, `root`) names.
pub fn path_of_link(_process: &crate::view::ProcessView, _link: &str) -> Result<ghost_image::record::Path, KindError> { Ok(ghost_image::record::Path::default()) }
