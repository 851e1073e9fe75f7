//! Users who book while processes die, and what each of them was told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use unanimous_client::api::{Code, RetryRequest, TransactionView};
use unanimous_client::{Client, Completed, Error, Saga, Step};

use super::super::stock::Confirmation;
use super::Cast;
use super::plan::{Actor, Booking, Manner, Plan};
use crate::exit::Failure;

/// Bookings under way at once.
const USERS: usize = 32;

/// Bookings that may be begun behind one that calls for a kill before that has happened, so that kills
/// come in the middle of the load however fast it is.
const BEHIND_A_KILL_MAX: usize = 2 * USERS;

/// When a service that gave no answer is asked again: soon, for here one is killed every second.
const RETRY: RetryRequest =
    RetryRequest { max_attempts: None, backoff_ms: Some(10), backoff_max_ms: Some(200) };

/// Milliseconds that a user waits at most.
const DEADLINE_MS: u64 = 60_000;

/// Why a saga was undone that a user has cancelled.
const BY_THE_USER: &str = "client";

/// What a user was told of a booking.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Told {
    /// It was made, with that ticket.
    Made(String),
    /// It was not, and all of it was undone: a service said no.
    Refused(String),
    /// It was not, and all of it was undone: the user wanted it so.
    Cancelled,
    /// Nobody could say in time, or not the same twice.
    Unknown(String),
}

/// What happened under load.
#[derive(Debug, Default)]
pub(super) struct Load {
    /// What the user was told, by booking.
    pub(super) told: BTreeMap<String, Told>,
    /// Users who wanted to cancel and were told that it was too late.
    pub(super) too_late: u64,
    /// How long each booking took until its user knew.
    pub(super) took: Vec<Duration>,
    /// How long each killed process was away.
    pub(super) outages: BTreeMap<Actor, Vec<Duration>>,
}

/// Makes all bookings of the plan, while the planned kills happen to `cast`.
pub(super) async fn run(plan: &Plan, client: &Client, cast: &mut Cast) -> Result<Load, Failure> {
    let progress = progress(plan.bookings.len());
    let (answered, answers) = watch::channel(0_usize);
    let (killed, kills) = watch::channel(0_usize);
    let users = async { Ok(users(plan, client, answered, kills, &progress).await) };
    let killing = kill(plan, cast, answers, killed, &progress);
    let done = tokio::try_join!(users, killing);
    progress.finish_and_clear();
    let (ends, outages) = done?;
    let mut load = Load { outages, ..Load::default() };
    for End { booking, told, in_time, took } in ends {
        load.told.insert(booking, told);
        load.too_late += u64::from(in_time == Cancelling::TooLate);
        load.took.push(took);
    }
    load.took.sort_unstable();
    Ok(load)
}

/// What came of one booking.
struct End {
    booking: String,
    told: Told,
    in_time: Cancelling,
    took: Duration,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Cancelling {
    InTimeOrNotWanted,
    TooLate,
}

async fn users(
    plan: &Plan,
    client: &Client,
    answered: watch::Sender<usize>,
    kills: watch::Receiver<usize>,
    progress: &ProgressBar,
) -> Vec<End> {
    let bookings: Arc<[Booking]> = plan.bookings.as_slice().into();
    let due: Arc<[usize]> = plan.kills.iter().map(|kill| kill.answered).collect();
    let next = Arc::new(AtomicUsize::new(0));
    let answered = Arc::new(answered);
    let mut users = JoinSet::new();
    for _ in 0..USERS {
        let (bookings, due, next) = (Arc::clone(&bookings), Arc::clone(&due), Arc::clone(&next));
        let (client, answered, mut kills) = (client.clone(), Arc::clone(&answered), kills.clone());
        let progress = progress.clone();
        users.spawn(async move {
            let mut ends = Vec::new();
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some(booking) = bookings.get(index) else { return ends };
                let overdue = due.partition_point(|&due| due + BEHIND_A_KILL_MAX <= index);
                // An error means that no more kills will come.
                drop(kills.wait_for(|&killed| killed >= overdue).await);
                let started = Instant::now();
                let (told, in_time) = book(&client, booking).await;
                let took = started.elapsed();
                ends.push(End { booking: booking.booking.clone(), told, in_time, took });
                answered.send_modify(|count| *count += 1);
                progress.inc(1);
            }
        });
    }
    users.join_all().await.into_iter().flatten().collect()
}

