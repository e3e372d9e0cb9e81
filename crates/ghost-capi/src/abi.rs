//! The functions of `ghost.h`.
//!
//! Each one is the same three steps: look at the pointers, enter `border` (which catches panics and keeps the failure), call
//! the safe [`Handle`]. What C must promise stands in the preamble of the header (cbindgen.toml) and is what the SAFETY notes
//! of this file lean on: pointers are null or valid, strings end, a destroyed ghost is not used.
//!
//! # Safety
//!
//! Of every exported function: a `ghost` is null or one that `ghost_create_new_ghost` gave and that was not destroyed; a string is
//! null or ends with a zero byte and stays as it is during the call; a table is null or follows `ghost_plugin.h`.
#![allow(unsafe_code)] // raw pointers of C, exported names
#![allow(clippy::missing_safety_doc)] // said once, above: these comments become the header, where C programmers read them
#![allow(non_camel_case_types)] // the names are those of C

use crate::handle::{Choice, Handle, registry};
use crate::last::{self, Failure};
use ghost::ClassId;
use ghost_sys::plugin::Plugin;
use std::ffi::{CStr, c_char, c_int, c_long, c_uint, c_void};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Mutex, TryLockError};

/// Class: export over the network; the address is HOST:PORT of an importing end that listens.
pub const GHOST_NETWORK_SEND: c_uint = 1;
/// Class: import from the network; the address is HOST:PORT to listen on.
pub const GHOST_NETWORK_RECEIVE: c_uint = 2;
/// Class: export into memory. As an object it is the ghost's own and goes with it; as an interface, with a name as address,
/// it is kept for whoever imports that name until the next boot.
pub const GHOST_MEMORY_WRITE: c_uint = 3;
/// Class: import from memory, the other side of GHOST_MEMORY_WRITE.
pub const GHOST_MEMORY_READ: c_uint = 4;
/// Class: export to a file.
pub const GHOST_DISK_WRITE: c_uint = 5;
/// Class: import from a file.
pub const GHOST_DISK_READ: c_uint = 6;
/// Class: export into a pipe; the address is a descriptor number. As an object it is the standard output.
pub const GHOST_PIPE_WRITE: c_uint = 7;
/// Class: import from a pipe; the address is a descriptor number. As an object it is the standard input.
pub const GHOST_PIPE_READ: c_uint = 8;
/// The first class that is not ghost's: programmers choose theirs from here on.
pub const GHOST_FIRST_OWN_CLASS: c_uint = 0x10000;

/// Error kind: the last call worked.
pub const GHOST_OK: c_int = 0;
/// Error kind: it should have worked.
pub const GHOST_FAILED: c_int = 1;
/// Error kind: the call was wrong (a null pointer, an unknown class, nothing plugged in).
pub const GHOST_USAGE: c_int = 2;
/// Error kind: this process or ghost cannot be carried; nothing was touched.
pub const GHOST_REFUSED: c_int = 3;

/// Answer: what was being done.
pub const GHOST_ANSWER_WHAT: c_uint = 0;
/// Answer: to which process and object. Of a refusal with several reasons this and the next two have a line for each.
pub const GHOST_ANSWER_WHO: c_uint = 1;
/// Answer: why it failed.
pub const GHOST_ANSWER_WHY: c_uint = 2;
/// Answer: what the user can do.
pub const GHOST_ANSWER_TRY: c_uint = 3;
/// Answer: in what state things were left.
pub const GHOST_ANSWER_STATE: c_uint = 4;

/// Option: what becomes of the process once its ghost is whole, GHOST_AFTER_*.
pub const GHOST_OPTION_AFTER: c_uint = 1;
/// Option: which pids the new processes get, GHOST_PIDS_*.
pub const GHOST_OPTION_PIDS: c_uint = 2;
/// Option: 1 replaces an image that is there already, when the new one is whole.
pub const GHOST_OPTION_REPLACE_IMAGE: c_uint = 3;
/// Option: 1 ends a process that runs under the ghost's pid before the import.
pub const GHOST_OPTION_REPLACE_PROCESS: c_uint = 4;
/// Option: 0 does not wait until the image would survive a power cut.
pub const GHOST_OPTION_DURABLE: c_uint = 5;
/// Option: 1 if the caller is going to end before the new process does.
pub const GHOST_OPTION_DETACH: c_uint = 6;
/// Option: how many milliseconds an import waits for pids of processes that are going away.
pub const GHOST_OPTION_WAIT_FOR_PIDS_MS: c_uint = 7;
/// Option: how an export is compressed, GHOST_COMPRESS_*. An import finds it out by itself.
pub const GHOST_OPTION_COMPRESS: c_uint = 8;

