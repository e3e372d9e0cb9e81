//! What stands behind a `ghost_t`: what is plugged into it, what was chosen, and what its last action told.

use crate::last::Failure;
use ghost::resource::{Direction, Layer, Options};
use ghost::{
    Action, After, Buffer, ClassId, ExportOptions, Ghost, ImportOptions, Pid, Pids, Registry, Report, Resource,
    export_process, import_process,
};
use std::collections::BTreeSet;
use std::ffi::CString;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// The classes of this program: ghost's own and those that it registered.
pub fn registry() -> MutexGuard<'static, Registry> {
    static ALL: OnceLock<Mutex<Registry>> = OnceLock::new();
    // A registration is one push at its end, so a panic before leaves it sound.
    ALL.get_or_init(|| Mutex::new(Registry::with_defaults())).lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug)]
enum Plugged {
    /// The functions of a class; the address is said apart.
    Interface(ClassId),
    /// A resource that the ghost has for itself: its own memory, the standard pipe, a plug-in's only place.
    Object(ClassId),
}

/// The options by number, as `ghost_set_option` takes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// What becomes of the source: 0 runs, 1 stopped, 2 killed.
    After,
    /// 0 the same pids, 1 new ones, 2 the same in a pid namespace.
    Pids,
    /// An image that is there is replaced.
    ReplaceImage,
    /// A process that runs under the pid is ended first.
    ReplaceProcess,
    /// The export waits until the image would survive a power cut.
    Durable,
    /// The new processes outlive the caller as nobody's special children.
    Detach,
    /// How long pids of processes that are going away are waited for.
    WaitForPidsMs,
    /// 0 none, 1 lz4, 2 zstd.
    Compress,
}

impl Choice {
    /// The choice of this number.
    pub fn of(number: u32) -> Option<Self> {
        use Choice::{After, Compress, Detach, Durable, Pids, ReplaceImage, ReplaceProcess, WaitForPidsMs};
        [After, Pids, ReplaceImage, ReplaceProcess, Durable, Detach, WaitForPidsMs, Compress]
            .get(number.checked_sub(1)? as usize)
            .copied()
    }
}

/// A ghost of a C program.
#[derive(Debug, Default)]
pub struct Handle {
    plugged: Option<Plugged>,
    address: Option<String>,
    /// The memory that is the ghost's own; it is there while the ghost is.
    memory: Buffer,
    resource: Options,
    after: After,
    pids: Pids,
    replace_process: bool,
    detach: bool,
    wait_for_pids_ms: u64,
    accept: BTreeSet<String>,
    external: Vec<String>,
    map_files: Vec<(Vec<u8>, Vec<u8>)>,
    inherit: Vec<(String, OwnedFd)>,
    /// Bytes of the ghost that was exported last.
    pub ghost_bytes: u64,
    /// What the last action lost or thought worth saying, a line each.
    pub notes: CString,
}

type Result<T> = std::result::Result<T, Failure>;

const CLASSES: &str = "DISK_WRITE, DISK_READ, MEMORY_WRITE, MEMORY_READ, NETWORK_SEND, NETWORK_RECEIVE, PIPE_WRITE, PIPE_READ, or one that was registered";

impl Handle {
    /// Plugs in the functions of a class. Where it goes is said by [`Handle::associate`], before or after.
    pub fn plug_interface(&mut self, class: ClassId) -> Result<()> {
        known(class, "plugging a resource interface")?;
        self.plugged = Some(Plugged::Interface(class));
        Ok(())
    }

    /// Plugs in a resource that needs no address.
    pub fn plug_object(&mut self, class: ClassId) -> Result<()> {
        const WHAT: &str = "plugging a resource object";
        known(class, WHAT)?;
        if matches!(class, ClassId::DISK_WRITE | ClassId::DISK_READ | ClassId::NETWORK_SEND | ClassId::NETWORK_RECEIVE)
        {
            let why = format!("{class} has no object without an address");
            return Err(Failure::usage(
                WHAT,
                &why,
                "plug its interface, and associate a file or an address to the ghost",
            ));
        }
        self.plugged = Some(Plugged::Object(class));
        Ok(())
    }

    /// Says which file or address the plugged interface works on.
    pub fn associate(&mut self, address: &str) {
        self.address = Some(address.to_owned());
    }

