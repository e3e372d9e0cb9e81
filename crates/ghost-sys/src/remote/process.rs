//! How a process under construction comes into the world, and how it leaves it when something fails.

#![allow(unsafe_code)]

use super::{RemoteAddr, RemoteError, StubLayout};
use crate::clone3::{self, CLONE_CLEAR_SIGHAND, CLONE_INTO_CGROUP, CloneArgs};
use crate::errno::cvt;
use crate::ptrace::{self, Running, Stop, Stopped, Waited};
use crate::{Errno, Pid, Result as SysResult, arch, pidfd};
use std::collections::HashSet;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::{Arc, Mutex, PoisonError};

const PAGE: usize = 4096;
/// Size of an ELF header and of a program header.
const EHDR: usize = 64;
const PHDR: usize = 56;
const CODE_AT: usize = (EHDR + 3 * PHDR).next_multiple_of(16);
const CHILD_STACK: usize = 32 << 10;

fn step(step: &'static str) -> impl Fn(Errno) -> RemoteError {
    move |errno| RemoteError::Step { step, errno }
}

/// Addresses in a stub's page of code.
#[derive(Clone, Copy, Debug)]
pub(super) struct StubPlaces {
    /// The trap at which a batch ends, and at which the program starts.
    pub trap: u64,
    /// The sleep in which a batch ends when it must not trap.
    pub sleep: u64,
    /// The code that walks records.
    pub exec: u64,
}

impl StubPlaces {
    pub(super) fn of(layout: StubLayout) -> Self {
        let code = arch::stub_code();
        let at = layout.base.0 + CODE_AT as u64;
        Self { trap: at + code.trap, sleep: at + code.sleep, exec: at + code.exec }
    }
}

/// A static program of one page of code and `data_len` bytes of zeroes behind it, linked to run at `layout`.
pub(super) fn image(layout: StubLayout) -> Vec<u8> {
    let code = arch::stub_code();
    elf(layout, &code.bytes, code.trap)
}

/// The same of any code, which begins at this offset.
fn elf(layout: StubLayout, code: &[u8], entry: u64) -> Vec<u8> {
    let base = layout.base.0;
    let mut out = Vec::with_capacity(PAGE);
    let put = |out: &mut Vec<u8>, value: u64, len: usize| out.extend_from_slice(&value.to_le_bytes()[..len]);
    out.extend_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    let (exec, version) = (2, 1);
    put(&mut out, exec, 2);
    put(&mut out, arch::ELF_MACHINE.into(), 2);
    put(&mut out, version, 4);
    put(&mut out, base + CODE_AT as u64 + entry, 8);
    put(&mut out, EHDR as u64, 8);
    put(&mut out, 0, 8);
    put(&mut out, 0, 4);
    for half in [EHDR, PHDR, 3, 0, 0, 0] {
        put(&mut out, half as u64, 2);
    }
    let (load, gnu_stack) = (1, 0x6474_e551);
    let total = (CODE_AT + code.len()) as u64;
    let (readable, writable, executable) = (4, 2, 1);
    for (kind, flags, addr, filesz, memsz) in [
        (load, readable | executable, base, total, total),
        (load, readable | writable, base + PAGE as u64, 0, layout.data_len),
        (gnu_stack, readable | writable, 0, 0, 0),
    ] {
        put(&mut out, kind, 4);
        put(&mut out, flags, 4);
        for word in [0, addr, addr, filesz, memsz, PAGE as u64] {
            put(&mut out, word, 8);
        }
    }
    out.resize(CODE_AT, 0);
    out.extend_from_slice(code);
    out
}

/// A program that ends as soon as it begins, to be executed by its descriptor.
pub(crate) fn ending_program() -> SysResult<OwnedFd> {
    executable(&elf(StubLayout { base: RemoteAddr(0x40_0000), data_len: PAGE as u64 }, arch::EXIT, 0))
}

/// A descriptor from which the image can be executed: nobody holds it open for writing.
fn image_file(layout: StubLayout) -> SysResult<OwnedFd> {
    executable(&image(layout))
}

fn executable(image: &[u8]) -> SysResult<OwnedFd> {
    const MFD_EXEC: u32 = 0x10;
    let create = |flags: u32| {
        // SAFETY: a constant string; the result is a new descriptor that nobody else owns.
        cvt(unsafe { libc::memfd_create(c"ghost-stub".as_ptr(), flags) } as i64)
            .map(|fd| unsafe { std::fs::File::from_raw_fd(fd as RawFd) })
    };
    // Before Linux 6.3 there is no such flag, and no need of it.
    let mut file = create(libc::MFD_CLOEXEC | MFD_EXEC).or_else(|_| create(libc::MFD_CLOEXEC))?;
    file.write_all(image)?;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(std::fs::File::open(path)?.into())
}

