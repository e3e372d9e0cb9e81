//! What the kernel keeps about the rights of a process and shows to nobody else: keyrings, Landlock; and code that ghost can't work in.
use crate::kit::{Errno, Res, fails, fd, mem, row, same, same_bytes, task, truth};
use crate::{Ctx, Flag, Victim, raw};

/// A keyring that only its owner knows, with a key in it.
fn own_keyring(which: i64, s: &mut Ctx) -> Res {
    const GET_KEYRING_ID: i64 = 0;
    const READ: i64 = 11;
    let ring = |create| fd::raw("keyctl", libc::SYS_keyctl, [GET_KEYRING_ID, which, create, 0, 0, 0]);
    let Ok(serial) = ring(1) else { s.skip("no keyrings") };
    let args = [c"user".as_ptr() as i64, c"victim:own".as_ptr() as i64, c"secret".as_ptr() as i64, 6, which, 0];
    let key = fd::raw("add_key", libc::SYS_add_key, args)?;
    s.wait();
    same("its number", serial, ring(0)?)?;
    let mut buf = [0u8; 20];
    let n = fd::raw("keyctl", libc::SYS_keyctl, [READ, key, buf.as_mut_ptr() as i64, 20, 0, 0])?;
    same_bytes("key of the keyring", b"secret", &buf[..n as usize])
}

/// A ruleset that handles the opening of files for writing, and so forbids it where no rule allows it.
fn writing_ruleset() -> Result<i64, Errno> {
    const WRITE_FILE: u64 = 2;
    let mut attr = [WRITE_FILE];
    fd::raw_ref("landlock_create_ruleset", libc::SYS_landlock_create_ruleset, [0, 8, 0, 0, 0, 0], 0, &mut attr)
}

/// A file that everybody may write.
fn for_everybody(path: String) -> Res<String> {
    use std::os::unix::fs::PermissionsExt as _;
    let made = std::fs::File::create(&path);
    let done = made.and_then(|_| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)));
    done.map_err(|e| e.to_string()).map(|()| path)
}

/// A child of this user in a domain. A child, since the root must be able to write its verdict.
fn landlocked_child(s: &mut Ctx, uid: i64) -> Res {
    let Ok(f) = writing_ruleset() else { s.skip("no landlock") };
    task::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)?;
    let path = for_everybody(s.path("status"))?;
    let status = fd::open(&path, libc::O_WRONLY)?;
    s.spawn(|c| {
        crate::kit::run(c, |c| {
            c.ready();
            fd::raw("setresgid", libc::SYS_setresgid, [uid, uid, uid, 0, 0, 0])?;
            fd::raw("setresuid", libc::SYS_setresuid, [uid, uid, uid, 0, 0, 0])?;
            fd::raw("landlock_restrict_self", libc::SYS_landlock_restrict_self, [f, 0, 0, 0, 0, 0])?;
            fd::close(f as i32)?;
            fd::write_full(status, b"x")?;
            c.await_go();
            fails("opening for writing", libc::EACCES, fd::open(&path, libc::O_WRONLY))
        });
    });
    fd::close(f as i32)?;
    s.until("the child is in its domain", || fd::readable_file(&s.path("status")));
    s.wait();
    Ok(())
}

