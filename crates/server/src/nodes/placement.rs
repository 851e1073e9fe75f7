//! Who should own what: decided by each node for itself, from what it has heard.
//!
//! Nodes that have heard the same decide the same. Where they have not, two may claim one partition,
//! which costs the first of them its claim, or none may, until [`Free::for_long`] says that it is
//! time for anybody to. A node gives away only what it owns itself.

use std::collections::{BTreeMap, BTreeSet};

use super::partition::Partition;

/// A node that is alive, as far as is known.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    pub(super) draining: bool,
    pub(super) owns: BTreeSet<Partition>,
    /// What it has let go of, and for whom.
    pub(super) offers: BTreeMap<Partition, String>,
}

/// A partition that nobody alive owns.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Free {
    /// So long that whoever should have taken it will not.
    pub(super) for_long: bool,
}

/// What a node is to do now.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Move {
    /// Take a partition over.
    Claim(Partition),
    /// Let go of a partition, for this node.
    LetGo(Partition, String),
}

/// What `me`, one of `nodes`, is to do. Gives away one partition at a time.
pub(super) fn moves(
    me: &str,
    nodes: &BTreeMap<String, Seen>,
    free: &dyn Fn(Partition) -> Free,
) -> Vec<Move> {
    let mut moves: Vec<Move> = claims(me, nodes, free).into_iter().map(Move::Claim).collect();
    if moves.is_empty() {
        moves.extend(gift(me, nodes));
    }
    moves
}

/// Those that may own: all but the draining, unless there are no others.
fn takers(nodes: &BTreeMap<String, Seen>) -> Vec<(&str, &Seen)> {
    let all = nodes.iter().map(|(name, node)| (&**name, node));
    let (draining, staying): (Vec<_>, Vec<_>) = all.partition(|(_, node)| node.draining);
    if staying.is_empty() { draining } else { staying }
}

fn claims(
    me: &str,
    nodes: &BTreeMap<String, Seen>,
    free: &dyn Fn(Partition) -> Free,
) -> Vec<Partition> {
    let takers = takers(nodes);
    let owned: BTreeSet<Partition> =
        nodes.values().flat_map(|it| it.owns.iter().copied()).collect();
    let offered: BTreeMap<Partition, &str> = nodes
        .values()
        .flat_map(|it| it.offers.iter().map(|(&partition, name)| (partition, &**name)))
        .filter(|(_, name)| takers.iter().any(|(taker, _)| taker == name))
        .collect();
    let mut counts: BTreeMap<&str, usize> =
        takers.iter().map(|(name, node)| (*name, node.owns.len())).collect();
    let mut claims = Vec::new();
    for partition in Partition::all().filter(|it| !owned.contains(it)) {
        let least = counts.iter().min_by_key(|&(&name, &count)| (count, rank(partition, name)));
        let taker = offered.get(&partition).copied().or(least.map(|(&name, _)| name));
        let Some(taker) = taker else { continue };
        *counts.entry(taker).or_default() += 1;
        let may = takers.iter().any(|(name, _)| *name == me);
        if taker == me || (may && free(partition).for_long) {
            claims.push(partition);
        }
    }
    claims
}

/// What I give away, if I have more than my share.
fn gift(me: &str, nodes: &BTreeMap<String, Seen>) -> Option<Move> {
    let mine = nodes.get(me)?;
    let others = takers(nodes).into_iter().filter(|(name, _)| *name != me);
    // What is on its way to a node counts as its own.
    let coming = |name: &str| {
        nodes.values().flat_map(|it| it.offers.values()).filter(|to| **to == name).count()
    };
    let (count, to) = others.map(|(name, node)| (node.owns.len() + coming(name), name)).min()?;
    let is_more_than_its_share =
        mine.draining && !nodes[to].draining || mine.owns.len() > count + 1;
    let partition = mine.owns.iter().next_back().filter(|_| is_more_than_its_share)?;
    Some(Move::LetGo(*partition, to.to_owned()))
}

