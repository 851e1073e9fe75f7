//! What a client does with one transaction, each request made once: whatever is lost stays lost.
//!
//! A reply that the contract does not allow is written down as wrong.

use serde_json::{Value, json};
use unanimous_client::api::{Code, EnlistedView, TransactionView};

use crate::http::Reply;
use crate::service::Work;
use crate::world::{SERVICES, World};

/// Milliseconds within which a transaction must be decided.
pub(crate) const TIMEOUT_MS: u64 = 4_000;

/// One kind of transaction.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Deed {
    /// Run by the coordinator, to the end.
    Run,
    /// The same, and a service votes no.
    Refused,
    /// Run by the coordinator, to the decision.
    Decided,
    /// Run by the coordinator while nobody waits; asked about afterwards.
    Later,
    /// Run by the coordinator under an idempotency key.
    Keyed,
    /// Prepared by the client, and committed.
    Committed,
    /// Prepared by the client, and aborted.
    Aborted,
    /// Prepared by the client, and left alone.
    Abandoned,
}

impl Deed {
    pub(crate) const ALL: [Self; 8] = [
        Self::Run,
        Self::Refused,
        Self::Decided,
        Self::Later,
        Self::Keyed,
        Self::Committed,
        Self::Aborted,
        Self::Abandoned,
    ];
}

/// Why a client did not come to the end: a reply was lost, or the request was turned away.
pub(crate) type Lost = String;

impl World {
    /// Does it once. The label is the business's own name for the work.
    ///
    /// # Errors
    ///
    /// [`Lost`] if a reply does not come, as is to be expected of a coordinator that is killed.
    pub(crate) async fn perform(&self, deed: Deed, label: &str) -> Result<(), Lost> {
        let work = Work { label: label.to_owned(), ..Work::default() };
        match deed {
            Deed::Run => self.run(&work, "finished", None).await.map(|_| ()),
            Deed::Refused => {
                let work = Work { refuse: Some(SERVICES[1].to_owned()), ..work };
                self.run(&work, "finished", None).await.map(|_| ())
            }
            Deed::Decided => self.run(&work, "decided", None).await.map(|_| ()),
            Deed::Keyed => {
                let view = self.run(&Work::of(label), wait_of(label), Some(label)).await?;
                if view.outcome.is_some() {
                    self.witness.keyed(label, &view.id);
                }
                Ok(())
            }
            Deed::Later => {
                let view = self.run(&work, "none", None).await?;
                self.witness.promised(&view.id);
                self.follow(&view.id).await
            }
            Deed::Committed => {
                let txn = self.prepare(&work).await?;
                self.commit(&txn).await
            }
            Deed::Aborted => {
                let txn = self.prepare(&work).await?;
                self.end(&txn, "abort", &json!({ "reason": "changed its mind" })).await
            }
            Deed::Abandoned => self.prepare(&work).await.map(|_| ()),
        }
    }

    /// Has the coordinator run it on both services.
    pub(crate) async fn run(
        &self,
        work: &Work,
        wait: &str,
        key: Option<&str>,
    ) -> Result<TransactionView, Lost> {
        let reply = self.http.post("/v1/transactions", key, &self.asked(work, wait)).await?;
        self.shown(&reply)
    }

    /// The request of [`request`], of the domain that the work is of.
    pub(crate) fn asked(&self, work: &Work, wait: &str) -> Value {
        let mut request = request(work, wait);
        self.place(&work.label, &mut request);
        request
    }

    fn place(&self, label: &str, request: &mut Value) {
        if let Some(domain) = self.domain_of(label) {
            request["domain"] = json!(domain);
        }
    }

    /// The domain of some work: half of it has one, if there is any.
    pub(crate) fn domain_of(&self, label: &str) -> Option<&'static str> {
        let sum: u64 = label.bytes().map(u64::from).sum();
        self.setup.domain.filter(|_| sum.is_multiple_of(2))
    }

    async fn prepare(&self, work: &Work) -> Result<String, Lost> {
        self.prepare_within(work, TIMEOUT_MS).await
    }

    /// Begins a transaction and prepares its branches, as an application does on its own.
    pub(crate) async fn prepare_within(
        &self,
        work: &Work,
        timeout_ms: u64,
    ) -> Result<String, Lost> {
        let mut begin = json!({ "kind": "atomic", "timeout_ms": timeout_ms });
        self.place(&work.label, &mut begin);
        let reply = self.http.post("/v1/transactions", None, &begin).await?;
        let txn = self.shown(&reply)?.id;
        self.witness.promised(&txn);
        for name in SERVICES {
            let path = format!("/v1/transactions/{txn}/participants");
            let enlist = json!({ "participant": name, "resource": name });
            let reply = self.http.post(&path, None, &enlist).await?;
            let Ok(enlisted) = serde_json::from_slice::<EnlistedView>(&reply.body) else {
                // Its time is over, for instance.
                self.about(&txn, &reply)?;
                return Err("not enlisted".to_owned());
            };
            self.service(name).prepare(&enlisted.branch, &txn, work);
        }
        Ok(txn)
    }

    /// Commits what [`World::prepare_within`] has prepared.
    pub(crate) async fn commit(&self, txn: &str) -> Result<(), Lost> {
        let votes = SERVICES.map(|name| (name.to_owned(), json!("YES")));
        let votes = json!({ "votes": Value::Object(votes.into_iter().collect()) });
        self.end(txn, "commit", &votes).await
    }

    async fn end(&self, txn: &str, verb: &str, request: &Value) -> Result<(), Lost> {
        let path = format!("/v1/transactions/{txn}/{verb}");
        let reply = self.http.post(&path, None, request).await?;
        self.about(txn, &reply).map(|_| ())
    }

    /// Asks about a transaction until its outcome is told.
    async fn follow(&self, txn: &str) -> Result<(), Lost> {
        loop {
            let reply = self.http.get(&format!("/v1/transactions/{txn}")).await?;
            match self.about(txn, &reply)? {
                Some(view) if view.outcome.is_none() => tokio::task::yield_now().await,
                Some(_) | None => return Ok(()),
            }
        }
    }

    /// Takes a reply about a transaction that is known by name.
    fn about(&self, txn: &str, reply: &Reply) -> Result<Option<TransactionView>, Lost> {
        if reply.code() == Some(Code::UnknownTransaction) {
            self.witness.unknown("a client", txn);
            return Ok(None);
        }
        self.shown(reply).map(Some)
    }

    /// Takes a reply that shows a transaction, or turns the request away.
    fn shown(&self, reply: &Reply) -> Result<TransactionView, Lost> {
        if let Some(view) = reply.view() {
            self.witness.view("a client", &view);
            return Ok(view);
        }
        let body = String::from_utf8_lossy(&reply.body);
        match reply.code() {
            Some(
                Code::Overloaded
                | Code::JournalFull
                | Code::ShuttingDown
                | Code::NoOwner
                | Code::Internal,
            ) => {}
            other => {
                let status = reply.status;
                self.witness.wrong(format!("a client got status {status}, {other:?}: {body}"));
            }
        }
        Err(format!("status {}: {body}", reply.status))
    }
}

/// How long a request under this key waits: the same whenever it is made.
pub(crate) fn wait_of(key: &str) -> &'static str {
    if key.len().is_multiple_of(2) { "finished" } else { "decided" }
}

/// The request that has the coordinator run `work` on both services.
pub(crate) fn request(work: &Work, wait: &str) -> Value {
    let branches = SERVICES.map(|name| json!({ "resource": name, "body": work }));
    json!({ "kind": "atomic", "timeout_ms": TIMEOUT_MS, "wait": wait, "branches": branches })
}
