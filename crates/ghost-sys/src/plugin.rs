//! Plug-ins in shared libraries: loading one, checking its table, calling it.
//!
//! The interface is `include/ghost_plugin.h`, and this file is its other side: [`Plugin::load`] maps the library
//! (`dlopen(3)`), asks its one symbol for the table, and copies the table, so that nothing can change later. Every
//! call checks what came back before it is believed: codes, counts, null pointers, text. A library is never unloaded,
//! because nobody can know what of it is still in use.
//!
//! Loading code is trusting it. What the checks find is a plug-in's mistake, not its malice; a library that writes
//! where it must not, or ends the process, cannot be held back from inside the same process.
#![allow(unsafe_code)] // dlopen(3), and calls through the table of a foreign library

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::Path;
use std::ptr::NonNull;

/// The version of the table that is spoken here.
pub const ABI_VERSION: u32 = 1;
/// The symbol that gives the table.
const ENTRY: &[u8] = b"ghost_plugin_v1_entry\0";
/// Room for a plug-in's own words about a failure.
const ERROR_BYTES: usize = 1024;
/// More images than this are taken for a loop.
const ENTRIES_MAX: usize = 1 << 20;

const REPLACE: u32 = 1;
const DURABLE: u32 = 2;

/// What went wrong at the plug-in's side.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PluginError {
    /// The library cannot be loaded, or is no plug-in that can be used here.
    #[error("{0}")]
    Unusable(String),
    /// It failed, for the reason that it gives.
    #[error("{0}")]
    Failed(String),
    /// There is an image already.
    #[error("it exists already")]
    Exists,
    /// There is no such image.
    #[error("there is no such image")]
    Missing,
    /// It answered what it must not answer.
    #[error("{0}")]
    Misbehaved(String),
}

type Result<T> = std::result::Result<T, PluginError>;

/// `ghost_plugin_entry_fn`.
type EntryFn = extern "C" fn(*mut c_void, *const c_char, u64, i64);

/// `struct ghost_plugin_written`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// All bytes that were taken.
    pub len_bytes: u64,
    /// 1 if the image would survive a power cut.
    pub durable: u32,
    reserved: u32,
}

/// `struct ghost_plugin_v1`, each function possibly null as far as the compiler knows.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Table {
    abi_version: u32,
    size: u32,
    name: *const c_char,
    scheme: *const c_char,
    class_write: u32,
    class_read: u32,
    open_export: Option<unsafe extern "C" fn(*const c_char, u32, *mut *mut c_void, *mut c_char, usize) -> c_int>,
    write: Option<unsafe extern "C" fn(*mut c_void, *const c_void, usize, *mut c_char, usize) -> i64>,
    finish: Option<unsafe extern "C" fn(*mut c_void, *mut Written, *mut c_char, usize) -> c_int>,
    abort: Option<unsafe extern "C" fn(*mut c_void)>,
    open_import: Option<unsafe extern "C" fn(*const c_char, *mut *mut c_void, *mut c_char, usize) -> c_int>,
    read: Option<unsafe extern "C" fn(*mut c_void, *mut c_void, usize, *mut c_char, usize) -> i64>,
    close: Option<unsafe extern "C" fn(*mut c_void)>,
    list: Option<unsafe extern "C" fn(*const c_char, EntryFn, *mut c_void, *mut c_char, usize) -> c_int>,
    exists: Option<unsafe extern "C" fn(*const c_char, *mut c_char, usize) -> c_int>,
    remove: Option<unsafe extern "C" fn(*const c_char, *mut c_char, usize) -> c_int>,
}

const _: () = assert!(size_of::<Table>() == 2 * 4 + 2 * 8 + 2 * 4 + 10 * 8 && size_of::<Written>() == 16);

/// A loaded plug-in whose table was checked.
#[derive(Debug, Clone)]
pub struct Plugin {
    table: Table,
    name: String,
    scheme: String,
}

