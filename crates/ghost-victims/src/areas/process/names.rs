//! Under what names a process runs: comm, command line, environment, auxiliary vector, executable.
use crate::sys::c;
use crate::{Ctx, Victim, call, must, proc, victim};

pub(super) const VICTIMS: &[Victim] = &[
    victim("comm", |v| {
        must!(prctl(libc::PR_SET_NAME, c"a) b\\n (c".as_ptr()));
        v.wait();
        let mut name = [0u8; 16];
        must!(prctl(libc::PR_GET_NAME, name.as_mut_ptr()));
        v.eq("PR_GET_NAME", &b"a) b\\n (c\0"[..], &name[..10]);
        v.eq("comm", "a) b\\n (c", proc::read("/proc/self/comm").trim_end());
    }),
    victim("comm-no-text", |v| {
        // Fifteen bytes of any sort: no UTF-8, control characters.
        let name = c"\xff\xfe\x01 ) ( \x7f\n\xc3";
        must!(prctl(libc::PR_SET_NAME, name.as_ptr()));
        v.wait();
        let mut now = [0u8; 16];
        must!(prctl(libc::PR_GET_NAME, now.as_mut_ptr()));
        v.eq("PR_GET_NAME", name.to_bytes_with_nul(), &now[..name.count_bytes() + 1]);
    }),
    victim("cmdline", |v| {
        v.need("it is not empty", proc::read("/proc/self/cmdline").contains("process/cmdline"));
        v.keep("cmdline", || proc::read("/proc/self/cmdline"));
        v.keep("environ", || proc::read("/proc/self/environ"));
        v.keep("auxv", || std::fs::read("/proc/self/auxv").ok());
        v.wait();
    }),
    victim("mm-fields", |v| {
        // start_code … start_stack, start_data, end_data, start_brk, arg_start … env_end (proc_pid_stat(5)).
        for n in [26, 27, 28, 45, 46, 47, 48, 49, 50, 51] {
            v.keep(&format!("field {n} of stat"), move || proc::stat(std::process::id(), n));
        }
        v.wait();
    }),
    victim("title", |v| {
        // As setproctitle does: over the arguments themselves.
        let at: usize = proc::stat(std::process::id(), 48).parse().unwrap();
        // SAFETY: arg_start is the first byte of argv[0]'s text, which is writable and longer than this.
        unsafe { std::ptr::copy_nonoverlapping(b"TITLE".as_ptr(), at as *mut u8, 5) };
        v.wait();
        v.check("cmdline begins with the new title", proc::read("/proc/self/cmdline").starts_with("TITLE"));
    }),
    victim("arguments-moved", |v| {
        // PR_SET_MM: the arguments lie elsewhere than the kernel put them.
        let text: &'static mut [u8] = Box::leak(b"moved\0arguments\0".to_vec().into_boxed_slice());
        let (start, end) = (text.as_ptr() as usize, text.as_ptr() as usize + text.len());
        let field = |n| proc::stat(std::process::id(), n).parse::<u64>().unwrap();
        let map = MmMap {
            start_code: field(26),
            end_code: field(27),
            start_data: field(45),
            end_data: field(46),
            start_brk: field(47),
            brk: crate::call!(sbrk(0)) as u64,
            start_stack: field(28),
            arg_start: start as u64,
            arg_end: end as u64,
            env_start: field(50),
            env_end: field(51),
            auxv: 0,
            auxv_size: 0,
            exe_fd: u32::MAX,
        };
        if crate::call!(prctl(libc::PR_SET_MM, libc::PR_SET_MM_MAP, &raw const map, size_of::<MmMap>(), 0)) == -1 {
            v.skip("PR_SET_MM_MAP is refused here");
        }
        v.need("cmdline is there", proc::read("/proc/self/cmdline") == "moved\0arguments\0");
        v.wait();
        v.eq("cmdline", "moved\0arguments\0", proc::read("/proc/self/cmdline"));
    }),
    victim("exe", |v| {
        v.keep("exe link", || proc::link("/proc/self/exe"));
        v.keep("exe is the same file", || std::fs::metadata("/proc/self/exe").map(|m| (dev(&m), m.len())).ok());
        v.wait();
    }),
    victim("exe-deleted", |v| {
        run_copy(v);
        std::fs::remove_file(v.path("copy")).unwrap();
        v.keep("exe link", || proc::link("/proc/self/exe"));
        v.need("it is deleted", proc::link("/proc/self/exe").ends_with(" (deleted)"));
        v.keep("size through the link", || std::fs::metadata("/proc/self/exe").map(|m| m.len()).ok());
        v.wait();
    }),
    victim("exe-memfd", |v| {
        // Runs out of memory that it holds open for writing.
        let code = std::fs::read("/bin/sleep").unwrap();
        let memfd = must!(memfd_create(c"run".as_ptr(), 0));
        v.need("its bytes", call!(write(memfd, code.as_ptr().cast(), code.len())) == code.len() as isize);
        let child = must!(fork());
        if child == 0 {
            let words = [c"sleep".as_ptr(), c"1000".as_ptr(), std::ptr::null()];
            let environment = [std::ptr::null()];
            call!(fexecve(memfd, words.as_ptr(), environment.as_ptr()));
            call!(_exit(1));
        }
        must!(close(memfd));
        let exe = || proc::children().first().map(|pid| proc::link(&format!("/proc/{pid}/exe")));
        v.until("it runs", || exe().is_some_and(|e| e == "/memfd:run (deleted)"));
        v.keep("exe link", exe);
        v.wait();
        let child = proc::children().first().copied().unwrap_or(0);
        v.eq("its state", "S", proc::state(child).as_str());
        must!(kill(child, libc::SIGKILL));
        must!(waitpid(child, std::ptr::null_mut(), 0));
    }),
    victim("exe-replaced", |v| {
        run_copy(v);
        std::fs::remove_file(v.path("copy")).unwrap();
        std::fs::write(v.path("copy"), "another file under that name").unwrap();
        v.need("it is deleted", proc::link("/proc/self/exe").ends_with(" (deleted)"));
        v.keep("size through the link", || std::fs::metadata("/proc/self/exe").map(|m| m.len()).ok());
        v.wait();
        v.eq(
            "the other file",
            "another file under that name",
            std::fs::read_to_string(v.path("copy")).unwrap_or_default(),
        );
    }),
];

/// `struct prctl_mm_map` (PR_SET_MM(2const)).
#[repr(C)]
struct MmMap {
    start_code: u64,
    end_code: u64,
    start_data: u64,
    end_data: u64,
    start_brk: u64,
    brk: u64,
    start_stack: u64,
    arg_start: u64,
    arg_end: u64,
    env_start: u64,
    env_end: u64,
    auxv: u64,
    auxv_size: u32,
    exe_fd: u32,
}

fn dev(m: &std::fs::Metadata) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt as _;
    (m.dev(), m.ino())
}

/// Makes this process run from a copy of its program, DIR/copy.
fn run_copy(v: &Ctx) {
    let copy = v.path("copy");
    if proc::link("/proc/self/exe") == copy {
        return;
    }
    std::fs::copy("/proc/self/exe", &copy).unwrap();
    let path = c(&copy);
    let args: Vec<std::ffi::CString> = std::env::args().map(|a| c(&a)).collect();
    let mut argv: Vec<*const libc::c_char> = args.iter().map(|a| a.as_ptr()).collect();
    argv.push(std::ptr::null());
    must!(execv(path.as_ptr(), argv.as_ptr()));
}
