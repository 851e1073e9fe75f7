//! A few sessions, shared by many calls.
//!
//! A session is lent to one call and comes back only when that says so: a call that is dropped in
//! the middle takes its session with it. A session that has prepared a branch is kept apart until
//! the branch is finished, because MariaDB lets nobody else finish it while that session lives. Only
//! so many are kept: the oldest is closed, which sets its branch free for any other.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use unanimous_core::id::BranchName;

use super::address::Address;
use super::session::{NoSession, Session};
use crate::limits::{IDLE_CONNECTION_KEPT, MYSQL_FRESH};

/// The sessions of one phase.
pub(super) struct Pool {
    address: Arc<Address>,
    free: Arc<Semaphore>,
    idle: Mutex<Vec<Session>>,
    idle_max: usize,
}

/// A session that is lent, with its place.
pub(super) struct Lent {
    pub(super) session: Session,
    _place: OwnedSemaphorePermit,
}

impl Pool {
    pub(super) fn new(address: Arc<Address>, sessions_max: usize) -> Self {
        let free = Arc::new(Semaphore::new(sessions_max));
        Self { address, free, idle: Mutex::default(), idle_max: sessions_max }
    }

    /// Waits for a place, and makes a connection if none is idle.
    pub(super) async fn lend(&self) -> Result<Lent, NoSession> {
        let place = Arc::clone(&self.free).acquire_owned().await.expect("it is never closed");
        let session = match self.idle_session().await {
            Some(session) => session,
            None => Session::connect(&self.address).await?,
        };
        Ok(Lent { session, _place: place })
    }

    /// Takes a session back that is between two questions, outside of any transaction.
    pub(super) fn give_back(&self, mut session: Session) {
        session.used_at = Instant::now();
        let mut idle = self.idle();
        if idle.len() < self.idle_max {
            idle.push(session);
        }
    }

    /// A connection broke: the idle ones are most likely broken, too.
    pub(super) fn distrust(&self) {
        let distrusted = std::mem::take(&mut *self.idle());
        drop(distrusted);
    }

    /// The session that was used last, so that the others grow old and go.
    async fn idle_session(&self) -> Option<Session> {
        loop {
            let mut session = {
                let mut idle = self.idle();
                idle.retain(|session| session.used_at.elapsed() < IDLE_CONNECTION_KEPT);
                idle.pop()?
            };
            if session.used_at.elapsed() < MYSQL_FRESH || session.answers().await {
                return Some(session);
            }
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Session>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lent {
    /// Keeps the session without its place.
    pub(super) fn into_session(self) -> Session {
        self.session
    }
}

/// Sessions whose branches are prepared and wait for their decision.
pub(super) struct Waiting {
    sessions: Mutex<HashMap<BranchName, Session>>,
    sessions_max: usize,
}

impl Waiting {
    pub(super) fn new(sessions_max: usize) -> Self {
        Self { sessions: Mutex::default(), sessions_max }
    }

    /// Keeps a session for its branch. Returns the one that has to go for it, if any.
    pub(super) fn keep(&self, name: &BranchName, mut session: Session) -> Option<Session> {
        session.used_at = Instant::now();
        let mut sessions = self.sessions();
        let oldest = (sessions.len() >= self.sessions_max)
            .then(|| sessions.iter().min_by_key(|(_, it)| it.used_at).map(|(name, _)| name.clone()))
            .flatten();
        let oldest = oldest.and_then(|name| sessions.remove(&name));
        // Two of one name cannot be prepared; were it so, the older would close.
        oldest.or(sessions.insert(name.clone(), session))
    }

    pub(super) fn take(&self, name: &BranchName) -> Option<Session> {
        self.sessions().remove(name)
    }

    fn sessions(&self) -> MutexGuard<'_, HashMap<BranchName, Session>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
