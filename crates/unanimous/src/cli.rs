//! The command line: every command, flag and help text.

use std::ops::Range;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use unanimous_api::{DEFAULT_LISTEN, Kind, ResolveOutcome, StatusWord};

use crate::output::Format;

/// Tests of what is shipped look here that they were not given what is broken on purpose.
const VERSION: &str = match cfg!(feature = "broken-gate") {
    false => env!("CARGO_PKG_VERSION"),
    true => concat!(env!("CARGO_PKG_VERSION"), " broken-gate"),
};

/// Distributed transaction manager: work spanning databases, brokers and services takes effect
/// everywhere or nowhere.
#[derive(Debug, Parser)]
#[command(
    name = "unanimous",
    version = VERSION,
    propagate_version = true,
    after_help = "Examples:
  unanimous demo                          real transfers, real crashes, books that balance
  unanimous serve --config unanimous.toml
  unanimous txn list --status COMMITTING

Exit codes: 0 done · 1 what was asked for did not come out · 2 bad usage or configuration ·
3 server not reachable"
)]
pub(crate) struct Cli {
    /// Print one JSON document instead of text.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Cli {
    /// Who reads the output.
    pub(crate) fn format(&self) -> Format {
        if self.json { Format::Json } else { Format::Text }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the coordinator.
    #[command(after_help = "Example:
  unanimous serve --config unanimous.toml --listen 127.0.0.1:7070 --data ./unanimous-data")]
    Serve(ServeArgs),

    /// Watch transfers survive crashes: real processes, killed with -9, and books that balance.
    #[command(after_help = "Example:
  unanimous demo --transfers 5000 --seed 7
  unanimous demo --resources postgres,mariadb,redis
  unanimous demo booking             a flight, a hotel and a payment by saga, with everything killed
  unanimous demo order               one order as 2PC, as a naive saga and as authorise and capture
  unanimous demo seats               seats by saga, as many a second as the machine gives

Exits with 0 only if the books balance.")]
    Demo(DemoArgs),

    /// Look at transactions and act on them.
    #[command(after_help = "Examples:
  unanimous txn list --status PREPARING --older-than-ms 60000
  unanimous txn show 01939f6e-7a30-7c41-9b1d-3f2a5c7e9d10
  unanimous txn resolve 01939f6e-7a30-7c41-9b1d-3f2a5c7e9d10 --outcome rollback \\
      --reason \"rolled back by hand in the ledger, ticket 4711\"")]
    Txn(TxnArgs),

    /// Look at the configured resources.
    #[command(after_help = "Examples:
  unanimous resource list
  unanimous resource check           exits with 1 if one does not answer, or disagrees with the journal,
                                     or an invariant across them does not hold
  unanimous resource in-doubt wallet")]
    Resource(ResourceArgs),

    /// Look at what always holds across the configured resources.
    #[command(after_help = "Examples:
  unanimous invariant list
  unanimous invariant check books    exits with 1 if it is violated, or cannot be checked

Invariants are configured: see [invariants.NAME] in docs/operating.md.")]
    Invariant(InvariantArgs),

    /// Look at the processes that share a journal, and take one out of work.
    #[command(after_help = "Examples:
  unanimous node list
  unanimous node drain db1:7070      before it is stopped, so that no request notices; a node that is
                                     asked to stop with SIGTERM does the same by itself

Exits with 1 if a node that is drained still drives something when the time is over.")]
    Node(NodeArgs),

    /// Look whether each configured resource can take part, and say what to change if not.
    #[command(after_help = "Examples:
  unanimous doctor --config unanimous.toml
  unanimous doctor wallet ledger

