//! An etcd cluster of a test's own, killed when its handle goes.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use crate::place::{Folder, LOOK_EVERY, PATIENCE, free_address, skip};

/// A cluster.
pub(crate) struct Members {
    folder: Folder,
    members: Vec<Member>,
}

struct Member {
    clients: SocketAddr,
    peers: SocketAddr,
    child: Option<Child>,
}

impl Members {
    /// Starts so many. `None` if etcd is not installed, after saying so.
    pub(crate) fn start(count: usize) -> Option<Self> {
        Self::start_at(Ipv4Addr::LOCALHOST.into(), count)
    }

    /// The same at this address.
    pub(crate) fn start_at(place: IpAddr, count: usize) -> Option<Self> {
        let mut version = Command::new("etcd");
        version.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
        if !version.status().is_ok_and(|status| status.success()) {
            skip("etcd");
            return None;
        }
        let clients = || SocketAddr::new(place, free_address().port());
        let member = |_| Member { clients: clients(), peers: free_address(), child: None };
        let members = (0..count).map(member).collect();
        let mut all = Self { folder: Folder::new(), members };
        (0..count).for_each(|index| all.spawn(index));
        (0..count).for_each(|index| all.wait(index));
        Some(all)
    }

    pub(crate) fn url(&self) -> String {
        let all = self.members.iter().map(|it| it.clients.to_string());
        format!("etcd://{}", all.collect::<Vec<_>>().join(","))
    }

    /// Kills a member as a power failure would.
    pub(crate) fn kill(&mut self, index: usize) {
        if let Some(mut child) = self.members[index].child.take() {
            drop(child.kill());
            drop(child.wait());
        }
    }

    /// Starts a member that was killed, and waits until it knows a leader.
    pub(crate) fn up(&mut self, index: usize) {
        self.spawn(index);
        self.wait(index);
    }

    fn spawn(&mut self, index: usize) {
        let all = self.members.iter().enumerate();
        let all: Vec<_> = all.map(|(index, it)| format!("m{index}=http://{}", it.peers)).collect();
        let Member { clients, peers, .. } = &self.members[index];
        let (clients, peers) = (format!("http://{clients}"), format!("http://{peers}"));
        let mut command = Command::new("etcd");
        command.arg("--data-dir").arg(self.folder.path().join(format!("m{index}")));
        for (flag, value) in [
            ("--name", &format!("m{index}")),
            ("--listen-client-urls", &clients),
            ("--advertise-client-urls", &clients),
            ("--listen-peer-urls", &peers),
            ("--initial-advertise-peer-urls", &peers),
            ("--initial-cluster", &all.join(",")),
        ] {
            command.args([flag, value]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.members[index].child = Some(command.spawn().expect("installed"));
    }

    fn wait(&self, index: usize) {
        let deadline = Instant::now() + PATIENCE;
        while !is_healthy(self.members[index].clients) {
            assert!(Instant::now() < deadline, "etcd does not answer");
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

fn is_healthy(address: SocketAddr) -> bool {
    let mut answer = String::new();
    let asked = TcpStream::connect(address).and_then(|mut stream| {
        stream.write_all(b"GET /health HTTP/1.0\r\n\r\n")?;
        stream.read_to_string(&mut answer)
    });
    asked.is_ok() && answer.contains("\"true\"")
}

impl Drop for Members {
    fn drop(&mut self) {
        (0..self.members.len()).for_each(|index| self.kill(index));
    }
}
