//! What a victim's function is given: its directory, the wait, and the checks.
use crate::sys::{errno, sleep_ms};
use crate::{call, must};
use std::fmt::Debug;
use std::io::Write as _;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread::JoinHandle;

/// The word by which [`Ctx::skip`] unwinds.
pub(crate) struct Skipped(pub String);

enum Role {
    /// The process the runner started.
    Root,
    /// A process made by [`Ctx::spawn`]; its parent waits for `up.<pid>`.
    Child,
    /// A thread made by [`Ctx::team`].
    Thread(Arc<Team>),
}

/// Threads that get ready and go together, without a futex among them.
struct Team {
    ready: AtomicUsize,
    go: AtomicBool,
    size: usize,
}

/// Threads made by [`Ctx::team`]; given back to [`Ctx::gather`].
pub struct Threads {
    team: Arc<Team>,
    handles: Vec<JoinHandle<Vec<String>>>,
}

/// A value read before the wait, and how to read it again.
struct Kept {
    what: String,
    before: String,
    read: Box<dyn Fn() -> String>,
}

/// The context of a running victim, of a child process of it, or of a thread of it.
pub struct Ctx {
    dir: String,
    role: Role,
    bad: Vec<String>,
    kept: Vec<Kept>,
    children: usize,
    waited: bool,
}

impl Ctx {
    /// The context of the process that the runner started.
    pub fn root(dir: &str) -> Ctx {
        Ctx::new(dir, Role::Root)
    }

    fn new(dir: &str, role: Role) -> Ctx {
        Ctx { dir: dir.to_owned(), role, bad: Vec::new(), kept: Vec::new(), children: 0, waited: false }
    }

    /// The victim's own directory, for the files it needs.
    pub fn dir(&self) -> &str {
        &self.dir
    }

