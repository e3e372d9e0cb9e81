//! Namespaces of their own, mounts out of reach, devices with state, terminals inside of the tree.
use crate::kit::{Res, fd, row, run, same, same_bytes, task, truth};
use crate::{Ctx, Flag, Victim};

const NAMESPACE: Flag = Flag::Refuse("namespace");

fn ns(name: &str) -> Result<(u64, u64), String> {
    let f = fd::open(format!("/proc/self/ns/{name}"), libc::O_RDONLY)?;
    let id = fd::inode(f)?;
    fd::close(f)?;
    Ok(id)
}

/// A child in a namespace of its own, in which `f` does something that is looked at again by what it returns.
fn apart(s: &mut Ctx, name: &'static str, flag: i32, f: impl Fn() -> Result<String, String>) -> Res {
    let outer = ns(name)?;
    if task::in_child("unshare", || Ok(fd::raw("unshare", libc::SYS_unshare, [flag.into(), 0, 0, 0, 0, 0]).map(drop)?))
        .is_err()
    {
        s.skip("may not make such a namespace");
    }
    s.spawn(|c| {
        run(c, |c| {
            fd::raw("unshare", libc::SYS_unshare, [flag.into(), 0, 0, 0, 0, 0])?;
            let (inner, seen) = (ns(name)?, f()?);
            truth("the namespace is another", inner != outer)?;
            c.wait();
            same("the child's namespace", inner, ns(name)?)?;
            same("what is seen in it", seen, f()?)
        });
    });
    s.wait();
    same("the parent's namespace", outer, ns(name)?)
}

fn hostname() -> Result<String, String> {
    std::fs::read_to_string("/proc/sys/kernel/hostname").map_err(|e| e.to_string())
}

/// Opens a device, checks it after the wait by its number and by `check`.
fn device(s: &mut Ctx, path: &str, flags: i32, check: impl Fn(i32) -> Res) -> Res {
    let f = match fd::open(path, flags) {
        Ok(f) => f,
        Err(e) => s.skip(&format!("{path}: {}", String::from(e))),
    };
    let number = fd::stat(f)?.st_rdev;
    s.wait();
    same("device number", number, fd::stat(f)?.st_rdev)?;
    check(f)
}

/// A new pseudo-terminal: master, slave.
pub(crate) fn pty() -> Result<(i32, i32), crate::kit::Errno> {
    let m = fd::open("/dev/ptmx", libc::O_RDWR | libc::O_NOCTTY)?;
    fd::ioctl_ref(m, libc::TIOCSPTLCK, &mut 0i32)?;
    let slave = fd::ioctl_int(m, libc::TIOCGPTPEER, i64::from(libc::O_RDWR | libc::O_NOCTTY))?;
    Ok((m, slave as i32))
}

