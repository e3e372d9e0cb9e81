//! thread.rs
use crate::error::{Blocker, KindError};
use crate::export::ExportCx;
use crate::import::ImportCx;
use crate::view::TreeView;
/// See the table.
pub fn check(_view: &TreeView, _out: &mut Vec<Blocker>) {}
/// See the table.
pub fn export(_cx: &mut ExportCx<'_>) -> Result<(), KindError> { Ok(()) }
/// See the table.
pub fn finish(_cx: &mut ImportCx<'_>) -> Result<(), KindError> { Ok(()) }