Needs no server: it reads the configuration as `unanimous serve` does and asks each resource itself.
Exits with 1 if one cannot take part; warnings do not count.")]
    Doctor(DoctorArgs),

    /// Run seeded histories full of crashes and check every promise.
    #[command(after_help = "Examples:
  unanimous sim --seeds 0..20000
  unanimous sim --seed 4711 --trace
  unanimous sim --museum             catches every deliberate bug")]
    Sim(SimArgs),

    /// Measure what the coordinator costs, side by side with bare loops.
    Bench(crate::bench::BenchArgs),

    /// Print a completion script for a shell.
    #[command(after_help = "Example:
  unanimous completions bash > /etc/bash_completion.d/unanimous")]
    Completions {
        /// The shell.
        shell: Shell,
    },

    /// One bank service of the demo.
    #[command(name = "__bank", hide = true)]
    Bank(BankArgs),

    /// One service of the demo with bookings.
    #[command(name = "__travel", hide = true)]
    Travel(TravelArgs),

    /// One service of the demo with orders.
    #[command(name = "__shop", hide = true)]
    Shop(crate::demo::order::ServiceArgs),

    /// One service of the demo with seats.
    #[command(name = "__seats", hide = true)]
    Seats(crate::demo::seats::ServiceArgs),

    /// Removes the folder of a demo that was killed.
    #[command(name = "__janitor", hide = true)]
    Janitor {
        /// The folder.
        folder: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// The configuration file; ./unanimous.toml if it exists.
    #[arg(long, value_name = "FILE", env = "UNANIMOUS_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// Where to listen. Anything but this machine itself needs a token.
    #[arg(long, value_name = "ADDRESS", env = "UNANIMOUS_LISTEN")]
    pub(crate) listen: Option<String>,
    /// The data folder.
    #[arg(long, value_name = "DIR", env = "UNANIMOUS_DATA", conflicts_with = "journal")]
    pub(crate) data: Option<PathBuf>,
    /// The journal: file:DIR, postgres://USER@HOST:PORT/DATABASE or etcd://HOST:PORT,HOST:PORT. A
    /// password is taken from UNANIMOUS_JOURNAL_PASSWORD.
    #[arg(long, value_name = "URL", env = "UNANIMOUS_JOURNAL")]
    pub(crate) journal: Option<String>,
    /// What this process is called among those that share a journal; machine and port unless set.
    #[arg(long, value_name = "NAME", env = "UNANIMOUS_NODE")]
    pub(crate) node: Option<String>,
    /// Where the others that share a journal find it; where it listens unless set.
    #[arg(long, value_name = "URL", env = "UNANIMOUS_NODE_ADDRESS")]
    pub(crate) node_address: Option<String>,
    /// How log lines look.
    #[arg(long, value_enum, default_value_t = LogFormat::Text, env = "UNANIMOUS_LOG_FORMAT")]
    pub(crate) log_format: LogFormat,
    /// End when standard input closes, so as not to outlive the parent process.
    #[arg(long, hide = true)]
    pub(crate) with_parent: bool,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct DemoArgs {
    /// Something else than transfers.
    #[command(subcommand)]
    pub(crate) scenario: Option<Scenario>,
    /// How many transfers to make: 1,000 unless set, 600 with databases.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) transfers: Option<u32>,
    /// Instead of transfers, so many bookings: the same as `unanimous demo booking --bookings N`.
    #[arg(long, value_name = "N", conflicts_with_all = ["transfers", "resources"],
        value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) bookings: Option<u32>,
    /// What decides who pays whom and what is killed when. A random one if not given.
    #[arg(long, value_name = "S")]
    pub(crate) seed: Option<u64>,
    /// Databases that take the places of the wallet, the ledger and the audit, in this order. Each is
    /// a private server, started for the demo from the programs that are installed here.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "NAMES")]
    pub(crate) resources: Vec<crate::demo::party::Engine>,
    /// Keep the folder with the databases, the journal and the logs.
    #[arg(long)]
    pub(crate) keep: bool,
}

/// What a demo is about, if not about transfers.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Scenario {
    /// Book trips by saga over a flight, a hotel and a payment service, while all of them are killed.
    #[command(after_help = "Example:
  unanimous demo booking --bookings 600 --seed 7")]
    Booking(BookingArgs),

    /// Place the same orders in three ways, by 2PC, by a naive saga and by authorise and capture, and
    /// compare how long the hot row is locked, how long it takes, and what the customers see.
    #[command(after_help = "Example:
  unanimous demo order --orders 40")]
    Order(crate::demo::order::OrderArgs),

    /// Book seats by saga, as many as the machine gives and half as many: attempts a second, and how
    /// long others see a seat taken whose booking fails.
    #[command(after_help = "Example:
  unanimous demo seats --seconds 10 --in-flight 64")]
    Seats(crate::demo::seats::SeatsArgs),
}

#[derive(Clone, Debug, Args)]
pub(crate) struct BookingArgs {
    /// How many bookings to make.
    #[arg(long, value_name = "N", default_value_t = 600, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) bookings: u32,
    /// What decides who books what and what is killed when. A random one if not given.
    #[arg(long, value_name = "S")]
    pub(crate) seed: Option<u64>,
    /// Keep the folder with the databases, the journal and the logs.
    #[arg(long)]
    pub(crate) keep: bool,
}

