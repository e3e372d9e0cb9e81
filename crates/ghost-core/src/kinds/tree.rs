//! tree.rs
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

/// Whether a pid of the ghost is in use on this host.
pub fn any_pid_taken(_model: &crate::model::Model) -> bool { false }