/// It runs on (the default).
pub const GHOST_AFTER_RUN: c_long = 0;
/// It is left stopped, as by SIGSTOP.
pub const GHOST_AFTER_STOP: c_long = 1;
/// It ends as by SIGKILL.
pub const GHOST_AFTER_KILL: c_long = 2;
/// The same pids (the default).
pub const GHOST_PIDS_SAME: c_long = 0;
/// Any that are free: a duplicate beside the original.
pub const GHOST_PIDS_NEW: c_long = 1;
/// The same, in a pid namespace of their own.
pub const GHOST_PIDS_NAMESPACE: c_long = 2;
/// Not compressed (the default).
pub const GHOST_COMPRESS_NONE: c_long = 0;
/// LZ4, fast.
pub const GHOST_COMPRESS_LZ4: c_long = 1;
/// Zstandard, smaller.
pub const GHOST_COMPRESS_ZSTD: c_long = 2;

/// A process on its way.
#[derive(Debug)]
pub struct ghost_handle {
    inner: Mutex<Handle>,
}

/// A ghost.
pub type ghost_t = *mut ghost_handle;

/// The table of functions of a class; `ghost_plugin.h` has it.
#[derive(Debug)]
#[repr(C)]
pub struct ghost_plugin_v1 {
    _private: [u8; 0],
}

type Result<T> = std::result::Result<T, Failure>;

/// Runs what a function does; a failure or a panic becomes the last error and `or`.
fn border<T>(what: &str, or: T, body: impl FnOnce() -> Result<T>) -> T {
    let pipe = QuietPipe::begin();
    let done = catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|payload| {
        let failure = Failure::panicked(what, &*payload);
        // Whatever was thrown is ours to drop, and that may throw again.
        let _ = catch_unwind(AssertUnwindSafe(move || drop(payload)));
        Err(failure)
    });
    drop(pipe);
    match done {
        Ok(value) => {
            last::set(None);
            value
        }
        Err(failure) => {
            last::set(Some(failure));
            or
        }
    }
}

/// Keeps SIGPIPE from this thread meanwhile: a peer that hangs up is an error of the call, not the caller's end.
struct QuietPipe {
    before: libc::sigset_t,
    only_pipe: libc::sigset_t,
    was_pending: bool,
}

impl QuietPipe {
    fn begin() -> Self {
        // SAFETY: all-zero bytes are a valid (empty) sigset_t on Linux; the calls below write only to it.
        let (mut only_pipe, mut before, mut pending): (libc::sigset_t, libc::sigset_t, libc::sigset_t) =
            unsafe { std::mem::zeroed() };
        // SAFETY: each pointer is to a live sigset_t of ours; pthread_sigmask(3) changes the mask of this thread alone.
        let was_pending = unsafe {
            libc::sigemptyset(&raw mut only_pipe);
            libc::sigaddset(&raw mut only_pipe, libc::SIGPIPE);
            libc::sigpending(&raw mut pending);
            libc::pthread_sigmask(libc::SIG_BLOCK, &raw const only_pipe, &raw mut before);
            libc::sigismember(&raw const pending, libc::SIGPIPE) == 1
        };
        Self { before, only_pipe, was_pending }
    }
}

impl Drop for QuietPipe {
    fn drop(&mut self) {
        let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: all pointers are to live values of ours; sigtimedwait(2) accepts a null siginfo and returns at once.
        unsafe {
            if !self.was_pending {
                libc::sigtimedwait(&raw const self.only_pipe, std::ptr::null_mut(), &raw const now);
            }
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.before, std::ptr::null_mut());
        }
    }
}

