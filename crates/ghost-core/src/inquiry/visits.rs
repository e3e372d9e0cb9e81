//! The visits in which a tree is asked: preparing on all CPUs, running at the same time, reading in order.

use super::alike::{self, Source};
use super::{Answers, ProcessAnswers, ProcessQuestions, ThreadAnswers, ThreadQuestions};
use crate::abreast;
use crate::error::{Blocker, Cause, Context, KindError};
use crate::freeze::{FrozenProcess, FrozenThread, FrozenTree};
use crate::kinds::memory::{ask, ldt, secret};
use crate::kinds::thread::encode;
use crate::kinds::{keyring, landlock, semaphore};
use crate::view::{ProcessView, ThreadView, TreeView};
use ghost_sys::bpf;
use ghost_sys::proc::{self, Mapping, Perms, PosixTimer, VmFlags};
use ghost_sys::ptrace::{self, Stopped};
use ghost_sys::remote::{Batch, Hints, Outcome, Puppet, RemoteError, Space, Visit, aborts, visit_all};
use ghost_sys::{Errno, Pid};
use std::collections::{HashMap, HashSet};

/// Processes that are asked at the same time, at most: for each a descriptor is held, which nobody has counted.
const AT_ONCE: usize = 32;

impl Answers {
    /// Asks every frozen process and thread.
    pub fn ask(view: &TreeView, frozen: &FrozenTree) -> Result<Self, KindError> {
        let mut children: HashMap<Pid, Vec<Pid>> = HashMap::new();
        for process in view.processes.iter().filter(|p| !p.is_zombie()) {
            children.entry(process.stat.ppid).or_default().push(process.pid);
        }
        let by_pid: HashMap<Pid, &FrozenProcess> = frozen.processes.iter().map(|p| (p.pid, p)).collect();
        let (mut witnesses, sets) = (landlock::Witnesses::new(), semaphore::Sets::of_host()?);
        // Those who share memory have one place for the executor: they are asked one after the other.
        let sharers: HashSet<usize> = view.processes.iter().filter_map(|p| p.shares_mm).collect();
        let mut answers = Vec::with_capacity(view.processes.len());
        let mut subjects = Vec::with_capacity(view.processes.len());
        for (index, process) in view.processes.iter().enumerate() {
            answers.push(ProcessAnswers {
                threads: vec![ThreadAnswers::default(); process.threads.len()],
                ..ProcessAnswers::default()
            });
            let Some(frozen) = by_pid.get(&process.pid).filter(|f| !f.threads.is_empty()) else { continue };
            let threads = threads_of(process, frozen);
            let living_children = children.get(&process.pid).map_or(&[][..], Vec::as_slice);
            let witness = threads.first().and_then(|&(nth, _)| witnesses.of(&process.threads[nth].status));
            let is_alone = threads.len() == 1 && process.shares_mm.is_none() && !sharers.contains(&index);
            subjects.push((Subject { index, process, living_children, witness, is_alone }, threads));
        }
        let mut subjects = subjects.into_iter().peekable();
        while subjects.peek().is_some() {
            let (some, threads): (Vec<_>, Vec<_>) = subjects.by_ref().take(AT_ONCE).unzip();
            let prepared = abreast::each(&some, abreast::PROCESSES, Subject::prepare);
            let mut all = Vec::with_capacity(some.len());
            for ((subject, threads), asking) in some.iter().zip(threads).zip(prepared) {
                let asking = asking?;
                // What the stops show is read of all of them before anybody goes in.
                subject.look(&threads, &asking, &mut answers[subject.index])?;
                all.push((subject, threads, asking));
            }
            let mut visits: Vec<Visit<'_>> = all
                .iter_mut()
                .filter(|(subject, ..)| subject.is_alone)
                .map(|(_, threads, asking)| Visit {
                    puppet: &mut asking.puppet,
                    thread: threads[0].1,
                    batch: &asking.of_first,
                })
                .collect();
            let mut outcomes = visit_all(&mut visits).into_iter();
            for (subject, threads, mut asking) in all {
                let sources = subject.sources(&threads, frozen.alike.as_ref());
                let outcomes = if subject.is_alone {
                    outcomes.next().into_iter().collect()
                } else {
                    let batch = |i| if i == 0 { &asking.of_first } else { &asking.of_others };
                    let asked = sources.iter().zip(&threads).filter(|(source, _)| matches!(source, Source::Asked));
                    let work: Vec<(&Stopped, &Batch)> =
                        asked.enumerate().map(|(i, (_, (_, stopped)))| (*stopped, batch(i))).collect();
                    asking.puppet.run_each(&work)
                };
                let answers = &mut answers[subject.index];
                let has_ldt = subject.read(&threads, &asking, (&sources, outcomes), answers)?;
                let puppet = &mut asking.puppet;
                if has_ldt {
                    let table = ldt::read(threads[0].1, puppet);
                    answers.memory.ldt = table.map_err(|e| e.on(subject.process.pid, "its local descriptor table"))?;
                }
                let more = subject.ask_more(view, &threads, puppet, (&mut witnesses, &sets), answers);
                more.map_err(unasked_later)?;
                let first = threads[0].1;
                asking.puppet.finish(first).step_on(subject.process.pid, String::new, "leaving no trace in it")?;
            }
        }
        Ok(Self { processes: answers })
    }
}