/// Flight and hotel reserve side by side, the payment charges, the flight tickets, which is the point
/// of no return, and the hotel gives points.
fn saga(client: &Client, booking: &Booking) -> Saga {
    let order = |item: &str, amount: &str| json!({"booking": "{{input.booking}}", "item": item, "amount": amount});
    let one = |item: &str| json!({"booking": "{{input.booking}}", "item": item, "amount": 1});
    let (flight, hotel) = (one("{{input.flight}}"), one("{{input.hotel}}"));
    let reserve = |name: &str| Step::new(name).calls(name, "/reserve").retry(RETRY);
    client
        .saga()
        .key(&booking.booking)
        .deadline_ms(DEADLINE_MS)
        .input(booking)
        .step(reserve("flight").body(flight.clone()).undone_by("flight", "/release"))
        .step(reserve("hotel").body(hotel.clone()).undone_by("hotel", "/release"))
        .step(
            Step::new("charge")
                .after(["flight", "hotel"])
                .calls("payment", "/charge")
                .body(order("{{input.user}}", "{{input.price}}"))
                .undone_by("payment", "/refund")
                .retry(RETRY)
                .state("PaymentPending"),
        )
        .step(
            Step::new("ticket")
                .after(["charge"])
                .calls("flight", "/ticket")
                .body(flight)
                .pivot()
                .retry(RETRY)
                .state("Ticketing"),
        )
        .step(
            Step::new("points")
                .after(["ticket"])
                .calls("hotel", "/points")
                .body(hotel)
                .retriable()
                .retry(RETRY),
        )
}

async fn book(client: &Client, booking: &Booking) -> (Told, Cancelling) {
    let saga = saga(client, booking);
    match booking.manner {
        Manner::Waits => (told(saga.run().await), Cancelling::InTimeOrNotWanted),
        Manner::AsksTwice => {
            let (first, second) = tokio::join!(saga.clone().run(), saga.run());
            let (first, second) = (told(first), told(second));
            let told = match first == second {
                true => first,
                false => Told::Unknown(format!("{first:?}, and to the same question {second:?}")),
            };
            (told, Cancelling::InTimeOrNotWanted)
        }
        Manner::Cancels(after) => match cancel(saga, after).await {
            Ok(answer) => answer,
            Err(error) => (Told::Unknown(error.to_string()), Cancelling::InTimeOrNotWanted),
        },
    }
}

/// Begins a booking and cancels it, unless that comes too late.
async fn cancel(saga: Saga, after: Duration) -> Result<(Told, Cancelling), Error> {
    let begun = saga.begin().await?;
    sleep(after).await;
    match begun.cancel("changed my mind").await {
        Ok(view) => Ok((undone(view), Cancelling::InTimeOrNotWanted)),
        Err(error)
            if matches!(error.code(), Some(Code::TooLateToCancel | Code::AlreadyCommitted)) =>
        {
            Ok((told(begun.finished().await), Cancelling::TooLate))
        }
        Err(error) => Err(error),
    }
}

fn told(end: Result<Completed, Error>) -> Told {
    match end.map(|done| done.result::<Confirmation>("ticket")) {
        Ok(Ok(ticket)) => Told::Made(ticket.number),
        Ok(Err(error)) => Told::Unknown(error.to_string()),
        Err(Error::Compensated(view)) => undone(*view),
        Err(error) => Told::Unknown(error.to_string()),
    }
}

fn undone(view: TransactionView) -> Told {
    match view.reason {
        Some(reason) if reason.kind == BY_THE_USER => Told::Cancelled,
        Some(reason) => Told::Refused(reason.kind),
        None => Told::Unknown("undone, and nobody says why".to_owned()),
    }
}

/// Carries out the kills, each when it is due, and never one before the last victim is back.
async fn kill(
    plan: &Plan,
    cast: &mut Cast,
    mut answers: watch::Receiver<usize>,
    killed: watch::Sender<usize>,
    progress: &ProgressBar,
) -> Result<BTreeMap<Actor, Vec<Duration>>, Failure> {
    let mut outages = BTreeMap::<Actor, Vec<Duration>>::new();
    for kill in &plan.kills {
        // An error means that all bookings have been answered.
        drop(answers.wait_for(|&count| count >= kill.answered).await);
        sleep(kill.aim).await;
        progress.set_message(format!("kill -9 {}", kill.victim.as_str()));
        let away = cast.process(kill.victim).kill_and_restart().await?;
        outages.entry(kill.victim).or_default().push(away);
        killed.send_modify(|count| *count += 1);
    }
    Ok(outages)
}

fn progress(bookings: usize) -> ProgressBar {
    // Drawn only on a terminal.
    let bar = ProgressBar::with_draw_target(Some(bookings as u64), ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("  by saga {bar:32} {pos}/{len} bookings  {msg}");
    bar.set_style(style.expect("a good template"));
    bar
}
