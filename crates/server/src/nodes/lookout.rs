//! Enters this node into the directory, and finds the others there.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use futures_util::future::join_all;
use http_body_util::BodyExt;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use unanimous_journal::{Directory, DirectoryError, JournalError, NodeEntry, NodeState};

use super::beat::Beat;
use super::limits::{ACQUAINTANCE, CONNECT_WAIT, CUT_OFF, FORGET, LOOK};
use super::node::Node;
use super::peers::BEATS;
use crate::serve::{StartError, StopError};

/// Looks into the directory.
#[derive(Clone)]
pub(super) struct Lookout {
    pub(super) node: Arc<Node>,
    pub(super) directory: Arc<dyn Directory>,
}

impl Lookout {
    /// Enters the node, in the place of a former life of its own.
    pub(super) async fn enter(&self) -> Result<(), StartError> {
        let mut replaces = None;
        loop {
            match self.announce(replaces).await {
                Ok(()) => return Ok(()),
                Err(DirectoryError::NameTaken(other)) => {
                    if self.is_alive(&other).await {
                        let NodeEntry { name, address, .. } = other;
                        return Err(StartError::NodeName { name, address });
                    }
                    replaces = Some(other.incarnation);
                }
                Err(DirectoryError::Journal(error)) => {
                    return Err(StartError::Journal { place: "journal".to_owned(), error });
                }
            }
        }
    }

    async fn announce(&self, replaces: Option<u64>) -> Result<(), DirectoryError> {
        let entry = NodeEntry {
            name: self.node.name.clone(),
            address: self.node.address.clone(),
            incarnation: self.node.incarnation,
            state: match self.node.is_draining() {
                true => NodeState::Draining,
                false => NodeState::Active,
            },
        };
        self.ask(move |directory| directory.announce(&entry, replaces)).await
    }

    /// Whether the process that made an entry still answers.
    async fn is_alive(&self, entry: &NodeEntry) -> bool {
        self.beat(entry).await.is_some_and(|it| it.incarnation == entry.incarnation)
    }

    /// Compares this node's domains with those of whoever is alive.
    ///
    /// # Errors
    ///
    /// [`StartError::Domains`] if they are not the same.
    pub(super) async fn agree(&self) -> Result<(), StartError> {
        let failed = |error| StartError::Journal { place: "journal".to_owned(), error };
        let others = self.others().await.map_err(failed)?;
        let beats = join_all(others.iter().map(|entry| self.beat(entry))).await;
        let ours = self.node.config.domains.layout();
        match beats.into_iter().flatten().find(|beat| beat.layout != ours) {
            None => Ok(()),
            Some(Beat { node, layout, .. }) => Err(StartError::Domains(format!(
                "node {node:?} has other [domains] ({layout:?}, here {ours:?}): give all nodes the \
                 same, or stop all of them to change them"
            ))),
        }
    }

    /// What the node of an entry says of itself, if it is there.
    async fn beat(&self, entry: &NodeEntry) -> Option<Beat> {
        // Nobody else can listen where this process does.
        if entry.address == self.node.address {
            return None;
        }
        let beat = async {
            let request = Request::get(format!("{}{BEATS}", entry.address)).body(Body::empty());
            let mut answer = self.node.peers.send_alone(request.ok()?).await.ok()?.into_body();
            let line = answer.frame().await?.ok()?.into_data().ok()?;
            Beat::read(std::str::from_utf8(&line).ok()?.trim())
        };
        let beat = timeout(CONNECT_WAIT, beat).await.ok().flatten();
        beat.filter(|it| it.node == entry.name)
    }

