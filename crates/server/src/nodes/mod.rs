//! Several nodes on one journal, each driving a share of the transactions.
//!
//! The shards are divided into partitions. Each is driven by one coordinator, in one node, with a
//! journal of its own in the database that all share; who owns it is an epoch there, and nothing else.
//! Whatever a node is asked is answered by whoever drives it.
//!
//! | file | what it is for |
//! |---|---|
//! | `partition`, `domains` | the parts of the shards, and whose they are |
//! | `beat`, `peers` | what nodes tell each other, and who is heard |
//! | `threads` | what is in time whatever else goes on |
//! | `placement` | who should own what |
//! | `keeper` | claims, gives away, drops |
//! | `owners` | wakes whoever waits for another owner |
//! | `held`, `homes` | a partition that is driven here, and the journal that it is in |
//! | `spares` | journals that are open for the next claim |
//! | `node` | what all parts of a node see |
//! | `face`, `relay`, `gather`, `list`, `former` | requests: to one owner, to all nodes, to all journals, to the one of before |
//! | `name` | under which a node asks for a transaction to begin |
//!
//! # Invariants
//!
//! 1. What a node believes of others decides where a request goes and what is claimed, never an
//!    outcome: that is the epochs' business, in the journal.
//! 2. A begin that is sent again is the same transaction, or the earlier one never happens.

mod beat;
pub(crate) mod config;
pub(crate) mod domains;
mod face;
mod former;
mod gather;
mod held;
mod homes;
mod keeper;
mod limits;
mod list;
mod lookout;
mod name;
mod node;
mod owners;
mod partition;
mod peers;
mod placement;
mod relay;
mod run;
mod spares;
mod threads;

pub use config::NodeConfig;
pub use domains::Domains;
pub use run::Nodes;
