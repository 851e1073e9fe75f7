//! Transactions at a coordinator within this process, with two resources of its own that agree at once.
//!
//! What a transaction costs is told by the processor time of the whole process, which is the program's
//! own share as well.

use std::sync::Arc;

use serde_json::json;
use unanimous::resource::{Local, agree};
use unanimous::{Config, Coordinator};

use super::http::measure;
use super::load::once;
use super::{Shape, folder};
use crate::exit::Failure;
use crate::output::Format;

const TITLE: &str = "transactions in one process, two resources that agree at once\n";

pub(super) async fn run(shape: &Shape, format: Format) -> Result<(), Failure> {
    let (folder, _made) = folder(shape.folder.as_ref())?;
    let failed = |error: &dyn std::fmt::Display| Failure::not_done(error.to_string());
    let config = Config::new()
        .journal(format!("file:{}", folder.join("journal").display()))
        .own_resource("left", Arc::new(Local::new(agree)))
        .own_resource("right", Arc::new(Local::new(agree)));
    let coordinator = Coordinator::open(config).await.map_err(|error| failed(&error))?;
    let client = coordinator.client().clone();
    let transaction = once(move || {
        let transaction = client.transaction().branch("left", json!({"amount": 500}));
        let running = transaction.branch("right", json!({"amount": 500})).run();
        async move {
            let ended = running.await;
            ended.map(drop).map_err(|error| Failure::not_done(error.to_string()))
        }
    });
    measure(TITLE, &transaction, std::process::id(), shape, format).await?;
    drop(transaction);
    coordinator.close().await.map_err(|error| failed(&error))
}