/// Enters the border with the handle of a ghost.
///
/// # Safety
/// `ghost` is null or came from `ghost_create_new_ghost` and was not destroyed.
unsafe fn with<T>(ghost: ghost_t, what: &str, or: T, body: impl FnOnce(&mut Handle) -> Result<T>) -> T {
    border(what, or, || {
        // SAFETY: the caller's promise; the reference lives during the call, in which nobody may destroy the ghost.
        let Some(ghost) = (unsafe { ghost.as_ref() }) else { return Err(null(what, "the ghost")) };
        let mut handle = match ghost.inner.try_lock() {
            Ok(handle) => handle,
            // What a panic left half done was only about that one action.
            Err(TryLockError::Poisoned(handle)) => handle.into_inner(),
            Err(TryLockError::WouldBlock) => {
                return Err(Failure::usage(
                    what,
                    "another thread is using this ghost",
                    "give each thread a ghost of its own",
                ));
            }
        };
        body(&mut handle)
    })
}

fn null(what: &str, name: &str) -> Failure {
    Failure::usage(what, &format!("{name} is a null pointer"), "pass one that is not")
}

/// The bytes of a string of C.
///
/// # Safety
/// `string` is null or points to a string that ends with a zero byte and stays as it is during the call.
unsafe fn bytes<'a>(string: *const c_char, what: &str, name: &str) -> Result<&'a [u8]> {
    if string.is_null() {
        return Err(null(what, name));
    }
    // SAFETY: not null, and the caller's promise.
    Ok(unsafe { CStr::from_ptr(string) }.to_bytes())
}

/// A string of C that must be UTF-8.
///
/// # Safety
/// As for [`bytes`].
unsafe fn text<'a>(string: *const c_char, what: &str, name: &str) -> Result<&'a str> {
    // SAFETY: the caller's promise.
    let bytes = unsafe { bytes(string, what, name) }?;
    std::str::from_utf8(bytes).map_err(|_| Failure::usage(what, &format!("{name} is no UTF-8"), "pass UTF-8"))
}

/// A descriptor of our own for what the caller's stands for.
fn duplicate(fd: c_int, what: &str) -> Result<OwnedFd> {
    let wrong = |why: String| Failure::usage(what, &format!("descriptor {fd}: {why}"), "pass an open descriptor");
    if fd < 0 {
        return Err(wrong("it is negative".into()));
    }
    // SAFETY: not -1. Nothing but F_DUPFD_CLOEXEC is done through it, which says EBADF for a number that is not open.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    borrowed.try_clone_to_owned().map_err(|e| wrong(e.to_string()))
}

/// The version of the library, `MAJOR.MINOR.PATCH`; a constant.
#[unsafe(no_mangle)]
pub extern "C" fn ghost_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

/// Makes a ghost that holds nothing and has nothing plugged in; NULL if that fails.
#[unsafe(no_mangle)]
pub extern "C" fn ghost_create_new_ghost() -> ghost_t {
    border("creating a ghost", std::ptr::null_mut(), || {
        Ok(Box::into_raw(Box::new(ghost_handle { inner: Mutex::default() })))
    })
}

/// Gives a ghost up. Files that it was exported to stay; memory of its own (GHOST_MEMORY_WRITE as an object) goes. NULL is
/// allowed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ghost_destroy_ghost(ghost: ghost_t) {
    border("destroying a ghost", (), || {
        if !ghost.is_null() {
            // SAFETY: it came from Box::into_raw, and the caller gives it up.
            drop(unsafe { Box::from_raw(ghost) });
        }
        Ok(())
    });
}

/// Plugs the functions of a class into the ghost: where it goes to or comes from. Say the file or address with
/// `ghost_associate_file_to_ghost` or `ghost_associate_address_to_ghost`. What was plugged before is given up. Returns 0, or -1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ghost_plug_resource_interface(class_id: c_uint, ghost: ghost_t) -> c_int {
    let what = "plugging a resource interface";
    // SAFETY: the caller's promise.
    unsafe { with(ghost, what, -1, |h| h.plug_interface(ClassId(class_id)).map(|()| 0)) }
}

/// Plugs a resource that needs no address into the ghost: memory of its own, the standard pipe, the only place of a class of
/// yours. Returns 0, or -1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ghost_plug_resource_object(class_id: c_uint, ghost: ghost_t) -> c_int {
    let what = "plugging a resource object";
    // SAFETY: the caller's promise.
    unsafe { with(ghost, what, -1, |h| h.plug_object(ClassId(class_id)).map(|()| 0)) }
}

