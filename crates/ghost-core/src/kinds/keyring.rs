//! Keyrings: `keyrings(7)`, `keyctl(2)`. They do not travel: a key's payload may be for the kernel alone.
//!
//! Asked inside: KEYCTL_GET_KEYRING_ID of the session keyring, KEYCTL_READ of what is linked to it, KEYCTL_DESCRIBE of each. A
//! process that comes back has the session keyring of the restorer, so nothing is lost where it was ghost's own already, or
//! holds nothing but what every login gets: the keyrings of the user (`pam_keyinit(8)`), and the name that systemd gives to the
//! start of a service. Refused: any other key, and a thread that has joined another keyring than its process. The keyring of a thread or
//! of a process is refused even if it is empty: it is there only for those who made it, and they may know its number.

use crate::error::{Blocker, Context, KindError};
use crate::inquiry::ThreadAnswers;
use crate::view::ProcessView;
use ghost_sys::nr;
use ghost_sys::ptrace::Stopped;
use ghost_sys::remote::{Batch, Outcome, Puppet, Slot};

const KEYCTL_GET_KEYRING_ID: i32 = 0;
const KEYCTL_DESCRIBE: i32 = 6;
const KEYCTL_READ: i32 = 11;
const KEYCTL_SET_REQKEY_KEYRING: i32 = 14;
/// KEY_REQKEY_DEFL_NO_CHANGE: only tells.
const NO_CHANGE: i32 = -1;
const KEY_SPEC_SESSION_KEYRING: i32 = -3;
/// KEY_SPEC_THREAD_KEYRING and KEY_SPEC_PROCESS_KEYRING: nobody has one who did not ask for it.
const OWN: [(i32, &str); 2] = [(-1, "thread keyring"), (-2, "process keyring")];
/// More keys than these are not looked at one by one: nobody's login has as many.
const LOOKED_AT: usize = 16;
const DESCRIPTION_LEN: usize = 256;

/// Where in a batch the answers of a thread will be.
pub(crate) struct Asked {
    session: Slot,
    own: [Slot; 2],
    of_requests: Slot,
}

/// Queues the questions for the keyrings of a thread. None is made by it.
pub(crate) fn ask(batch: &mut Batch) -> Asked {
    let mut ask = |which: i32| {
        let args = [KEYCTL_GET_KEYRING_ID.into(), which.into(), 0.into()];
        batch.try_call("KEYCTL_GET_KEYRING_ID", nr::KEYCTL, &args)
    };
    let (session, own) = (ask(KEY_SPEC_SESSION_KEYRING), OWN.map(|(which, _)| ask(which)));
    let args = [KEYCTL_SET_REQKEY_KEYRING.into(), NO_CHANGE.into()];
    Asked { session, own, of_requests: batch.try_call("KEYCTL_SET_REQKEY_KEYRING", nr::KEYCTL, &args) }
}

impl Asked {
    /// The serial number that was answered; 0 where the kernel has no keyrings or gives none.
    pub(crate) fn session(&self, outcome: &Outcome) -> i32 {
        serial(outcome, self.session)
    }
    /// Where keys go that `request_key(2)` makes.
    pub(crate) fn of_requests(&self, outcome: &Outcome) -> u32 {
        outcome.result(self.of_requests).map_or(0, |which| which as u32)
    }
    /// The same of the thread's own and the process's own.
    pub(crate) fn own(&self, outcome: &Outcome) -> [i32; 2] {
        self.own.map(|slot| serial(outcome, slot))
    }
}

/// Queues the choice of where keys go that `request_key(2)` makes. A thread that chose a keyring of its own has it, and is refused.
pub(crate) fn choose(batch: &mut Batch, which: u32) {
    if which != 0 {
        let args = [KEYCTL_SET_REQKEY_KEYRING.into(), which.into()];
        batch.call("KEYCTL_SET_REQKEY_KEYRING", nr::KEYCTL, &args);
    }
}

fn serial(outcome: &Outcome, slot: Slot) -> i32 {
    outcome.result(slot).map_or(0, |serial| serial as i32)
}

