//! What an event loop rests on, without the crates: epoll by hand, an eventfd, a timer, unix pairs, worker threads.
use std::io::{Read as _, Write as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _};
use std::os::unix::net::UnixStream;

#[repr(C, packed)]
#[derive(Clone, Copy)]
struct Event {
    events: u32,
    data: u64,
}

extern "C" {
    fn epoll_create1(flags: i32) -> i32;
    fn epoll_ctl(ep: i32, op: i32, fd: i32, event: *mut Event) -> i32;
    fn epoll_wait(ep: i32, events: *mut Event, max: i32, timeout: i32) -> i32;
    fn eventfd(initial: u32, flags: i32) -> i32;
}

fn main() {
    let ep = unsafe { epoll_create1(0x80000) };
    let wake = unsafe { eventfd(0, 0x80800) };
    let add = |fd: i32, data: u64, events: u32| {
        let mut e = Event { events, data };
        assert_eq!(unsafe { epoll_ctl(ep, 1, fd, &mut e) }, 0);
    };
    add(wake, 1000, 1 | 1 << 31);
    let mut mine = Vec::new();
    for n in 0..8u64 {
        let (a, mut b) = UnixStream::pair().unwrap();
        a.set_nonblocking(true).unwrap();
        add(a.as_raw_fd(), n, 1 | 1 << 30);
        mine.push(a);
        std::thread::spawn(move || {
            let mut wake = std::mem::ManuallyDrop::new(unsafe { std::fs::File::from_raw_fd(wake) });
            let mut buf = [0u8; 8];
            while b.read_exact(&mut buf).is_ok() {
                let mut x = u64::from_le_bytes(buf);
                for _ in 0..30_000 {
                    x ^= x << 13;
                    x ^= x >> 7;
                    x ^= x << 17;
                }
                b.write_all(&x.to_le_bytes()).unwrap();
                wake.write_all(&1u64.to_le_bytes()).unwrap();
            }
        });
    }
    let mut values: Vec<u64> = (0..8).map(|n| 88_172_645_463_325_252 + n).collect();
    let mut wakes = 0u64;
    for round in 0..500 {
        for (a, v) in mine.iter_mut().zip(&values) {
            a.write_all(&v.to_le_bytes()).unwrap();
        }
        let mut left = 8;
        while left > 0 {
            let mut events = [Event { events: 0, data: 0 }; 16];
            let n = unsafe { epoll_wait(ep, events.as_mut_ptr(), 16, 10_000) };
            assert!(n > 0, "epoll_wait: {n}");
            for e in &events[..n as usize] {
                let at = { e.data };
                if at == 1000 {
                    let mut buf = [0u8; 8];
                    let mut wake = std::mem::ManuallyDrop::new(unsafe { std::fs::File::from_raw_fd(wake) });
                    if wake.read_exact(&mut buf).is_ok() {
                        wakes += u64::from_le_bytes(buf);
                    }
                    continue;
                }
                let mut buf = [0u8; 8];
                mine[at as usize].read_exact(&mut buf).unwrap();
                values[at as usize] = u64::from_le_bytes(buf);
                left -= 1;
                let mut again = Event { events: 1 | 1 << 30, data: at };
                assert_eq!(unsafe { epoll_ctl(ep, 3, mine[at as usize].as_raw_fd(), &mut again) }, 0);
            }
        }
        println!("{round} {:016x}", values.iter().fold(0u64, |a, v| a.rotate_left(5) ^ v));
    }
    drop(mine);
    let mut buf = [0u8; 8];
    let mut wake = unsafe { std::fs::File::from_raw_fd(wake) };
    while wakes < 4000 {
        if wake.read_exact(&mut buf).is_ok() {
            wakes += u64::from_le_bytes(buf);
        }
    }
    println!("{wakes}");
}