/// Says which file the plugged disk class works on; nothing is opened before the export or import. Returns 0, or -1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ghost_associate_file_to_ghost(file: *const c_char, ghost: ghost_t) -> c_int {
    let what = "associating a file to the ghost";
    // SAFETY: the caller's promises.
    unsafe { with(ghost, what, -1, |h| h.associate_file(text(file, what, "the file")?).map(|()| 0)) }
}

/// Says which address the plugged class works on: HOST:PORT, a name, a descriptor number, or what a class of yours calls an
/// address. Returns 0, or -1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ghost_associate_address_to_ghost(address: *const c_char, ghost: ghost_t) -> c_int {
    let what = "associating an address to the ghost";
    let take = |h: &mut Handle| {
        // SAFETY: the caller's promise.
        h.associate(unsafe { text(address, what, "the address") }?);
        Ok(0)
    };
    // SAFETY: the caller's promise.
    unsafe { with(ghost, what, -1, take) }
}

/// Registers a class of your own for this program: a table of functions as in `ghost_plugin.h`, with its two class ids. The
/// table and its strings must stay for ever. Returns 0, or -1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ghost_register_resource_class(table: *const ghost_plugin_v1) -> c_int {
    let what = "registering a resource class";
    border(what, -1, || {
        if table.is_null() {
            return Err(null(what, "the table"));
        }
        // SAFETY: not null, and the caller's promise, which is that of `of_table`.
        let plugin = unsafe { Plugin::of_table(table.cast::<c_void>()) }
            .map_err(|e| Failure::usage(what, &e.to_string(), "fill the table as ghost_plugin.h says"))?;
        let label = plugin.name().to_owned();
        registry().register_plugin(plugin, &label)?;
        Ok(0)
    })
}

/// Loads a class of somebody's from a shared library, as `ghost --plugin` does. Its code is trusted like your own. Returns 0,
/// or -1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ghost_load_resource_class(library: *const c_char) -> c_int {
    let what = "loading a resource class";
    border(what, -1, || {
        // SAFETY: the caller's promise.
        registry().load_plugin(Path::new(unsafe { text(library, what, "the library") }?))?;
        Ok(0)
    })
}

/// Sets an option, GHOST_OPTION_*. Returns 0, or -1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ghost_set_option(option: c_uint, value: c_long, ghost: ghost_t) -> c_int {
    let what = "setting an option";
    let set = |h: &mut Handle| {
        let unknown = || Failure::usage(what, &format!("there is no option {option}"), "use one of GHOST_OPTION_*");
        h.choose(Choice::of(option).ok_or_else(unknown)?, value).map(|()| 0)
    };
    // SAFETY: the caller's promise.
    unsafe { with(ghost, what, -1, set) }
}

/// Accepts that things of this kind are lost, at the export or the import, instead of being refused. Returns 0, or -1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ghost_accept_loss(kind: *const c_char, ghost: ghost_t) -> c_int {
    let what = "accepting a loss";
    let take = |h: &mut Handle| {
        // SAFETY: the caller's promise.
        h.accept(unsafe { text(kind, what, "the kind") }?);
        Ok(0)
    };
    // SAFETY: the caller's promise.
    unsafe { with(ghost, what, -1, take) }
}

/// Says that a file has another name where the ghost is imported. Returns 0, or -1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ghost_map_file(old_name: *const c_char, new_name: *const c_char, ghost: ghost_t) -> c_int {
    let what = "mapping a file";
    let take = |h: &mut Handle| {
        // SAFETY: the caller's promises.
        let (old, new) = unsafe { (bytes(old_name, what, "the old name")?, bytes(new_name, what, "the new name")?) };
        h.map_file(old, new);
        Ok(0)
    };
    // SAFETY: the caller's promise.
    unsafe { with(ghost, what, -1, take) }
}

/// Leaves a descriptor of the process behind at the export, `pipe:[123]` or `fd:5`; the import is handed another one by
/// `ghost_hand_over_descriptor` under the same name. Returns 0, or -1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ghost_leave_descriptor(description: *const c_char, ghost: ghost_t) -> c_int {
    let what = "leaving a descriptor behind";
    let take = |h: &mut Handle| {
        // SAFETY: the caller's promise.
        h.leave(unsafe { text(description, what, "the description") }?);
        Ok(0)
    };
    // SAFETY: the caller's promise.
    unsafe { with(ghost, what, -1, take) }
}

