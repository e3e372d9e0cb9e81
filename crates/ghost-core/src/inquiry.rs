//! Questions that only a process itself can answer, asked by the puppet: one batch a process and one a thread.
//!
//! Of a process: signal actions (`rt_sigaction(2)`), interval timers (`getitimer(2)`), what is left of each POSIX timer
//! that `/proc/PID/timers` lists (`timer_gettime(2)`), the end of the heap (`brk(0)`), and the `prctl(2)` switches that
//! procfs does not show. Of a thread: alternate signal stack (`sigaltstack(2)`), the address that is cleared at its end
//! (PR_GET_TID_ADDRESS, Linux 3.5 with CONFIG_CHECKPOINT_RESTORE), parent-death signal, securebits, and the x86 and
//! speculation switches. The questions of the process travel in the batch of its first living thread.
//! Of very many threads only those are asked that are unlike each other, where that can be told (`inquiry/alike.rs`).
//!
//! Registers and signal mask are read *before* the puppet enters: afterwards an interrupted system call has already
//! been turned into its restart, and what it was can't be told any more; and the restartable sequence that it was in is forgotten.

pub(crate) mod alike;
mod visits;

use crate::error::Blocker;
use crate::kinds::memory::ask;
use crate::kinds::{keyring, landlock};
use ghost_image::record as rec;
use ghost_sys::proc::PosixTimer;
use ghost_sys::ptrace::RseqArea;
use ghost_sys::remote::{Arg, Batch, DataRef, Label, Outcome, Slot};
use ghost_sys::{Pid, nr};

/// Signals there are.
pub const SIGNALS: u32 = 64;
/// Bytes of the kernel's `struct sigaction`: handler, flags, restorer, mask.
pub const SIGACTION_LEN: usize = 32;

const PR_GET_PDEATHSIG: i32 = 2;
const PR_GET_DUMPABLE: i32 = 3;
const PR_GET_TSC: i32 = 25;
const PR_GET_SECUREBITS: i32 = 27;
const PR_GET_TIMERSLACK: i32 = 30;
const PR_MCE_KILL_GET: i32 = 34;
const PR_GET_CHILD_SUBREAPER: i32 = 37;
const PR_GET_TID_ADDRESS: i32 = 40;
const PR_GET_THP_DISABLE: i32 = 42;
const PR_GET_SPECULATION_CTRL: i32 = 52;
const PR_GET_MDWE: i32 = 66;
const PR_GET_MEMORY_MERGE: i32 = 68;
const PR_TIMER_CREATE_RESTORE_IDS: i32 = 77;
const RESTORE_IDS_GET: i32 = 2;
const MEMBARRIER_CMD_GET_REGISTRATIONS: i32 = 512;
const ARCH_GET_CPUID: i32 = 0x1011;
const ARCH_GET_UNTAG_MASK: i32 = 0x4001;
const ARCH_GET_XCOMP_PERM: i32 = 0x1022;
/// Speculation switches that `PR_GET_SPECULATION_CTRL` knows: store bypass, indirect branch, L1D flush.
pub const SPECULATION_SWITCHES: u32 = 3;

/// What the processes of a tree said, in the order of the view.
#[derive(Clone, Debug, Default)]
pub struct Answers {
    /// One for each process; zombies have empty answers.
    pub processes: Vec<ProcessAnswers>,
}

/// What one process said.
#[derive(Clone, Debug, Default)]
pub struct ProcessAnswers {
    /// One for each thread of the view, in its order; a thread that has ended (a dead leader) has empty answers.
    pub threads: Vec<ThreadAnswers>,
    /// brk(0): the end of the heap to the byte.
    pub brk: u64,
    /// Signals 1 to 64: handler, flags, restorer, mask.
    pub actions: Vec<[u64; 4]>,
    /// ITIMER_REAL, VIRTUAL, PROF: interval and value in microseconds.
    pub itimers: [(i64, i64); 3],
    /// The POSIX timers.
    pub timers: Vec<TimerAnswer>,
    /// PR_GET_DUMPABLE.
    pub dumpable: u32,
    /// PR_GET_CHILD_SUBREAPER.
    pub child_subreaper: bool,
    /// PR_GET_THP_DISABLE: bit 0 disabled, the others its flags.
    pub thp_disable: u32,
    /// PR_GET_MDWE.
    pub mdwe: u32,
    /// PR_TIMER_CREATE_RESTORE_IDS: `timer_create(2)` takes the id that it is given (Linux 6.16).
    pub timer_restore_ids: bool,
    /// PR_GET_MEMORY_MERGE.
    pub memory_merge: bool,
    /// Commands that registered the process with `membarrier(2)` (Linux 6.3 tells).
    pub membarrier: u32,
    /// ARCH_GET_UNTAG_MASK: whether some bits of its addresses are for its own use (LAM, Linux 6.4).
    pub tags: bool,
    /// ARCH_GET_XCOMP_PERM.
    pub xcomp_permitted: u64,
    /// What only the process can tell of its memory.
    pub memory: ask::MemoryAnswers,
    /// What only the process could tell that it cannot take along.
    pub blockers: Vec<Blocker>,
    /// What it may lose.
    pub notes: Vec<rec::Note>,
    /// Children whose stop (false) or continuation (true) the process has not waited for yet.
    pub child_reports: Vec<(Pid, bool)>,
}