/// The frozen threads of a process, each with its place in the view.
type Threads<'a> = Vec<(usize, &'a Stopped)>;

fn threads_of<'a>(process: &ProcessView, frozen: &'a FrozenProcess) -> Threads<'a> {
    let by_tid: HashMap<Pid, &FrozenThread> = frozen.threads.iter().map(|t| (t.stopped.tid(), t)).collect();
    let threads = process.threads.iter().enumerate();
    threads.filter_map(|(nth, thread)| Some((nth, &by_tid.get(&thread.tid)?.stopped))).collect()
}

/// Who is asked.
struct Subject<'a> {
    /// Its place in the view.
    index: usize,
    process: &'a ProcessView,
    living_children: &'a [Pid],
    /// Whom its threads are to look at.
    witness: Option<Pid>,
    /// It has one thread, and its memory for itself.
    is_alone: bool,
}

/// What it is asked.
struct Asking {
    puppet: Puppet,
    timers: Vec<PosixTimer>,
    /// All threads are asked the same, the first also for the process.
    of_first: Batch,
    of_others: Batch,
    of_thread: ThreadQuestions,
    of_process: ProcessQuestions,
    of_memory: ask::MemoryQuestions,
}

impl Subject<'_> {
    /// All that needs no ptrace.
    fn prepare(&self) -> Result<Asking, KindError> {
        let (process, pid) = (self.process, self.process.pid);
        let timers = proc::read_timers(&process.dir).step_on(pid, String::new, "listing its POSIX timers")?;
        let puppet = Puppet::with_hints(process.live, &hints(process));
        let puppet = puppet.step_on(pid, String::new, "preparing to ask it")?;
        let mut of_others = Batch::new();
        let of_thread = ThreadQuestions::queue(&mut of_others, self.witness);
        let mut of_first = of_others.clone();
        let of_process = ProcessQuestions::queue(&mut of_first, &timers, self.living_children);
        let of_memory = ask::MemoryQuestions::queue(&mut of_first, &process.smaps);
        Ok(Asking { puppet, timers, of_first, of_others, of_thread, of_process, of_memory })
    }

    /// What the stop of each thread shows.
    fn look(
        &self,
        threads: &[(usize, &Stopped)],
        asking: &Asking,
        answers: &mut ProcessAnswers,
    ) -> Result<(), KindError> {
        let pid = self.process.pid;
        for &(nth, stopped) in threads {
            let what = || format!("tid {}", stopped.tid());
            may_enter(&self.process.threads[nth], stopped).map_err(|e| e.on(pid, what()))?;
            answers.threads[nth] = ThreadAnswers {
                signal_mask: stopped.signal_mask().step_on(pid, what, "reading its signal mask")?,
                rseq: stopped.rseq().step_on(pid, what, "reading its rseq registration")?,
                syscall_dispatch: stopped.syscall_dispatch().step_on(pid, what, "reading its syscall user dispatch")?,
                ..ThreadAnswers::default()
            };
        }
        let stopped: Vec<&Stopped> = threads.iter().map(|(_, stopped)| *stopped).collect();
        for (abort, (nth, stopped)) in aborts(asking.puppet.memory(), &stopped).into_iter().zip(threads) {
            let what = || format!("tid {}", stopped.tid());
            let mut registers = stopped.registers().step_on(pid, what, "reading its registers")?;
            // The program may be continued on another CPU: that is what the section must not live to see. The kernel can't do it
            // for us later, and nor can we: it forgets the section as soon as the thread returns to user space to answer us.
            if let Some(abort) = abort.step_on(pid, what, "reading its rseq critical section")? {
                registers.rip = abort;
            }
            answers.threads[*nth].registers = encode(&registers);
        }
        Ok(())
    }

    /// Who is asked; the first in any case.
    fn sources(&self, threads: &Threads<'_>, way: Option<&bpf::threads::Threads>) -> Vec<Source> {
        let way = way.filter(|_| threads.len() >= alike::MANY);
        let stopped: Vec<&Stopped> = threads.iter().map(|(_, stopped)| *stopped).collect();
        let found = way.and_then(|way| alike::sources(way, self.process.pid, &stopped).ok());
        found.unwrap_or_else(|| vec![Source::Asked; threads.len()])
    }

    /// What the threads have answered; whether the process has a local descriptor table.
    fn read(
        &self,
        threads: &[(usize, &Stopped)],
        asking: &Asking,
        (sources, outcomes): (&[Source], Vec<Result<Outcome, RemoteError>>),
        answers: &mut ProcessAnswers,
    ) -> Result<bool, KindError> {
        let mut has_ldt = false;
        let mut outcomes = outcomes.into_iter();
        for (i, (source, (nth, stopped))) in sources.iter().zip(threads).enumerate() {
            let has_said = |thread: &mut ThreadAnswers, said: ThreadAnswers| {
                let ThreadAnswers { registers, signal_mask, rseq, syscall_dispatch, .. } = std::mem::take(thread);
                *thread = ThreadAnswers { registers, signal_mask, rseq, syscall_dispatch, ..said };
            };
            if let Source::Like { place, alt_stack, clear_child_tid } = *source {
                let other = answers.threads[threads[place].0].clone();
                has_said(&mut answers.threads[*nth], ThreadAnswers { alt_stack, clear_child_tid, ..other });
                continue;
            }
            let outcome = outcomes.next().expect("one for each that is asked");
            let outcome = outcome.map_err(|e| unasked(e).on(self.process.pid, format!("tid {}", stopped.tid())))?;
            if i == 0 {
                asking.of_process.read(&outcome, &asking.timers, self.living_children, answers);
                answers.memory = asking.of_memory.read(&outcome);
                has_ldt = asking.of_memory.has_ldt(&outcome);
            }
            has_said(&mut answers.threads[*nth], asking.of_thread.read(&outcome));
        }
        Ok(has_ldt)
    }

    /// What is to be asked only after some answer.
    fn ask_more(
        &self,
        view: &TreeView,
        threads: &[(usize, &Stopped)],
        puppet: &mut Puppet,
        (witnesses, sets): (&mut landlock::Witnesses, &semaphore::Sets),
        answers: &mut ProcessAnswers,
    ) -> Result<(), KindError> {
        let (process, first) = (self.process, threads[0].1);
        if let Some((more, questions)) = ask::PolicyQuestions::queue(&answers.memory) {
            let outcome = puppet.run_in(first, &more);
            let outcome = outcome.step_on(process.pid, String::new, "asking for its NUMA policies")?;
            questions.read(&outcome, &mut answers.memory);
        }
        answers.memory.secrets = secret::ask(view, process, first, puppet, &mut answers.blockers)?;
        answers.blockers.extend(keyring::check(process, &answers.threads, first, puppet)?);
        if answers.tags {
            answers.blockers.push(Blocker {
                pid: process.pid,
                comm: process.comm(),
                kind: "tagged addresses",
                subject: "memory".into(),
                why: "bits of its addresses are for its own use (linear address masking), which is not carried yet"
                    .into(),
                advice: "run the program without it (GLIBC_TUNABLES, or the option of its sanitizer)".into(),
                passes: false,
            });
        }
        answers.blockers.extend(semaphore::check(process, threads, puppet, sets, &mut answers.notes)?);
        answers.blockers.extend(landlock::check(process, &answers.threads, threads, puppet, witnesses)?);
        Ok(())
    }
}