/// Hands a descriptor over to the new processes in place of one that was left behind; the caller keeps its own. Returns 0, or -1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ghost_hand_over_descriptor(name: *const c_char, descriptor: c_int, ghost: ghost_t) -> c_int {
    let what = "handing a descriptor over";
    let take = |h: &mut Handle| {
        // SAFETY: the caller's promise.
        h.inherit(unsafe { text(name, what, "the name") }?, duplicate(descriptor, what)?);
        Ok(0)
    };
    // SAFETY: the caller's promise.
    unsafe { with(ghost, what, -1, take) }
}

/// Looks whether the process and all below it could be exported, and touches nothing. Returns 0, or -1 with every reason in the
/// last error (GHOST_REFUSED).
#[unsafe(no_mangle)]
pub extern "C" fn ghost_check_process(process: c_int) -> c_int {
    border("checking a process", -1, || {
        let blockers = ghost::check(process)?;
        if blockers.is_empty() {
            Ok(0)
        } else {
            Err(ghost::Error::Refused { action: ghost::Action::Check, blockers }.into())
        }
    })
}

/// Extracts the process and all below it into the ghost. Returns 0, or -1; then the process runs on as before and no ghost was
/// made.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ghost_export_process(ghost: ghost_t, process: c_int) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { with(ghost, "exporting a process", -1, |h| h.export(process).map(|()| 0)) }
}

/// Makes processes of the ghost. Returns the pid of the first, which is a child of the caller (wait for it), or -1; then nothing
/// was left behind and the ghost is as it was.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ghost_import_process(ghost: ghost_t) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { with(ghost, "importing a process", -1, Handle::import) }
}

/// Moves the process and all below it to another ghost, over two descriptors (one socket may be both), with no file at either
/// end: never two run, never none. Needs no resource plugged in. Returns the pid there, or -1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ghost_migrate_process(
    ghost: ghost_t,
    process: c_int,
    from_peer: c_int,
    to_peer: c_int,
) -> c_int {
    let what = "migrating a process";
    // SAFETY: the caller's promise.
    unsafe { with(ghost, what, -1, |h| h.migrate(process, duplicate(from_peer, what)?, duplicate(to_peer, what)?)) }
}

/// Receives what `ghost_migrate_process` or `ghost migrate` sends. Returns the pid here, which is a child of the caller, or -1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ghost_receive_process(ghost: ghost_t, from_peer: c_int, to_peer: c_int) -> c_int {
    let what = "receiving a process";
    // SAFETY: the caller's promise.
    unsafe { with(ghost, what, -1, |h| h.receive(duplicate(from_peer, what)?, duplicate(to_peer, what)?)) }
}

/// The size in bytes of what this ghost exported last; 0 if nothing, or on an error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ghost_size_bytes(ghost: ghost_t) -> u64 {
    // SAFETY: the caller's promise.
    unsafe { with(ghost, "asking for the size", 0, |h| Ok(h.ghost_bytes)) }
}

/// What the last export or import of this ghost could not keep, or thought worth saying: a line each, empty if nothing. Valid
/// until the next call on this ghost; NULL on an error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ghost_notes(ghost: ghost_t) -> *const c_char {
    // SAFETY: the caller's promise.
    unsafe { with(ghost, "asking for the notes", std::ptr::null(), |h| Ok(h.notes.as_ptr())) }
}

/// What kind of error ended the last call of this thread: GHOST_OK, GHOST_FAILED, GHOST_USAGE or GHOST_REFUSED.
#[unsafe(no_mangle)]
pub extern "C" fn ghost_error_kind() -> c_int {
    last::kind()
}

/// The last error of this thread, with its five answers in lines for people; empty if the last call worked. Valid until the
/// next call of this thread.
#[unsafe(no_mangle)]
pub extern "C" fn ghost_last_error() -> *const c_char {
    last::text(None)
}

/// One of the five answers of the last error of this thread, GHOST_ANSWER_*; empty where there is none. Valid until the next
/// call of this thread.
#[unsafe(no_mangle)]
pub extern "C" fn ghost_error_answer(answer: c_uint) -> *const c_char {
    last::text(Some(answer as usize))
}