/// A POSIX timer and what is left of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct TimerAnswer {
    /// What procfs says of it.
    pub timer: PosixTimer,
    /// Nanoseconds between expirations, 0 for once.
    pub interval_ns: i64,
    /// Nanoseconds to the next, 0 when disarmed.
    pub value_ns: i64,
    /// Expirations that were folded into the last signal.
    pub overrun: i32,
}

/// What one thread said.
#[derive(Clone, Debug, Default)]
pub struct ThreadAnswers {
    /// NT_PRSTATUS as it was at the stop; empty for a thread that has ended.
    pub registers: Vec<u8>,
    /// Its signal mask.
    pub signal_mask: u64,
    /// Its registered rseq area.
    pub rseq: Option<RseqArea>,
    /// Its syscall user dispatch: (mode, selector, offset, len).
    pub syscall_dispatch: (u64, u64, u64, u64),
    /// Serial number of its session keyring, 0 for none.
    pub session_keyring: i32,
    /// Where `request_key(2)` puts what it makes; 0 for the default.
    pub request_key_keyring: u32,
    /// Serial numbers of its thread keyring and its process keyring.
    pub own_keyrings: [i32; 2],
    /// Whether it is in a Landlock domain.
    pub landlock: landlock::Look,
    /// Alternate signal stack: address, flags, size.
    pub alt_stack: (u64, u32, u64),
    /// Its NUMA policy as [`rec::Thread`] has it; empty for the default.
    pub mempolicy: Vec<u8>,
    /// Where the kernel writes a zero at its end.
    pub clear_child_tid: u64,
    /// Signal it gets when its parent dies.
    pub pdeath_signal: u32,
    /// PR_GET_SECUREBITS.
    pub securebits: u32,
    /// `personality(2)`.
    pub personality: u32,
    /// PR_GET_TIMERSLACK in nanoseconds; 0 for a real-time thread.
    pub timer_slack_ns: u64,
    /// PR_GET_TSC: 1 enabled, 2 SIGSEGV; 0 unknown.
    pub tsc_mode: u32,
    /// ARCH_GET_CPUID: Some(true) when enabled.
    pub cpuid: Option<bool>,
    /// PR_MCE_KILL_GET.
    pub mce_kill: Option<u32>,
    /// PR_GET_SPECULATION_CTRL of each switch; None where the CPU or kernel has none.
    pub speculation: [Option<u32>; SPECULATION_SWITCHES as usize],
}

/// Where in a batch the answers of a thread will be.
///
/// Each must come from a member of the kernel's `task_struct` that [`ghost_sys::bpf::threads`] compares or reads: a new one has to be put there, too.
struct ThreadQuestions {
    alt_stack: DataRef,
    policy: ask::Policy,
    tid_address: (Slot, DataRef),
    pdeath: DataRef,
    securebits: Slot,
    personality: Slot,
    timer_slack: Slot,
    tsc: (Slot, DataRef),
    cpuid: Slot,
    mce_kill: Slot,
    keyring: keyring::Asked,
    landlock: Option<Slot>,
    speculation: [Slot; SPECULATION_SWITCHES as usize],
}