/// An order of nodes that is another for each partition, and the same for everybody.
fn rank(partition: Partition, name: &str) -> u64 {
    name.bytes().fold(0xCBF2_9CE4_8422_2325 ^ u64::from(partition.number()), |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3).rotate_left(29)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nodes::partition::PARTITIONS;

    type Nodes = BTreeMap<String, Seen>;

    fn nodes(names: &[&str]) -> Nodes {
        names.iter().map(|&name| (name.to_owned(), Seen::default())).collect()
    }

    fn fresh(_: Partition) -> Free {
        Free::default()
    }

    /// Lets every node do what it is to do, each seeing all the others, until none does anything.
    fn settle(nodes: &mut Nodes) -> usize {
        for round in 0.. {
            let before = nodes.clone();
            for (name, seen) in nodes.iter_mut() {
                for to_do in moves(name, &before, &fresh) {
                    match to_do {
                        Move::Claim(partition) => {
                            seen.owns.insert(partition);
                        }
                        Move::LetGo(partition, to) => {
                            seen.owns.remove(&partition);
                            seen.offers.insert(partition, to);
                        }
                    }
                }
            }
            let owned: Vec<Partition> =
                nodes.values().flat_map(|it| it.owns.iter().copied()).collect();
            let distinct: BTreeSet<Partition> = owned.iter().copied().collect();
            assert_eq!(owned.len(), distinct.len(), "nobody claims what another owns");
            for seen in nodes.values_mut() {
                seen.offers.retain(|partition, _| !distinct.contains(partition));
            }
            let same = nodes.iter().all(|(name, it)| it.owns == before[name].owns);
            if same && nodes.values().all(|it| it.offers.is_empty()) {
                return round;
            }
            assert!(round < 100, "they never settle");
        }
        unreachable!("the loop returns")
    }

    fn counts(nodes: &Nodes) -> Vec<usize> {
        let mut counts: Vec<usize> = nodes.values().map(|it| it.owns.len()).collect();
        counts.sort_unstable();
        counts
    }

    #[test]
    fn nodes_that_start_together_share_everything_evenly_at_once() {
        for count in 1..=usize::from(PARTITIONS) {
            let names: Vec<String> = (0..count).map(|it| format!("node-{it}")).collect();
            let mut all = nodes(&names.iter().map(|it| &**it).collect::<Vec<_>>());
            assert!(settle(&mut all) <= 1);
            let counts = counts(&all);
            assert_eq!(counts.iter().sum::<usize>(), usize::from(PARTITIONS));
            assert!(counts[count - 1] - counts[0] <= 1, "{counts:?}");
        }
    }

    #[test]
    fn a_node_that_joins_gets_its_share_and_one_that_leaves_gives_up_all() {
        let mut all = nodes(&["a"]);
        settle(&mut all);
        for name in ["b", "c"] {
            all.insert(name.to_owned(), Seen::default());
            settle(&mut all);
        }
        assert_eq!(counts(&all), [2, 3, 3]);
        all.get_mut("a").expect("it is there").draining = true;
        settle(&mut all);
        assert_eq!(all["a"].owns.len(), 0);
        assert_eq!(counts(&all), [0, 4, 4]);
    }

    #[test]
    fn what_a_dead_node_owned_is_shared_by_those_who_are_left() {
        let mut all = nodes(&["a", "b", "c"]);
        settle(&mut all);
        let dead = all.remove("b").expect("it was there");
        assert!(!dead.owns.is_empty());
        assert!(settle(&mut all) <= 1);
        assert_eq!(counts(&all), [4, 4]);
    }

    #[test]
    fn an_offer_to_somebody_who_is_gone_is_nobodys() {
        let mut all = nodes(&["a", "b"]);
        settle(&mut all);
        let mine = all.get_mut("a").expect("it is there");
        let partition = mine.owns.pop_first().expect("it owns some");
        mine.offers.insert(partition, "gone".to_owned());
        settle(&mut all);
        assert_eq!(counts(&all), [4, 4]);
    }

    #[test]
    fn what_nobody_takes_for_long_is_anybodys() {
        let all = nodes(&["a", "b"]);
        let long = |_| Free { for_long: true };
        assert_eq!(moves("a", &all, &long).len(), usize::from(PARTITIONS));
        assert!(moves("a", &all, &fresh).len() < usize::from(PARTITIONS));
    }

    #[test]
    fn the_last_node_keeps_what_it_has_even_while_it_drains() {
        let mut all = nodes(&["a", "b"]);
        all.values_mut().for_each(|it| it.draining = true);
        settle(&mut all);
        assert_eq!(counts(&all), [4, 4]);
    }
}
