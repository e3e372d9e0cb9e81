//! Who a process is and what it may: ids, groups, capabilities, securebits, and the prctl(2) flags beside them.
use crate::{Ctx, Victim, call, must, proc, raw, victim};
use std::sync::atomic::{AtomicI32, Ordering::SeqCst};

pub(super) const VICTIMS: &[Victim] = &[
    victim("uids", |v| {
        need_root(v);
        must!(setgroups(3, [50, 7, 1234].as_ptr()));
        must!(setresgid(2001, 2002, 2003));
        call!(setfsgid(2001));
        must!(setresuid(1001, 1002, 1003));
        call!(setfsuid(1001));
        keep_all(v);
        v.need("four different uids", proc::status("Uid") == "1001 1002 1003 1001");
        v.wait();
        v.eq("Uid", "1001 1002 1003 1001", proc::status("Uid").as_str());
        v.eq("Gid", "2001 2002 2003 2001", proc::status("Gid").as_str());
        v.eq("Groups", "7 50 1234", proc::status("Groups").as_str());
        v.eq("no capability is left", "0000000000000000", proc::status("CapEff").as_str());
        v.eq("back to root", Err(libc::EPERM), raw!(libc::SYS_setuid, 0));
    }),
    victim("user", |v| {
        need_root(v);
        must!(setgroups(0, std::ptr::null()));
        must!(setresgid(65534, 65534, 65534));
        must!(setresuid(65534, 65534, 65534));
        keep_all(v);
        v.wait();
    }),
    victim("groups-many", |v| {
        need_root(v);
        let all: Vec<u32> = (0..500).map(|i| 10_000 + i * 3).collect();
        must!(setgroups(all.len(), all.as_ptr()));
        keep_all(v);
        v.wait();
        let mut found = vec![0u32; 1000];
        let n = must!(getgroups(1000, found.as_mut_ptr()));
        found.truncate(n as usize);
        v.eq("getgroups", all, found);
    }),
    victim("caps", |v| {
        need_root(v);
        // Root's rights without being root: some effective, some only permitted, some ambient, one dropped for ever.
        must!(prctl(libc::PR_CAPBSET_DROP, CAP_SYS_TIME));
        must!(prctl(libc::PR_SET_KEEPCAPS, 1));
        must!(setresuid(1001, 1001, 1001));
        let permitted = 1 << CAP_NET_RAW | 1 << CAP_SYS_NICE | 1 << CAP_NET_ADMIN | 1 << CAP_CHOWN;
        set_caps(1 << CAP_NET_RAW | 1 << CAP_CHOWN, permitted, 1 << CAP_NET_RAW | 1 << CAP_NET_ADMIN);
        must!(prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE, CAP_NET_ADMIN, 0, 0));
        keep_all(v);
        v.wait();
        v.eq("CapEff", format!("{:016x}", 1 << CAP_NET_RAW | 1 << CAP_CHOWN), proc::status("CapEff"));
        v.eq("CapPrm", format!("{permitted:016x}"), proc::status("CapPrm"));
        v.eq("CapAmb", format!("{:016x}", 1 << CAP_NET_ADMIN), proc::status("CapAmb"));
    }),
    victim("securebits", |v| {
        const NOROOT_LOCKED: i32 = 3;
        const NO_SETUID_FIXUP: i32 = 4;
        if call!(prctl(libc::PR_SET_SECUREBITS, NOROOT_LOCKED | NO_SETUID_FIXUP)) == -1 {
            v.skip("securebits need CAP_SETPCAP");
        }
        v.wait();
        v.eq("PR_GET_SECUREBITS", NOROOT_LOCKED | NO_SETUID_FIXUP, call!(prctl(libc::PR_GET_SECUREBITS)));
    }),
    victim("no-new-privs", |v| {
        must!(prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
        v.wait();
        v.eq("NoNewPrivs", "1", proc::status("NoNewPrivs").as_str());
    }),
    victim("dumpable-no", |v| {
        must!(prctl(libc::PR_SET_DUMPABLE, 0));
        v.wait();
        v.eq("PR_GET_DUMPABLE", 0, call!(prctl(libc::PR_GET_DUMPABLE)));
    }),
    victim("dumpable-yes", |v| {
        need_root(v);
        // A change of uid takes it away; the program gives it back.
        must!(setresuid(1001, 1001, 1001));
        must!(prctl(libc::PR_SET_DUMPABLE, 1));
        v.wait();
        v.eq("PR_GET_DUMPABLE", 1, call!(prctl(libc::PR_GET_DUMPABLE)));
    }),
    victim("keepcaps", |v| {
        must!(prctl(libc::PR_SET_KEEPCAPS, 1));
        v.wait();
        v.eq("PR_GET_KEEPCAPS", 1, call!(prctl(libc::PR_GET_KEEPCAPS)));
    }),
    victim("pdeathsig", |v| {
        // A subreaper, so that the orphan's verdict comes back to us.
        must!(prctl(libc::PR_SET_CHILD_SUBREAPER, 1));
        v.spawn(|middle| {
            middle.spawn(|child| {
                must!(signal(libc::SIGUSR1, on_signal as *const () as usize));
                must!(prctl(libc::PR_SET_PDEATHSIG, libc::SIGUSR1));
                child.wait();
                let mut found = 0i32;
                must!(prctl(libc::PR_GET_PDEATHSIG, &mut found));
                child.eq("PR_GET_PDEATHSIG", libc::SIGUSR1, found);
                child.eventually("the signal of the parent's death comes", 5000, || {
                    CAUGHT.load(SeqCst) == libc::SIGUSR1
                });
            });
            middle.disown();
            middle.wait();
        });
        v.expect_orphans(1);
        v.wait();
    }),
    victim("subreaper", |v| {
        must!(prctl(libc::PR_SET_CHILD_SUBREAPER, 1));
        v.spawn(|middle| {
            middle.spawn(|orphan| {
                orphan.wait();
                orphan.eventually("the orphan's parent is the subreaper", 5000, || {
                    let grandparent = proc::link("/proc/self/cwd");
                    let parent = call!(getppid());
                    parent > 1
                        && proc::link(&format!("/proc/{parent}/cwd")) == grandparent
                        && proc::stat(parent as u32, 3) != "Z"
                });
            });
            middle.disown();
            middle.wait();
        });
        v.expect_orphans(1);
        v.wait();
        let mut found = 0i32;
        must!(prctl(libc::PR_GET_CHILD_SUBREAPER, &mut found));
        v.eq("PR_GET_CHILD_SUBREAPER", 1, found);
    }),
];

