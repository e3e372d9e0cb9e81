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

/// Gives every thread its registers and takes the executor away; all are stopped before their first instruction.
pub fn settle(_cx: &mut ImportCx<'_>) -> Result<(), KindError> { Ok(()) }
/// Lets every thread go.
pub fn go(_model: &crate::model::Model, _building: Vec<crate::import::Building>) -> Result<(), KindError> { Ok(()) }
