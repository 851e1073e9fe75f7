//! What a demo with bookings does, all of it from a seed: who books what, who changes their mind, and
//! what is killed when.

use std::time::Duration;

use serde::Serialize;

use super::super::plan::{Chance, Kill, kills};
use super::service::ServiceName;

/// Bookings for each kill of each process.
const BOOKINGS_PER_KILL: u32 = 50;

/// Prices in rupees.
const PRICE_MIN: u64 = 2_000;
const PRICES: u64 = 18_000;

/// What there is of seats, rooms and rupees, in hundredths of what the bookings would need on average:
/// some have to be refused.
const SUPPLY_PERCENT: u64 = 92;

/// One booking in so many is asked for twice at once, under one key.
const ASKED_TWICE_ONE_IN: u64 = 10;

/// One booking in so many is cancelled.
const CANCELLED_ONE_IN: u64 = 6;

/// Longest time, in milliseconds, between a booking and the change of mind.
const MIND_CHANGES_MS_MAX: u64 = 60;

/// A process of the demo.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Actor {
    Coordinator,
    Service(ServiceName),
}

impl Actor {
    pub(super) const ALL: [Self; 4] = [
        Self::Coordinator,
        Self::Service(ServiceName::Flight),
        Self::Service(ServiceName::Hotel),
        Self::Service(ServiceName::Payment),
    ];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Coordinator => "coordinator",
            Self::Service(name) => name.as_str(),
        }
    }
}

/// One trip that somebody books: the input of its saga.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub(super) struct Booking {
    /// Unique in the demo, such as `booking-0042`. The idempotency key, too.
    pub(super) booking: String,
    pub(super) user: u32,
    pub(super) flight: u32,
    pub(super) hotel: u32,
    /// In rupees.
    pub(super) price: u64,
    #[serde(skip)]
    pub(super) manner: Manner,
}

impl Booking {
    /// What it takes at a service: of which item, and how much.
    pub(super) fn share(&self, name: ServiceName) -> (u32, u64) {
        match name {
            ServiceName::Flight => (self.flight, 1),
            ServiceName::Hotel => (self.hotel, 1),
            ServiceName::Payment => (self.user, self.price),
        }
    }
}

/// How somebody books.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Manner {
    /// Asks, and waits for the end.
    Waits,
    /// Asks twice at once, under one key.
    AsksTwice,
    /// Asks, and changes their mind so much later.
    Cancels(Duration),
}

/// A whole demo.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) seed: u64,
    pub(super) bookings: Vec<Booking>,
    /// In order.
    pub(super) kills: Vec<Kill<Actor>>,
}

impl Plan {
    /// The plan of a seed.
    pub(super) fn new(seed: u64, bookings: u32) -> Self {
        let mut chance = Chance(seed);
        Self {
            seed,
            bookings: (1..=bookings).map(|number| booking(&mut chance, number)).collect(),
            kills: kills(&mut chance, &Actor::ALL, bookings, bookings / BOOKINGS_PER_KILL),
        }
    }

    /// What each flight, hotel or account starts with.
    pub(super) fn opening(&self, name: ServiceName) -> u64 {
        let (share, at_least) = match name {
            ServiceName::Flight | ServiceName::Hotel => (1, 1),
            ServiceName::Payment => (PRICE_MIN + PRICES / 2, PRICE_MIN + PRICES),
        };
        let needed = self.bookings.len() as u64 * share;
        (needed * SUPPLY_PERCENT / 100 / u64::from(name.items())).max(at_least)
    }
}

fn booking(chance: &mut Chance, number: u32) -> Booking {
    let mut one_of = |name: ServiceName| chance.below(name.items().into()) as u32;
    let [user, flight, hotel] =
        [ServiceName::Payment, ServiceName::Flight, ServiceName::Hotel].map(&mut one_of);
    let price = PRICE_MIN + chance.below(PRICES);
    let manner = if chance.below(CANCELLED_ONE_IN) == 0 {
        Manner::Cancels(Duration::from_micros(chance.below(MIND_CHANGES_MS_MAX * 1_000)))
    } else if chance.below(ASKED_TWICE_ONE_IN) == 0 {
        Manner::AsksTwice
    } else {
        Manner::Waits
    };
    Booking { booking: format!("booking-{number:04}"), user, flight, hotel, price, manner }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_decides_every_booking_and_every_kill() {
        let (a, b, c) = (Plan::new(1, 500), Plan::new(1, 500), Plan::new(2, 500));
        assert_eq!((&a.bookings, &a.kills), (&b.bookings, &b.kills));
        assert_ne!((a.bookings, a.kills), (c.bookings, c.kills));
    }

    #[test]
    fn every_process_is_killed_at_least_three_times_however_few_bookings_there_are() {
        for bookings in [1, 50, 1_000] {
            let plan = Plan::new(7, bookings);
            for actor in Actor::ALL {
                let kills = plan.kills.iter().filter(|kill| kill.victim == actor).count();
                assert!(kills as u32 >= 3.max(bookings / BOOKINGS_PER_KILL), "{actor:?}: {kills}");
            }
        }
    }
}