/// What the child needs between clone3 and exec; it shares our memory, so it only reads this and makes raw system calls.
#[repr(C)]
struct Plan {
    go: RawFd,
    go_writer: RawFd,
    image: RawFd,
    argv: [*const u8; 2],
    /// Ranges of descriptors to be closed.
    close: *const (u32, u32),
    close_len: usize,
    keep: *const RawFd,
    keep_len: usize,
}

unsafe extern "C" fn child(data: *const u8) -> ! {
    let plan = data.cast::<Plan>();
    // SAFETY: the parent keeps the plan and all that it points at until we have executed the image or ended. Raw system calls
    // touch neither errno nor any lock of the parent.
    unsafe {
        let p = &*plan;
        let leave = |error: i64| -> ! {
            loop {
                clone3::raw(libc::SYS_exit_group, (-error) as u64, 0, 0, 0, 0);
            }
        };
        clone3::raw(libc::SYS_close, p.go_writer as u64, 0, 0, 0, 0);
        let mut byte = 0_u8;
        // The parent lets us go once it traces us; if it dies, this reads the end of the pipe.
        if clone3::raw(libc::SYS_read, p.go as u64, (&raw mut byte) as u64, 1, 0, 0) != 1 {
            leave(-i64::from(libc::EPIPE));
        }
        let mut i = 0;
        while i < p.close_len {
            let (first, last) = *p.close.add(i);
            clone3::raw(libc::SYS_close_range, first.into(), last.into(), 0, 0, 0);
            i += 1;
        }
        let mut i = 0;
        while i < p.keep_len {
            clone3::raw(libc::SYS_fcntl, *p.keep.add(i) as u64, libc::F_SETFD as u64, 0, 0, 0);
            i += 1;
        }
        // CLONE_CLEAR_SIGHAND has cleared handlers but not what is ignored.
        let default = [0_u64; 4];
        let mut signal = 1;
        while signal <= 64 {
            clone3::raw(libc::SYS_rt_sigaction, signal, default.as_ptr() as u64, 0, 8, 0);
            signal += 1;
        }
        let none = 0_u64;
        clone3::raw(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK as u64, (&raw const none) as u64, 0, 8, 0);
        let empty = (&raw const p.argv[1]) as u64;
        let path = c"".as_ptr() as u64;
        let flags = libc::AT_EMPTY_PATH as u64;
        leave(clone3::raw(libc::SYS_execveat, p.image as u64, path, p.argv.as_ptr() as u64, empty, flags))
    }
}

/// The gaps between the descriptors that stay.
fn gaps(stay: &[RawFd]) -> Vec<(u32, u32)> {
    let mut sorted: Vec<u32> = stay.iter().map(|f| *f as u32).collect();
    sorted.sort_unstable();
    let mut next = 0;
    let mut out = Vec::new();
    for fd in sorted {
        if fd > next {
            out.push((next, fd - 1));
        }
        next = next.max(fd + 1);
    }
    out.push((next, u32::MAX));
    out
}

/// How a process is to be made.
pub(super) struct Birth<'a> {
    pub pids: &'a [Pid],
    pub flags: u64,
    pub exit_signal: u32,
    pub cgroup: Option<RawFd>,
    pub keep: &'a [RawFd],
}

/// Options under which all stubs are traced: events of their children, and death with ghost.
const OPTIONS: i32 = libc::PTRACE_O_EXITKILL
    | libc::PTRACE_O_TRACESYSGOOD
    | libc::PTRACE_O_TRACECLONE
    | libc::PTRACE_O_TRACEFORK
    | libc::PTRACE_O_TRACEVFORK;

/// Makes a process that has executed the image and stands at its first trap.
pub(super) fn spawn(layout: StubLayout, birth: &Birth<'_>) -> Result<(Stopped, Arc<Process>), RemoteError> {
    let image = image_file(layout).map_err(step("making the stub's program"))?;
    // The image lies at a fixed place; the kernel has put the stack at a random one before. They meet rarely, and not twice.
    let mut attempts = 0;
    loop {
        attempts += 1;
        match spawn_once(&image, birth) {
            Err(RemoteError::Died(status)) if libc::WIFSIGNALED(status) && attempts < 8 => {}
            other => return other,
        }
    }
}

