//! An etcd cluster of a test's own, killed when its handle goes.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use unanimous_journal::{EtcdJournal, EtcdOptions, Listener};

use crate::patience::{PATIENCE, free_port};

/// A cluster.
pub(crate) struct Cluster {
    folder: TempDir,
    settings: Vec<String>,
    members: Vec<Member>,
}

struct Member {
    port: u16,
    peer: u16,
    child: Option<Child>,
}

impl Cluster {
    /// Starts one of so many members, with these settings more. `None` if etcd is not installed,
    /// after saying so; in CI that is a failure.
    pub(crate) fn start(members: usize, settings: &[&str]) -> Option<Self> {
        let there = |program: &str, arg: &str| {
            let mut command = Command::new(program);
            let silent = command.arg(arg).stdout(Stdio::null()).stderr(Stdio::null());
            silent.status().is_ok_and(|status| status.success())
        };
        if !there("etcd", "--version") || !there("etcdctl", "version") {
            assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "etcd is missing");
            eprintln!("SKIPPED: etcd is not there");
            return None;
        }
        let folder = tempfile::Builder::new().prefix("una-etcd-").tempdir().expect("a folder");
        let member = |_| Member { port: free_port(), peer: free_port(), child: None };
        let settings = settings.iter().map(|it| (*it).to_owned()).collect();
        let mut cluster = Self { folder, settings, members: (0..members).map(member).collect() };
        (0..members).for_each(|index| cluster.spawn(index));
        (0..members).for_each(|index| cluster.wait(index));
        Some(cluster)
    }

    pub(crate) fn len(&self) -> usize {
        self.members.len()
    }

    pub(crate) fn port(&self, index: usize) -> u16 {
        self.members[index].port
    }

    fn scheme(&self) -> &'static str {
        if self.settings.iter().any(|it| it.starts_with("--cert-file")) { "https" } else { "http" }
    }

    fn data(&self, index: usize) -> PathBuf {
        self.folder.path().join(format!("member{index}"))
    }

    fn log(&self, index: usize) -> File {
        let path = self.folder.path().join(format!("log{index}"));
        OpenOptions::new().create(true).append(true).open(path).expect("the folder is ours")
    }

    fn said(&self, index: usize) -> String {
        fs::read_to_string(self.folder.path().join(format!("log{index}"))).unwrap_or_default()
    }

    fn spawn(&mut self, index: usize) {
        let Member { port, peer, .. } = self.members[index];
        let scheme = self.scheme();
        let (client, peer) =
            (format!("{scheme}://127.0.0.1:{port}"), format!("http://127.0.0.1:{peer}"));
        let all = self.members.iter().enumerate();
        let all = all.map(|(index, it)| format!("m{index}=http://127.0.0.1:{}", it.peer));
        let all = all.collect::<Vec<_>>().join(",");
        let mut command = Command::new("etcd");
        command.args(["--name", &format!("m{index}"), "--log-level", "warn", "--data-dir"]);
        command.arg(self.data(index));
        for (flag, value) in [
            ("--listen-client-urls", &client),
            ("--advertise-client-urls", &client),
            ("--listen-peer-urls", &peer),
            ("--initial-advertise-peer-urls", &peer),
            ("--initial-cluster", &all),
        ] {
            command.args([flag, value]);
        }
        command.args(&self.settings).stdin(Stdio::null());
        command.stdout(self.log(index)).stderr(self.log(index));
        self.members[index].child = Some(command.spawn().expect("installed"));
    }

    fn wait(&self, index: usize) {
        let deadline = Instant::now() + PATIENCE;
        while !self.is_healthy(index) {
            assert!(Instant::now() < deadline, "it does not answer: {}", self.said(index));
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Whether a member knows a leader; over TLS, whether it listens.
    fn is_healthy(&self, index: usize) -> bool {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.port(index))) else {
            return false;
        };
        if self.scheme() == "https" {
            return true;
        }
        drop(stream.set_read_timeout(Some(Duration::from_secs(2))));
        let mut answer = String::new();
        let asked = stream.write_all(b"GET /health HTTP/1.0\r\n\r\n");
        asked.is_ok() && stream.read_to_string(&mut answer).is_ok() && answer.contains("\"true\"")
    }

    /// Starts a member that was killed, and waits until it answers.
    pub(crate) fn up(&mut self, index: usize) {
        self.spawn(index);
        self.wait(index);
    }

    /// Kills a member as a power failure would.
    pub(crate) fn kill(&mut self, index: usize) {
        if let Some(mut child) = self.members[index].child.take() {
            drop(child.kill());
            drop(child.wait());
        }
    }

    /// The member that leads now.
    pub(crate) fn leader(&self) -> usize {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.try_ctl(&["endpoint", "status"]).unwrap_or_default();
            // endpoint, id, version, size, whether it leads, …
            let leads = |line: &&str| line.split(", ").nth(4) == Some("true");
            let line = status.lines().find(leads).unwrap_or_default();
            let leads = |port: u16| line.contains(&format!("127.0.0.1:{port},"));
            if let Some(index) = self.members.iter().position(|it| leads(it.port)) {
                return index;
            }
            assert!(Instant::now() < deadline, "nobody leads: {status}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn url(&self) -> String {
        let hosts = self.members.iter().map(|it| format!("127.0.0.1:{}", it.port));
        format!("etcd://{}", hosts.collect::<Vec<_>>().join(","))
    }

    /// Runs etcd's own client, and returns what it says.
    pub(crate) fn ctl(&self, args: &[&str]) -> String {
        self.try_ctl(args).unwrap_or_else(|why| panic!("{args:?}: {why}"))
    }

    pub(crate) fn try_ctl(&self, args: &[&str]) -> Result<String, String> {
        let up = self.members.iter().filter(|it| it.child.is_some());
        let scheme = self.scheme();
        let endpoints = up.map(|it| format!("{scheme}://127.0.0.1:{}", it.port));
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").args(["--command-timeout", "10s", "--endpoints"]);
        command.arg(endpoints.collect::<Vec<_>>().join(","));
        let output = command.args(args).output().expect("installed");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        match output.status.success() {
            true => Ok(text(&output.stdout)),
            false => Err(text(&output.stderr)),
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        (0..self.members.len()).for_each(|index| self.kill(index));
    }
}

/// Opens a journal.
pub(crate) fn open(url: &str, listener: Arc<dyn Listener>) -> EtcdJournal {
    EtcdJournal::open(url, EtcdOptions::default(), listener).expect("it opens")
}