    /// Says which file a disk interface works on.
    pub fn associate_file(&mut self, path: &str) -> Result<()> {
        match self.plugged {
            None | Some(Plugged::Interface(ClassId::DISK_WRITE | ClassId::DISK_READ)) => {
                self.associate(path);
                Ok(())
            }
            Some(Plugged::Interface(class) | Plugged::Object(class)) => Err(Failure::usage(
                "associating a file to the ghost",
                &format!("{class} is plugged into it, which is no disk"),
                "plug DISK_WRITE or DISK_READ, or use ghost_associate_address_to_ghost",
            )),
        }
    }

    /// Chooses.
    pub fn choose(&mut self, choice: Choice, value: i64) -> Result<()> {
        let wrong = |allowed: &str| {
            let why = format!("{choice:?} cannot be {value}");
            Failure::usage("setting an option", &why, &format!("use {allowed}"))
        };
        let yes = || match value {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(wrong("0 or 1")),
        };
        match choice {
            Choice::After => {
                self.after = match value {
                    0 => After::Run,
                    1 => After::Stop,
                    2 => After::Kill,
                    _ => return Err(wrong("GHOST_AFTER_RUN, GHOST_AFTER_STOP or GHOST_AFTER_KILL")),
                }
            }
            Choice::Pids => {
                self.pids = match value {
                    0 => Pids::Same,
                    1 => Pids::New,
                    2 => Pids::Namespace,
                    _ => return Err(wrong("GHOST_PIDS_SAME, GHOST_PIDS_NEW or GHOST_PIDS_NAMESPACE")),
                }
            }
            Choice::ReplaceImage => self.resource.replace = yes()?,
            Choice::ReplaceProcess => self.replace_process = yes()?,
            Choice::Durable => self.resource.durable = yes()?,
            Choice::Detach => self.detach = yes()?,
            Choice::WaitForPidsMs => {
                self.wait_for_pids_ms = value.try_into().map_err(|_| wrong("milliseconds, from 0 on"))?
            }
            Choice::Compress => {
                self.resource.layers = match value {
                    0 => Vec::new(),
                    1 => vec![Layer::Lz4],
                    2 => vec![Layer::Zstd { level: 1 }],
                    _ => return Err(wrong("GHOST_COMPRESS_NONE, GHOST_COMPRESS_LZ4 or GHOST_COMPRESS_ZSTD")),
                }
            }
        }
        Ok(())
    }

    /// Accepts the loss of a kind, by its name.
    pub fn accept(&mut self, kind: &str) {
        self.accept.insert(kind.to_owned());
    }
    /// Leaves a description behind at the export: `pipe:[123]` or `fd:5`.
    pub fn leave(&mut self, description: &str) {
        self.external.push(description.to_owned());
    }
    /// Hands a descriptor over to the new processes, in place of one that was left behind.
    pub fn inherit(&mut self, name: &str, fd: OwnedFd) {
        self.inherit.push((name.to_owned(), fd));
    }
    /// A file has another name now.
    pub fn map_file(&mut self, old: &[u8], new: &[u8]) {
        self.map_files.push((old.to_vec(), new.to_vec()));
    }

    /// Extracts a process tree into the ghost.
    pub fn export(&mut self, pid: Pid) -> Result<()> {
        let mut ghost = self.ghost(Action::Checkpoint, Direction::Export)?;
        let report = export_process(&mut ghost, pid, &self.export_options())?;
        self.told(&report);
        Ok(())
    }

    /// Makes processes of the ghost; comes back with the pid of the root.
    pub fn import(&mut self) -> Result<Pid> {
        let mut ghost = self.ghost(Action::Restart, Direction::Import)?;
        let restored = import_process(&mut ghost, &self.import_options()?)?;
        self.told(&restored.report);
        Ok(restored.root)
    }

    /// Moves a process tree to whoever receives at the other end; comes back with its pid there.
    pub fn migrate(&mut self, pid: Pid, from_peer: OwnedFd, to_peer: OwnedFd) -> Result<Pid> {
        let (mut from, mut to) =
            (std::fs::File::from(from_peer), std::io::BufWriter::with_capacity(1 << 20, std::fs::File::from(to_peer)));
        let (report, there) = ghost::migrate(pid, &mut from, &mut to, &self.export_options())?;
        // Every word was flushed as it was said.
        let _ = to.flush();
        self.told(&report);
        Ok(there)
    }