// SAFETY: the table is a copy; its strings are copied into `name` and `scheme`, its functions may be called from any
// thread and at the same time (ghost_plugin.h, rules). The two string pointers are not used after `load`.
unsafe impl Send for Plugin {}
// SAFETY: as above.
unsafe impl Sync for Plugin {}

impl Plugin {
    /// Loads the library and checks the table that it gives.
    pub fn load(path: &Path) -> Result<Self> {
        let unusable = |why: String| PluginError::Unusable(why);
        // A path with a slash is what keeps dlopen(3) from searching elsewhere for a file of that name.
        let path = path.canonicalize().map_err(|e| unusable(e.to_string()))?;
        use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
        // SAFETY: this runs the library's initialisers; the caller asked for this very code, which is trusted like
        // ours (module page).
        let library = unsafe { Library::open(Some(&path), RTLD_NOW | RTLD_LOCAL) };
        let library = library.map_err(|e| {
            unusable(format!(
                "it cannot be loaded: {}",
                std::error::Error::source(&e).map_or(e.to_string(), ToString::to_string)
            ))
        })?;
        let entry = {
            // SAFETY: the symbol's type is the one that ghost_plugin.h gives it; the pointer is used while the
            // library is loaded, which is for ever.
            let symbol = unsafe { library.get::<unsafe extern "C" fn(u32) -> *const Table>(ENTRY) };
            *symbol.map_err(|_| unusable("it is no plug-in: it has no symbol ghost_plugin_v1_entry".into()))?
        };
        std::mem::forget(library);
        // SAFETY: the entry takes a number and gives a pointer to a constant table, or null (ghost_plugin.h).
        let table = unsafe { entry(ABI_VERSION) };
        if table.is_null() || !table.is_aligned() {
            return Err(unusable(format!("it refuses version {ABI_VERSION} of the interface")));
        }
        // SAFETY: not null, aligned, and what the entry of a library that is never unloaded gave (ghost_plugin.h).
        unsafe { Self::of_table(table.cast()) }
    }

    /// Checks a `struct ghost_plugin_v1` of this very program, and copies it.
    ///
    /// # Safety
    /// `table` is null or points to such a struct, whose strings and functions stay as they are for ever and follow the
    /// rules of `ghost_plugin.h`.
    pub unsafe fn of_table(table: *const c_void) -> Result<Self> {
        let unusable = |why: String| PluginError::Unusable(why);
        let table = table.cast::<Table>();
        if table.is_null() || !table.is_aligned() {
            return Err(unusable("its table is a null pointer, or not aligned".into()));
        }
        // SAFETY: not null, aligned, and any table of any version begins with these two numbers.
        let (version, size) = unsafe { ((*table).abi_version, (*table).size) };
        if version != ABI_VERSION {
            return Err(unusable(format!("it speaks version {version} of the interface, not {ABI_VERSION}")));
        }
        if (size as usize) < size_of::<Table>() {
            return Err(unusable(format!("its table has {size} bytes, not {}", size_of::<Table>())));
        }
        // SAFETY: the table has at least the size of ours, by its own word; all bit patterns are valid in it.
        let table = unsafe { *table };
        let plugin = Self { name: text(table.name, 127, "name")?, scheme: text(table.scheme, 31, "scheme")?, table };
        plugin.check()?;
        Ok(plugin)
    }

    fn check(&self) -> Result<()> {
        let t = &self.table;
        let needed = [
            (t.open_export.is_some(), "open_export"),
            (t.write.is_some(), "write"),
            (t.finish.is_some(), "finish"),
            (t.abort.is_some(), "abort"),
            (t.open_import.is_some(), "open_import"),
            (t.read.is_some(), "read"),
            (t.close.is_some(), "close"),
        ];
        if let Some((_, name)) = needed.iter().find(|(there, _)| !there) {
            return Err(PluginError::Unusable(format!("its function {name} is missing")));
        }
        let store = [t.list.is_some(), t.exists.is_some(), t.remove.is_some()];
        if store.contains(&true) && store.contains(&false) {
            return Err(PluginError::Unusable("it has some of list, exists and remove, but not all".into()));
        }
        Ok(())
    }

