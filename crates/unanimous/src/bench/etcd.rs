//! An etcd of a measurement's own, killed when it is dropped.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use axum::http::StatusCode;
use bytes::Bytes;
use tokio::time::{Instant, sleep};

use super::process::{http_client, send};
use crate::demo::child::Ports;
use crate::exit::Failure;

const PATIENCE: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(10);

pub(super) struct Etcd {
    members: Vec<Child>,
    clients: Vec<SocketAddr>,
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for member in &mut self.members {
            drop(member.kill());
            drop(member.wait());
        }
    }
}

impl Etcd {
    /// Starts a cluster of so many members, and waits until each knows a leader.
    pub(super) async fn start(
        folder: &Path,
        ports: &mut Ports,
        count: usize,
    ) -> Result<Self, Failure> {
        let (mut clients, mut peers) = (Vec::new(), Vec::new());
        for _ in 0..count {
            clients.push(ports.take().await?);
            peers.push(format!("http://{}", ports.take().await?));
        }
        let all = peers.iter().enumerate().map(|(index, peer)| format!("m{index}={peer}"));
        let all = all.collect::<Vec<_>>().join(",");
        let mut etcd = Self { members: Vec::new(), clients };
        for (index, (client, peer)) in etcd.clients.iter().zip(&peers).enumerate() {
            let (name, client) = (format!("m{index}"), format!("http://{client}"));
            let log = std::fs::File::create(folder.join(format!("etcd-{name}.log")));
            let log = log.map_err(|error| Failure::not_done(error.to_string()))?;
            let child = Command::new("etcd")
                .arg("--data-dir")
                .arg(folder.join(format!("etcd-{name}")))
                .args(["--name", &name, "--initial-cluster", &all])
                .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
                .args(["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer])
                .stdout(Stdio::null())
                .stderr(log)
                .spawn();
            etcd.members.push(child.map_err(|_| Failure::not_done("etcd is not installed"))?);
        }
        etcd.ready().await?;
        Ok(etcd)
    }

    /// Where a journal in it is.
    pub(super) fn url(&self) -> String {
        let all = self.clients.iter().map(ToString::to_string);
        format!("etcd://{}", all.collect::<Vec<_>>().join(","))
    }

    async fn ready(&self) -> Result<(), Failure> {
        let (client, started) = (http_client(), Instant::now());
        for address in &self.clients {
            let url = format!("http://{address}/health");
            loop {
                let reply = send(&client, "GET", &url, Bytes::new()).await;
                if reply.is_some_and(|(status, _)| status == StatusCode::OK) {
                    break;
                }
                if started.elapsed() > PATIENCE {
                    return Err(Failure::not_done("etcd does not become ready"));
                }
                sleep(LOOK_EVERY).await;
            }
        }
        Ok(())
    }
}