#[derive(Debug, Args)]
pub(crate) struct BankArgs {
    /// Which service.
    pub(crate) name: crate::demo::bank::BankName,
    /// Where to listen.
    #[arg(long)]
    pub(crate) listen: std::net::SocketAddr,
    /// Where its database is.
    #[arg(long)]
    pub(crate) data: PathBuf,
    /// The coordinator to ask about branches in doubt.
    #[arg(long)]
    pub(crate) coordinator: String,
    /// What each account starts with, in rupees.
    #[arg(long)]
    pub(crate) opening: u64,
}

#[derive(Debug, Args)]
pub(crate) struct TravelArgs {
    /// Which service.
    pub(crate) name: crate::demo::booking::ServiceName,
    /// Where to listen.
    #[arg(long)]
    pub(crate) listen: std::net::SocketAddr,
    /// Where its database is.
    #[arg(long)]
    pub(crate) data: PathBuf,
    /// How many flights, hotels or accounts it has.
    #[arg(long)]
    pub(crate) items: u32,
    /// How many seats, rooms or rupees each of them starts with.
    #[arg(long)]
    pub(crate) each: u64,
}

/// How to reach the coordinator.
#[derive(Debug, Args)]
pub(crate) struct Connection {
    /// The coordinator's address; the addresses of several nodes with commas between them. Its token, if
    /// it has one, comes from UNANIMOUS_TOKEN.
    #[arg(long, global = true, value_name = "URL", env = "UNANIMOUS_SERVER", default_value_t = format!("http://{DEFAULT_LISTEN}"))]
    pub(crate) server: String,
}