const CAP_CHOWN: u64 = 0;
const CAP_NET_ADMIN: u64 = 12;
const CAP_NET_RAW: u64 = 13;
const CAP_SYS_NICE: u64 = 23;
const CAP_SYS_TIME: u64 = 25;

static CAUGHT: AtomicI32 = AtomicI32::new(0);

extern "C" fn on_signal(sig: i32) {
    CAUGHT.store(sig, SeqCst);
}

fn need_root(v: &Ctx) {
    if call!(geteuid()) != 0 {
        v.skip("needs root");
    }
}

/// Everything that status says of credentials.
fn keep_all(v: &mut Ctx) {
    for f in ["Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs"] {
        v.keep(f, move || proc::status(f));
    }
    v.keep("securebits", || call!(prctl(libc::PR_GET_SECUREBITS)));
    v.keep("dumpable", || call!(prctl(libc::PR_GET_DUMPABLE)));
    v.keep("keepcaps", || call!(prctl(libc::PR_GET_KEEPCAPS)));
}

/// capset(2), version 3, on the calling thread.
fn set_caps(effective: u64, permitted: u64, inheritable: u64) {
    let header = [0x2008_0522u32, 0];
    let low = |x: u64| x as u32;
    let high = |x: u64| (x >> 32) as u32;
    let data = [low(effective), low(permitted), low(inheritable), high(effective), high(permitted), high(inheritable)];
    raw!(libc::SYS_capset, header.as_ptr(), data.as_ptr()).unwrap();
}