    async fn ask<T: Send + 'static, E: From<JournalError> + Send + 'static>(
        &self,
        question: impl FnOnce(&dyn Directory) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E> {
        let directory = Arc::clone(&self.directory);
        let asked = tokio::task::spawn_blocking(move || question(&*directory)).await;
        asked.unwrap_or_else(|error| Err(JournalError::Failed(error.to_string()).into()))
    }

    /// Reads the directory once, and waits until those in it are heard or found silent.
    pub(super) async fn meet(&self) {
        let mut changed = self.node.changed.subscribe();
        if let Ok(entries) = self.others().await {
            self.node.peers.follow(entries);
        }
        let met = async {
            while !self.node.peers.are_known() {
                drop(changed.changed().await);
            }
        };
        drop(timeout(ACQUAINTANCE, met).await);
    }

    async fn others(&self) -> Result<Vec<NodeEntry>, JournalError> {
        let mut nodes = self.ask(|directory| directory.read()).await?.nodes;
        nodes.retain(|entry| entry.name != self.node.name);
        Ok(nodes)
    }

    /// Looks until the task is dropped. `ousted` is told why this node cannot go on beside the others.
    pub(super) async fn run(self, ousted: watch::Sender<Option<StopError>>) {
        let mut answered = Instant::now();
        let mut announced = self.node.is_draining();
        loop {
            tokio::select! {
                () = sleep(LOOK) => {}
                () = self.node.visited.notified() => {}
            }
            let is_cut_off = match self.look(&mut announced, &ousted).await {
                Ok(()) => {
                    answered = Instant::now();
                    false
                }
                Err(error) => {
                    tracing::debug!(%error, "the directory of nodes cannot be read");
                    answered.elapsed() > CUT_OFF
                }
            };
            if self.node.cut_off.swap(is_cut_off, Ordering::Relaxed) != is_cut_off {
                match is_cut_off {
                    true => tracing::warn!("the journal's database does not answer this node"),
                    false => tracing::info!("the journal's database answers again"),
                }
                self.node.changed.send_replace(());
            }
        }
    }

    async fn look(
        &self,
        announced: &mut bool,
        ousted: &watch::Sender<Option<StopError>>,
    ) -> Result<(), JournalError> {
        let sight = self.ask(|directory| directory.read()).await?;
        let (mine, others): (Vec<_>, Vec<_>) =
            sight.nodes.into_iter().partition(|entry| entry.name == self.node.name);
        self.node.peers.follow(others);
        if mine.iter().any(|entry| entry.incarnation != self.node.incarnation) {
            ousted.send_replace(Some(self.displaced()));
            return Ok(());
        }
        if let Some(why) = self.estranged() {
            ousted.send_replace(Some(why));
            return Ok(());
        }
        let draining = self.node.is_draining();
        if mine.is_empty() || *announced != draining {
            match self.announce(None).await {
                Ok(()) => *announced = draining,
                Err(DirectoryError::NameTaken(_)) => {
                    ousted.send_replace(Some(self.displaced()));
                }
                Err(DirectoryError::Journal(error)) => return Err(error),
            }
        }
        for NodeEntry { name, incarnation, .. } in self.node.peers.silent_for(FORGET) {
            self.ask(move |directory| directory.leave(&name, incarnation)).await?;
        }
        Ok(())
    }

    fn displaced(&self) -> StopError {
        StopError::Displaced(self.node.name.clone())
    }

    /// A node with other domains that started at the same time: of two, one goes on.
    fn estranged(&self) -> Option<StopError> {
        let ours = self.node.config.domains.layout();
        let heard = self.node.peers.heard().into_iter().map(|(_, beat)| beat);
        let mut first =
            heard.filter(|it| it.layout != ours && it.incarnation < self.node.incarnation);
        first.next().map(|beat| StopError::Estranged(beat.node))
    }

    /// Takes the node out of the directory.
    pub(super) async fn leave(&self) {
        let (name, incarnation) = (self.node.name.clone(), self.node.incarnation);
        let leaving = self.ask(move |directory| directory.leave(&name, incarnation));
        // Who does not leave is found silent.
        drop(timeout(Duration::from_secs(2), leaving).await);
    }
}