fn spawn_once(image: &OwnedFd, birth: &Birth<'_>) -> Result<(Stopped, Arc<Process>), RemoteError> {
    let (go, go_writer) = pipe().map_err(step("making a pipe"))?;
    let mut stay = birth.keep.to_vec();
    stay.extend([go.as_raw_fd(), image.as_raw_fd()]);
    let close = gaps(&stay);
    let plan = Plan {
        go: go.as_raw_fd(),
        go_writer: go_writer.as_raw_fd(),
        image: image.as_raw_fd(),
        argv: [c"ghost-stub".as_ptr().cast(), std::ptr::null()],
        close: close.as_ptr(),
        close_len: close.len(),
        keep: birth.keep.as_ptr(),
        keep_len: birth.keep.len(),
    };
    let mut stack = vec![0_u128; CHILD_STACK / 16];
    let mut args = CloneArgs {
        flags: birth.flags | libc::CLONE_VM as u64 | CLONE_CLEAR_SIGHAND,
        exit_signal: birth.exit_signal.into(),
        stack: stack.as_mut_ptr() as u64,
        stack_size: CHILD_STACK as u64,
        set_tid: birth.pids.as_ptr() as u64,
        set_tid_size: birth.pids.len() as u64,
        ..CloneArgs::default()
    };
    if args.set_tid_size == 0 {
        args.set_tid = 0;
    }
    if let Some(cgroup) = birth.cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup as u64;
    }
    let make = |args: &CloneArgs| {
        // SAFETY: the stack is ours and unused; plan, stack, descriptors and the vectors live until the end of this function, where
        // the child has executed its image or ended; `child` makes only raw system calls.
        unsafe { clone3::spawn(args, child, (&raw const plan).cast()) }
    };
    let pid = match make(&args) {
        // A caller that has a time namespace prepared may not share its memory with a child.
        Err(Errno(libc::EINVAL)) => {
            args.flags &= !(libc::CLONE_VM as u64);
            make(&args)
        }
        other => other,
    }
    .map_err(step("making a process (clone3)"))?;
    // It may use our stack until it has ended.
    let mut born = Newborn::new(pid);
    let fail = step("starting the stub's program");
    let running = ptrace::seize(pid, OPTIONS | libc::PTRACE_O_TRACEEXEC).map_err(step("tracing the new process"))?;
    let mut writer = std::fs::File::from(go_writer);
    writer.write_all(&[1]).map_err(|e| fail(e.into()))?;
    let mut thread = expect(running, &mut born, |s| matches!(s, Stop::Event(libc::PTRACE_EVENT_EXEC, _)))?;
    thread.set_options(OPTIONS).map_err(&fail)?;
    // It executes the trap at its entry.
    thread = expect(thread.resume(0).map_err(&fail)?, &mut born, |s| s == Stop::Signal(libc::SIGTRAP))?;
    thread.swallow();
    let process = Process::new(pid).map_err(&fail)?;
    born.disarm();
    drop(stack);
    Ok((thread, process))
}

/// Waits for the stop wanted, letting it pass others.
fn expect(running: Running, born: &mut Newborn, want: impl Fn(Stop) -> bool) -> Result<Stopped, RemoteError> {
    let fail = step("starting the stub's program");
    let mut running = running;
    loop {
        match running.wait().map_err(&fail)? {
            Waited::Stopped(s, stop) if want(stop) => return Ok(s),
            Waited::Stopped(s, _) => running = s.resume(0).map_err(&fail)?,
            Waited::Gone(status) => {
                born.armed = false;
                if libc::WIFEXITED(status) {
                    return Err(fail(Errno(libc::WEXITSTATUS(status))));
                }
                return Err(RemoteError::Died(status));
            }
        }
    }
}

fn pipe() -> SysResult<(OwnedFd, OwnedFd)> {
    let mut fds = [0; 2];
    // SAFETY: room for two descriptors.
    cvt(unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC) } as i64)?;
    // SAFETY: both are new and nobody else owns them.
    Ok(unsafe { (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])) })
}

/// A child between clone3 and its first stop, which nobody holds yet: dropped, it is killed and waited for.
pub(super) struct Newborn {
    pid: Pid,
    armed: bool,
}

impl Newborn {
    pub(super) fn new(pid: Pid) -> Self {
        Self { pid, armed: true }
    }
    pub(super) fn pid(&self) -> Pid {
        self.pid
    }
    /// Somebody holds it from here on, or it has ended and been reaped.
    pub(super) fn disarm(mut self) {
        self.armed = false;
    }
}