impl ThreadQuestions {
    fn queue(batch: &mut Batch, witness: Option<Pid>) -> Self {
        let alt_stack = batch.room(24);
        batch.call("sigaltstack", nr::SIGALTSTACK, &[0.into(), alt_stack.into()]);
        let address = batch.room(8);
        let asked = prctl(batch, "PR_GET_TID_ADDRESS", PR_GET_TID_ADDRESS, &[address.into()]);
        let pdeath = batch.room(4);
        prctl(batch, "PR_GET_PDEATHSIG", PR_GET_PDEATHSIG, &[pdeath.into()]);
        let tsc = batch.room(4);
        Self {
            alt_stack,
            policy: ask::Policy::of_thread(batch),
            tid_address: (asked, address),
            pdeath,
            personality: batch.call("personality", nr::PERSONALITY, &[u32::MAX.into()]),
            timer_slack: prctl(batch, "PR_GET_TIMERSLACK", PR_GET_TIMERSLACK, &[]),
            securebits: prctl(batch, "PR_GET_SECUREBITS", PR_GET_SECUREBITS, &[]),
            tsc: (prctl(batch, "PR_GET_TSC", PR_GET_TSC, &[tsc.into()]), tsc),
            cpuid: batch.try_call("ARCH_GET_CPUID", nr::ARCH_PRCTL, &[ARCH_GET_CPUID.into()]),
            mce_kill: prctl(batch, "PR_MCE_KILL_GET", PR_MCE_KILL_GET, &[]),
            keyring: keyring::ask(batch),
            landlock: landlock::ask(batch, witness),
            speculation: std::array::from_fn(|which| {
                prctl(batch, "PR_GET_SPECULATION_CTRL", PR_GET_SPECULATION_CTRL, &[which.into()])
            }),
        }
    }

    fn read(&self, outcome: &Outcome) -> ThreadAnswers {
        let number = |slot| outcome.result(slot).ok().map(|v| v as u32);
        let stack = outcome.bytes(self.alt_stack);
        ThreadAnswers {
            alt_stack: (word(stack, 0), word(stack, 8) as u32, word(stack, 16)),
            mempolicy: self.policy.read(outcome),
            clear_child_tid: outcome.result(self.tid_address.0).map_or(0, |_| outcome.u64(self.tid_address.1)),
            pdeath_signal: outcome.u32(self.pdeath),
            securebits: number(self.securebits).unwrap_or(0),
            personality: number(self.personality).unwrap_or(0),
            timer_slack_ns: outcome.result(self.timer_slack).map_or(0, |v| v as u64),
            tsc_mode: number(self.tsc.0).map_or(0, |_| outcome.u32(self.tsc.1)),
            cpuid: number(self.cpuid).map(|v| v != 0),
            mce_kill: number(self.mce_kill),
            session_keyring: self.keyring.session(outcome),
            own_keyrings: self.keyring.own(outcome),
            request_key_keyring: self.keyring.of_requests(outcome),
            landlock: landlock::answer(outcome, self.landlock),
            speculation: self.speculation.map(number),
            ..ThreadAnswers::default()
        }
    }
}

/// Where in a batch the answers of a process will be.
struct ProcessQuestions {
    actions: Vec<DataRef>,
    itimers: [DataRef; 3],
    timers: Vec<(DataRef, Slot)>,
    brk: Slot,
    dumpable: Slot,
    subreaper: DataRef,
    thp_disable: Slot,
    mdwe: Slot,
    memory_merge: Slot,
    restore_ids: Slot,
    membarrier: Slot,
    xcomp: (Slot, DataRef),
    untag: (Slot, DataRef),
    reports: Vec<DataRef>,
}

