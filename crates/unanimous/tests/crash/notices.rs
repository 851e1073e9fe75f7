//! Webhooks of a coordinator that is killed, or its power cut, at each single call to the disk and to
//! the network.
//!
//! Who is to be told of the ends of transactions writes down everything that it hears, and never
//! crashes. However often it is told of one, that is one webhook, with one content, and the end is the
//! one that everybody else is told. It hears of every transaction that has ended, and of none that is
//! not known. Of one that came to need attention it hears that, too, in a webhook of its own.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::routing::post;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use unanimous_client::Filter;
use unanimous_client::api::{OutcomeWord, PAGE_MAX, ResolveOutcome, ResolveRequest, StatusWord};

use crate::coordinator::{Coordinator, Ended};
use crate::crowd::patient;
use crate::deed::request;
use crate::place::LOOK_EVERY;
use crate::points::{Loss, at_each_place};
use crate::service::Work;
use crate::steps::settled;
use crate::trace::{DISK, NETWORK};
use crate::world::{SERVICES, World};

/// The resource that is told, and acts as a step.
const HOOKS: &str = "hooks";

/// How long a coordinator is left alone to tell of an end, if it is not killed by then.
const LINGER: Duration = Duration::from_millis(300);

/// How transactions end of which somebody is to be told.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Committed,
    Aborted,
    Completed,
    Compensated,
    /// A compensation is refused, and an operator settles it.
    Stuck,
}

impl Kind {
    fn request(self, label: &str) -> Value {
        let work = Work { label: label.to_owned(), ..Work::default() };
        let mut request = match self {
            Self::Committed => request(&work, "finished"),
            Self::Aborted => {
                request(&Work { refuse: Some(SERVICES[1].to_owned()), ..work }, "finished")
            }
            Self::Completed => saga("/act", "/act"),
            Self::Compensated => saga("/refuse", "/act"),
            Self::Stuck => saga("/refuse", "/refuse"),
        };
        request["webhook"] = json!({"resource": HOOKS, "path": "/ended"});
        request
    }
}

fn saga(last: &str, undo: &str) -> Value {
    let call = |path: &str| json!({"resource": HOOKS, "path": path});
    json!({"kind": "saga", "wait": "finished", "steps": [
        {"name": "first", "action": call("/act"), "compensation": call(undo)},
        {"name": "last", "after": ["first"], "action": call(last)}]})
}

/// Who is told.
#[derive(Default)]
struct Hooks(Mutex<Heard>);

#[derive(Default)]
struct Heard {
    /// Of each transaction, the webhooks with their contents.
    told: HashMap<String, BTreeMap<String, BTreeSet<String>>>,
    /// What clients were told of transactions.
    answered: HashMap<String, Option<OutcomeWord>>,
    calls: usize,
}

impl Hooks {
    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.0.lock().expect("nobody panics while it writes down")
    }

    async fn serve(self: Arc<Self>) -> (SocketAddr, impl Future<Output = ()> + Send) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.expect("the system has free ports");
        let address = listener.local_addr().expect("it is bound");
        let refuse = async || (axum::http::StatusCode::CONFLICT, r#"{"kind":"never"}"#);
        let app = Router::new()
            .route("/ended", post(ended))
            .route("/act", post(async || "{}"))
            .route("/refuse", post(refuse))
            .with_state(self);
        (address, async move {
            axum::serve(listener, app).await.expect("it serves until it is dropped");
        })
    }

    /// Fails unless all that was told agrees with how everything has ended.
    async fn compare(&self, world: &World) {
        let client = patient(&world.setup.server());
        let filter = Filter { limit: Some(PAGE_MAX), ..Filter::default() };
        let page = client.list(&filter).await.expect("nobody is killed any more");
        assert_eq!(page.next_cursor, None, "more than one page");
        let (told, answered) = {
            let heard = self.heard();
            (heard.told.clone(), heard.answered.clone())
        };
        let ids: BTreeSet<_> =
            page.transactions.into_iter().map(|it| it.id).chain(told.keys().cloned()).collect();
        for id in ids {
            let view = client.show(&id).await.expect("who was told of it knows more than we");
            // One that tells of another is told of by nobody.
            let Some(notice) = &view.webhook else {
                assert!(!told.contains_key(&id), "told of {id}, which has no webhook");
                continue;
            };
            let outcome = view.outcome.expect("nothing is open").as_str();
            let webhooks = told.get(&id).unwrap_or_else(|| panic!("never told of {id}: {view:?}"));
            let mut expected = vec![(notice, outcome)];
            expected.extend(view.attention_webhook.iter().map(|it| (it, "needs_attention")));
            assert_eq!(webhooks.len(), expected.len(), "{id}: {webhooks:?}");
            for (notice, what) in expected {
                let told = webhooks.iter().find(|(webhook, _)| webhook.contains(&**notice));
                let Some((_, contents)) = told else { panic!("no {notice} of {id}: {webhooks:?}") };
                assert_eq!(contents.len(), 1, "{id}: {contents:?}");
                let content = contents.first().expect("there is one");
                let content: Value = serde_json::from_str(content).expect("JSON");
                assert_eq!(content["type"], format!("transaction.{what}"), "{content}");
                assert_eq!(content["data"]["outcome"], what, "{content}");
                let notice =
                    client.show(notice).await.expect("it is known as long as what it tells of");
                assert_eq!(notice.status, StatusWord::Completed, "{notice:?}");
            }
            if let Some(answer) = answered.get(&id).copied().flatten()
                && answer != OutcomeWord::NeedsAttention
            {
                assert_eq!(answer.as_str(), outcome, "a client was told otherwise of {id}");
            }
        }
    }

    /// Settles by hand what needs that, as soon as it does, until nothing is open any more.
    async fn operate(&self, world: &World) -> ! {
        let client = patient(&world.setup.server());
        let status = Some(StatusWord::NeedsAttention);
        let request = ResolveRequest {
            outcome: ResolveOutcome::Rollback,
            reason: "undone by hand".to_owned(),
            force: false,
            by: None,
        };
        loop {
            let page = client.list(&Filter { status, ..Filter::default() }).await;
            for stuck in page.expect("nobody is killed any more").transactions {
                let view = client.resolve(&stuck.id, &request).await.expect("it is stuck");
                assert!(view.attention_webhook.is_some(), "{view:?}");
            }
            sleep(LOOK_EVERY).await;
        }
    }
}

