//! Checkpoint, restart and duplicate, as compositions of plug, export and import.

use crate::handle::{export_as, import_as};
use crate::{Action, After, Buffer, Error, ExportOptions, Ghost, ImportOptions, Pid, Pids, Report, Resource, Restored};

/// A process tree into a ghost at rest.
pub fn checkpoint(pid: Pid, to: Box<dyn Resource>, options: &ExportOptions) -> Result<Report, Error> {
    let mut ghost = Ghost::new();
    ghost.plug_boxed(to);
    export_as(Action::Checkpoint, &mut ghost, pid, options)
}

/// Processes out of a ghost at rest.
pub fn restart(from: Box<dyn Resource>, options: &ImportOptions) -> Result<Restored, Error> {
    let mut ghost = Ghost::new();
    ghost.plug_boxed(from);
    import_as(Action::Restart, &mut ghost, options)
}

/// `copies` more of a process tree, with pids of their own, beside the first.
pub fn duplicate(pid: Pid, copies: usize, options: ImportOptions) -> Result<Vec<Restored>, Error> {
    let mut ghost = Ghost::new();
    ghost.plug(Buffer::new());
    let export = ExportOptions { after: After::Run, accept: options.accept.clone(), ..ExportOptions::default() };
    export_as(Action::Duplicate, &mut ghost, pid, &export)?;
    let options = ImportOptions { pids: Pids::New, ..options };
    (0..copies).map(|_| import_as(Action::Duplicate, &mut ghost, &options)).collect()
}
