//! A static program: threads that hand a token round, a file under way, sleeps.
use std::io::{Read as _, Seek as _, Write as _};
use std::sync::mpsc::channel;

fn step(mut x: u64) -> u64 {
    for _ in 0..200_000 {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
    }
    x
}

fn main() {
    let (to_first, mut from) = channel::<u64>();
    for _ in 0..4 {
        let (to, next) = channel();
        std::thread::spawn(move || {
            for x in from {
                if to.send(step(x)).is_err() {
                    return;
                }
            }
        });
        from = next;
    }
    let mut log = std::fs::File::options().read(true).write(true).create(true).truncate(true).open("log").expect("log");
    let mut x = 88_172_645_463_325_252u64;
    for round in 0..250 {
        to_first.send(x).expect("the ring");
        x = from.recv().expect("the ring");
        println!("{round} {x:016x}");
        log.write_all(&x.to_le_bytes()).expect("log");
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    let mut all = Vec::new();
    log.rewind().expect("log");
    log.read_to_end(&mut all).expect("log");
    let sum = all.iter().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3));
    println!("{} {sum:016x}", all.len());
}