    /// Name and version, for messages.
    pub fn name(&self) -> &str {
        &self.name
    }
    /// The scheme of its URLs.
    pub fn scheme(&self) -> &str {
        &self.scheme
    }
    /// Its class ids for export and import.
    pub fn classes(&self) -> (u32, u32) {
        (self.table.class_write, self.table.class_read)
    }
    /// It can list, look for and remove images.
    pub fn keeps_images(&self) -> bool {
        self.table.list.is_some()
    }

    /// Opens a stream into the plug-in.
    pub fn open_export(&self, address: &str, replace: bool, durable: bool) -> Result<ExportStream> {
        let address = c_string(address)?;
        let flags = (u32::from(replace) * REPLACE) | (u32::from(durable) * DURABLE);
        let open = self.table.open_export.ok_or_else(missing)?;
        let mut stream = std::ptr::null_mut();
        let mut error = ErrorText::new();
        // SAFETY: `address` and `error` live through the call and have the lengths that are passed; `stream` is
        // ours to be written (ghost_plugin.h, open_export).
        let code = unsafe { open(address.as_ptr(), flags, &raw mut stream, error.as_ptr(), error.room()) };
        error.check(code.into())?;
        Ok(ExportStream { table: self.table, stream: Some(opened(stream)?) })
    }

    /// Opens a stream out of the plug-in.
    pub fn open_import(&self, address: &str) -> Result<ImportStream> {
        let address = c_string(address)?;
        let open = self.table.open_import.ok_or_else(missing)?;
        let mut stream = std::ptr::null_mut();
        let mut error = ErrorText::new();
        // SAFETY: as in `open_export`.
        let code = unsafe { open(address.as_ptr(), &raw mut stream, error.as_ptr(), error.room()) };
        error.check(code.into())?;
        Ok(ImportStream { table: self.table, stream: opened(stream)?, bad: false })
    }

    /// All images at the address: URL, length, and seconds since 1970 where they are known.
    pub fn list(&self, address: &str) -> Result<Vec<(String, u64, Option<u64>)>> {
        let address = c_string(address)?;
        let list = self.table.list.ok_or_else(missing)?;
        let mut found = Found { all: Vec::new(), wrong: None };
        let mut error = ErrorText::new();
        let context = (&raw mut found).cast();
        // SAFETY: strings as in `open_export`; `take_entry` expects the `Found` that `context` points to, which
        // outlives the call and is not used otherwise meanwhile; the plug-in calls back only during the call.
        let code = unsafe { list(address.as_ptr(), take_entry, context, error.as_ptr(), error.room()) };
        error.check(code.into())?;
        match found.wrong {
            Some(wrong) => Err(PluginError::Misbehaved(wrong)),
            None => Ok(found.all),
        }
    }

    /// The image is there.
    pub fn exists(&self, address: &str) -> Result<bool> {
        let address = c_string(address)?;
        let exists = self.table.exists.ok_or_else(missing)?;
        let mut error = ErrorText::new();
        // SAFETY: strings as in `open_export`.
        match unsafe { exists(address.as_ptr(), error.as_ptr(), error.room()) } {
            1 => Ok(true),
            code => error.check(code.into()).map(|()| false),
        }
    }

    /// Removes the image.
    pub fn remove(&self, address: &str) -> Result<()> {
        let address = c_string(address)?;
        let remove = self.table.remove.ok_or_else(missing)?;
        let mut error = ErrorText::new();
        // SAFETY: strings as in `open_export`.
        let code = unsafe { remove(address.as_ptr(), error.as_ptr(), error.room()) };
        error.check(code.into())
    }
}

