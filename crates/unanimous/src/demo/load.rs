//! Clients that make transfers while processes die, and what each of them was told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::party::Cast;
use super::plan::{Kill, Plan, Role, Transfer};
use crate::exit::Failure;

/// Transfers under way at once.
const CLIENTS: usize = 32;

/// Transfers that may be begun behind one that calls for a kill before that has happened, so that
/// kills come in the middle of the load however fast it is.
const BEHIND_A_KILL_MAX: usize = 2 * CLIENTS;

/// Times that a transfer is made again after it was aborted because something died.
const REPEATS_MAX: u32 = 20;

/// Longest pause before that; the first is a millisecond, and each is twice the one before. Together
/// they are longer than any database takes to come back.
const PAUSE_MS_MAX: u64 = 500;

/// What a client was told of its transfer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Told {
    /// It was made.
    Committed,
    /// It was not, and never will: a service said no.
    Refused(String),
    /// It was not, for a reason that passes: it can safely be made again.
    Aborted(String),
    /// Nobody could say in time.
    Unknown(String),
}

/// One way of making a transfer.
pub(crate) trait Pay: Send + Sync + 'static {
    /// Makes one attempt, counted from zero.
    fn pay(&self, transfer: &Transfer, attempt: u32) -> impl Future<Output = Told> + Send;
}

/// What happened under load.
#[derive(Debug, Default)]
pub(crate) struct Load {
    /// What the client was told, by transfer.
    pub(crate) told: BTreeMap<String, Told>,
    /// Attempts that were aborted because something died, by reason.
    pub(crate) aborted: BTreeMap<String, u64>,
    /// How long each killed process was away.
    pub(crate) outages: BTreeMap<Role, Vec<Duration>>,
}

/// Makes all transfers of the plan, while the planned kills happen to `cast`.
pub(crate) async fn run(
    plan: &Plan,
    pay: Arc<impl Pay>,
    cast: &mut Cast<'_>,
    title: &'static str,
) -> Result<Load, Failure> {
    let progress = progress(title, plan.transfers.len());
    let (answered, answers) = watch::channel(0_usize);
    let (killed, kills) = watch::channel(0_usize);
    let bar = progress.clone();
    let mut shown = answers.clone();
    let showing = tokio::spawn(async move {
        while shown.changed().await.is_ok() {
            bar.set_position(*shown.borrow_and_update() as u64);
        }
    });
    let clients = async { Ok(clients(plan, pay, answered, kills).await) };
    let killing = kill(plan, cast, answers, killed, &progress);
    let done = tokio::try_join!(clients, killing);
    showing.abort();
    progress.finish_and_clear();
    let (attempts, outages) = done?;
    let mut load = Load { outages, ..Load::default() };
    for (transfer, told, last) in attempts {
        if let (Told::Aborted(kind), Last::No) = (&told, last) {
            *load.aborted.entry(kind.clone()).or_default() += 1;
        } else {
            load.told.insert(transfer, told);
        }
    }
    Ok(load)
}

/// Whether an attempt was the last one.
enum Last {
    No,
    Yes,
}

type Attempt = (String, Told, Last);

async fn clients(
    plan: &Plan,
    pay: Arc<impl Pay>,
    answered: watch::Sender<usize>,
    kills: watch::Receiver<usize>,
) -> Vec<Attempt> {
    let transfers: Arc<[Transfer]> = plan.transfers.as_slice().into();
    let due: Arc<[usize]> = plan.kills.iter().map(|kill| kill.answered).collect();
    let next = Arc::new(AtomicUsize::new(0));
    let answered = Arc::new(answered);
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let (transfers, due, next) = (Arc::clone(&transfers), Arc::clone(&due), Arc::clone(&next));
        let (pay, answered, mut kills) = (Arc::clone(&pay), Arc::clone(&answered), kills.clone());
        clients.spawn(async move {
            let mut attempts = Vec::new();
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some(transfer) = transfers.get(index) else { return attempts };
                let overdue = due.partition_point(|&due| due + BEHIND_A_KILL_MAX <= index);
                // An error means that no more kills will come.
                drop(kills.wait_for(|&killed| killed >= overdue).await);
                make(transfer, &*pay, &mut attempts).await;
                answered.send_modify(|count| *count += 1);
            }
        });
    }
    clients.join_all().await.into_iter().flatten().collect()
}

/// Makes one transfer, again if it was aborted because something died.
async fn make(transfer: &Transfer, pay: &impl Pay, attempts: &mut Vec<Attempt>) {
    for attempt in 0..=REPEATS_MAX {
        let told = pay.pay(transfer, attempt).await;
        let last = match told {
            Told::Aborted(_) if attempt < REPEATS_MAX => Last::No,
            Told::Committed | Told::Refused(_) | Told::Aborted(_) | Told::Unknown(_) => Last::Yes,
        };
        let done = matches!(last, Last::Yes);
        attempts.push((transfer.transfer.clone(), told, last));
        if done {
            return;
        }
        sleep(Duration::from_millis(PAUSE_MS_MAX.min(1 << attempt))).await;
    }
}

/// Carries out the kills, each when it is due, and never one before the last victim is back.
async fn kill(
    plan: &Plan,
    cast: &mut Cast<'_>,
    mut answers: watch::Receiver<usize>,
    killed: watch::Sender<usize>,
    progress: &ProgressBar,
) -> Result<BTreeMap<Role, Vec<Duration>>, Failure> {
    let mut outages = BTreeMap::<Role, Vec<Duration>>::new();
    for &Kill { answered, aim, victim } in &plan.kills {
        if cast.has(victim) {
            // An error means that all transfers have been answered.
            drop(answers.wait_for(|&count| count >= answered).await);
            sleep(aim).await;
            progress.set_message(format!("kill -9 {}", victim.as_str()));
            outages.entry(victim).or_default().push(cast.kill_and_restart(victim).await?);
        }
        killed.send_modify(|count| *count += 1);
    }
    Ok(outages)
}

fn progress(title: &'static str, transfers: usize) -> ProgressBar {
    // Drawn only on a terminal.
    let bar = ProgressBar::with_draw_target(Some(transfers as u64), ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("  {prefix} {bar:32} {pos}/{len} transfers  {msg}");
    bar.set_style(style.expect("a good template"));
    bar.with_prefix(title)
}
