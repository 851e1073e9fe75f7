//! Users who book seats, as many as get through and half as many, and what each of them was told.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};
use unanimous_client::{Client, Completed, Error, Step};

use super::super::plan::Chance;
use super::super::stock::Confirmation;
use super::{FUNDS, PRICE, SEATS, USERS};

/// Users who cannot pay, in hundredths.
const CANNOT_PAY_PERCENT: u64 = 4;

/// What a user was told.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Told {
    /// The seat is theirs, with that ticket.
    Booked(String),
    /// It is not, and nothing is left of the attempt: a service said no.
    Failed(String),
    /// Nobody could say.
    Unknown(String),
}

/// One attempt to book.
#[derive(Clone, Debug)]
pub(super) struct Attempt {
    /// That of the seat, too: nobody competes for one.
    pub(super) number: u32,
    pub(super) told: Told,
    pub(super) took: Duration,
}

impl Attempt {
    /// The name of the booking, and its idempotency key.
    pub(super) fn booking(number: u32) -> String {
        format!("seat-{number:06}")
    }
}

/// What happened under one load.
pub(super) struct Load {
    pub(super) attempts: Vec<Attempt>,
    pub(super) took: Duration,
}

/// Who books, and what has not been asked for yet.
#[derive(Clone)]
pub(super) struct Users {
    client: Client,
    seed: u64,
    next: Arc<AtomicU32>,
}

impl Users {
    pub(super) fn new(client: Client, seed: u64) -> Self {
        Self { client, seed, next: Arc::default() }
    }

    /// So many at once for a while, each followed by the next.
    pub(super) async fn crowd(&self, in_flight: u32, time: Duration) -> Load {
        let started = Instant::now();
        let mut users = JoinSet::new();
        for _ in 0..in_flight {
            let own = self.clone();
            users.spawn(async move {
                let mut attempts = Vec::new();
                while started.elapsed() < time
                    && let Some(number) = own.number()
                {
                    attempts.push(own.book(number).await);
                }
                attempts
            });
        }
        let attempts = users.join_all().await.into_iter().flatten().collect();
        Load { attempts, took: started.elapsed() }
    }

    /// So many a second for a while, whether or not those before are done.
    pub(super) async fn stream(&self, per_s: f64, time: Duration) -> Load {
        let started = Instant::now();
        let mut ticks = interval(Duration::from_secs_f64(1.0 / per_s.max(1.0)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut users = JoinSet::new();
        while started.elapsed() < time
            && let Some(number) = self.number()
        {
            ticks.tick().await;
            let own = self.clone();
            users.spawn(async move { own.book(number).await });
        }
        let attempts = users.join_all().await;
        Load { attempts, took: started.elapsed() }
    }

    /// The next seat, if there is one left.
    fn number(&self) -> Option<u32> {
        Some(self.next.fetch_add(1, Ordering::Relaxed)).filter(|&number| number < SEATS)
    }

    /// Reserve, charge, emit the ticket, which is the point of no return, and notify.
    async fn book(&self, number: u32) -> Attempt {
        let price = if cannot_pay(self.seed, number) { FUNDS + 1 } else { PRICE };
        let booking = Attempt::booking(number);
        let order =
            |item: u32, amount: u64| json!({"booking": booking, "item": item, "amount": amount});
        let seat = order(number, 1);
        let saga = self
            .client
            .saga()
            .key(&booking)
            .step(
                Step::new("reserve")
                    .calls("seats", "/reserve")
                    .body(seat.clone())
                    .undone_by("seats", "/release")
                    .state("SeatReserved"),
            )
            .step(
                Step::new("charge")
                    .after(["reserve"])
                    .calls("wallet", "/charge")
                    .body(order(number % USERS, price))
                    .undone_by("wallet", "/refund")
                    .state("PaymentPending"),
            )
            .step(
                Step::new("ticket")
                    .after(["charge"])
                    .calls("tickets", "/emit")
                    .body(seat.clone())
                    .pivot(),
            )
            .step(
                Step::new("notify").after(["ticket"]).calls("sms", "/send").body(seat).retriable(),
            );
        let started = Instant::now();
        let told = told(saga.run().await);
        Attempt { number, told, took: started.elapsed() }
    }
}

/// Whether the user of that attempt has less than the ticket costs.
fn cannot_pay(seed: u64, number: u32) -> bool {
    Chance((seed << 32) ^ u64::from(number)).below(100) < CANNOT_PAY_PERCENT
}

fn told(end: Result<Completed, Error>) -> Told {
    match end.map(|done| done.result::<Confirmation>("ticket")) {
        Ok(Ok(ticket)) => Told::Booked(ticket.number),
        Err(Error::Compensated(view)) => match view.reason {
            Some(reason) => Told::Failed(reason.kind),
            None => Told::Unknown("undone, and nobody says why".to_owned()),
        },
        Ok(Err(error)) | Err(error) => Told::Unknown(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn about_four_in_a_hundred_cannot_pay_and_the_seed_says_who() {
        for seed in [0, 1, 42] {
            let poor = (0..10_000).filter(|&number| cannot_pay(seed, number)).count();
            assert!((300..500).contains(&poor), "seed {seed}: {poor}");
        }
        let who = |seed| (0..1_000).filter(|&number| cannot_pay(seed, number)).collect::<Vec<_>>();
        assert_ne!(who(1), who(2));
    }
}
