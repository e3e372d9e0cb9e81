//! The ghost itself: a process on its way through a plugged resource.

use crate::{
    Action, ClassId, Error, ExportOptions, ImportOptions, KindError, Pid, Registry, Report, Resource, Restored,
};
use ghost_core::ahead::Ahead;
use ghost_core::export::Exporting;
use ghost_core::import::prepare;
use ghost_core::intake::Intake;
use ghost_resource::{Direction, open_import_auto};

/// A process on its way. It holds nothing until a resource is plugged into it.
#[derive(Default)]
pub struct Ghost {
    resource: Option<Box<dyn Resource>>,
}

impl std::fmt::Debug for Ghost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ghost").field("resource", &self.resource.as_ref().map(|r| r.describe())).finish()
    }
}

impl Ghost {
    /// A ghost with nothing plugged in.
    pub fn new() -> Self {
        Self::default()
    }
    /// Plugs a resource in; the one before is given up.
    pub fn plug(&mut self, resource: impl Resource + 'static) {
        self.resource = Some(Box::new(resource));
    }
    /// Plugs in what a registry made.
    pub fn plug_boxed(&mut self, resource: Box<dyn Resource>) {
        self.resource = Some(resource);
    }
    /// Plugs in the resource that has this class id, with its address: the seed's `plug_resource_interface`.
    pub fn plug_class(
        &mut self,
        registry: &Registry,
        class: ClassId,
        address: &str,
        options: &ghost_resource::Options,
    ) -> Result<(), ghost_resource::Error> {
        let (_direction, resource): (Direction, Box<dyn Resource>) = registry.open_class(class, address, options)?;
        self.resource = Some(resource);
        Ok(())
    }
    /// What is plugged in.
    pub fn resource(&mut self, action: Action) -> Result<&mut dyn Resource, Error> {
        match &mut self.resource {
            Some(r) => Ok(r.as_mut()),
            None => Err(failed(action, KindError::conflict("opening the ghost", "no resource is plugged into it"))),
        }
    }
}

fn failed(action: Action, what: KindError) -> Error {
    Error::Failed { action, process: String::new(), what, aftermath: "nothing was touched".to_owned() }
}

/// An error of a resource; `pid` is 0 where it is about no process yet.
pub(crate) fn of_resource(action: Action, pid: Pid, step: &str, e: ghost_resource::Error, aftermath: &str) -> Error {
    let what = KindError::new(step, e).on(pid, "");
    Error::Failed { action, process: String::new(), what, aftermath: aftermath.to_owned() }
}

/// Names the ghost in an error that is not about a process.
fn about(mut error: Error, ghost: &str) -> Error {
    if let Error::Failed { process, what, .. } = &mut error
        && process.is_empty()
        && what.pid == 0
        && what.subject.is_empty()
    {
        ghost.clone_into(&mut what.subject);
    }
    error
}

/// Extracts the process tree below `pid` into the ghost.
///
/// The tree is frozen while it is read and then does what `options.after` says. The resource is opened first: a target that
/// cannot be written is found out before anything is touched. On any error the tree runs on as before and the target is as it was.
pub fn export_process(ghost: &mut Ghost, pid: Pid, options: &ExportOptions) -> Result<Report, Error> {
    export_as(Action::Checkpoint, ghost, pid, options)
}

pub(crate) fn export_as(action: Action, ghost: &mut Ghost, pid: Pid, options: &ExportOptions) -> Result<Report, Error> {
    const RUNS_ON: &str = "no ghost was made; the process runs again";
    let out = ghost
        .resource(action)?
        .open_export()
        .map_err(|e| of_resource(action, pid, "opening where the ghost goes", e, "nothing was touched"))?;
    let mut exporting = match Exporting::begin(action, pid, options) {
        Ok(exporting) => exporting,
        Err(e) => {
            out.abort();
            return Err(e);
        }
    };
    let out = exporting.write_to(out)?;
    let hit = |point, state: &str| {
        ghost_core::failpoint::hit(point).map_err(|what| Error::Failed {
            action,
            process: format!("pid {pid}"),
            what,
            aftermath: state.to_owned(),
        })
    };
    hit("export.commit", RUNS_ON)?;
    let written = out.finish().map_err(|e| of_resource(action, pid, "completing the ghost", e, RUNS_ON))?;
    exporting.report.ghost_bytes = written.len_bytes;
    exporting.report.stage("commit");
    hit("committed", "the ghost is whole; the process runs again")?;
    exporting.end(options.after)
}

/// Makes processes of the ghost. On any error nothing is left behind and the ghost is as it was.
pub fn import_process(ghost: &mut Ghost, options: &ImportOptions) -> Result<Restored, Error> {
    import_as(Action::Restart, ghost, options)
}

pub(crate) fn import_as(action: Action, ghost: &mut Ghost, options: &ImportOptions) -> Result<Restored, Error> {
    let resource = ghost.resource(action)?;
    let label = resource.describe();
    let input = open_import_auto(resource)
        .map_err(|e| of_resource(action, 0, "opening the ghost", e, "nothing was touched"))?;
    let build = |intake: Result<Intake<'_>, KindError>| {
        intake
            .map_err(|e| failed(action, e))
            .and_then(|mut i| prepare(action, &mut i, options))
            .map_err(|e| about(e, &label))
    };
    // Read at offsets where that can be done: nothing is mapped, and the checksums are those of the very bytes that are placed.
    let prepared = if let Some(file) = input.as_file() {
        build(Intake::file(&Ahead::new(file)))?
    } else if let Some(bytes) = input.as_mapped() {
        build(Intake::whole(bytes))?
    } else {
        build(Intake::stream(Box::new(input)))?
    };
    prepared.go()
}
