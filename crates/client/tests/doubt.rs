//! A branch that voted yes and hears nothing: asks, follows what is decided, and never guesses.

mod common;

use std::path::Path;

use axum::Router;
use common::coordinator::{Act, Coordinator, problem, view};
use common::{Wallet, books, branch, call, until};
use serde_json::{Value, json};
use tempfile::TempDir;
use unanimous_client::Client;
use unanimous_client::api::Code;
use unanimous_client::participant::{BranchName, Decision, Policy, Service, SqliteStore};

const DEBIT: &str = r#"{"amount":100}"#;
const IN_DOUBT: (i64, i64) = (1000, 100);
const COMMITTED: (i64, i64) = (900, 0);
const ROLLED_BACK: (i64, i64) = (1000, 0);

struct Bank {
    store: SqliteStore,
    router: Router,
}

impl Bank {
    fn open(folder: &Path, coordinator: Client, policy: Policy) -> Self {
        let store = SqliteStore::open(folder.join("wallet.db"), Wallet).expect("opens");
        let service = Service::new(store.clone(), coordinator).inquire_after_ms(20).policy(policy);
        Self { router: service.router(), store }
    }

    async fn come_to(&self, end: (i64, i64)) {
        until("the books change", async || books(&self.store).await == end).await;
    }
}

/// What a coordinator says of the transaction of `branch`.
fn says(branch: &BranchName, status: &str, outcome: Option<&str>) -> Value {
    view(&branch.txn.to_string(), status, outcome)
}

/// A branch that is prepared while the coordinator does `act`.
async fn in_doubt(folder: &TempDir, coordinator: &Coordinator) -> (Bank, BranchName) {
    let bank = Bank::open(folder.path(), coordinator.client(), Policy::Ask);
    let branch = branch(1);
    assert_eq!(call(&bank.router, "prepare", &branch, DEBIT).await.0, 200);
    (bank, branch)
}

#[tokio::test]
async fn what_is_decided_is_followed() {
    let name = branch(1);
    let mut settled = says(&name, "COMMITTED", Some("mixed"));
    settled["resolution"] = json!({"outcome": "rollback", "by": "op", "reason": "by hand"});
    for (answer, end) in [
        (Act::Answer(200, says(&name, "COMMITTING", Some("committed"))), COMMITTED),
        (Act::Answer(200, says(&name, "COMMITTED", Some("committed"))), COMMITTED),
        (Act::Answer(200, says(&name, "ABORTING", Some("aborted"))), ROLLED_BACK),
        (Act::Answer(200, says(&name, "COMMITTING", Some("mixed"))), COMMITTED),
        (Act::Answer(200, says(&name, "ABORTING", Some("mixed"))), ROLLED_BACK),
        (Act::Answer(200, settled), ROLLED_BACK),
        (problem(Code::UnknownTransaction), ROLLED_BACK),
    ] {
        let coordinator = Coordinator::playing([answer.clone()]).await;
        let folder = TempDir::new().expect("a folder");
        let (bank, branch) = in_doubt(&folder, &coordinator).await;
        until(&format!("{answer:?}"), async || books(&bank.store).await == end).await;
        let asked = &coordinator.asked()[0];
        assert_eq!(asked.path, format!("/v1/transactions/{}", branch.txn));
        assert_eq!(asked.header("unanimous-branch"), Some(&*branch.to_string()));
    }
}

#[tokio::test]
async fn nothing_else_ends_a_branch_that_has_promised() {
    let (name, other) = (branch(1), branch(2));
    for silence in [
        problem(Code::OtherCluster),
        problem(Code::Internal),
        problem(Code::ShuttingDown),
        problem(Code::Unauthorized),
        problem(Code::NoSuchPath),
        Act::Answer(404, json!({"error": "not found"})),
        Act::Answer(200, json!({})),
        Act::Answer(200, says(&name, "PREPARING", None)),
        Act::Answer(200, says(&other, "ABORTED", Some("aborted"))),
        Act::Hang,
    ] {
        let coordinator = Coordinator::playing([silence.clone()]).await;
        let folder = TempDir::new().expect("a folder");
        let (bank, _) = in_doubt(&folder, &coordinator).await;
        until("asked three times", async || coordinator.asked().len() >= 3).await;
        assert_eq!(books(&bank.store).await, IN_DOUBT, "{silence:?}");
        let committed = says(&name, "COMMITTED", Some("committed"));
        coordinator.play([Act::Answer(200, committed)]);
        bank.come_to(COMMITTED).await;
    }
}

#[tokio::test]
async fn a_branch_left_by_a_crash_is_found_and_finished() {
    let folder = TempDir::new().expect("a folder");
    let nobody = Client::connect("http://127.0.0.1:9").expect("an address");
    let bank = Bank::open(folder.path(), nobody, Policy::Ask);
    let name = branch(1);
    assert_eq!(call(&bank.router, "prepare", &name, DEBIT).await.0, 200);
    drop(bank);

    let committed = says(&name, "COMMITTED", Some("committed"));
    let coordinator = Coordinator::playing([Act::Answer(200, committed)]).await;
    let bank = Bank::open(folder.path(), coordinator.client(), Policy::Ask);
    bank.come_to(COMMITTED).await;
    let late = call(&bank.router, "commit", &name, "").await;
    assert_eq!(late, (200, json!({})), "the coordinator's own call is a repeat");
}

#[tokio::test]
async fn a_policy_may_end_a_branch_alone_and_the_coordinator_hears_of_it() {
    for (decision, end, verb, word) in [
        (Decision::Abort, ROLLED_BACK, "commit", "rollback"),
        (Decision::Commit, COMMITTED, "rollback", "commit"),
    ] {
        let folder = TempDir::new().expect("a folder");
        let nobody = Client::connect("http://127.0.0.1:9").expect("an address");
        let bank = Bank::open(folder.path(), nobody, Policy::Heuristic(decision, 50));
        let name = branch(1);
        assert_eq!(call(&bank.router, "prepare", &name, DEBIT).await.0, 200);
        bank.come_to(end).await;
        let told = (200, json!({"heuristic": word}));
        assert_eq!(call(&bank.router, verb, &name, "").await, told);
        assert_eq!(books(&bank.store).await, end);
    }
}

#[tokio::test]
async fn a_branch_that_was_told_in_time_does_not_ask() {
    let committed = says(&branch(1), "COMMITTED", Some("committed"));
    let coordinator = Coordinator::playing([Act::Answer(200, committed)]).await;
    let folder = TempDir::new().expect("a folder");
    let store = SqliteStore::open(folder.path().join("wallet.db"), Wallet).expect("opens");
    let service = Service::new(store.clone(), coordinator.client()).inquire_after_ms(200);
    let router = service.router();
    assert_eq!(call(&router, "prepare", &branch(2), DEBIT).await.0, 200);
    assert_eq!(call(&router, "commit", &branch(2), "").await.0, 200);
    assert_eq!(call(&router, "prepare", &branch(1), DEBIT).await.0, 200);
    until("the other has asked", async || books(&store).await == (800, 0)).await;
    let asked = coordinator.asked();
    assert!(asked.iter().all(|it| it.path.ends_with(&branch(1).txn.to_string())), "{asked:?}");
}