/// No address of a program is above, unless it asks for more.
const USER_END: u64 = 1 << 47;

/// What the list of mappings tells a puppet: where the vDSO is, and where there is room.
fn hints(process: &ProcessView) -> Hints {
    let smaps = &process.smaps;
    let vdso = smaps.iter().find(|s| s.mapping.name == b"[vdso]").map(|s| (s.mapping.start, s.mapping.end));
    let pairs = smaps.windows(2).rev();
    // Not where a stack grows nor below what the kernel has for itself, and not beside anything, which it would become one with.
    let gap = pairs.map(|pair| (pair[0].mapping.end, &pair[1])).find(|(end, next)| {
        let is_far = next.flags.contains(VmFlags::GROWS_DOWN) || next.mapping.end > USER_END;
        !is_far && next.mapping.start - end >= 3 * Hints::ROOM
    });
    let threads = process.threads.len();
    // One that shares an earlier one's memory has not been looked at for itself; one thread needs none of them.
    let are_known = process.shares_mm.is_none() && threads > 1;
    let spaces = are_known.then(|| smaps.iter().map(|s| space(&s.mapping)).collect());
    Hints { vdso, free: gap.map_or(0, |(_, next)| next.mapping.start - 2 * Hints::ROOM), threads, spaces }
}

fn space(m: &Mapping) -> Space {
    Space {
        start: m.start,
        end: m.end,
        readable: m.perms.contains(Perms::READ),
        executable: m.perms == Perms::READ | Perms::EXEC,
        offset: m.offset,
        file: (m.dev, m.inode),
        is_vdso: m.name == b"[vdso]",
    }
}

