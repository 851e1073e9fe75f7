//! Draws what one seed starts from: nodes, parts, resources, what the clients want, and the faults.
//!
//! Every seed switches each fault on or off by a coin and then draws its rate (swarm testing, Groce
//! et al., 2012).

use unanimous_core::commit::{Mode, Phases, Shape};

use super::client::{Order, Share, Stand, Token};
use super::exhibit::NodesExhibit;
use super::participant::Resource;
use super::store::Claims;
use crate::client::{Rival, Wish};
use crate::coordinator::Wait;
use crate::event::BRANCHES;
use crate::participant::Kind;
use crate::rng::Rng;
use crate::world::{ORDERS_MAX, RESOURCES_MAX};

/// What a history starts from.
pub(super) struct Setting {
    pub(super) rng: Rng,
    pub(super) faults: Faults,
    pub(super) exhibit: Option<NodesExhibit>,
    pub(super) nodes: u8,
    pub(super) parts: u8,
    pub(super) claims: Claims,
    /// When faults stop.
    pub(super) calm_ms: u64,
    pub(super) resources: Vec<Resource>,
    pub(super) orders: Vec<Order>,
}

/// The faults of one history. Rates are in permille of the occasions, pauses in milliseconds; zero
/// switches a fault off.
#[derive(Clone, Debug)]
pub(super) struct Faults {
    /// Messages lost.
    pub(super) drop: u64,
    /// Messages delivered twice.
    pub(super) duplicate: u64,
    /// Messages delayed past every timeout.
    pub(super) late: u64,
    /// Appends, claims and releases delayed past every timeout.
    pub(super) late_write: u64,
    /// Answers of the store lost: whatever it was asked, it has done.
    pub(super) answer_lost: u64,
    pub(super) delay_ms_max: u64,
    pub(super) store_ms_max: u64,
    /// Silence after which a node suspects another.
    pub(super) suspect_ms: u64,
    pub(super) crash_every_ms: u64,
    pub(super) down_ms_max: u64,
    /// Crashes after which a node never comes back, while another one is left.
    pub(super) gone: u64,
    pub(super) pause_every_ms: u64,
    pub(super) pause_ms_max: u64,
    pub(super) cut_every_ms: u64,
    pub(super) cut_ms_max: u64,
    pub(super) clock_every_ms: u64,
    /// Nodes that hand over and restart.
    pub(super) drain_every_ms: u64,
    /// Calls during which the participant crashes, before or after it wrote.
    pub(super) participant_crash: u64,
    /// Calls answered with "still working".
    pub(super) working: u64,
    /// Listings that come back with something missing.
    pub(super) listing_short: u64,
    pub(super) vote_no: u64,
    pub(super) vote_read_only: u64,
    /// Two nodes never hear of each other again, also when all other faults have stopped.
    pub(super) standoff: bool,
    /// So many of the next messages are lost.
    pub(super) lose_next: u64,
}

const CALM_MS: u64 = 3_500;

impl Faults {
    /// A network and processes that do what they should.
    pub(super) fn none() -> Self {
        Self {
            drop: 0,
            duplicate: 0,
            late: 0,
            late_write: 0,
            answer_lost: 0,
            delay_ms_max: 1,
            store_ms_max: 1,
            suspect_ms: 250,
            crash_every_ms: 0,
            down_ms_max: 900,
            gone: 0,
            pause_every_ms: 0,
            pause_ms_max: 0,
            cut_every_ms: 0,
            cut_ms_max: 0,
            clock_every_ms: 0,
            drain_every_ms: 0,
            participant_crash: 0,
            working: 0,
            listing_short: 0,
            vote_no: 0,
            vote_read_only: 0,
            standoff: false,
            lose_next: 0,
        }
    }