impl ProcessQuestions {
    fn queue(batch: &mut Batch, timers: &[PosixTimer], living_children: &[Pid]) -> Self {
        let actions = (1..=SIGNALS).map(|signal| {
            let room = batch.room(SIGACTION_LEN);
            let args: [Arg; 4] = [signal.into(), 0.into(), room.into(), 8.into()];
            batch.call(Label::Number("rt_sigaction of signal", signal.into()), nr::RT_SIGACTION, &args);
            room
        });
        let actions = actions.collect();
        let itimers = std::array::from_fn(|which| {
            let room = batch.room(32);
            batch.call(format!("getitimer {which}"), nr::GETITIMER, &[which.into(), room.into()]);
            room
        });
        let timers = timers.iter().map(|t| {
            let room = batch.room(32);
            batch.call(format!("timer_gettime of timer {}", t.id), nr::TIMER_GETTIME, &[t.id.into(), room.into()]);
            (room, batch.try_call(format!("timer_getoverrun of timer {}", t.id), nr::TIMER_GETOVERRUN, &[t.id.into()]))
        });
        let timers = timers.collect();
        let subreaper = batch.room(4);
        prctl(batch, "PR_GET_CHILD_SUBREAPER", PR_GET_CHILD_SUBREAPER, &[subreaper.into()]);
        let (xcomp, untag) = (batch.room(8), batch.room(8));
        let reports = living_children.iter().map(|child| {
            let info = batch.room(128);
            let how = libc::WSTOPPED | libc::WCONTINUED | libc::WNOHANG | libc::WNOWAIT;
            let args: [Arg; 5] = [(libc::P_PID as i32).into(), (*child).into(), info.into(), how.into(), 0.into()];
            batch.try_call(format!("waitid for {child}"), libc::SYS_waitid, &args);
            info
        });
        let reports = reports.collect();
        Self {
            actions,
            itimers,
            timers,
            reports,
            subreaper,
            brk: batch.call("brk", nr::BRK, &[0.into()]),
            dumpable: prctl(batch, "PR_GET_DUMPABLE", PR_GET_DUMPABLE, &[]),
            thp_disable: prctl(batch, "PR_GET_THP_DISABLE", PR_GET_THP_DISABLE, &[]),
            mdwe: prctl(batch, "PR_GET_MDWE", PR_GET_MDWE, &[]),
            restore_ids: prctl(
                batch,
                "PR_TIMER_CREATE_RESTORE_IDS",
                PR_TIMER_CREATE_RESTORE_IDS,
                &[RESTORE_IDS_GET.into()],
            ),
            memory_merge: prctl(batch, "PR_GET_MEMORY_MERGE", PR_GET_MEMORY_MERGE, &[]),
            membarrier: batch.try_call(
                "MEMBARRIER_CMD_GET_REGISTRATIONS",
                nr::MEMBARRIER,
                &[MEMBARRIER_CMD_GET_REGISTRATIONS.into(), 0.into(), 0.into()],
            ),
            untag: {
                let args = [ARCH_GET_UNTAG_MASK.into(), untag.into()];
                (batch.try_call("ARCH_GET_UNTAG_MASK", nr::ARCH_PRCTL, &args), untag)
            },
            xcomp: {
                let args = [ARCH_GET_XCOMP_PERM.into(), xcomp.into()];
                (batch.try_call("ARCH_GET_XCOMP_PERM", nr::ARCH_PRCTL, &args), xcomp)
            },
        }
    }

    fn read(&self, outcome: &Outcome, timers: &[PosixTimer], living_children: &[Pid], into: &mut ProcessAnswers) {
        let number = |slot| outcome.result(slot).map_or(0, |v| v as u32);
        let words = |d: &DataRef| -> [u64; 4] { std::array::from_fn(|i| word(outcome.bytes(*d), i * 8)) };
        // struct itimerval and struct itimerspec: interval, then value, each in seconds and a fraction.
        let spans = |d: &DataRef, unit: i64| {
            let w = words(d).map(|v| v as i64);
            (w[0].saturating_mul(unit).saturating_add(w[1]), w[2].saturating_mul(unit).saturating_add(w[3]))
        };
        into.actions = self.actions.iter().map(words).collect();
        into.itimers = self.itimers.map(|d| spans(&d, 1_000_000));
        into.timers = timers
            .iter()
            .zip(&self.timers)
            .map(|(timer, (room, overrun))| {
                let (interval_ns, value_ns) = spans(room, 1_000_000_000);
                TimerAnswer { timer: *timer, interval_ns, value_ns, overrun: number(*overrun) as i32 }
            })
            .collect();
        into.brk = outcome.result(self.brk).map_or(0, |v| v as u64);
        into.dumpable = number(self.dumpable);
        into.child_subreaper = outcome.u32(self.subreaper) != 0;
        into.thp_disable = number(self.thp_disable);
        into.mdwe = number(self.mdwe);
        into.timer_restore_ids = number(self.restore_ids) != 0;
        into.memory_merge = number(self.memory_merge) != 0;
        into.membarrier = number(self.membarrier);
        into.tags = outcome.result(self.untag.0).is_ok_and(|_| outcome.u64(self.untag.1) != u64::MAX);
        into.xcomp_permitted = outcome.result(self.xcomp.0).map_or(0, |_| outcome.u64(self.xcomp.1));
        // si_code stays 0 when there is nothing to report.
        let code = |d: &DataRef| word(outcome.bytes(*d), 8) as i32;
        into.child_reports = living_children
            .iter()
            .zip(&self.reports)
            .filter(|(_, d)| code(d) != 0)
            .map(|(child, d)| (*child, code(d) == libc::CLD_CONTINUED))
            .collect();
    }
}

/// Queues a prctl whose error is an answer.
fn prctl(batch: &mut Batch, label: &'static str, option: i32, rest: &[Arg]) -> Slot {
    let mut args = [Arg::Value(0); 5];
    args[0] = option.into();
    args[1..=rest.len()].copy_from_slice(rest);
    batch.try_call(label, nr::PRCTL, &args)
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