async fn ended(State(hooks): State<Arc<Hooks>>, headers: HeaderMap, body: String) {
    let webhook = headers["webhook-id"].to_str().expect("readable").to_owned();
    let content: Value = serde_json::from_str(&body).expect("JSON");
    let id = content["data"]["id"].as_str().expect("an identity").to_owned();
    let mut heard = hooks.heard();
    heard.calls += 1;
    heard.told.entry(id).or_default().entry(webhook).or_default().insert(body);
}

async fn sweep(kind: Kind, calls: &[&'static str], loss: Loss) {
    let hooks = Arc::new(Hooks::default());
    let (address, serve) = Arc::clone(&hooks).serve().await;
    let mut serving = JoinSet::new();
    serving.spawn(serve);
    let world = World::and(|setup| setup.with_signed(HOOKS, address)).await;
    let live = async |coordinator: &mut Coordinator, label: &str| {
        live(coordinator, &world, &hooks, &kind.request(label)).await
    };
    let heal = async |_: &str| {
        let mut coordinator = Coordinator::start(&world.setup).await;
        coordinator.ready().await.expect("it recovers from any kill");
        tokio::select! {
            () = settled(&mut coordinator, &world.http) => {}
            _ = hooks.operate(&world) => {}
        }
        hooks.compare(&world).await;
        let ended = coordinator.stop().await;
        assert_eq!(ended.status.code(), Some(0), "{}", ended.stderr);
    };
    at_each_place(&world, &format!("{kind:?} and told"), calls, loss, live, heal).await;
    let heard = hooks.heard();
    println!("told of {} ends in {} calls", heard.told.len(), heard.calls);
}

/// A life with one transaction, in which there is time to tell of its end.
async fn live(
    coordinator: &mut Coordinator,
    world: &World,
    hooks: &Hooks,
    request: &Value,
) -> Ended {
    if let Err(ended) = coordinator.ready().await {
        return ended;
    }
    let reply = world.http.post("/v1/transactions", None, request).await;
    if let Some(view) = reply.ok().and_then(|reply| reply.view()) {
        hooks.heard().answered.insert(view.id.clone(), view.outcome);
        let is_told = async {
            while !hooks.heard().told.contains_key(&view.id) {
                sleep(LOOK_EVERY).await;
            }
        };
        // One that is killed tells nobody.
        let _ = timeout(LINGER, is_told).await;
    }
    coordinator.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_is_told_of_each_end_once_whatever_call_to_the_disk_a_power_cut_comes_at() {
    sweep(Kind::Committed, DISK, Loss::Unsynced).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_is_told_of_each_end_once_whatever_call_to_the_network_a_kill_comes_at() {
    sweep(Kind::Completed, NETWORK, Loss::Memory).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_is_told_once_that_a_saga_needs_attention_whatever_call_a_power_cut_comes_at() {
    sweep(Kind::Stuck, DISK, Loss::Unsynced).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: every kind of end at every place"]
async fn every_kind_of_end_is_told_of_once_whatever_call_a_crash_comes_at() {
    for kind in [Kind::Committed, Kind::Aborted, Kind::Completed, Kind::Compensated, Kind::Stuck] {
        sweep(kind, DISK, Loss::Memory).await;
        sweep(kind, DISK, Loss::Unsynced).await;
        sweep(kind, NETWORK, Loss::Memory).await;
    }
}
