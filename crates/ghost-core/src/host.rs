//! The host a ghost comes from, and whether it can live on this one.

use crate::error::KindError;
use crate::view::TreeView;
use ghost_image::record as rec;

/// The header of a ghost made here.
pub fn header() -> ghost_image::Header {
    let arch = ghost_image::Arch::of_this_build().expect("ghost is only built for processors that it has a name for");
    ghost_image::Header::new(arch, rustix::system::uname().release().to_string_lossy())
}

/// What a ghost says of the host that it leaves.
pub fn record(view: &TreeView) -> rec::Host {
    let root = view.processes.first();
    let comm = root.map(crate::view::ProcessView::comm).unwrap_or_default();
    rec::Host { root_comm: comm, ..record_of_host(root.map_or(0, |p| p.pid)) }
}

/// The same before anything has been looked at.
pub fn record_of_host(root_pid: ghost_sys::Pid) -> rec::Host {
    let uname = rustix::system::uname();
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    rec::Host {
        kernel_release: uname.release().to_string_lossy().into_owned(),
        hostname: uname.nodename().to_string_lossy().into_owned(),
        boot_id: read("/proc/sys/kernel/random/boot_id").into_bytes(),
        cpu_xfeatures: ghost_sys::cpu::xfeatures(),
        cpu_features: ghost_sys::cpu::feature_words(),
        realtime_ns: ghost_sys::clock::realtime_ns(),
        monotonic_ns: ghost_sys::clock::monotonic_ns(),
        boottime_ns: ghost_sys::clock::boottime_ns(),
        ghost_version: env!("CARGO_PKG_VERSION").to_owned(),
        root_pid,
        root_comm: String::new(),
        notes: Vec::new(),
        xstate_size: 0,
        cgroup: String::new(),
    }
}

/// Refuses a ghost whose program may be using what this CPU does not have.
pub fn check(host: &rec::Host) -> Result<(), KindError> {
    let here = ghost_sys::cpu::feature_words();
    let missing_state = host.cpu_xfeatures & !ghost_sys::cpu::xfeatures();
    let missing = host.cpu_features.iter().zip(&here).any(|(there, here)| there & !here != 0);
    if missing_state != 0 || missing {
        return Err(KindError::refusal(
            "comparing the processors",
            format!(
                "the program may use features that this CPU lacks (feature words there {:x?}, here {here:x?}; vector state missing {missing_state:#x})",
                host.cpu_features
            ),
        )
        .advise("restart it on a host with the same or a newer CPU"));
    }
    Ok(())
}
