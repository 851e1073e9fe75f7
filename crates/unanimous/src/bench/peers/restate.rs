//! Restate: its server, and the two steps as a service of its SDK in a Node.js process.
//!
//! What is told of processor time is the server's alone, without the service's.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde_json::json;

use super::super::load::post;
use super::super::process;
use super::{Contestant, is_up, start as start_program, until};
use crate::demo::child::Ports;
use crate::exit::Failure;

const VARIABLE: &str = "UNANIMOUS_PEER_RESTATE";

/// The service with the two steps.
const STEPS: &str = include_str!("steps.cjs");

/// The folder that its packages are installed in.
pub(super) fn home() -> Result<PathBuf, Failure> {
    let named = std::env::var_os(VARIABLE).map(PathBuf::from);
    named.filter(|home| server(home).is_file()).ok_or_else(|| {
        Failure::usage(format!(
            "{VARIABLE} does not name a folder with Restate: npm install --prefix DIR \
             @restatedev/restate-server @restatedev/restate-sdk, and {VARIABLE}=DIR"
        ))
    })
}

fn server(home: &Path) -> PathBuf {
    let machine = if cfg!(target_arch = "aarch64") { "arm64" } else { "x64" };
    let package = format!("restate-server-linux-{machine}");
    home.join("node_modules/@restatedev").join(package).join("bin/restate-server")
}

pub(super) async fn start(folder: &Path, partitions: u16) -> Result<Contestant, Failure> {
    let home = home()?;
    let home = home.canonicalize().unwrap_or(home);
    let folder = folder.join(format!("restate-{partitions}"));
    let mut ports = Ports::new();
    let [node, admin, ingress, steps] =
        [ports.take().await?, ports.take().await?, ports.take().await?, ports.take().await?];
    let variables = [
        ("RESTATE_LISTEN_MODE", "tcp".to_owned()),
        ("RESTATE_BIND_ADDRESS", node.to_string()),
        ("RESTATE_ADMIN__BIND_ADDRESS", admin.to_string()),
        ("RESTATE_INGRESS__BIND_ADDRESS", ingress.to_string()),
        ("RESTATE_DISABLE_TELEMETRY", "true".to_owned()),
        ("RESTATE_LOG_FILTER", "warn".to_owned()),
    ];
    let arguments = [
        "--no-logo".to_owned(),
        "--node-name=bench".to_owned(),
        "--base-dir=data".to_owned(),
        format!("--default-num-partitions={partitions}"),
    ];
    let (child, pid) = start_program(&server(&home), &arguments, &variables, &folder).await?;
    let mut children = vec![child];
    let (left_child, left) = process::start_service().await?;
    let (right_child, right) = process::start_service().await?;
    children.extend([left_child, right_child]);
    let script = folder.join("steps.cjs");
    std::fs::write(&script, STEPS)
        .map_err(|error| Failure::not_done(format!("{}: {error}", script.display())))?;
    let arguments = [
        script.display().to_string(),
        home.display().to_string(),
        steps.port().to_string(),
        format!("{left}/agree/reserve"),
        format!("{right}/agree/charge"),
    ];
    let quiet = [("NODE_ENV", "production".to_owned()), ("RESTATE_LOGGING", "ERROR".to_owned())];
    let folder = folder.join("steps");
    let (service, _) = start_program(Path::new("node"), &arguments, &quiet, &folder).await?;
    children.push(service);
    let client = process::http_client();
    let health = format!("http://{admin}/health");
    until("Restate", || is_up(&client, &health)).await?;
    let deployments = format!("http://{admin}/deployments");
    let deployment = Bytes::from(json!({"uri": format!("http://{steps}")}).to_string());
    until("Restate's service", async || {
        let reply = process::send(&client, "POST", &deployments, deployment.clone()).await;
        reply.is_some_and(|(status, _)| status.is_success())
    })
    .await?;
    Ok(Contestant {
        title: format!("restate, {partitions} partitions"),
        once: post(&format!("http://{ingress}/saga/run"), Bytes::new()),
        pid,
        _children: children,
    })
}
