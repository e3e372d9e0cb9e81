//! What a process inherits and rarely changes: umask, personality, limits, places, the smaller prctl(2) settings.
use crate::sys::{c, errno};
use crate::{Victim, call, must, proc, raw, victim};

pub(super) const VICTIMS: &[Victim] = &[
    victim("plain", |v| {
        let numbers: Vec<u64> = (0..1000).map(|i| i * i).collect();
        let pid = std::process::id();
        v.wait();
        v.check("a thousand squares on the heap", numbers.iter().enumerate().all(|(i, n)| *n == (i * i) as u64));
        v.check("a pid", pid > 0 && std::process::id() > 0);
    }),
    victim("umask", |v| {
        must!(umask(0o137));
        v.keep("umask in status", || proc::status("Umask"));
        v.wait();
        v.eq("umask", 0o137, call!(umask(0)));
    }),
    victim("personality", |v| {
        let wanted = libc::ADDR_NO_RANDOMIZE | libc::ADDR_COMPAT_LAYOUT | libc::SHORT_INODE;
        must!(personality(wanted as libc::c_ulong));
        v.wait();
        v.eq("personality", wanted, call!(personality(0xffff_ffff)));
    }),
    victim("cwd", |v| {
        let dir = v.path("here");
        std::fs::create_dir(&dir).unwrap();
        std::env::set_current_dir(&dir).unwrap();
        std::fs::write("there", "relative").unwrap();
        v.keep("cwd link", || proc::link("/proc/self/cwd"));
        v.keep("getcwd", || std::env::current_dir().ok());
        v.wait();
        v.eq("a relative path", "relative", std::fs::read_to_string("there").unwrap_or_default());
    }),
    victim("cwd-deleted", |v| {
        let dir = v.path("gone");
        std::fs::create_dir(&dir).unwrap();
        std::env::set_current_dir(&dir).unwrap();
        std::fs::remove_dir(&dir).unwrap();
        v.need("getcwd says ENOENT", std::env::current_dir().is_err());
        v.keep("cwd link", || proc::link("/proc/self/cwd"));
        v.wait();
        v.eq("getcwd", Some(libc::ENOENT), std::env::current_dir().err().and_then(|e| e.raw_os_error()));
        v.eq("a file made there", Some(libc::ENOENT), std::fs::write("x", "").err().and_then(|e| e.raw_os_error()));
        v.check("its old path is still gone", !std::path::Path::new(&dir).exists());
    }),
    victim("chroot", |v| {
        let dir = c(v.dir());
        std::fs::write(v.path("inside"), "jail").unwrap();
        if call!(chroot(dir.as_ptr())) == -1 {
            v.skip("chroot needs CAP_SYS_CHROOT");
        }
        must!(chdir(c"/".as_ptr()));
        v.rebase("/");
        v.keep("root's inode", || inode("/"));
        v.keep("the parent of root", || inode("/.."));
        v.wait();
        v.eq("a file by its path in the jail", "jail", std::fs::read_to_string("/inside").unwrap_or_default());
        v.check("no /usr in the jail", !std::path::Path::new("/usr").exists());
    }),
    victim("rlimits", |v| {
        let get = |what| {
            let mut r = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
            must!(getrlimit(what, &mut r));
            (r.rlim_cur, r.rlim_max)
        };
        for what in 0..16u32 {
            let (soft, hard) = (1_000_000 + u64::from(what) * 4096, 2_000_000 + u64::from(what) * 4096);
            let (soft, hard) = match what {
                libc::RLIMIT_AS | libc::RLIMIT_DATA | libc::RLIMIT_STACK => (soft << 16, hard << 16),
                libc::RLIMIT_NOFILE => (200, 300),
                libc::RLIMIT_NICE => (25, 30),
                libc::RLIMIT_RTPRIO => (5, 9),
                libc::RLIMIT_CORE => (0, libc::RLIM_INFINITY),
                _ => (soft, hard),
            };
            // Without CAP_SYS_RESOURCE no limit can be raised.
            let most = get(what).1;
            let (soft, hard) = (soft.min(most), hard.min(most));
            must!(setrlimit(what, &libc::rlimit { rlim_cur: soft, rlim_max: hard }));
            v.keep(&format!("resource limit {what}"), move || get(what));
        }
        v.keep("limits as proc shows them", || proc::read("/proc/self/limits"));
        v.wait();
        let fds: Vec<i32> = (0..250).map(|_| call!(open(c"/dev/null".as_ptr(), libc::O_RDONLY))).collect();
        v.eq("open beyond RLIMIT_NOFILE", libc::EMFILE, if fds.contains(&-1) { libc::EMFILE } else { 0 });
        for fd in fds.into_iter().filter(|f| *f >= 0) {
            call!(close(fd));
        }
    }),
    victim("oom-score-adj", |v| {
        std::fs::write("/proc/self/oom_score_adj", "321").unwrap();
        v.wait();
        v.eq("oom_score_adj", "321", proc::read("/proc/self/oom_score_adj").trim());
    }),
    victim("coredump-filter", |v| {
        std::fs::write("/proc/self/coredump_filter", "0x5").unwrap();
        v.wait();
        v.eq("coredump_filter", "00000005", proc::read("/proc/self/coredump_filter").trim());
    }),
    victim("timerslack", |v| {
        must!(prctl(libc::PR_SET_TIMERSLACK, 123_456));
        v.keep("timerslack_ns in proc", || proc::read("/proc/self/timerslack_ns"));
        v.wait();
        v.eq("PR_GET_TIMERSLACK", 123_456, call!(prctl(libc::PR_GET_TIMERSLACK)));
    }),
    victim("thp-disable", |v| {
        must!(prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0));
        v.keep("THP_enabled in status", || proc::status("THP_enabled"));
        v.wait();
        v.eq("PR_GET_THP_DISABLE", 1, call!(prctl(libc::PR_GET_THP_DISABLE, 0, 0, 0, 0)));
    }),
    victim("memory-merge", |v| {
        const PR_SET_MEMORY_MERGE: i32 = 67;
        const PR_GET_MEMORY_MERGE: i32 = 68;
        if call!(prctl(PR_SET_MEMORY_MERGE, 1, 0, 0, 0)) == -1 {
            v.skip("PR_SET_MEMORY_MERGE needs Linux 6.4 with KSM");
        }
        v.wait();
        v.eq("PR_GET_MEMORY_MERGE", 1, call!(prctl(PR_GET_MEMORY_MERGE, 0, 0, 0, 0)));
    }),
    victim("mdwe", |v| {
        const PR_SET_MDWE: i32 = 65;
        const PR_GET_MDWE: i32 = 66;
        if call!(prctl(PR_SET_MDWE, 1, 0, 0, 0)) == -1 {
            v.skip("PR_SET_MDWE needs Linux 6.3");
        }
        v.wait();
        v.eq("PR_GET_MDWE", 1, call!(prctl(PR_GET_MDWE, 0, 0, 0, 0)));
        let rwx = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
        let p = raw!(libc::SYS_mmap, 0, 4096, rwx, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0);
        v.eq("a writable and executable mapping", Err(libc::EACCES), p);
    }),
    victim("membarrier", |v| {
        const PRIVATE_EXPEDITED: i64 = 1 << 3;
        const REGISTER_PRIVATE_EXPEDITED: i64 = 1 << 4;
        const GLOBAL_EXPEDITED: i64 = 1 << 1;
        const REGISTER_GLOBAL_EXPEDITED: i64 = 1 << 2;
        const GET_REGISTRATIONS: i64 = 1 << 9;
        if raw!(libc::SYS_membarrier, PRIVATE_EXPEDITED, 0, 0) != Err(libc::EPERM) {
            v.skip("membarrier does not ask for registration here");
        }
        raw!(libc::SYS_membarrier, REGISTER_PRIVATE_EXPEDITED, 0, 0).unwrap();
        raw!(libc::SYS_membarrier, REGISTER_GLOBAL_EXPEDITED, 0, 0).unwrap();
        v.keep("registrations", || raw!(libc::SYS_membarrier, GET_REGISTRATIONS, 0, 0));
        v.wait();
        v.eq("private expedited", Ok(0), raw!(libc::SYS_membarrier, PRIVATE_EXPEDITED, 0, 0));
        v.eq("global expedited", Ok(0), raw!(libc::SYS_membarrier, GLOBAL_EXPEDITED, 0, 0));
    }),
    victim("tsc", |v| {
        // From here on rdtsc kills, and with it the vDSO's clocks: nothing below may ask for the time.
        must!(prctl(libc::PR_SET_TSC, libc::PR_TSC_SIGSEGV));
        v.wait();
        let mut found = 0i32;
        must!(prctl(libc::PR_GET_TSC, &mut found));
        v.eq("PR_GET_TSC", libc::PR_TSC_SIGSEGV, found);
        let child = must!(fork());
        if child == 0 {
            // SAFETY: reads a counter; here it must end the child.
            let t = unsafe { core::arch::x86_64::_rdtsc() };
            call!(_exit((t & 1) as i32));
        }
        let mut status = 0;
        must!(waitpid(child, &mut status, 0));
        v.eq("signal of a child that reads the counter", libc::SIGSEGV, libc::WTERMSIG(status));
    }),
    victim("cpuid-fault", |v| {
        const ARCH_GET_CPUID: i64 = 0x1011;
        const ARCH_SET_CPUID: i64 = 0x1012;
        if raw!(libc::SYS_arch_prctl, ARCH_SET_CPUID, 0).is_err() {
            v.skip("this CPU cannot make cpuid fault");
        }
        v.wait();
        v.eq("ARCH_GET_CPUID", Ok(0), raw!(libc::SYS_arch_prctl, ARCH_GET_CPUID, 0));
    }),
    victim("speculation", |v| {
        const PR_GET_SPECULATION_CTRL: i32 = 52;
        const PR_SET_SPECULATION_CTRL: i32 = 53;
        const DISABLE: i64 = 1 << 2;
        let set: Vec<i64> =
            (0..2i64).filter(|w| call!(prctl(PR_SET_SPECULATION_CTRL, *w, DISABLE, 0, 0)) == 0).collect();
        if set.is_empty() {
            v.skip("no speculation control can be set on this CPU");
        }
        for which in set {
            v.keep(&format!("speculation control {which}"), move || {
                call!(prctl(PR_GET_SPECULATION_CTRL, which, 0, 0, 0))
            });
        }
        v.wait();
    }),
    victim("request-key-keyring", |v| {
        // Keys that request_key(2) makes go to the keyring of the user.
        const SET_REQKEY_KEYRING: i64 = 14;
        const USER: i64 = 4;
        if raw!(libc::SYS_keyctl, SET_REQKEY_KEYRING, USER).is_err() {
            v.skip("no keyrings");
        }
        v.wait();
        v.eq("the choice", Ok(USER), raw!(libc::SYS_keyctl, SET_REQKEY_KEYRING, -1));
    }),
    victim("loginuid", |v| {
        let before = proc::read("/proc/self/loginuid");
        if before.trim() != "4294967295" {
            v.skip("loginuid is set already");
        }
        if std::fs::write("/proc/self/loginuid", "4242").is_err() {
            v.skip("loginuid needs CAP_AUDIT_CONTROL and an audit kernel");
        }
        v.wait();
        v.eq("loginuid", "4242", proc::read("/proc/self/loginuid").trim());
    }),
    victim("dispatch", |v| {
        // Syscall user dispatch: calls from outside the allowed range raise SIGSYS while the selector says so.
        must!(signal(libc::SIGSYS, on_sigsys as *const () as usize));
        if call!(prctl(PR_SET_SYSCALL_USER_DISPATCH, 1, 0, 0, SELECTOR.as_ptr())) == -1 {
            v.skip("syscall user dispatch needs Linux 5.11");
        }
        v.wait();
        SELECTOR.store(1, std::sync::atomic::Ordering::SeqCst);
        call!(syscall(libc::SYS_getppid));
        SELECTOR.store(0, std::sync::atomic::Ordering::SeqCst);
        v.eq("SIGSYS for a dispatched call", 1, CAUGHT.load(std::sync::atomic::Ordering::SeqCst));
        v.check("errno is readable", errno() >= 0);
    }),
    victim("dispatch-within", |v| {
        // The other sort: only calls from one range of addresses raise SIGSYS.
        const INCLUSIVE_ON: i32 = 2;
        must!(signal(libc::SIGSYS, on_sigsys as *const () as usize));
        // mov eax, getppid; syscall; ret
        let code = must!(mmap(
            std::ptr::null_mut(),
            4096,
            libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0
        ));
        // SAFETY: the page is ours, writable and runnable; what is put there keeps the C convention.
        let call: extern "C" fn() -> i32 = unsafe {
            std::ptr::copy([0xb8u8, 110, 0, 0, 0, 0x0f, 0x05, 0xc3].as_ptr(), code.cast(), 8);
            std::mem::transmute(code)
        };
        if call!(prctl(PR_SET_SYSCALL_USER_DISPATCH, INCLUSIVE_ON, code, 4096, SELECTOR.as_ptr())) == -1 {
            v.skip("this sort of syscall user dispatch needs Linux 6.16");
        }
        v.wait();
        for (selector, caught) in [(0, 0), (1, 1)] {
            SELECTOR.store(selector, std::sync::atomic::Ordering::SeqCst);
            call!(syscall(libc::SYS_getppid));
            call();
            SELECTOR.store(0, std::sync::atomic::Ordering::SeqCst);
            v.eq("SIGSYS for a dispatched call", caught, CAUGHT.load(std::sync::atomic::Ordering::SeqCst));
        }
    }),
];

const PR_SET_SYSCALL_USER_DISPATCH: i32 = 59;
/// Of syscall user dispatch: 1 while calls raise SIGSYS.
static SELECTOR: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(0);
/// How many did.
static CAUGHT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);

extern "C" fn on_sigsys(_: i32) {
    SELECTOR.store(0, std::sync::atomic::Ordering::SeqCst);
    CAUGHT.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
}

fn inode(path: &str) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata(path).map_or((0, 0), |m| (m.dev(), m.ino()))
}
