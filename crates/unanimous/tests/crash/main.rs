//! The binary as it is shipped, under kills, power cuts, failing and full disks.
//!
//! Nothing here looks inside: a coordinator is a process with a folder and an address. A
//! [`witness::Witness`] writes down everything that any client or participant was told, and a
//! [`service::Service`] everything that a participant was made to do. Whatever was done to the
//! coordinator meanwhile, the two must agree in the end: see [`verdict`].
//!
//! | file | what is done to the coordinator |
//! |---|---|
//! | `kills` | killed at random moments under load, and again while it recovers |
//! | `points` | killed, or its power cut, at each single call to the disk and to the network |
//! | `notices` | the same while webhooks are to be told |
//! | `start` | the same while it starts |
//! | `failing` | its disk reports errors |
//! | `full` | its disk has no room |
//! | `banks` | its participants are killed as well |
//! | `databases` | killed, or cut off from databases of three kinds, which are killed as well |
//! | `shared` | the same on a journal in a database that is killed as well |
//! | `quorum` | the same on a journal in etcd, members of which are killed |
//! | `nodes` | several that share a journal are killed, paused and restarted |
//! | `partitions` | the same, cut off from each other and from the journal |
//! | `steps` | killed, and databases in which sagas act as well |
//! | `messages` | the same, and applications that announce messages and die |
//! | `life` | stopped, paused, started twice, started on a damaged folder |

mod banks;
mod chance;
mod coordinator;
mod crowd;
mod databases;
mod deed;
mod domains;
mod failing;
mod fleet;
mod full;
mod http;
mod kills;
mod life;
mod members;
mod messages;
mod network;
mod nodes;
mod notices;
mod partitions;
mod place;
mod points;
mod quorum;
mod service;
mod shared;
mod start;
mod steps;
mod strait;
mod trace;
mod verdict;
mod witness;
mod world;
