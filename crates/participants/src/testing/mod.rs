//! For tests of adapters: one suite that each has to pass, and private servers to run it on.
//!
//! A server lives in a temporary folder, listens on a free port of this machine, and is killed when
//! its handle goes. Where its programs are missing a test skips itself, loudly; in CI it fails.

#[cfg(feature = "testing")]
mod certificates;
#[cfg(feature = "testing")]
pub mod conformance;
mod mariadb;
mod postgres;
#[cfg(feature = "testing")]
mod proxy;
mod redis;

#[cfg(feature = "testing")]
pub use certificates::{Authority, Certified, Kind, Validity};
pub use mariadb::PrivateMariaDb;
pub use postgres::PrivatePostgres;
#[cfg(feature = "testing")]
pub use proxy::{Proxy, Toward};
pub use redis::PrivateRedis;

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
#[cfg(feature = "testing")]
use std::os::unix::fs::{PermissionsExt, chown};
#[cfg(feature = "testing")]
use std::path::Path;
use std::time::{Duration, Instant};

/// Longest wait for anything in a test.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Nobody's number on every system: servers refuse to run as root.
const NOBODY: u32 = 65_534;

/// Whether what this process makes belongs to root.
fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|it| it.uid() == 0)
}

/// Copies a file so that a server can read it, and nobody else: some take no key otherwise.
#[cfg(feature = "testing")]
fn hand_over(from: &Path, to: &Path) {
    fs::copy(from, to).expect("the folder is ours");
    fs::set_permissions(to, fs::Permissions::from_mode(0o600)).expect("the file is ours");
    if is_root() {
        chown(to, Some(NOBODY), Some(NOBODY)).expect("root may");
    }
}

/// Says that a test cannot run here.
///
/// # Panics
///
/// In CI, where `CI=true`.
pub fn skip(what: &str) {
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "{what} is not there");
    eprintln!("SKIPPED: {what} is not there");
}

/// A port that nobody listens on now.
///
/// # Panics
///
/// If there is none.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("this machine has a free port");
    listener.local_addr().expect("it is bound").port()
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