pub(super) const VICTIMS: &[Victim] = &[
    row!("session-led-elsewhere", [Flag::Refuse("session")], |s| {
        session_led_elsewhere(s);
    }),
    // ---- namespaces -----------------------------------------------------------------------------------------
    row!("mount-namespace", [NAMESPACE], |s| {
        apart(s, "mnt", libc::CLONE_NEWNS, || Ok(String::new()))?;
    }),
    row!("network-namespace", [NAMESPACE], |s| {
        apart(s, "net", libc::CLONE_NEWNET, || {
            std::fs::read_to_string("/proc/self/net/dev").map_err(|e| e.to_string())
        })?;
    }),
    row!("uts-namespace", [NAMESPACE], |s| {
        apart(s, "uts", libc::CLONE_NEWUTS, || {
            let name = crate::sys::c("victim-in-uts");
            fd::raw("sethostname", libc::SYS_sethostname, [name.as_ptr() as i64, 13, 0, 0, 0, 0])?;
            hostname()
        })?;
    }),
    row!("ipc-namespace", [NAMESPACE], |s| {
        apart(s, "ipc", libc::CLONE_NEWIPC, || {
            std::fs::read_to_string("/proc/sysvipc/shm")
                .map(|t| t.lines().count().to_string())
                .map_err(|e| e.to_string())
        })?;
    }),
    row!("user-namespace", [NAMESPACE], |s| {
        apart(s, "user", libc::CLONE_NEWUSER, || Ok(crate::call!(getuid()).to_string()))?;
    }),
    row!("cgroup-namespace", [NAMESPACE], |s| {
        apart(s, "cgroup", libc::CLONE_NEWCGROUP, || {
            std::fs::read_to_string("/proc/self/cgroup").map_err(|e| e.to_string())
        })?;
    }),
    row!("time-namespace", [NAMESPACE], |s| {
        const NEWTIME: i64 = 0x80;
        let outer = ns("time")?;
        if task::in_child("unshare", || Ok(fd::raw("unshare", libc::SYS_unshare, [NEWTIME, 0, 0, 0, 0, 0]).map(drop)?))
            .is_err()
        {
            s.skip("no time namespaces");
        }
        s.spawn(|c| {
            run(c, |c| {
                let before = crate::sys::now_ns();
                fd::raw("unshare", libc::SYS_unshare, [NEWTIME, 0, 0, 0, 0, 0])?;
                std::fs::write("/proc/self/timens_offsets", "monotonic 100000 0\n").map_err(|e| e.to_string())?;
                let f = fd::open("/proc/self/ns/time_for_children", libc::O_RDONLY)?;
                fd::raw("setns", libc::SYS_setns, [f.into(), NEWTIME, 0, 0, 0, 0])?;
                fd::close(f)?;
                c.wait();
                truth("the namespace is another", ns("time")? != outer)?;
                truth("the clock is ahead", crate::sys::now_ns() > before + 99_999 * 1_000_000_000)
            });
        });
        s.wait();
        same("the parent's namespace", outer, ns("time")?)?;
    }),
    row!("pid-namespace", [NAMESPACE], |s| {
        if task::in_child("unshare", || {
            Ok(fd::raw("unshare", libc::SYS_unshare, [libc::CLONE_NEWPID.into(), 0, 0, 0, 0, 0]).map(drop)?)
        })
        .is_err()
        {
            s.skip("may not make a pid namespace");
        }
        let go = s.path("go");
        s.spawn(|c| {
            run(c, |c| {
                fd::raw("unshare", libc::SYS_unshare, [libc::CLONE_NEWPID.into(), 0, 0, 0, 0, 0])?;
                let Some(pid) = task::fork()? else {
                    // Pid 1 of the new namespace.
                    while !std::path::Path::new(&go).exists() {
                        crate::sys::sleep_ms(2);
                    }
                    task::exit(if task::pid() == 1 { 11 } else { 12 })
                };
                c.wait();
                same("status of the init inside", 11, libc::WEXITSTATUS(task::wait(pid, 0)?.1))
            });
        });
        s.wait();
        s.join();
    }),
    row!("namespace-of-nobody", [NAMESPACE], |s| {
        // Only this descriptor keeps the namespace: no process is in it.
        let mine = ns("uts")?;
        let (a, b) = crate::kit::sock::pair(libc::SOCK_STREAM)?;
        if task::in_child("unshare", || {
            fd::raw("unshare", libc::SYS_unshare, [libc::CLONE_NEWUTS.into(), 0, 0, 0, 0, 0])?;
            let f = fd::open("/proc/self/ns/uts", libc::O_RDONLY)?;
            Ok(crate::kit::sock::send(b, b"ns", &[f], None).map(drop)?)
        })
        .is_err()
        {
            s.skip("may not make a namespace");
        }
        let f = crate::kit::sock::recv(a, 10, 0)?.fds[0];
        fd::close(a)?;
        fd::close(b)?;
        let id = fd::inode(f)?;
        truth("it is another namespace", id != mine)?;
        s.wait();
        same("namespace", id, fd::inode(f)?)?;
    }),
    row!("own-cgroup", |s| {
        // Travels as long as the cgroup is still there: the membership must come back.
        let mounts = std::fs::read_to_string("/proc/self/mounts").map_err(|e| e.to_string())?;
        let Some(root) = mounts.lines().find_map(|l| {
            let mut words = l.split(' ').skip(1);
            let at = words.next()?;
            (words.next() == Some("cgroup2")).then_some(at.to_owned())
        }) else {
            s.skip("no cgroup2 is mounted")
        };
        let own = || -> Result<String, String> {
            let text = std::fs::read_to_string("/proc/self/cgroup").map_err(|e| e.to_string())?;
            Ok(text.lines().find_map(|l| l.strip_prefix("0::")).unwrap_or("none").to_owned())
        };
        let dir = format!("{root}/victim.{}.{}", task::pid(), crate::sys::now_ns());
        if std::fs::create_dir(&dir).is_err() {
            s.skip("may not make a cgroup");
        }
        let before = own()?;
        s.spawn(|c| {
            run(c, |c| {
                std::fs::write(format!("{dir}/cgroup.procs"), "0").map_err(|e| e.to_string())?;
                let mine = own()?;
                truth("the child is in the new cgroup", mine != before)?;
                c.wait();
                same("the child's cgroup", mine, own()?)
            });
        });
        s.wait();
        s.join();
        let _ = std::fs::remove_dir(&dir);
        same("the parent's cgroup", before, own()?)?;
    }),
    // ---- mounts ---------------------------------------------------------------------------------------------
    row!("file-on-detached-mount", [Flag::Refuse("mount")], |s| {
        // fsopen, fsconfig(CREATE), fsmount: a tmpfs that is mounted nowhere.
        let Ok(fs) = fd::raw("fsopen", libc::SYS_fsopen, [c"tmpfs".as_ptr() as i64, 0, 0, 0, 0, 0]) else {
            s.skip("may not mount")
        };
        fd::raw("fsconfig", libc::SYS_fsconfig, [fs, 6, 0, 0, 0, 0])?;
        let m = fd::raw("fsmount", libc::SYS_fsmount, [fs, 0, 0, 0, 0, 0])? as i32;
        fd::close(fs as i32)?;
        let f = fd::openat(m, "f", libc::O_RDWR | libc::O_CREAT)?;
        fd::close(m)?;
        fd::write_full(f, b"out of reach")?;
        s.wait();
        same_bytes("content", b"out of reach", &fd::pread(f, 100, 0)?)?;
    }),
    row!("detached-mount-open", [Flag::Refuse("mount")], |s| {
        let here = i64::from(libc::AT_FDCWD);
        let dir = crate::sys::c(s.dir());
        const OPEN_TREE_CLONE: i64 = 1;
        fd::close(fd::open(s.path("f"), libc::O_RDWR | libc::O_CREAT)?)?;
        let Ok(t) = fd::raw("open_tree", libc::SYS_open_tree, [here, dir.as_ptr() as i64, OPEN_TREE_CLONE, 0, 0, 0])
        else {
            s.skip("may not clone a mount")
        };
        s.wait();
        truth("a file through the mount", fd::openat(t as i32, "f", libc::O_RDONLY).is_ok())?;
    }),
    // ---- devices --------------------------------------------------------------------------------------------
    row!("device-loop-control", [Flag::Refuse("device")], |s| {
        device(s, "/dev/loop-control", libc::O_RDWR, |_| Ok(()))?;
    }),
    row!("device-loop", [Flag::Refuse("device")], |s| {
        device(s, "/dev/loop0", libc::O_RDONLY, |_| Ok(()))?;
    }),
    row!("device-tun", [Flag::Refuse("device")], |s| {
        device(s, "/dev/net/tun", libc::O_RDWR, |f| {
            const TUNGETFEATURES: u64 = 0x8004_54cf;
            fd::ioctl_ref(f, TUNGETFEATURES, &mut 0u32)?;
            Ok(())
        })?;
    }),
    row!("device-rtc", [Flag::Refuse("device")], |s| {
        device(s, "/dev/rtc0", libc::O_RDONLY, |_| Ok(()))?;
    }),
    row!("device-fuse", [Flag::Refuse("device")], |s| {
        device(s, "/dev/fuse", libc::O_RDWR, |_| Ok(()))?;
    }),
    row!("device-kmsg", [Flag::Refuse("device")], |s| {
        device(s, "/dev/kmsg", libc::O_RDONLY | libc::O_NONBLOCK, |f| truth("a line", !fd::read(f, 8192)?.is_empty()))?;
    }),
    row!("device-kvm", [Flag::Refuse("kvm")], |s| {
        device(s, "/dev/kvm", libc::O_RDWR, |f| {
            const KVM_GET_API_VERSION: u64 = 0xae00;
            same("version", 12, fd::ioctl_int(f, KVM_GET_API_VERSION, 0)?)
        })?;
    }),
    row!("device-userfaultfd", [Flag::Refuse("device")], |s| {
        device(s, "/dev/userfaultfd", libc::O_RDWR, |_| Ok(()))?;
    }),
    // ---- terminals ------------------------------------------------------------------------------------------
    row!("pty-typed-ahead", [Flag::Refuse("pty")], |s| {
        let (m, t) = pty()?;
        fd::write_full(m, b"typed ahead\n")?;
        s.wait();
        same_bytes("line", b"typed ahead\n", &fd::read(t, 100)?)?;
        fd::write_full(t, b"printed\n")?;
        let shown = fd::read(m, 100)?;
        truth("echo and output", shown.starts_with(b"typed ahead"))?;
    }),
    row!("pty-not-yet-shown", [Flag::Refuse("pty")], |s| {
        let (m, t) = pty()?;
        fd::write_full(t, b"printed\n")?;
        s.wait();
        same_bytes("line", b"printed\r\n", &fd::read(m, 100)?)?;
    }),
    row!("pty-stopped", [Flag::Refuse("pty")], |s| {
        let (m, t) = pty()?;
        fd::write_full(m, b"\x13")?;
        s.until("output is stopped", || fd::poll_now(t, libc::POLLOUT) == Ok(0));
        s.wait();
        same("ready for output", 0, fd::poll_now(t, libc::POLLOUT)?)?;
        fd::write_full(m, b"\x11")?;
    }),
];