pub(super) const VICTIMS: &[Victim] = &[
    row!("keyring", [Flag::Refuse("keyring"), Flag::Asked], |s| {
        const JOIN_SESSION_KEYRING: i64 = 1;
        const SESSION: i64 = -3;
        const READ: i64 = 11;
        let name = c"victim".as_ptr() as i64;
        let Ok(_) = fd::raw("keyctl", libc::SYS_keyctl, [JOIN_SESSION_KEYRING, name, 0, 0, 0, 0]) else {
            s.skip("no keyrings")
        };
        let args = [c"user".as_ptr() as i64, c"victim:key".as_ptr() as i64, c"secret".as_ptr() as i64, 6, SESSION, 0];
        let key = fd::raw("add_key", libc::SYS_add_key, args)?;
        s.wait();
        let mut buf = [0u8; 20];
        let n = fd::raw("keyctl", libc::SYS_keyctl, [READ, key, buf.as_mut_ptr() as i64, 20, 0, 0])?;
        same_bytes("key of the session keyring", b"secret", &buf[..n as usize])?;
    }),
    row!("keyring-of-process", [Flag::Refuse("keyring"), Flag::Asked], |s| {
        const PROCESS: i64 = -2;
        own_keyring(PROCESS, s)?;
    }),
    row!("keyring-of-thread", [Flag::Refuse("keyring"), Flag::Asked], |s| {
        const THREAD: i64 = -1;
        let team = s.team(2, |i, t| {
            if i == 1 {
                crate::kit::run(t, |t| own_keyring(THREAD, t));
            } else {
                t.wait();
            }
        });
        s.wait();
        s.gather(team);
    }),
    row!("landlock-domain", [Flag::Refuse("landlock"), Flag::Asked], |s| {
        landlocked_child(s, 0)?;
    }),
    row!("landlock-domain-of-user", [Flag::Refuse("landlock"), Flag::Asked], |s| {
        landlocked_child(s, 65534)?;
    }),
    row!("landlock-domain-of-thread", [Flag::Refuse("landlock"), Flag::Asked], |s| {
        // Only one thread is in a domain, and it is another user than the others.
        let Ok(f) = writing_ruleset() else { s.skip("no landlock") };
        let path = for_everybody(s.path("status"))?;
        let team = s.team(2, move |i, t| {
            if i == 0 {
                raw!(libc::SYS_setresuid, 65534, 65534, 65534).unwrap();
                raw!(libc::SYS_prctl, libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0).unwrap();
                raw!(libc::SYS_landlock_restrict_self, f, 0).unwrap();
                // Left open it would be refused for its own sake.
                raw!(libc::SYS_close, f).unwrap();
            }
            t.wait();
            t.eq("it may write", i != 0, fd::open(&path, libc::O_WRONLY).and_then(fd::close).is_ok());
        });
        s.wait();
        s.gather(team);
    }),
    row!("landlock-ruleset", [Flag::Refuse("landlock")], |s| {
        let mut attr = [2u64];
        let Ok(f) =
            fd::raw_ref("landlock_create_ruleset", libc::SYS_landlock_create_ruleset, [0, 8, 0, 0, 0, 0], 0, &mut attr)
        else {
            s.skip("no landlock")
        };
        s.wait();
        truth("its link", fd::link_of(f as i32)?.contains("landlock"))?;
    }),
    row!("code-of-32-bits", [Flag::Refuse("32-bit"), Flag::Asked], |s| {
        // A thread calls 32-bit code, which counts in a word until another is not zero.
        let low = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_32BIT;
        let m = mem::map(12288, libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC, low, -1, 0)?;
        // mov [rdi+16], rsp; mov ecx, 0x2b; mov ds, ecx; mov esp, esi; call far [rdi+8]; mov rsp, [rdi+16]; xor ecx, ecx; mov ds, ecx; ret
        let outer = [
            0x48, 0x89, 0x67, 0x10, 0xb9, 0x2b, 0, 0, 0, 0x8e, 0xd9, 0x89, 0xf4, 0xff, 0x5f, 8, 0x48, 0x8b, 0x67, 0x10,
            0x31, 0xc9, 0x8e, 0xd9, 0xc3,
        ];
        // inc dword [edi]; cmp dword [edi+4], 0; je to the begin; retf
        let inner = [0xff, 0x07, 0x83, 0x7f, 4, 0, 0x74, 0xf8, 0xcb];
        m.put(0, &outer);
        m.put(64, &inner);
        let (words, stack) = (m.address() + 4096, m.address() + 12288);
        m.put(4096 + 8, &((m.address() + 64) | (0x23 << 32)).to_ne_bytes());
        let (counter, end) = (m.word(4096), m.address() + 4100);
        let entry = m.address();
        let team = s.team(1, move |_, t| {
            // Nothing below asks whether it goes on: it does so in 32-bit code.
            t.ready();
            // SAFETY: the page holds the routine above, which keeps what the C convention says, and its stack is its own.
            let call: extern "C" fn(u64, u64) = unsafe { std::mem::transmute(entry) };
            call(words, stack);
            t.await_go();
        });
        let counts = || {
            let before = counter.load(std::sync::atomic::Ordering::SeqCst);
            std::thread::sleep(std::time::Duration::from_millis(20));
            counter.load(std::sync::atomic::Ordering::SeqCst) != before
        };
        truth("it counts", counts())?;
        s.wait();
        truth("it still counts", counts())?;
        m.put((end - m.address()) as usize, &1u32.to_ne_bytes());
        s.gather(team);
    }),
];