/// A stream into a plug-in; aborted on drop.
#[derive(Debug)]
pub struct ExportStream {
    table: Table,
    /// Gone once the plug-in has ended it.
    stream: Option<NonNull<c_void>>,
}

// SAFETY: a stream may be used by any thread, one at a time (ghost_plugin.h, rules); no method takes `&self`.
unsafe impl Send for ExportStream {}

impl ExportStream {
    /// Gives bytes to the plug-in; comes back with how many it took.
    pub fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        let (Some(stream), Some(write)) = (self.stream, self.table.write) else { return Err(missing()) };
        let mut error = ErrorText::new();
        // SAFETY: the stream is one that `open_export` gave and nobody ended; `bytes` and `error` are as long as
        // said and live through the call; the plug-in only reads `bytes` (ghost_plugin.h, write).
        let done = unsafe { write(stream.as_ptr(), bytes.as_ptr().cast(), bytes.len(), error.as_ptr(), error.room()) };
        error.count(done, bytes.len(), "wrote")
    }

    /// Ends the export; the image is there.
    pub fn finish(mut self) -> Result<Written> {
        let (Some(stream), Some(finish)) = (self.stream.take(), self.table.finish) else { return Err(missing()) };
        let mut written = Written { len_bytes: 0, durable: 0, reserved: 0 };
        let mut error = ErrorText::new();
        // SAFETY: the stream is one that `open_export` gave; it is taken out of `self`, so this call, which ends it
        // whatever comes back, is the last. `written` is ours to be written.
        let code = unsafe { finish(stream.as_ptr(), &raw mut written, error.as_ptr(), error.room()) };
        error.check(code.into())?;
        if written.durable > 1 {
            return Err(PluginError::Misbehaved(format!("it gave {} for durable, not 0 or 1", written.durable)));
        }
        Ok(written)
    }
}

impl Drop for ExportStream {
    fn drop(&mut self) {
        if let (Some(stream), Some(abort)) = (self.stream.take(), self.table.abort) {
            // SAFETY: the stream was not ended yet, and is not used again.
            unsafe { abort(stream.as_ptr()) };
        }
    }
}

/// A stream out of a plug-in; closed on drop.
#[derive(Debug)]
pub struct ImportStream {
    table: Table,
    stream: NonNull<c_void>,
    /// It answered nonsense and is not read from again.
    bad: bool,
}

// SAFETY: as for `ExportStream`.
unsafe impl Send for ImportStream {}

impl ImportStream {
    /// Takes bytes from the plug-in; none means that the image ends.
    pub fn read(&mut self, into: &mut [u8]) -> Result<usize> {
        if into.is_empty() {
            return Ok(0);
        }
        if self.bad {
            return Err(PluginError::Misbehaved("it is not read from again".into()));
        }
        let read = self.table.read.ok_or_else(missing)?;
        let mut error = ErrorText::new();
        // SAFETY: the stream is one that `open_import` gave and lives until drop; `into` and `error` are ours to be
        // written, as long as said (ghost_plugin.h, read).
        let done =
            unsafe { read(self.stream.as_ptr(), into.as_mut_ptr().cast(), into.len(), error.as_ptr(), error.room()) };
        let done = match done {
            0 => Ok(0),
            done => error.count(done, into.len(), "read"),
        };
        self.bad = matches!(done, Err(PluginError::Misbehaved(_)));
        done
    }
}

impl Drop for ImportStream {
    fn drop(&mut self) {
        if let Some(close) = self.table.close {
            // SAFETY: nothing else ended the stream, and it is not used again.
            unsafe { close(self.stream.as_ptr()) };
        }
    }
}

/// What `list` told.
struct Found {
    all: Vec<(String, u64, Option<u64>)>,
    wrong: Option<String>,
}

