//! A way through the network that can be closed: what is sent into it meanwhile arrives afterwards, and
//! nobody is told, as when packets are lost until a network heals.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Whether anything passes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Gate {
    Open,
    Closed,
}

/// A way to one address.
pub(crate) struct Strait {
    /// Where it begins.
    pub(crate) address: SocketAddr,
    gate: watch::Sender<Gate>,
    _ferries: JoinSet<()>,
}

impl Strait {
    /// One to `target`, open.
    pub(crate) async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let (gate, seen) = watch::channel(Gate::Open);
        let mut ferries = JoinSet::new();
        ferries.spawn(serve(listener, target, seen));
        Self { address, gate, _ferries: ferries }
    }

    pub(crate) fn close(&self) {
        self.gate.send_replace(Gate::Closed);
    }

    pub(crate) fn open(&self) {
        self.gate.send_replace(Gate::Open);
    }
}

async fn serve(listener: TcpListener, target: SocketAddr, gate: watch::Receiver<Gate>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((near, _)) = listener.accept().await else { continue };
        while connections.try_join_next().is_some() {}
        let mut gate = gate.clone();
        connections.spawn(async move {
            passes(&mut gate).await;
            let Ok(far) = TcpStream::connect(target).await else { return };
            let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
            // When one end closes, both do.
            tokio::select! {
                () = ferry(near_in, far_out, gate.clone()) => {}
                () = ferry(far_in, near_out, gate) => {}
            }
        });
    }
}

/// Carries one direction of a connection.
async fn ferry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut gate: watch::Receiver<Gate>) {
    let mut bytes = [0; 16_384];
    while let Ok(read @ 1..) = from.read(&mut bytes).await {
        passes(&mut gate).await;
        if to.write_all(&bytes[..read]).await.is_err() {
            return;
        }
    }
    // That an end has closed is not heard of any sooner.
    passes(&mut gate).await;
}

async fn passes(gate: &mut watch::Receiver<Gate>) {
    // An error means that the strait is gone, and with it everybody's task.
    drop(gate.wait_for(|gate| *gate == Gate::Open).await);
}
