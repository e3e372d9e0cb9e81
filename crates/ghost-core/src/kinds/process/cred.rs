//! Who a thread is: user and group ids, supplementary groups, the five capability sets, securebits; `credentials(7)`.
//!
//! Read: `/proc/PID/task/TID/status`, PR_GET_SECUREBITS. Rebuilt by the thread itself: `setresuid(2)` and its kin, `capset(2)`,
//! `prctl(2)`. The kernel grants nothing that the restorer does not have, and neither do we: a lack is an error that names it.
//!
//! Order: ids change under SECBIT_NO_SETUID_FIXUP, so that they take no capability away; then inheritable and ambient sets and
//! the bounding set while everything is still permitted; final securebits; permitted and effective set last.

use crate::error::{Cause, KindError};
use ghost_image::record as rec;
use ghost_sys::proc::Status;
use ghost_sys::remote::Batch;
use ghost_sys::{Errno, nr};

/// SECBIT_KEEP_CAPS.
pub const SECBIT_KEEP_CAPS: u32 = 1 << 4;
const SECBIT_NO_SETUID_FIXUP: u32 = 1 << 2;
const PR_SET_KEEPCAPS: i32 = 8;
const PR_CAPBSET_DROP: i32 = 24;
const PR_SET_SECUREBITS: i32 = 28;
const PR_CAP_AMBIENT: i32 = 47;
const PR_CAP_AMBIENT_RAISE: i32 = 2;
const PR_CAP_AMBIENT_CLEAR_ALL: i32 = 4;
const CAP_SETGID: u32 = 6;
const CAP_SETUID: u32 = 7;
const CAP_SETPCAP: u32 = 8;
const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

/// The credentials that this status tells.
pub fn of(status: &Status, securebits: u32) -> rec::Cred {
    rec::Cred {
        uid: status.uid.to_vec(),
        gid: status.gid.to_vec(),
        groups: status.groups.clone(),
        cap_inheritable: status.cap_inheritable,
        cap_permitted: status.cap_permitted,
        cap_effective: status.cap_effective,
        cap_bounding: status.cap_bounding,
        cap_ambient: status.cap_ambient,
        securebits,
    }
}

/// The securebits of ghost, which the new processes begin with (keep-caps is off after every exec).
pub fn own_securebits() -> u32 {
    rustix::thread::capabilities_secure_bits().map_or(0, |b| b.bits()) & !SECBIT_KEEP_CAPS
}

/// Queues the way from the credentials `now` to those `wanted`. Refuses what `now` has no right to.
pub fn queue(batch: &mut Batch, wanted: &rec::Cred, now: &rec::Cred) -> Result<(), KindError> {
    if wanted == now {
        return Ok(());
    }
    let (&[uid, euid, suid, fsuid], &[gid, egid, sgid, fsgid]) = (wanted.uid.as_slice(), wanted.gid.as_slice()) else {
        return Err(KindError::conflict("reading its credentials", "there are not four user and four group ids"));
    };
    permitted(wanted, now)?;
    let may_setpcap = now.cap_effective >> CAP_SETPCAP & 1 != 0;
    let ids = wanted.uid != now.uid || wanted.gid != now.gid;
    if ids && may_setpcap {
        secure(batch, now.securebits | SECBIT_NO_SETUID_FIXUP);
    } else if ids {
        batch.call("PR_SET_KEEPCAPS", nr::PRCTL, &[PR_SET_KEEPCAPS.into(), 1.into()]);
    }
    if wanted.groups != now.groups {
        let bytes: Vec<u8> = wanted.groups.iter().flat_map(|g| g.to_ne_bytes()).collect();
        let data = batch.data(&bytes);
        batch.call("setgroups", nr::SETGROUPS, &[wanted.groups.len().into(), data.into()]);
    }
    if wanted.gid != now.gid {
        batch.call(format!("setresgid to {gid}"), nr::SETRESGID, &[gid.into(), egid.into(), sgid.into()]);
        batch.call(format!("setfsgid to {fsgid}"), nr::SETFSGID, &[fsgid.into()]);
    }
    if wanted.uid != now.uid {
        batch.call(format!("setresuid to {uid}"), nr::SETRESUID, &[uid.into(), euid.into(), suid.into()]);
        batch.call(format!("setfsuid to {fsuid}"), nr::SETFSUID, &[fsuid.into()]);
    }
    if wanted.cap_inheritable != now.cap_inheritable {
        capset(batch, now.cap_effective, now.cap_permitted, wanted.cap_inheritable);
    }
    if wanted.cap_ambient != now.cap_ambient {
        ambient(batch, PR_CAP_AMBIENT_CLEAR_ALL, 0);
        for cap in bits(wanted.cap_ambient) {
            ambient(batch, PR_CAP_AMBIENT_RAISE, cap);
        }
    }
    if may_setpcap {
        for cap in bits(now.cap_bounding & !wanted.cap_bounding) {
            batch.call(
                format!("PR_CAPBSET_DROP of capability {cap}"),
                nr::PRCTL,
                &[PR_CAPBSET_DROP.into(), cap.into()],
            );
        }
        if ids || wanted.securebits != now.securebits {
            secure(batch, wanted.securebits);
        }
    }
    capset(batch, wanted.cap_effective, wanted.cap_permitted, wanted.cap_inheritable);
    Ok(())
}

