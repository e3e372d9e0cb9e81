//! signal.rs
use crate::error::KindError;
use crate::export::ExportCx;
use crate::import::ImportCx;
/// See the table.
pub fn export(_cx: &mut ExportCx<'_>) -> Result<(), KindError> { Ok(()) }
/// See the table.
pub fn finish(_cx: &mut ImportCx<'_>) -> Result<(), KindError> { Ok(()) }