impl Drop for Newborn {
    fn drop(&mut self) {
        if self.armed {
            // SAFETY: takes numbers only. We trace the child, so nobody can reap it before us: the pid is still its own.
            unsafe { libc::kill(self.pid, libc::SIGKILL) };
            wait_end(self.pid);
        }
    }
}

fn wait_end(tid: Pid) {
    while let Ok(Some(status)) = ptrace::wait_status(tid, 0) {
        if !libc::WIFSTOPPED(status) {
            break;
        }
    }
}

/// A process under construction: killed and reaped when one of its stubs is dropped.
#[derive(Debug)]
pub(super) struct Process {
    pid: Pid,
    pidfd: OwnedFd,
    threads: Mutex<Threads>,
}

#[derive(Debug, Default)]
struct Threads {
    others: HashSet<Pid>,
    leader_waits: bool,
}

impl Process {
    pub(super) fn new(pid: Pid) -> SysResult<Arc<Self>> {
        Ok(Arc::new(Self { pid, pidfd: pidfd::open(pid)?, threads: Mutex::default() }))
    }
}

/// One thread's claim on its process.
#[derive(Debug)]
pub(super) struct Guard {
    process: Arc<Process>,
    tid: Pid,
    armed: bool,
}

impl Guard {
    pub(super) fn new(process: &Arc<Process>, tid: Pid) -> Self {
        if tid != process.pid {
            process.threads.lock().unwrap_or_else(PoisonError::into_inner).others.insert(tid);
        }
        Self { process: Arc::clone(process), tid, armed: true }
    }
    pub(super) fn process(&self) -> &Arc<Process> {
        &self.process
    }
    /// The thread lives on without us, or has ended and been reaped.
    pub(super) fn disarm(&mut self) {
        self.armed = false;
        self.process.threads.lock().unwrap_or_else(PoisonError::into_inner).others.remove(&self.tid);
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if !self.armed {
            return;
        }
        // It may have ended already.
        let _ = pidfd::signal(self.process.pidfd.as_fd(), libc::SIGKILL);
        let mut threads = self.process.threads.lock().unwrap_or_else(PoisonError::into_inner);
        // A leader cannot be reaped before its threads: whoever is dropped last does it.
        if self.tid == self.process.pid {
            threads.leader_waits = true;
        } else {
            wait_end(self.tid);
            threads.others.remove(&self.tid);
        }
        if threads.leader_waits && threads.others.is_empty() {
            wait_end(self.process.pid);
        }
    }
}

/// The mappings of a process that exec made and that a stub does not need: (address, length).
pub(super) fn surplus(pid: Pid, layout: StubLayout) -> SysResult<Vec<(RemoteAddr, u64)>> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let mut out = Vec::new();
    for line in maps.lines() {
        let mut fields = line.split_ascii_whitespace();
        let Some((start, end)) = fields.next().and_then(|r| r.split_once('-')) else { continue };
        let (Ok(start), Ok(end)) = (u64::from_str_radix(start, 16), u64::from_str_radix(end, 16)) else { continue };
        let name = fields.nth(4).unwrap_or("");
        let ours = start >= layout.base.0 && end <= layout.base.0 + layout.len();
        if !ours && !["[vdso]", "[vvar]", "[vvar_vclock]", "[vsyscall]"].contains(&name) {
            out.push((RemoteAddr(start), end - start));
        }
    }
    Ok(out)
}

/// Where the vDSO of a process lies.
pub(super) fn vdso(pid: Pid) -> SysResult<Option<(RemoteAddr, u64)>> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"))?;
    Ok(maps.lines().find(|l| l.ends_with("[vdso]")).and_then(|line| {
        let (start, end) = line.split_ascii_whitespace().next()?.split_once('-')?;
        let (start, end) = (u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?);
        Some((RemoteAddr(start), end - start))
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_lie_between_what_stays() {
        assert_eq!(gaps(&[5, 3, 0]), [(1, 2), (4, 4), (6, u32::MAX)]);
        assert_eq!(gaps(&[0, 1, 2]), [(3, u32::MAX)]);
        assert_eq!(gaps(&[7, 7]), [(0, 6), (8, u32::MAX)]);
    }

    #[test]
    fn the_image_fits_its_page() {
        let image = image(StubLayout { base: RemoteAddr(0x1000_0000), data_len: 1 << 20 });
        assert!(image.len() < PAGE);
        assert_eq!(u64::from_le_bytes(image[24..32].try_into().unwrap()), 0x1000_0000 + CODE_AT as u64);
        assert_eq!(image[CODE_AT], 0xcc);
    }
}
