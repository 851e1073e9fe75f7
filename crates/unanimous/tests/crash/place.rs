//! Where a test happens: a folder, ports, and how to wait.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Ports are looked for from here up: below those that systems hand out for outgoing connections,
/// which could otherwise take a coordinator's port while it is dead.
const PORT_FIRST: u16 = 10_000;
const PORTS: u16 = 10_000;

/// Pause between two looks at a condition.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(5);

/// How long anything may take that is to happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A folder that is removed in the end, unless the test fails.
pub(crate) struct Folder(TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("unanimous-crash-").tempdir();
        Self(folder.expect("the system has a folder for temporary files"))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.disable_cleanup(true);
            eprintln!("kept for a look: {}", self.path().display());
        }
    }
}

/// An address that nobody listens on, and that stays free while its owner is dead.
pub(crate) fn free_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = (std::process::id() % u32::from(PORTS)) as u16;
    for _ in 0..PORTS {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = PORT_FIRST + start.wrapping_add(step) % PORTS;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
    panic!("no port is free from {PORT_FIRST} for {PORTS} ports");
}

/// Looks until there is something to see, and fails with what is in the way if there never is.
pub(crate) async fn eventually<T>(
    what: &str,
    mut look: impl AsyncFnMut() -> Result<T, String>,
) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match look().await {
            Ok(seen) => return seen,
            Err(why) if Instant::now() > deadline => panic!("never {what}: {why}"),
            Err(_) => tokio::time::sleep(LOOK_EVERY).await,
        }
    }
}

/// Says loudly that a test is not made because something is not there. In CI it has to be.
pub(crate) fn skip(missing: &str) {
    let ci = std::env::var("CI").is_ok_and(|ci| ci == "true" || ci == "1");
    assert!(!ci, "not there: {missing}");
    eprintln!("SKIPPED: not there: {missing}");
}