/// Refuses what the kernel would refuse too, in words that name it.
fn permitted(wanted: &rec::Cred, now: &rec::Cred) -> Result<(), KindError> {
    let has = |cap: u32| now.cap_effective >> cap & 1 != 0;
    let refuse = |what: String, advice: &str| {
        Err(KindError::conflict("giving it its credentials", what).advise(advice.to_owned()))
    };
    if wanted.uid.iter().any(|u| !now.uid.contains(u)) && !has(CAP_SETUID) {
        let (uid, own) = (&wanted.uid, now.uid[1]);
        return refuse(
            format!("it ran with user ids {uid:?} and ghost runs as {own}"),
            "restart it as that user or as root",
        );
    }
    if wanted.gid.iter().any(|g| !now.gid.contains(g)) && !has(CAP_SETGID) {
        let (gid, own) = (&wanted.gid, now.gid[1]);
        return refuse(
            format!("it ran with group ids {gid:?} and ghost runs as {own}"),
            "restart it as its user or as root",
        );
    }
    if wanted.groups != now.groups && !has(CAP_SETGID) {
        let groups = &wanted.groups;
        return refuse(
            format!("it was in the groups {groups:?}"),
            "restart it as a user in the same groups, or as root",
        );
    }
    let lacking = (wanted.cap_permitted | wanted.cap_effective) & !now.cap_permitted;
    if lacking != 0 {
        let caps: Vec<u32> = bits(lacking).collect();
        return refuse(
            format!("it had capabilities that ghost lacks: numbers {caps:?}"),
            "restart it with those capabilities",
        );
    }
    if wanted.securebits != now.securebits && !has(CAP_SETPCAP) {
        return refuse(format!("it had securebits {:#x}", wanted.securebits), "restart it with CAP_SETPCAP");
    }
    // A wider bounding set than it had would let it gain what it had given up for good.
    if now.cap_bounding & !wanted.cap_bounding != 0 && !has(CAP_SETPCAP) && wanted.cap_bounding != 0 {
        let caps: Vec<u32> = bits(now.cap_bounding & !wanted.cap_bounding).collect();
        return refuse(
            format!("it had given up capabilities for good (bounding set): numbers {caps:?}"),
            "restart it with CAP_SETPCAP, or from under the same bounding set",
        );
    }
    Ok(())
}

/// Adds what can be done to an error of these calls.
pub fn explain(e: KindError) -> KindError {
    let refused = match &e.cause {
        Cause::Remote(r) => r.errno() == Some(Errno(libc::EPERM)),
        _ => false,
    };
    if refused && e.advice.is_none() {
        return e.advise("restart it as root, or as the user it ran as");
    }
    e
}

fn bits(set: u64) -> impl Iterator<Item = u32> {
    (0..64).filter(move |b| set >> b & 1 != 0)
}

fn secure(batch: &mut Batch, bits: u32) {
    batch.call("PR_SET_SECUREBITS", nr::PRCTL, &[PR_SET_SECUREBITS.into(), bits.into()]);
}

fn ambient(batch: &mut Batch, how: i32, cap: u32) {
    let args = [PR_CAP_AMBIENT.into(), how.into(), cap.into(), 0.into(), 0.into()];
    batch.call(format!("PR_CAP_AMBIENT of capability {cap}"), nr::PRCTL, &args);
}

fn capset(batch: &mut Batch, effective: u64, permitted: u64, inheritable: u64) {
    // struct __user_cap_header_struct, then two of __user_cap_data_struct: low words, high words.
    let header = batch.data(&[CAPABILITY_VERSION_3.to_ne_bytes(), 0_u32.to_ne_bytes()].concat());
    let words = [effective, permitted, inheritable].map(|s| s as u32);
    let high = [effective, permitted, inheritable].map(|s| (s >> 32) as u32);
    let bytes: Vec<u8> = words.into_iter().chain(high).flat_map(u32::to_ne_bytes).collect();
    let data = batch.data(&bytes);
    batch.call("capset", nr::CAPSET, &[header.into(), data.into()]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cred(uid: u32, caps: u64) -> rec::Cred {
        rec::Cred {
            uid: vec![uid; 4],
            gid: vec![uid; 4],
            groups: Vec::new(),
            cap_permitted: caps,
            cap_effective: caps,
            cap_bounding: u64::MAX >> 23,
            ..rec::Cred::default()
        }
    }
    const ALL: u64 = u64::MAX >> 23;

    #[test]
    fn equal_credentials_need_no_call() {
        let mut batch = Batch::new();
        queue(&mut batch, &cred(1000, 0), &cred(1000, 0)).unwrap();
        assert!(batch.is_empty());
    }

    #[test]
    fn rights_that_the_restorer_lacks_are_refused_by_name() {
        let mut batch = Batch::new();
        let said = |wanted: &rec::Cred, now: &rec::Cred| queue(&mut Batch::new(), wanted, now).unwrap_err().to_string();
        assert!(said(&cred(0, 0), &cred(1000, 0)).contains("user ids"));
        assert!(said(&cred(1000, 1 << 21), &cred(1000, 0)).contains("[21]"));
        let groups = rec::Cred { groups: vec![4, 27], ..cred(1000, 0) };
        assert!(said(&groups, &cred(1000, 0)).contains("[4, 27]"));
        let bound = rec::Cred { cap_bounding: ALL & !(1 << 12), ..cred(1000, 0) };
        assert!(said(&bound, &cred(1000, 0)).contains("for good"));
        queue(&mut batch, &bound, &cred(0, ALL)).unwrap();
        assert!(!batch.is_empty());
    }
}