    /// Receives a migrating process tree; comes back with its pid here.
    pub fn receive(&mut self, from_peer: OwnedFd, to_peer: OwnedFd) -> Result<Pid> {
        let (mut from, mut to) = (std::fs::File::from(from_peer), std::fs::File::from(to_peer));
        let restored = ghost::receive(&mut from, &mut to, &self.import_options()?)?;
        self.told(&restored.report);
        Ok(restored.root)
    }

    fn export_options(&self) -> ExportOptions {
        let (accept, external) = (self.accept.clone(), self.external.clone());
        ExportOptions { after: self.after, accept, external, ..ExportOptions::default() }
    }

    fn import_options(&self) -> Result<ImportOptions> {
        let clone = |(name, fd): &(String, OwnedFd)| match fd.try_clone() {
            Ok(fd) => Ok((name.clone(), fd)),
            Err(e) => Err(Failure::usage(
                "handing descriptors over",
                &e.to_string(),
                "raise the limit on open files (ulimit -n)",
            )),
        };
        Ok(ImportOptions {
            pids: self.pids,
            map_files: self.map_files.clone(),
            inherit: self.inherit.iter().map(clone).collect::<Result<_>>()?,
            accept: self.accept.clone(),
            detach: self.detach,
            replace: self.replace_process,
            wait_for_pids_ms: self.wait_for_pids_ms,
            ..ImportOptions::default()
        })
    }

    /// The ghost with its resource plugged in, for one direction.
    fn ghost(&self, action: Action, wanted: Direction) -> Result<Ghost> {
        let what = format!("{action}: opening the ghost");
        let address = match (&self.plugged, &self.address) {
            (None, _) => {
                let advice = "call ghost_plug_resource_interface or ghost_plug_resource_object first";
                return Err(Failure::usage(&what, "no resource is plugged into it", advice));
            }
            (Some(Plugged::Interface(class)), None) => {
                let why = format!("{class} is plugged into it, but no file or address was associated");
                return Err(Failure::usage(
                    &what,
                    &why,
                    "call ghost_associate_file_to_ghost or ghost_associate_address_to_ghost first",
                ));
            }
            (Some(Plugged::Interface(_)), Some(address)) => address,
            (Some(Plugged::Object(ClassId::PIPE_WRITE | ClassId::PIPE_READ)), _) => "-",
            (Some(Plugged::Object(_)), _) => "",
        };
        let (class, own) = match self.plugged {
            Some(Plugged::Object(class @ (ClassId::MEMORY_WRITE | ClassId::MEMORY_READ))) => (class, true),
            Some(Plugged::Object(class) | Plugged::Interface(class)) => (class, false),
            None => return Err(Failure::usage(&what, "no resource is plugged into it", "plug one")),
        };
        let (direction, resource): (Direction, Box<dyn Resource>) = if own {
            let memory = if self.resource.replace { self.memory.replacing() } else { self.memory.clone() };
            let direction = if class == ClassId::MEMORY_WRITE { Direction::Export } else { Direction::Import };
            (direction, ghost::resource::Layered::stack(Box::new(memory), &self.resource.layers))
        } else {
            registry().open_class(class, address, &self.resource)?
        };
        if direction != wanted {
            let (is, advice) = match direction {
                Direction::Export => {
                    ("written to", "plug the class that reads (…_READ, NETWORK_RECEIVE) before importing")
                }
                Direction::Import => {
                    ("read from", "plug the class that writes (…_WRITE, NETWORK_SEND) before exporting")
                }
            };
            return Err(Failure::usage(&what, &format!("{class} is plugged into it, which can only be {is}"), advice));
        }
        let mut ghost = Ghost::new();
        ghost.plug_boxed(resource);
        Ok(ghost)
    }

    fn told(&mut self, report: &Report) {
        self.ghost_bytes = report.ghost_bytes;
        let lines: Vec<String> =
            report.notes.iter().map(|n| format!("pid {}, {}, {}: {}", n.pid, n.kind, n.subject, n.text)).collect();
        self.notes = CString::new(lines.join("\n").replace('\0', "\u{fffd}")).unwrap_or_default();
    }
}

/// A class that somebody serves.
fn known(class: ClassId, what: &str) -> Result<()> {
    // The address is not looked at before it is opened by those that accept any; those that do not still name their class.
    let unknown = matches!(
        registry().open_class(class, "", &Options::default()),
        Err(e) if matches!(e.cause(), ghost::resource::error::Cause::UnknownClass { .. })
    );
    if unknown {
        Err(Failure::usage(what, &format!("no plug-in serves the class {class}"), &format!("use {CLASSES}")))
    } else {
        Ok(())
    }
}
