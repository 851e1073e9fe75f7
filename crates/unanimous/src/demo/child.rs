//! Processes that are killed and started again, and that never outlive the demo.
//!
//! Each child holds the reading end of a pipe and ends when the other end closes, so that nothing
//! is left however the demo itself ends. Each is in a process group of its own, so that Ctrl-C at
//! the terminal reaches the demo alone and it can clean up. Database servers hold no such pipe: the
//! janitor, who removes the demo's folder, ends those that run there.

use std::fs::OpenOptions;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

use crate::exit::Failure;

/// Ports for the children are looked for from here up: below those that systems hand out for
/// outgoing connections, which could otherwise take a child's port while it is dead.
const PORT_FIRST: u16 = 20_000;
const PORTS: u16 = 10_000;

/// Ports of one demo; more than it needs.
const BLOCK: u16 = 20;

/// How long a child may take until it takes connections.
const START_PATIENCE: Duration = Duration::from_secs(20);

/// Pause between two looks whether a child takes connections.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// How long a janitor tries to remove a folder that dying processes still write to.
const SWEEP_PATIENCE: Duration = Duration::from_secs(10);

/// Programs of databases, as their processes are called.
const SERVERS: [&str; 3] = ["postgres", "mariadbd", "redis-server"];

/// One process of the demo, at an address that stays its own.
pub(crate) struct Process {
    pub(crate) name: &'static str,
    pub(crate) address: SocketAddr,
    arguments: Vec<String>,
    log: PathBuf,
    child: Child,
}

impl Process {
    /// Starts a child, and waits until it takes connections.
    pub(crate) async fn start(
        name: &'static str,
        address: SocketAddr,
        arguments: Vec<String>,
        folder: &Path,
    ) -> Result<Self, Failure> {
        let log = folder.join(format!("{name}.log"));
        let child = spawn(&arguments, &log)?;
        let mut process = Self { name, address, arguments, log, child };
        process.until_ready().await?;
        Ok(process)
    }

    /// Kills the child with -9, starts it again at once, and says how long nobody was there.
    pub(crate) async fn kill_and_restart(&mut self) -> Result<Duration, Failure> {
        let dead_since = Instant::now();
        self.kill().await;
        self.child = spawn(&self.arguments, &self.log)?;
        self.until_ready().await?;
        Ok(dead_since.elapsed())
    }

    /// The process, while it lives.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Kills the child with -9.
    pub(crate) async fn kill(&mut self) {
        // It fails only for a child that is dead already.
        drop(self.child.kill().await);
    }

    async fn until_ready(&mut self) -> Result<(), Failure> {
        let deadline = Instant::now() + START_PATIENCE;
        while TcpStream::connect(self.address).await.is_err() {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(self.failed(&format!("ended with {status}")));
            }
            if Instant::now() > deadline {
                return Err(self.failed("takes no connections"));
            }
            sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    fn failed(&self, what: &str) -> Failure {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let last = log.lines().last().unwrap_or("nothing in its log");
        Failure::not_done(format!("{} at {} {what}: {last}", self.name, self.address))
    }
}

fn spawn(arguments: &[String], log: &Path) -> Result<Child, Failure> {
    let failed = |error: io::Error| Failure::not_done(format!("cannot start a process: {error}"));
    let program = std::env::current_exe().map_err(failed)?;
    let log = OpenOptions::new().create(true).append(true).open(log).map_err(failed)?;
    Command::new(program)
        .args(arguments)
        .env("UNANIMOUS_LOG", "warn")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(log)
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)
}

/// Ports of this machine that nobody listens on, one for each child.
///
/// A child has its port only while it lives, so two demos could take the same: each takes ports from
/// a block of its own, and holds the block's first, as UDP, for as long as it runs.
pub(crate) struct Ports {
    blocks: Range<u16>,
    held: Vec<UdpSocket>,
    free: Range<u16>,
}

impl Ports {
    pub(crate) fn new() -> Self {
        Self { blocks: 0..PORTS / BLOCK, held: Vec::new(), free: 0..0 }
    }

    /// One more.
    pub(crate) async fn take(&mut self) -> Result<SocketAddr, Failure> {
        loop {
            for port in self.free.by_ref() {
                let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
                if TcpListener::bind(address).await.is_ok() {
                    return Ok(address);
                }
            }
            let Some(block) = self.blocks.next() else {
                let why = format!("no port is free from {PORT_FIRST} for {PORTS} ports");
                return Err(Failure::not_done(why));
            };
            let first = PORT_FIRST + block * BLOCK;
            if let Ok(hold) = UdpSocket::bind((Ipv4Addr::LOCALHOST, first)).await {
                self.held.push(hold);
                self.free = first..first + BLOCK;
            }
        }
    }
}

/// Starts the process that removes `folder` if the demo itself is killed.
pub(crate) fn hire_janitor(folder: &Path) -> Result<Child, Failure> {
    let folder_text = folder.display().to_string();
    spawn(&["__janitor".to_owned(), folder_text], &folder.join("janitor.log"))
}

/// The janitor: waits for the end of the demo, and removes what it left.
pub(crate) fn sweep_after_parent(folder: &Path) {
    let (ended, end) = std::sync::mpsc::channel();
    crate::serve::when_parent_ends(move || {
        // The receiver waits below.
        let _ = ended.send(());
    });
    // An error means that the thread is gone, which it is after the end only.
    let _ = end.recv();
    let deadline = std::time::Instant::now() + SWEEP_PATIENCE;
    loop {
        let servers = servers_in(folder);
        for &server in &servers {
            // It may have ended by itself.
            let _ = kill_process(server, Signal::KILL);
        }
        if (servers.is_empty() && !folder.exists()) || std::time::Instant::now() > deadline {
            return;
        }
        // It fails while other children are still dying.
        drop(std::fs::remove_dir_all(folder));
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Database servers that work in a folder: programs with the names of those that the demo starts,
/// so that nobody's shell is taken for one.
fn servers_in(folder: &Path) -> Vec<Pid> {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let servers = processes.filter_map(|entry| {
        let pid = Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)?;
        let is_here = std::fs::read_link(entry.path().join("cwd")).ok()?.starts_with(folder);
        let name = std::fs::read_to_string(entry.path().join("comm")).ok()?;
        (is_here && SERVERS.contains(&name.trim_end())).then_some(pid)
    });
    servers.collect()
}