/// A parent that got a child of a session as a subreaper, and let the leader of that session go as it was none any more.
fn session_led_elsewhere(s: &mut Ctx) {
    use crate::{call, must, proc};
    must!(prctl(libc::PR_SET_CHILD_SUBREAPER, 1));
    let parent = s.spawn(|p| {
        must!(prctl(libc::PR_SET_CHILD_SUBREAPER, 1));
        let between = must!(fork());
        if between == 0 {
            if must!(fork()) == 0 {
                p.be_child(|leader| {
                    must!(setsid());
                    let between = must!(fork());
                    if between == 0 {
                        if must!(fork()) == 0 {
                            leader.be_child(|member| {
                                member.wait();
                                let (own, parents) = (call!(getsid(0)), call!(getsid(call!(getppid()))));
                                member.check("its session is not its parent's", own != parents);
                            });
                        }
                        call!(_exit(0));
                    }
                    must!(waitpid(between, std::ptr::null_mut(), 0));
                    leader.wait();
                    leader.eq("it leads its session", call!(getpid()), call!(getsid(0)));
                });
            }
            loop {
                call!(pause());
            }
        }
        p.until("the member is ours", || proc::children().len() == 2);
        let member = *proc::children().iter().find(|c| **c != between).expect("there are two");
        must!(prctl(libc::PR_SET_CHILD_SUBREAPER, 0));
        must!(kill(between, libc::SIGKILL));
        must!(waitpid(between, std::ptr::null_mut(), 0));
        p.adopt(member);
        p.wait();
    });
    s.until("the leader is ours", || proc::children().len() == 2);
    let leader = *proc::children().iter().find(|c| **c != parent).expect("there are two");
    s.adopt(leader);
    s.wait();
}
