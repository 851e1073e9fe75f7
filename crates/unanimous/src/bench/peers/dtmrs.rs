//! dtmrs, with its defaults: a server on SQLite.
//!
//! It has no way of waiting for a saga, and asking again and again would cost it processor time. So the
//! two services are in this process, and a saga counts as finished when its second step is called, which
//! is a little before it is.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use tokio::sync::oneshot;

use super::super::lean::{self, Caller, Reply};
use super::super::load::{once, post_one};
use super::super::process;
use super::{Contestant, is_up, start as start_program, until};
use crate::demo::child::Ports;
use crate::exit::Failure;

/// Where the second step is.
const CHARGE: &str = "/charge";

const VARIABLE: &str = "UNANIMOUS_PEER_DTMRS";

/// How long one saga may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Who waits for the second step of which saga.
type Waiting = Arc<Mutex<HashMap<String, oneshot::Sender<()>>>>;

/// Where it is.
pub(super) fn program() -> Result<PathBuf, Failure> {
    let named = std::env::var_os(VARIABLE).map(PathBuf::from);
    named.filter(|path| path.is_file()).ok_or_else(|| {
        Failure::usage(format!(
            "{VARIABLE} does not name the program of dtmrs: cargo install dtmrs --root DIR, and \
             {VARIABLE}=DIR/bin/dtmrs"
        ))
    })
}

pub(super) async fn start(folder: &Path) -> Result<Contestant, Failure> {
    let waiting = Waiting::default();
    let services = serve(Arc::clone(&waiting)).map_err(process::cannot_listen)?;
    let mut ports = Ports::new();
    let (http, grpc) = (ports.take().await?, ports.take().await?);
    let variables = [
        ("DTMRS_DB", "sqlite:dtmrs.db".to_owned()),
        ("DTMRS_ADDR", http.to_string()),
        ("DTMRS_GRPC_ADDR", grpc.to_string()),
        ("RUST_LOG", "warn".to_owned()),
    ];
    let started = start_program(&program()?, &[], &variables, &folder.join("dtmrs")).await?;
    let (child, pid) = started;
    let client = process::http_client();
    let health = format!("http://{http}/health");
    until("dtmrs", || is_up(&client, &health)).await?;
    let caller = Caller::new(&format!("http://{http}/api/dtmsvr/submit"));
    let steps = Arc::new(json!([
        {"action": format!("{services}/reserve"), "compensate": format!("{services}/release")},
        {"action": format!("{services}{CHARGE}"), "compensate": format!("{services}/refund")},
    ]));
    let number = AtomicU64::new(0);
    let saga = move || {
        let gid = format!("saga-{}", number.fetch_add(1, Ordering::Relaxed));
        let (caller, waiting) = (caller.clone(), Arc::clone(&waiting));
        let body = json!({"gid": gid, "trans_type": "saga", "steps": &*steps}).to_string();
        async move {
            let (tell, told) = oneshot::channel();
            waiting.lock().expect("nobody panics").insert(gid, tell);
            post_one(&caller, body.as_bytes()).await?;
            match tokio::time::timeout(PATIENCE, told).await {
                Ok(Ok(())) => Ok(()),
                Ok(Err(_)) | Err(_) => Err(Failure::not_done("dtmrs does not finish a saga")),
            }
        }
    };
    Ok(Contestant { title: "dtmrs".to_owned(), once: once(saga), pid, _children: vec![child] })
}

/// Services that agree to everything; returns where.
fn serve(waiting: Waiting) -> std::io::Result<String> {
    let address = lean::serve(move |path| {
        if let Some((CHARGE, query)) = path.split_once('?') {
            let saga = query.split('&').find_map(|pair| pair.strip_prefix("gid="));
            let waits = saga.and_then(|saga| waiting.lock().expect("nobody panics").remove(saga));
            if let Some(tell) = waits {
                // The measurement may be over.
                let _ = tell.send(());
            }
        }
        Reply::Agree
    });
    Ok(format!("http://{}", address?))
}
