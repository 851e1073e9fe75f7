//! Sagas: over HTTP with two services, and in this process with steps that do nothing.

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde_json::json;
use unanimous_api::{OutcomeWord, Wait};
use unanimous_core::Opaque;
use unanimous_core::id::BranchId;
use unanimous_core::limits::{RETRY_MS_MAX, RETRY_MS_MIN};
use unanimous_core::saga::{Action, Plan, Retry, Role, Work};
use unanimous_participants::local::{Local, agree};
use unanimous_server::Resources;
use unanimous_server::driver::{IfRunning, SagaOrder};

use super::coordinator::measure;
use super::http::{self, Load};
use super::peers::{self, Peer};
use super::{Shape, folder, inside};
use crate::exit::Failure;
use crate::output::{self, Format};
use crate::stats::median;

/// So many that what one sync costs is shared by many.
const IN_FLIGHT: usize = 1_024;

/// What to measure.
#[derive(Args, Clone, Debug)]
pub(super) struct SagaArgs {
    #[command(flatten)]
    shape: Shape,
    /// Instead of what ours cost in detail: the same sagas over HTTP at these, in turn with ours.
    /// For what is missing it says how to get it.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "NAMES")]
    against: Vec<Peer>,
}

pub(super) async fn run(args: &SagaArgs, format: Format) -> Result<(), Failure> {
    let SagaArgs { shape, against } = args;
    if !against.is_empty() {
        return peers::run(against, shape, format).await;
    }
    http::run(Load::Saga, shape, format).await?;
    let mut rates = Vec::new();
    for _ in 0..shape.rounds {
        rates.push(inside(shape).await?);
    }
    let (per_s, cpu_us): (Vec<f64>, Vec<f64>) = rates.into_iter().unzip();
    match format {
        Format::Json => output::json(&json!({
            "in_process": {"in_flight": IN_FLIGHT, "sagas_per_s": per_s, "cpu_us": cpu_us},
        })),
        Format::Text => output::line(&format!(
            "in this process, {IN_FLIGHT} in flight, steps that do nothing: {} sagas/s, {:.1} µs CPU each",
            output::count(median(&per_s) as u64),
            median(&cpu_us),
        )),
    }
    Ok(())
}

async fn inside(shape: &Shape) -> Result<(f64, f64), Failure> {
    let (folder, _made) = folder(shape.folder.as_ref())?;
    let data = folder.join("sagas");
    let failed = |error: unanimous_journal::JournalError| Failure::not_done(error.to_string());
    let resources = Resources::default().with("nothing", Arc::new(Local::new(agree)));
    let (coordinator, journal) = inside::start(&data, resources).map_err(failed)?;
    let shared = coordinator.clone();
    let rate = measure(IN_FLIGHT, Duration::from_secs(shape.seconds), move || {
        let (_, answer) = shared.begin_saga(order());
        async move {
            let view = answer.await.expect("the coordinator answers").expect("nothing refuses");
            assert_eq!(view.outcome, Some(OutcomeWord::Completed));
        }
    });
    let rate = rate.await;
    coordinator.close().await.map_err(failed)?;
    drop((coordinator, journal));
    std::fs::remove_dir_all(&data)
        .map_err(|error| Failure::not_done(format!("{}: {error}", data.display())))?;
    Ok(rate)
}

fn order() -> SagaOrder {
    let work = || Work {
        resource: "nothing".into(),
        work: Opaque::new(br#"{"path":"/"}"#),
        retry: Retry { attempts_max: None, backoff_ms: RETRY_MS_MIN, backoff_max_ms: RETRY_MS_MAX },
        timeout_ms: None,
    };
    let step = |name: &str, after| Plan {
        name: name.into(),
        after,
        action: Action::Call(work()),
        compensation: Some(work()),
        role: Role::Compensable,
        state: None,
    };
    SagaOrder {
        txn: None,
        steps: vec![step("reserve", Vec::new()), step("charge", vec![BranchId(0)])],
        input: Opaque::default(),
        timeout_ms: None,
        delay_ms: None,
        key: None,
        running: IfRunning::Refuse,
        wait: Wait::Finished,
        trace: None,
        webhook: None,
        saga: None,
    }
}
