use super::*;

#[test]
fn texts() {
    assert_eq!(parse_autogroup(b"/autogroup-3 nice -5\n"), Ok(Some(Autogroup { id: 3, nice: -5 })));
    assert_eq!(parse_autogroup(b""), Ok(None));
    assert!(parse_autogroup(b"/autogroup-x nice 0\n").is_err());
    let map = parse_id_map(b"         0          0 4294967295\n      1000     100000          1\n").unwrap();
    assert_eq!(map[0], IdRange { inside: 0, outside: 0, count: u32::MAX });
    assert_eq!(map[1], IdRange { inside: 1000, outside: 100_000, count: 1 });
    assert!(parse_id_map(b"1 2\n").is_err());
    let t = parse_time_offsets(b"monotonic        86400         5\nboottime           -1         0\n").unwrap();
    assert_eq!((t.monotonic_ns, t.boottime_ns), (86_400_000_000_005, -1_000_000_000));
    assert!(parse_time_offsets(b"monotonic 99999999999999 0\n").is_err());
    assert_eq!(parse_ns_link(b"mnt:[4026531832]"), Ok(4_026_531_832));
    assert!(parse_ns_link(b"mnt").is_err());
}

#[test]
fn own_settings() {
    let dir = ProcDir::own().unwrap();
    assert!((-1000..=1000).contains(&read_oom_score_adj(&dir).unwrap()));
    assert!(read_coredump_filter(&dir).unwrap().is_some());
    assert!(read_timerslack_ns(&dir).unwrap() > 0);
    assert_eq!(read_personality(&dir).unwrap() & 0xff, 0);
    assert!(!read_comm(&dir).unwrap().is_empty());
    assert_eq!(read_time_offsets(&dir).unwrap(), parse_time_offsets(&dir.bytes("timens_offsets").unwrap()).unwrap());
    assert!(!read_uid_map(&dir).unwrap().is_empty());
    assert!(!read_gid_map(&dir).unwrap().is_empty());
    read_autogroup(&dir).unwrap();
    assert_eq!(read_setgroups_allowed(&dir).unwrap(), dir.bytes("setgroups").unwrap() == b"allow\n");
}

#[test]
fn a_setting_is_written_and_read_back() {
    let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
    let dir = ProcDir::open(child.id() as crate::Pid).unwrap();
    let before = read_oom_score_adj(&dir).unwrap();
    let wrote = dir.write("oom_score_adj", b"321");
    let after = read_oom_score_adj(&dir);
    let filter = dir.write("coredump_filter", b"0x7f").and_then(|()| read_coredump_filter(&dir));
    child.kill().unwrap();
    child.wait().unwrap();
    wrote.unwrap();
    assert_ne!(before, 321);
    assert_eq!((after.unwrap(), filter.unwrap()), (321, Some(0x7f)));
}

#[test]
fn own_namespaces() {
    use std::os::unix::fs::MetadataExt;
    let all = read_namespaces(&ProcDir::own().unwrap()).unwrap();
    for name in ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"] {
        let link = all.iter().find(|l| l.name == name).unwrap();
        assert_eq!(link.inode, std::fs::metadata(format!("/proc/self/ns/{name}")).unwrap().ino());
    }
}
