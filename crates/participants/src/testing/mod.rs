//! For tests of adapters: one suite that each has to pass, and private servers to run it on.
//!
//! A server lives in a temporary folder, listens on a free port of this machine, and is killed when
//! its handle goes. Where its programs are missing a test skips itself, loudly; in CI it fails.

#[cfg(feature = "testing")]
mod certificates;
#[cfg(feature = "testing")]
pub mod conformance;
mod home;
mod mariadb;
mod postgres;
#[cfg(feature = "testing")]
mod proxy;
mod redis;
#[cfg(feature = "testing")]
pub mod steps;

#[cfg(feature = "testing")]
pub use certificates::{Authority, Certified, Kind, Validity};
pub use mariadb::PrivateMariaDb;
pub use postgres::PrivatePostgres;
#[cfg(feature = "testing")]
pub use proxy::{Proxy, Toward};
pub use redis::PrivateRedis;

use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::ops::Range;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Longest wait for anything in a test.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Where ports are looked for: below those that systems hand out for outgoing connections, which could
/// otherwise take a server's port before it listens, or while it is dead.
const PORTS: Range<u16> = 10_000..20_000;

/// Says that a test cannot run here.
///
/// # Panics
///
/// In CI, where `CI=true`.
pub fn skip(what: &str) {
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "{what} is not there");
    eprintln!("SKIPPED: {what} is not there");
}

/// A port that nobody listens on: this process's own until it ends.
///
/// Only its listener has a port, and only while it lives; so each is also held as UDP, where no server
/// of a test listens, and whoever looks for one in another process passes over it.
///
/// # Panics
///
/// If there is none.
pub fn free_port() -> u16 {
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

/// Waits until something holds.
///
/// # Panics
///
/// If it does not within [`PATIENCE`].
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
