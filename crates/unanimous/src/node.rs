//! `unanimous node`: the processes that share a journal.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use unanimous_api::{NodeView, NodeWord, NodesView};
use unanimous_client::Client;

use crate::cli::{NodeArgs, NodeCommand};
use crate::exit::Failure;
use crate::output::{self, Format};
use crate::table::Table;

/// How often a node that drains is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// Runs one command.
pub(crate) async fn run(args: NodeArgs, format: Format) -> Result<(), Failure> {
    let client = crate::remote::connect(&args.connection)?;
    match args.command {
        NodeCommand::List => {
            show(&client.nodes().await?, format);
            Ok(())
        }
        NodeCommand::Drain { name, timeout_ms } => {
            let view = drain(&client, &name, Duration::from_millis(timeout_ms)).await?;
            show(&view, format);
            match view.nodes.iter().any(|node| node.name == name && !node.partitions.is_empty()) {
                true => Err(Failure::not_done(format!(
                    "node {name} still drives some transactions: there is nobody to give them to, or \
                     they take longer; look again with unanimous node list"
                ))),
                false => Ok(()),
            }
        }
    }
}

/// Waits until the node drives nothing.
async fn drain(client: &Client, name: &str, patience: Duration) -> Result<NodesView, Failure> {
    let give_up = Instant::now() + patience;
    let mut view = client.drain(name).await?;
    let drives = |view: &NodesView| {
        let node = view.nodes.iter().find(|node| node.name == name);
        node.is_some_and(|node| !node.partitions.is_empty() || node.state == NodeWord::Active)
    };
    while drives(&view) && Instant::now() < give_up {
        sleep(LOOK).await;
        view = client.nodes().await?;
    }
    Ok(view)
}

fn show(view: &NodesView, format: Format) {
    match format {
        Format::Json => output::json(view),
        Format::Text if view.nodes.is_empty() => output::line(
            "the journal is a folder, which belongs to one process; --journal postgres://… or \
             etcd://… can be shared",
        ),
        Format::Text => {
            let mut table = Table::new(["NAME", "STATE", "PARTITIONS", "HEARD", "ADDRESS"]);
            view.nodes.iter().for_each(|node| table.row(row(node)));
            output::line(&table.text());
        }
    }
}

fn row(node: &NodeView) -> [String; 5] {
    let state = match node.state {
        NodeWord::Active => "active",
        NodeWord::Draining => "draining",
        NodeWord::CutOff => "cut off",
        NodeWord::Silent => "silent",
    };
    let partitions: Vec<String> = node.partitions.iter().map(u8::to_string).collect();
    let heard = node.heard_ms_ago.map_or_else(String::new, |ms| format!("{ms} ms ago"));
    [node.name.clone(), state.to_owned(), partitions.join(" "), heard, node.address.clone()]
}
