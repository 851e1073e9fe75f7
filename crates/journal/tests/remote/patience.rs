//! Waiting for something, and what this machine has.

use std::fs;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Longest wait for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Where ports are looked for: below those that systems hand out for outgoing connections, which could
/// otherwise take a server's port before it listens, or while it is dead.
const PORTS: Range<u16> = 10_000..20_000;

/// Waits until something holds.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A port that nobody listens on: this process's own until it ends.
///
/// Only its listener has a port, and only while it lives; so each is also held as UDP, where no server
/// of a test listens, and whoever looks for one in another process passes over it.
pub(crate) fn free_port() -> u16 {
    static HELD: Mutex<Vec<UdpSocket>> = Mutex::new(Vec::new());
    let place = |port| (Ipv4Addr::LOCALHOST, port);
    let mut held = HELD.lock().expect("whoever has it only looks");
    for port in PORTS {
        let Ok(hold) = UdpSocket::bind(place(port)) else { continue };
        if TcpListener::bind(place(port)).is_ok() {
            held.push(hold);
            return port;
        }
    }
    panic!("no port of {PORTS:?} is free");
}

pub(crate) fn is_root() -> bool {
    fs::metadata(Path::new("/proc/self")).is_ok_and(|it| it.uid() == 0)
}
