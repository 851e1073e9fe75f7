//! What a demo does, all of it from a seed: who pays whom how much, and what is killed when.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Customers of the wallet.
pub(crate) const CUSTOMERS: u32 = 50;

/// Shops in the ledger.
const SHOPS: u32 = 12;

/// Largest transfer in rupees; the smallest is one rupee.
const AMOUNT_MAX: u64 = 2_000;

/// What the customers own together, in hundredths of what the transfers would need on average: some
/// have to be refused.
const FUNDS_PERCENT: u64 = 90;

/// Transfers for each kill of each process.
const TRANSFERS_PER_KILL: u32 = 200;

/// Kills of each process, however few transfers there are.
const KILLS_MIN: u32 = 3;

/// Longest wait between the transfer that calls for a kill and the kill itself.
const AIM_MS_MAX: u64 = 5;

/// A process of the demo.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Role {
    Coordinator,
    Wallet,
    Ledger,
    Audit,
}

impl Role {
    pub(crate) const ALL: [Self; 4] = [Self::Coordinator, Self::Wallet, Self::Ledger, Self::Audit];
    pub(crate) const BANKS: [Self; 3] = [Self::Wallet, Self::Ledger, Self::Audit];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Coordinator => "coordinator",
            Self::Wallet => "wallet",
            Self::Ledger => "ledger",
            Self::Audit => "audit",
        }
    }
}

/// One customer pays one shop. The body of every call to the services.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Transfer {
    /// Unique in the demo, such as `transfer-0042`.
    pub(crate) transfer: String,
    pub(crate) customer: u32,
    pub(crate) shop: u32,
    /// In rupees.
    pub(crate) amount: u64,
}

/// One process is killed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Kill<V = Role> {
    /// Once so many transfers have been answered.
    pub(crate) answered: usize,
    /// And so long after.
    pub(crate) aim: Duration,
    pub(crate) victim: V,
}

/// A whole demo.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    /// What each customer starts with, in rupees.
    pub(crate) opening: u64,
    pub(crate) transfers: Vec<Transfer>,
    /// In order.
    pub(crate) kills: Vec<Kill>,
}

impl Plan {
    /// The plan of a seed.
    pub(crate) fn new(seed: u64, transfers: u32) -> Self {
        let mut chance = Chance(seed);
        let needed = u64::from(transfers) * AMOUNT_MAX.div_ceil(2);
        let opening = (needed * FUNDS_PERCENT / 100 / u64::from(CUSTOMERS)).max(AMOUNT_MAX);
        Self {
            seed,
            opening,
            transfers: (1..=transfers).map(|number| transfer(&mut chance, number)).collect(),
            kills: kills(&mut chance, &Role::ALL, transfers, transfers / TRANSFERS_PER_KILL),
        }
    }
}

fn transfer(chance: &mut Chance, number: u32) -> Transfer {
    Transfer {
        transfer: format!("transfer-{number:04}"),
        customer: chance.below(CUSTOMERS.into()) as u32,
        shop: chance.below(SHOPS.into()) as u32,
        amount: 1 + chance.below(AMOUNT_MAX),
    }
}

/// Every process equally often, at least [`KILLS_MIN`] times, in an order and at moments within the load
/// that are left to chance.
pub(super) fn kills<V: Copy>(chance: &mut Chance, all: &[V], load: u32, each: u32) -> Vec<Kill<V>> {
    let each = each.max(KILLS_MIN);
    let mut victims: Vec<V> = (0..each).flat_map(|_| all.iter().copied()).collect();
    for index in (1..victims.len()).rev() {
        victims.swap(index, chance.below(index as u64 + 1) as usize);
    }
    // Load before the first kill and after the last one.
    let slots = victims.len() + 1;
    let slot = |index: usize| (index + 1) * load as usize / (slots + 1);
    let aimed = victims.into_iter().enumerate().map(|(index, victim)| Kill {
        answered: slot(index),
        aim: Duration::from_micros(chance.below(AIM_MS_MAX * 1_000)),
        victim,
    });
    aimed.collect()
}

/// SplitMix64 (Steele, Lea and Flood, 2014): small, and the same on every machine.
pub(super) struct Chance(pub(super) u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number from zero to `bound`, not included.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_decides_everything_and_another_seed_something_else() {
        let (a, b, c) = (Plan::new(1, 500), Plan::new(1, 500), Plan::new(2, 500));
        assert_eq!((&a.transfers, &a.kills), (&b.transfers, &b.kills));
        assert_ne!(a.transfers, c.transfers);
        assert_ne!(a.kills, c.kills);
    }

    #[test]
    fn every_process_is_killed_equally_often_and_in_the_middle_of_the_load() {
        for transfers in [1, 50, 1_000, 5_000] {
            let plan = Plan::new(7, transfers);
            let counts =
                Role::ALL.map(|role| plan.kills.iter().filter(|kill| kill.victim == role).count());
            assert!(counts[0] >= 3 && counts.iter().all(|&count| count == counts[0]), "{counts:?}");
            assert!(plan.kills.iter().all(|kill| kill.answered < transfers as usize));
            assert!(plan.kills.is_sorted_by_key(|kill| kill.answered));
        }
    }
}
