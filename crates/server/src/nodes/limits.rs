//! Times and bounds between nodes, with their reasons.

use std::time::Duration;

/// How often a node says that it is there.
pub(crate) const BEAT: Duration = Duration::from_millis(100);

/// How long a node may say nothing: a few beats, so that a busy machine is not taken for a dead one.
pub(crate) const SILENCE: Duration = Duration::from_millis(600);

/// How long a connection to a node may take to be made, and its first answer to come.
pub(crate) const CONNECT_WAIT: Duration = Duration::from_millis(400);

/// How long the first answer of a node may take that is silent until then: one that is so busy that it is
/// late with all else is heard as soon as it has answered once.
pub(crate) const FIRST_BEAT_WAIT: Duration = Duration::from_secs(5);

/// Shortest and longest pause before a node is tried again.
pub(crate) const RECONNECT: (Duration, Duration) =
    (Duration::from_millis(5), Duration::from_millis(500));

/// A beat with every partition owned and offered, several times over.
pub(crate) const BEAT_BYTES_MAX: usize = 16 * 1024;

/// How often the directory is read for nodes that have joined.
pub(crate) const LOOK: Duration = Duration::from_millis(500);

/// For how long the journal's database may not answer until the node counts itself as cut off.
pub(crate) const CUT_OFF: Duration = Duration::from_secs(2);

/// How long a node that starts waits for those in the directory to be heard or found silent.
pub(crate) const ACQUAINTANCE: Duration = Duration::from_secs(1);

/// How long a partition is nobody's until anybody takes it, whoever should have.
pub(crate) const LONG_FREE: Duration = Duration::from_millis(1_500);

/// How long whoever was offered a partition has to take it.
pub(crate) const OFFER: Duration = Duration::from_secs(3);

/// How long a partition that is given away waits for votes that are under way.
pub(crate) const HANDOVER: Duration = Duration::from_secs(5);

/// Pause before a partition is claimed back that was taken away, doubled with every time up to the
/// second: two nodes that take each other for dead get something done in between.
pub(crate) const GRUDGE: (Duration, Duration) =
    (Duration::from_millis(500), Duration::from_secs(60));

/// After so long without a loss the pause is the shortest again.
pub(crate) const FORGIVEN: Duration = Duration::from_secs(600);

/// Pause before a claim that did not come out is tried again.
pub(crate) const CLAIM_AGAIN: Duration = Duration::from_millis(300);

/// Journals that are kept open for takeovers at most: as many as a node claims when the other of two dies.
pub(crate) const SPARES: usize = 4;

/// Pause before spares that were taken are replaced.
pub(crate) const SPARES_PAUSE: Duration = Duration::from_secs(2);

/// How often it is seen whether spares are still of use: a connection may have been broken without a word.
pub(crate) const SPARES_LOOKED_AT: Duration = Duration::from_secs(10);

/// A silent node is removed from the directory after this.
pub(crate) const FORGET: Duration = Duration::from_secs(24 * 60 * 60);

/// How long a request waits for somebody to own what it is about. Longer than any takeover.
pub(crate) const OWNER_WAIT: Duration = Duration::from_secs(15);

/// Pause before a node is asked again that did not answer, or would not. Then twice as long each time, up to
/// [`OWNER_LOOK`].
pub(crate) const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// When a partition has another owner, those who wait for it come over so long for each of them: about what
/// one costs.
pub(crate) const TURN: Duration = Duration::from_micros(100);

/// How long the last of them waits at most.
pub(crate) const TURN_MAX: Duration = Duration::from_millis(300);

/// How often a request that waits for an owner looks by itself. It is told of changes.
pub(crate) const OWNER_LOOK: Duration = Duration::from_millis(500);

/// How long the other nodes have to answer what all of them are asked.
pub(crate) const ANSWER_WAIT: Duration = Duration::from_secs(10);

/// Bytes of an answer that another node sends before they are read here.
pub(crate) const STREAM_WINDOW: u32 = 64 * 1024;

/// How often a node is asked whether it is still there, on the connection that requests go over.
pub(crate) const PING: Duration = Duration::from_secs(1);

/// How long it may take to say so. Then the connection is made anew, and what waits on it is asked again.
pub(crate) const PING_WAIT: Duration = Duration::from_secs(5);
