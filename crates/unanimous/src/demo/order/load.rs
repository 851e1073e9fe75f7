//! Customers who order, in one of three ways, and what each of them was told.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::Instant;
use unanimous_client::api::Wait;
use unanimous_client::{Client, Error, Step};

use super::card::CARDS;

/// Milliseconds within which an order must be decided.
const TIMEOUT_MS: u64 = 60_000;

/// Orders under way at once in a rush.
pub(super) const RUSH: usize = 8;

/// Where nobody delivers to.
pub(super) const NOWHERE: &str = "nowhere";

/// One order: the body of every call to the services.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Order {
    /// Unique in the demo, such as `order-0042`. The idempotency key, too.
    pub(super) name: String,
    pub(super) card: u32,
    /// In rupees.
    pub(super) amount: u64,
    pub(super) address: String,
}

impl Order {
    /// Of ten orders two cannot be delivered, which shows at the last of the services only, and one is
    /// paid with an empty card.
    pub(super) fn new(number: u32) -> Self {
        Self {
            name: format!("order-{number:04}"),
            card: if number % 10 == 7 { 0 } else { 1 + number % (CARDS - 1) },
            amount: 100 + u64::from(number * 37 % 900),
            address: if number % 5 == 3 { NOWHERE } else { "home" }.to_owned(),
        }
    }
}

/// How an order is placed.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Way {
    /// Two-phase commit: all prepare side by side, and hold their locks until they are told.
    TwoPhase,
    /// One after the other: charge, reserve, place; and refund if that fails.
    NaiveSaga,
    /// All set something aside side by side, for as long as it takes; then all take it, or free it.
    AuthoriseCapture,
}

impl Way {
    pub(super) const ALL: [Self; 3] = [Self::TwoPhase, Self::NaiveSaga, Self::AuthoriseCapture];

    /// The name of its folder.
    pub(super) fn folder(self) -> &'static str {
        match self {
            Self::TwoPhase => "two-phase",
            Self::NaiveSaga => "naive-saga",
            Self::AuthoriseCapture => "authorise-capture",
        }
    }

    pub(super) fn title(self) -> &'static str {
        match self {
            Self::TwoPhase => "2PC",
            Self::NaiveSaga => "naive saga",
            Self::AuthoriseCapture => "authorise, capture",
        }
    }
}

/// What a customer was told.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Told {
    Placed,
    /// It is not, and nothing is left of it: a service said no.
    Failed(String),
    /// Nobody could say.
    Unknown(String),
}

/// What came of one order.
#[derive(Clone, Debug)]
pub(super) struct End {
    pub(super) order: Order,
    pub(super) told: Told,
    pub(super) took: Duration,
}

/// What came of orders that were placed alike.
#[derive(Debug, Default)]
pub(super) struct Load {
    pub(super) ends: Vec<End>,
    pub(super) took: Duration,
}

/// Places orders, so many at once.
pub(super) async fn run(
    client: &Client,
    way: Way,
    orders: impl Iterator<Item = Order>,
    at_once: usize,
) -> Load {
    let started = Instant::now();
    let orders: Arc<[Order]> = orders.collect();
    let next = Arc::new(AtomicUsize::new(0));
    let mut customers = JoinSet::new();
    for _ in 0..at_once {
        let (orders, next, client) = (Arc::clone(&orders), Arc::clone(&next), client.clone());
        customers.spawn(async move {
            let mut ends = Vec::new();
            while let Some(order) = orders.get(next.fetch_add(1, Ordering::Relaxed)) {
                let begun = Instant::now();
                let told = place(&client, way, order).await;
                ends.push(End { order: order.clone(), told, took: begun.elapsed() });
            }
            ends
        });
    }
    let ends = customers.join_all().await.into_iter().flatten().collect();
    Load { ends, took: started.elapsed() }
}

async fn place(client: &Client, way: Way, order: &Order) -> Told {
    let placed = match way {
        Way::TwoPhase => in_two_phases(client.transaction(), order).await,
        Way::AuthoriseCapture => in_two_phases(client.tcc(), order).await,
        Way::NaiveSaga => one_by_one(client, order).await,
    };
    match placed {
        Ok(()) => Told::Placed,
        Err(Error::Aborted(view) | Error::Compensated(view)) => match view.reason {
            Some(reason) => Told::Failed(reason.kind),
            None => Told::Unknown("it failed, and nobody says why".to_owned()),
        },
        Err(error) => Told::Unknown(error.to_string()),
    }
}

/// The customer is told as soon as it is decided: no crash can take it back then.
async fn in_two_phases(of: unanimous_client::Transaction, order: &Order) -> Result<(), Error> {
    let branch = json!(order);
    let run = of
        .key(&order.name)
        .timeout_ms(TIMEOUT_MS)
        .wait(Wait::Decided)
        .branch("card", branch.clone())
        .branch("inventory", branch.clone())
        .branch("orders", branch);
    run.run().await.map(drop)
}

async fn one_by_one(client: &Client, order: &Order) -> Result<(), Error> {
    let saga = client
        .saga()
        .key(&order.name)
        .input(order)
        .deadline_ms(TIMEOUT_MS)
        .step(Step::new("charge").calls("card", "/charge").undone_by("card", "/refund"))
        .step(
            Step::new("reserve")
                .after(["charge"])
                .calls("inventory", "/reserve")
                .undone_by("inventory", "/release"),
        )
        .step(Step::new("place").after(["reserve"]).calls("orders", "/place").pivot());
    saga.run().await.map(drop)
}