    /// A file in the victim's own directory.
    pub fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.dir.trim_end_matches('/'))
    }

    /// Says that the victim's directory is now seen under another path (after a chroot).
    pub fn rebase(&mut self, dir: &str) {
        dir.clone_into(&mut self.dir);
    }

    /// Leaves with "this host cannot do that": not a failure. Only before the wait.
    pub fn skip(&self, reason: &str) -> ! {
        std::panic::resume_unwind(Box::new(Skipped(reason.to_owned())))
    }

    // ---- the wait -------------------------------------------------------------------------------------------

    /// Says ready and waits for the word to go; then compares all that [`Ctx::keep`] noted.
    pub fn wait(&mut self) {
        self.wait_with(|| {});
    }

    /// As [`Ctx::wait`], calling `work` between two looks (every 2 ms).
    pub fn wait_with(&mut self, mut work: impl FnMut()) {
        self.ready();
        while !self.gone() {
            work();
            self.pause();
        }
        self.compare_kept();
    }

    /// As [`Ctx::wait`]; returns for how long in all the program saw itself not running, in ns.
    ///
    /// Whatever is measured against a clock may be late by that much, since the clock goes on.
    pub fn wait_outage(&mut self) -> i64 {
        let (mut last, mut outage) = (crate::sys::now_ns(), 0);
        self.wait_with(|| {
            let now = crate::sys::now_ns();
            if now - last > 20_000_000 {
                outage += now - last;
            }
            last = now;
        });
        outage + (crate::sys::now_ns() - last)
    }

    /// The first half of [`Ctx::wait`]: says ready.
    pub fn ready(&mut self) {
        assert!(!self.waited, "a victim waits once");
        self.waited = true;
        match &self.role {
            Role::Root => {
                let me = std::process::id();
                let tree: Vec<String> = crate::proc::tree(me).iter().map(u32::to_string).collect();
                self.put("ready", &format!("pid {me}\ntree {}\n", tree.join(" ")));
            }
            Role::Child => self.put(&format!("up.{}", std::process::id()), ""),
            Role::Thread(team) => {
                team.ready.fetch_add(1, SeqCst);
            }
        }
    }

    /// Whether the word to go has been given.
    pub fn gone(&self) -> bool {
        match &self.role {
            Role::Thread(team) => team.go.load(SeqCst),
            _ => self.exists("go"),
        }
    }

    /// The pause between two looks.
    pub fn pause(&self) {
        match &self.role {
            Role::Thread(team) => sleep_ms(2 + team.size as i64 / 5),
            // Children look less often: there may be a hundred.
            Role::Child => sleep_ms(8),
            Role::Root => sleep_ms(2),
        }
    }

    /// The second half of [`Ctx::wait`].
    pub fn await_go(&mut self) {
        while !self.gone() {
            self.pause();
        }
        self.compare_kept();
    }

    /// Compares all that [`Ctx::keep`] noted (done by the waits).
    pub fn compare_kept(&mut self) {
        for k in std::mem::take(&mut self.kept) {
            let after = (k.read)();
            if after != k.before {
                self.bad(&k.what, &k.before, &after);
            }
        }
    }

    // ---- checks ---------------------------------------------------------------------------------------------

    /// Reads a value now, and again after the wait; the two must be the same.
    pub fn keep<T: Debug>(&mut self, what: &str, read: impl Fn() -> T + 'static) {
        let read: Box<dyn Fn() -> String> = Box::new(move || format!("{:?}", read()));
        self.kept.push(Kept { what: what.to_owned(), before: read(), read });
    }

    /// `found` must equal `expected`.
    pub fn eq<T: PartialEq<U> + Debug, U: Debug>(&mut self, what: &str, expected: T, found: U) {
        if expected != found {
            self.bad(what, &format!("{expected:?}"), &format!("{found:?}"));
        }
    }

    /// `found` must lie in `low..=high`.
    pub fn within<T: PartialOrd + Debug>(&mut self, what: &str, low: T, high: T, found: T) {
        if found < low || found > high {
            self.bad(what, &format!("{low:?} to {high:?}"), &format!("{found:?}"));
        }
    }

    /// `ok` must hold.
    pub fn check(&mut self, what: &str, ok: bool) {
        if !ok {
            self.bad(what, "true", "false");
        }
    }

    /// Notes a difference.
    pub fn bad(&mut self, what: &str, expected: &str, found: &str) {
        self.bad.push(format!("BAD {what}: expected {expected}, found {found}"));
    }

    /// Set-up check: panics unless it holds.
    pub fn need(&self, what: &str, ok: bool) {
        assert!(ok, "set-up: {what} does not hold");
    }

    // ---- children -------------------------------------------------------------------------------------------

    /// Forks a child that runs `f` with a context of its own, and returns when it has said ready.
    ///
    /// The child's differences reach the root through its exit status and a note; [`Ctx::join`] waits for all.
    /// The number returned is the pid of now: after a duplication it may be another.
    pub fn spawn(&mut self, f: impl FnOnce(&mut Ctx)) -> i32 {
        let pid = must!(fork());
        if pid == 0 {
            self.be_child(f);
        }
        self.adopt(pid);
        pid
    }

    /// The life of a child: for those made by other means than [`Ctx::spawn`]. Never returns.
    pub fn be_child(&self, f: impl FnOnce(&mut Ctx)) -> ! {
        let mut child = Ctx::new(&self.dir, Role::Child);
        let code = child.run(f);
        call!(_exit(code))
    }

    /// Counts a child that runs [`Ctx::be_child`], after waiting until it is ready.
    pub fn adopt(&mut self, pid: i32) {
        self.children += 1;
        self.until(&format!("child {pid} is ready"), || self.exists(&format!("up.{pid}")));
    }

    /// Waits for all children that [`Ctx::spawn`] made; each must end with status 0.
    pub fn join(&mut self) {
        while self.children > 0 {
            let mut status = 0;
            let pid = call!(waitpid(-1, &mut status, libc::__WALL));
            if pid == -1 {
                if errno() == libc::EINTR {
                    continue;
                }
                self.bad("children left to wait for", &self.children.to_string(), "ECHILD");
                self.children = 0;
                return;
            }
            self.children -= 1;
            self.judge(pid, status);
        }
    }

    /// Forgets the children made so far: somebody else will wait for them (orphans, a subreaper).
    pub fn disown(&mut self) {
        self.children = 0;
    }

    /// Counts `n` more children to wait for that this process did not make itself.
    pub fn expect_orphans(&mut self, n: usize) {
        self.children += n;
    }

    /// Judges one child already waited for, made by [`Ctx::spawn`].
    pub fn joined(&mut self, pid: i32, status: i32) {
        self.children -= 1;
        self.judge(pid, status);
    }

    fn judge(&mut self, pid: i32, status: i32) {
        if status != 0 {
            let note = std::fs::read_to_string(self.path(&format!("note.{pid}"))).unwrap_or_default();
            self.bad(&format!("child {pid}: wait status"), "0", &format!("{status:#x}; {}", note.trim()));
        }
    }

    // ---- threads --------------------------------------------------------------------------------------------

    /// Starts `n` threads that run `f(i, ctx)`, and returns when all have said ready.
    pub fn team(&mut self, n: usize, f: impl Fn(usize, &mut Ctx) + Send + Sync + 'static) -> Threads {
        let team = Arc::new(Team { ready: AtomicUsize::new(0), go: AtomicBool::new(false), size: n });
        let f = Arc::new(f);
        let handles: Vec<_> = (0..n)
            .map(|i| {
                let (f, team, dir) = (f.clone(), team.clone(), self.dir.clone());
                std::thread::Builder::new()
                    .stack_size(128 << 10)
                    .spawn(move || {
                        let mut ctx = Ctx::new(&dir, Role::Thread(team));
                        if let Err(p) = catch_unwind(AssertUnwindSafe(|| f(i, &mut ctx))) {
                            ctx.bad.push(format!("BAD thread {i}: {}", panic_text(&*p)));
                            if !ctx.waited {
                                ctx.ready();
                            }
                        }
                        ctx.bad.iter().map(|b| format!("{b} (thread {i})")).collect()
                    })
                    .expect("a thread")
            })
            .collect();
        self.until("all threads are ready", || team.ready.load(SeqCst) == n);
        Threads { team, handles }
    }

    /// Lets the threads go (after [`Ctx::wait`]), waits for them, and takes over what they found.
    pub fn gather(&mut self, threads: Threads) {
        threads.team.go.store(true, SeqCst);
        for h in threads.handles {
            match h.join() {
                Ok(bad) => self.bad.extend(bad),
                Err(_) => self.bad("a thread", "to end", "a panic"),
            }
        }
    }

    // ---- helpers --------------------------------------------------------------------------------------------

    /// Waits (at most 20 s) until `done` holds; panics otherwise. For the set-up.
    pub fn until(&self, what: &str, done: impl Fn() -> bool) {
        for _ in 0..10_000 {
            if done() {
                return;
            }
            sleep_ms(2);
        }
        panic!("after 20 s it is still not so that {what}");
    }

    /// Waits at most `limit_ms` until `done` holds; notes a difference otherwise. For the verification.
    pub fn eventually(&mut self, what: &str, limit_ms: i64, done: impl Fn() -> bool) {
        let end = crate::sys::now_ns() + limit_ms * 1_000_000;
        while !done() {
            if crate::sys::now_ns() > end {
                return self.bad(what, &format!("to hold within {limit_ms} ms"), "it does not");
            }
            sleep_ms(2);
        }
    }

    fn exists(&self, name: &str) -> bool {
        let path = crate::sys::c(&self.path(name));
        call!(access(path.as_ptr(), libc::F_OK)) == 0
    }

    /// Writes a file of the protocol, whole or not at all.
    fn put(&self, name: &str, text: &str) {
        let (tmp, to) = (self.path(&format!(".{name}.{}", std::process::id())), self.path(name));
        let write = || -> std::io::Result<()> {
            let mut f = std::fs::File::create(&tmp)?;
            f.write_all(text.as_bytes())?;
            drop(f);
            std::fs::rename(&tmp, &to)
        };
        if let Err(e) = write() {
            // Nothing else is left to say it with: the exit status tells that no verdict was written.
            eprintln!("victim: cannot write {to}: {e}");
            call!(_exit(3));
        }
    }

    /// Runs the program and writes its verdict; the exit status: 0 as before, 1 not, 77 cannot be done here.
    pub fn run(&mut self, f: impl FnOnce(&mut Ctx)) -> i32 {
        let flow = match catch_unwind(AssertUnwindSafe(|| {
            f(self);
            self.join();
            assert!(self.waited, "the victim never waited");
        })) {
            Ok(()) => ControlFlow::Continue(()),
            Err(p) => match p.downcast::<Skipped>() {
                Ok(s) => ControlFlow::Break(s.0),
                Err(p) => {
                    let text = panic_text(&*p);
                    let when = if self.waited { "after the wait" } else { "set-up" };
                    self.bad.push(format!("BAD {when}: expected no error, found {text}"));
                    ControlFlow::Continue(())
                }
            },
        };
        let pid = std::process::id();
        let text = if self.bad.is_empty() { "OK\n".to_owned() } else { self.bad.join("\n") + "\n" };
        match (&self.role, flow) {
            (Role::Root, ControlFlow::Break(reason)) => {
                self.put("skip", &reason);
                return 77;
            }
            (_, ControlFlow::Break(reason)) => {
                self.put(&format!("note.{pid}"), &format!("BAD skip in a child: {reason}"))
            }
            (Role::Root, _) => self.put(&format!("result.{pid}"), &text),
            (_, _) if !self.bad.is_empty() => self.put(&format!("note.{pid}"), &text),
            _ => {}
        }
        i32::from(!self.bad.is_empty())
    }
}

fn panic_text(p: &(dyn std::any::Any + Send)) -> String {
    let text = p.downcast_ref::<String>().cloned().or_else(|| p.downcast_ref::<&str>().map(|s| (*s).to_owned()));
    text.unwrap_or_else(|| "a panic".to_owned())
}