#[derive(Debug, Args)]
pub(crate) struct TxnArgs {
    #[command(flatten)]
    pub(crate) connection: Connection,
    #[command(subcommand)]
    pub(crate) command: TxnCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TxnCommand {
    /// List transactions, newest first.
    List(ListArgs),
    /// Show one transaction with its participants and its log.
    Show {
        /// The transaction.
        id: String,
    },
    /// Follow one transaction to its end. Exits with 1 if that is not a commit.
    Watch {
        /// The transaction.
        id: String,
    },
    /// Abort a transaction that is not decided, or cancel a saga that can still be undone.
    Abort {
        /// The transaction.
        id: String,
        /// Why, for its log.
        #[arg(long, value_name = "TEXT", default_value = "aborted by an operator")]
        reason: String,
        /// Only if it has still this version, as it was shown.
        #[arg(long, value_name = "VERSION")]
        if_version: Option<u32>,
    },
    /// Send a step of a saga what it waits for.
    Signal {
        /// The transaction.
        id: String,
        /// The step that waits.
        step: String,
        /// What becomes its result, as JSON.
        #[arg(long, value_name = "JSON", default_value = "null", value_parser = json)]
        body: serde_json::Value,
    },
    /// Call the participants that gave no answer, and the steps that are stuck, again now.
    Retry {
        /// The transaction.
        id: String,
    },
    /// Settle by hand what the protocol cannot. Kept for the audit.
    Resolve(ResolveArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Only those of that kind: atomic, tcc, saga or message.
    #[arg(long, value_parser = kind)]
    pub(crate) kind: Option<Kind>,
    /// Only those standing there, such as COMMITTING.
    #[arg(long, value_parser = status)]
    pub(crate) status: Option<StatusWord>,
    /// Only those with a branch at that resource.
    #[arg(long, value_name = "NAME")]
    pub(crate) resource: Option<String>,
    /// Only those begun at least so many milliseconds ago.
    #[arg(long, value_name = "MS")]
    pub(crate) older_than_ms: Option<u64>,
    /// At most so many.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = 1..=1_000)]
    pub(crate) limit: i64,
    /// The page behind the one that ended with this cursor.
    #[arg(long)]
    pub(crate) cursor: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ResolveArgs {
    /// The transaction.
    pub(crate) id: String,
    /// How the branches that are left have ended: commit or rollback.
    #[arg(long, value_parser = outcome)]
    pub(crate) outcome: ResolveOutcome,
    /// Why you know.
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: String,
    /// Contradict the decision in the journal, because the branches were really ended the other way.
    #[arg(long)]
    pub(crate) force: bool,
    /// Who settles it; the user running this command if not given.
    #[arg(long, value_name = "NAME", env = "USER")]
    pub(crate) by: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ResourceArgs {
    #[command(flatten)]
    pub(crate) connection: Connection,
    #[command(subcommand)]
    pub(crate) command: ResourceCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ResourceCommand {
    /// List the configured resources and how they answer.
    List,
    /// Compare the journal with what each resource holds prepared, and check the invariants across them;
    /// exit with 1 if anything disagrees.
    Check {
        /// Only this resource.
        name: Option<String>,
    },
    /// List the branches that have not heard their outcome.
    InDoubt {
        /// Only those of this resource.
        name: Option<String>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct NodeArgs {
    #[command(flatten)]
    pub(crate) connection: Connection,
    #[command(subcommand)]
    pub(crate) command: NodeCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// List the nodes, and which parts of the transactions each drives.
    List,
    /// Let a node give away what it drives; it takes nothing more until it is started again.
    Drain {
        /// Its name.
        name: String,
        /// How long to wait until it drives nothing.
        #[arg(long, value_name = "MS", default_value_t = 30_000)]
        timeout_ms: u64,
    },
}

#[derive(Debug, Args)]
pub(crate) struct InvariantArgs {
    #[command(flatten)]
    pub(crate) connection: Connection,
    #[command(subcommand)]
    pub(crate) command: InvariantCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum InvariantCommand {
    /// List the invariants with what was last found of each.
    List,
    /// Check the invariants now; exit with 1 if one is violated or cannot be checked.
    Check {
        /// Only this invariant.
        name: Option<String>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// The resources to look at; all if none is named.
    #[arg(value_name = "RESOURCE")]
    pub(crate) names: Vec<String>,
    /// The configuration file; ./unanimous.toml if it exists.
    #[arg(long, value_name = "FILE", env = "UNANIMOUS_CONFIG")]
    pub(crate) config: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct SimArgs {
    /// The histories to run, the last one not included.
    #[arg(long, value_name = "A..B", value_parser = seeds, required_unless_present_any = ["seed", "museum", "placements", "models"], conflicts_with_all = ["seed", "museum", "placements", "models"])]
    pub(crate) seeds: Option<Range<u64>>,
    /// One history.
    #[arg(long, value_name = "S", conflicts_with_all = ["museum", "placements", "models"])]
    pub(crate) seed: Option<u64>,
    /// Print what happens in it.
    #[arg(long, requires = "seed")]
    pub(crate) trace: bool,
    /// The kind of transactions.
    #[arg(long, value_enum, default_value_t = SimShape::Mixed)]
    pub(crate) shape: SimShape,
    /// Run every deliberate bug, and say how many seeds it takes to catch it.
    #[arg(long, conflicts_with_all = ["placements", "models"])]
    pub(crate) museum: bool,
    /// Crash the canonical scenarios at every point, and at every pair of points.
    #[arg(long, conflicts_with = "models")]
    pub(crate) placements: bool,
    /// Explore every state of small models of two-phase commit and of Paxos commit.
    #[arg(long)]
    pub(crate) models: bool,
    /// Threads; one a processor if not given.
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<usize>,
}

/// The kind of transactions that a simulation runs.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum SimShape {
    /// Two-phase commit.
    Atomic,
    /// Try, confirm, cancel.
    Tcc,
    /// Steps and compensations.
    Saga,
    /// Two phases, by several coordinators on one journal.
    Nodes,
    /// All of them.
    Mixed,
}

fn seeds(text: &str) -> Result<Range<u64>, String> {
    let range =
        text.split_once("..").and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?));
    let range: Range<u64> = range.ok_or("write it as A..B, such as 0..20000")?;
    if range.is_empty() { Err("the range holds no seed".to_owned()) } else { Ok(range) }
}

fn json(text: &str) -> Result<serde_json::Value, String> {
    serde_json::from_str(text).map_err(|error| error.to_string())
}

fn kind(text: &str) -> Result<Kind, String> {
    let word = serde_json::Value::String(text.to_owned());
    serde_json::from_value(word).map_err(|_| "atomic, tcc or saga".to_owned())
}

fn status(text: &str) -> Result<StatusWord, String> {
    let word = serde_json::Value::String(text.to_uppercase());
    serde_json::from_value(word).map_err(|_| {
        "one of INITIATED, PREPARING, PREPARED, COMMITTING, COMMITTED, ABORTING, ABORTED, RUNNING, \
         COMPENSATING, COMPLETED, COMPENSATED, NEEDS_ATTENTION"
            .to_owned()
    })
}

fn outcome(text: &str) -> Result<ResolveOutcome, String> {
    let word = serde_json::Value::String(text.to_owned());
    serde_json::from_value(word).map_err(|_| "commit or rollback".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_range_of_seeds_that_holds_none_is_refused() {
        assert_eq!(seeds("3..7"), Ok(3..7));
        for text in ["7..3", "3..3", "3", "a..b", "..", "-1..4"] {
            assert!(seeds(text).is_err(), "{text}");
        }
    }
}