/// The same of a question that came after the first, in a thread whose limits may be others.
fn unasked_later(e: KindError) -> KindError {
    match e.cause {
        Cause::Remote(why @ RemoteError::Step { errno: Errno(libc::ENOMEM | libc::EAGAIN), .. }) => {
            unasked(why).on(e.pid, e.subject)
        }
        cause => KindError { cause, ..e },
    }
}

/// What an inquiry ended with. One that finds no room for its few pages can't be helped by ghost: it must not raise a limit that
/// would stay raised if it were killed.
fn unasked(e: RemoteError) -> KindError {
    if e.errno() == Some(Errno(libc::ENOEXEC)) {
        let why = "it runs 32-bit code, which cannot make ghost's calls: a 32-bit program, or a part of one (wine)";
        return KindError::refusal("asking it", why).advise("try again where it runs 64-bit code at times");
    }
    if !matches!(e.errno(), Some(Errno(libc::ENOMEM | libc::EAGAIN))) {
        return KindError::new("asking it", e);
    }
    let why = "it can map no more memory, and to answer it needs a few pages: RLIMIT_AS, RLIMIT_DATA, RLIMIT_MEMLOCK (with mlockall) or vm.max_map_count is used up";
    KindError::refusal("asking it", why)
        .advise("raise the limit (`prlimit --pid PID --as=…`, `sysctl vm.max_map_count=…`) and try again")
}

/// Whether calls made inside a thread would be judged by its seccomp filters, which may end it.
fn may_enter(thread: &ThreadView, stopped: &Stopped) -> Result<(), KindError> {
    if thread.status.seccomp == 0 {
        return Ok(());
    }
    stopped.set_options(ptrace::SUSPEND_SECCOMP).map_err(|e| {
        KindError::new("suspending its seccomp filters", e)
            .advise("run ghost with CAP_SYS_ADMIN in the initial user namespace and under no seccomp filter itself")
    })
}