    fn drawn(rng: &mut Rng) -> Self {
        let standoff = rng.chance(100);
        let mut rate = |coin: u64, low: u64, high: u64| match rng.chance(coin) {
            true => rng.range(low, high),
            false => 0,
        };
        Self {
            drop: rate(400, 5, 150),
            duplicate: rate(500, 5, 250),
            late: rate(400, 5, 80),
            late_write: rate(500, 10, 250),
            answer_lost: rate(500, 10, 300),
            delay_ms_max: rate(1_000, 1, 60),
            store_ms_max: rate(1_000, 1, 60),
            suspect_ms: rate(1_000, 210, 600),
            crash_every_ms: rate(600, 200, 2_000),
            down_ms_max: rate(1_000, 5, 1_200),
            gone: rate(300, 100, 1_000),
            pause_every_ms: rate(500, 200, 1_500),
            pause_ms_max: rate(1_000, 60, 2_500),
            cut_every_ms: rate(600, 100, 1_000),
            cut_ms_max: rate(1_000, 60, 1_500),
            clock_every_ms: rate(250, 200, 2_000),
            drain_every_ms: rate(400, 200, 1_500),
            participant_crash: rate(300, 5, 60),
            working: rate(200, 5, 150),
            listing_short: rate(200, 50, 400),
            vote_no: rate(500, 20, 250),
            vote_read_only: rate(500, 20, 350),
            standoff,
            lose_next: 0,
        }
    }
}

/// What `seed` starts from.
pub(super) fn setting(seed: u64, exhibit: Option<NodesExhibit>) -> Setting {
    let mut rng = Rng::from_seed(seed);
    let faults = Faults::drawn(&mut rng);
    let nodes = rng.pick(&[2, 2, 2, 3, 3, 3, 4, 5]);
    let parts = rng.range(1, 4) as u8;
    let claims = rng.pick(&[Claims::Compare, Claims::Raise]);
    let count = rng.range(2, RESOURCES_MAX as u64);
    let resources = (0..count).map(|_| resource(&mut rng)).collect();
    let orders = (0..rng.range(2, ORDERS_MAX as u64)).map(|_| order(&mut rng, count, nodes));
    let orders = orders.collect();
    Setting { rng, faults, exhibit, nodes, parts, claims, calm_ms: CALM_MS, resources, orders }
}

fn resource(rng: &mut Rng) -> Resource {
    let kind = if rng.chance(500) { Kind::Service } else { Kind::Manager };
    let phases = match kind {
        Kind::Service if rng.chance(500) => Phases::One,
        Kind::Service | Kind::Manager => Phases::Two,
    };
    Resource { kind, phases, up: true, life: 0 }
}

fn order(rng: &mut Rng, resources: u64, nodes: u8) -> Order {
    let mode = match rng.below(10) {
        0..=4 => Mode::Run,
        5 => Mode::RunLater,
        _ => Mode::Interactive,
    };
    let few = rng.chance(800);
    let count = if few { rng.range(1, 2) } else { rng.range(3, BRANCHES as u64) };
    let share = |rng: &mut Rng| Share { resource: rng.below(resources) as u8, plan: None };
    let shares = (0..count).map(|_| share(rng)).collect();
    let wish = match rng.below(10) {
        0 => Wish::Abort,
        1 => Wish::Vanish,
        _ => Wish::Commit,
    };
    let rival = rng.pick(&[Rival::Abort, Rival::Commit, Rival::Look]);
    Order {
        shape: if rng.chance(200) { Shape::Tcc } else { Shape::Atomic },
        mode,
        token: match rng.below(20) {
            0..=10 => Token::Key,
            11..=16 => Token::Name,
            _ => Token::None,
        },
        wait: rng.pick(&[Wait::Decided, Wait::Ended]),
        timeout_ms: rng.range(150, 2_500),
        shares,
        wish,
        starts_ms: rng.range(100, 2_200),
        rival: rng.chance(350).then(|| (rng.range(1, 600), rival)),
        stand: Stand::Begin,
        slot: None,
        name: None,
        attempt: 0,
        node: rng.below(u64::from(nodes)) as u8,
    }
}