/// Takes one image from a plug-in's `list`.
extern "C" fn take_entry(context: *mut c_void, url: *const c_char, len_bytes: u64, modified_s: i64) {
    let Some(found) = NonNull::new(context.cast::<Found>()) else { return };
    // SAFETY: `list` passed a pointer to a `Found` of its own that nobody uses meanwhile, and the plug-in gives it
    // back unchanged, during that call, from one thread (ghost_plugin.h, list).
    let found = unsafe { &mut *found.as_ptr() };
    match text(url, 8191, "URL") {
        _ if found.all.len() == ENTRIES_MAX => found.wrong = Some(format!("it lists more than {ENTRIES_MAX} images")),
        Ok(url) => found.all.push((url, len_bytes, u64::try_from(modified_s).ok())),
        Err(error) => found.wrong = Some(error.to_string()),
    }
}

/// Room for a plug-in's words, filled with zeros so that they always end.
struct ErrorText([u8; ERROR_BYTES]);

impl ErrorText {
    fn new() -> Self {
        Self([0; ERROR_BYTES])
    }
    fn as_ptr(&mut self) -> *mut c_char {
        self.0.as_mut_ptr().cast()
    }
    /// One less than there is: the last byte stays zero.
    fn room(&self) -> usize {
        ERROR_BYTES - 1
    }

    /// The words, without what could play tricks with a terminal.
    fn words(&self) -> String {
        let end = self.0.iter().position(|b| *b == 0).unwrap_or(ERROR_BYTES);
        let words: String =
            String::from_utf8_lossy(&self.0[..end]).chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        if words.trim().is_empty() { "it gave no reason".into() } else { words.trim().into() }
    }

    /// An answer that is a code and nothing else.
    fn check(&self, code: i64) -> Result<()> {
        match code {
            0 => Ok(()),
            -1 => Err(PluginError::Failed(self.words())),
            -2 => Err(PluginError::Exists),
            -3 => Err(PluginError::Missing),
            other => Err(PluginError::Misbehaved(format!("it returned {other}, which means nothing"))),
        }
    }

    /// An answer that is a count from 1 to `most`, or a code.
    fn count(&self, answer: i64, most: usize, did: &str) -> Result<usize> {
        match usize::try_from(answer) {
            Ok(0) => Err(PluginError::Misbehaved(format!("it says it {did} 0 bytes of {most}"))),
            Ok(count) if count <= most => Ok(count),
            Ok(count) => Err(PluginError::Misbehaved(format!("it says it {did} {count} bytes of {most}"))),
            Err(_) => self.check(answer).map(|()| 0),
        }
    }
}

/// A string of the plug-in's, at most `most` bytes long.
fn text(start: *const c_char, most: usize, what: &str) -> Result<String> {
    if start.is_null() {
        return Err(PluginError::Unusable(format!("its {what} is a null pointer")));
    }
    // SAFETY: not null; the plug-in promises a string that ends with a zero byte (ghost_plugin.h, rules), and
    // strnlen(3) reads no byte behind that one, nor more than `most + 1`.
    let len = unsafe { libc::strnlen(start, most + 1) };
    if len == 0 || len > most {
        return Err(PluginError::Unusable(format!("its {what} is empty or longer than {most} bytes")));
    }
    // SAFETY: strnlen(3) found a zero byte right behind `len` bytes.
    let bytes = unsafe { CStr::from_ptr(start) };
    match bytes.to_str() {
        Ok(text) if !text.contains(char::is_control) => Ok(text.into()),
        _ => Err(PluginError::Unusable(format!("its {what} is no printable UTF-8"))),
    }
}

fn c_string(address: &str) -> Result<CString> {
    CString::new(address).map_err(|_| PluginError::Failed("an address cannot hold a zero byte".into()))
}

/// What `open_*` stored, which must be something.
fn opened(stream: *mut c_void) -> Result<NonNull<c_void>> {
    NonNull::new(stream).ok_or_else(|| PluginError::Misbehaved("it opened a stream, but gave a null pointer".into()))
}

/// `load` checked that it is there; only optional functions come here.
fn missing() -> PluginError {
    PluginError::Failed("it has no such function".into())
}