/// What of the keyrings of this process cannot travel, asked by its first living thread.
pub(crate) fn check(
    process: &ProcessView,
    threads: &[ThreadAnswers],
    first: &Stopped,
    puppet: &mut Puppet,
) -> Result<Option<Blocker>, KindError> {
    let blocker_of = |which: &str, why: String| Blocker {
        pid: process.pid,
        comm: process.comm(),
        kind: "keyring",
        subject: which.into(),
        why,
        advice: format!("start it without a {which} of its own, or lose the keys with --accept keyring"),
        passes: false,
    };
    let blocker = |why: String| blocker_of("session keyring", why);
    for (i, (_, which)) in OWN.iter().enumerate() {
        if let Some(has) = threads.iter().position(|t| t.own_keyrings[i] != 0) {
            let (tid, serial) = (process.threads[has].tid, threads[has].own_keyrings[i]);
            return Ok(Some(blocker_of(
                which,
                format!("thread {tid} has one ({serial:x}), and no other can be given its number"),
            )));
        }
    }
    let Some(leader) = process.threads.iter().position(|t| t.tid == first.tid()) else { return Ok(None) };
    let own = threads[leader].session_keyring;
    // Without one of its own a thread is answered with the user session keyring of its real uid.
    let user = |i: usize| process.threads[i].status.uid[0];
    let alien =
        |i: usize| threads[i].session_keyring != 0 && threads[i].session_keyring != own && user(i) == user(leader);
    if let Some(other) = (0..threads.len()).find(|&i| alien(i)) {
        let tid = process.threads[other].tid;
        return Ok(Some(blocker(format!("thread {tid} has joined another than its process"))));
    }
    if own == 0 || own == ghost_sys::keyring::session() {
        return Ok(None);
    }
    let on = |e: KindError| e.on(process.pid, "session keyring");
    let mut batch = Batch::new();
    let links = batch.room(4 * LOOKED_AT);
    let args = [KEYCTL_READ.into(), own.into(), links.into(), (4 * LOOKED_AT).into()];
    let read = batch.try_call("KEYCTL_READ of the session keyring", nr::KEYCTL, &args);
    let outcome = run(puppet, first, &batch).map_err(on)?;
    let Ok(len) = outcome.result(read) else {
        return Ok(Some(blocker("it may not even be read, so that nobody knows what is in it".into())));
    };
    let count = len as usize / 4;
    if count > LOOKED_AT {
        return Ok(Some(blocker(format!("it holds {count} keys"))));
    }
    let serials: Vec<i32> = outcome
        .bytes(links)
        .chunks_exact(4)
        .take(count)
        .map(|b| i32::from_ne_bytes([b[0], b[1], b[2], b[3]]))
        .collect();
    let mut batch = Batch::new();
    let rooms: Vec<_> = serials
        .iter()
        .map(|serial| {
            let room = batch.room(DESCRIPTION_LEN);
            let args = [KEYCTL_DESCRIBE.into(), (*serial).into(), room.into(), DESCRIPTION_LEN.into()];
            (batch.try_call(format!("KEYCTL_DESCRIBE of key {serial}"), nr::KEYCTL, &args), room)
        })
        .collect();
    if batch.is_empty() {
        return Ok(None);
    }
    let outcome = run(puppet, first, &batch).map_err(on)?;
    for ((asked, room), serial) in rooms.into_iter().zip(serials) {
        let text = outcome.bytes(room).split(|b| *b == 0).next().unwrap_or_default();
        let text = String::from_utf8_lossy(text);
        if outcome.result(asked).is_err() || !comes_with_a_login(&text) {
            let name = text.splitn(5, ';').nth(4).unwrap_or("which may not be looked at");
            return Ok(Some(blocker(format!("it holds the key {serial:x} ({name})"))));
        }
    }
    Ok(None)
}

fn run(puppet: &mut Puppet, first: &Stopped, batch: &Batch) -> Result<Outcome, KindError> {
    puppet.run_in(first, batch).step("asking it for its keys")
}

/// Whether a description (`type;uid;gid;permissions;name`) is of a key that every login or service is given.
fn comes_with_a_login(description: &str) -> bool {
    let mut fields = description.splitn(5, ';');
    let (Some(sort), Some(name)) = (fields.next(), fields.nth(3)) else { return false };
    match sort {
        "keyring" => name.starts_with("_uid.") || name.starts_with("_uid_ses."),
        "user" => name == "invocation_id",
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_every_login_has_is_not_the_programs_own() {
        assert!(comes_with_a_login("keyring;1000;65534;1f3f0000;_uid.1000"));
        assert!(comes_with_a_login("user;0;0;3f010000;invocation_id"));
        assert!(!comes_with_a_login("user;0;0;3f010000;victim:key"));
        assert!(!comes_with_a_login("keyring;0;0;3f130000;mine"));
        assert!(!comes_with_a_login(""));
    }
}
