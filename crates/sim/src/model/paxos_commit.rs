//! Paxos commit (Gray and Lamport, 2006): two resource managers, three acceptors, ballots 0 to 2.
//!
//! The vote of each resource manager is an instance of consensus. In ballot 0 the resource manager
//! itself proposes it; in a later one a new leader does, who has first asked a majority of the
//! acceptors what they have accepted. Both instances travel in one message from a leader, and in one
//! answer to it. Whoever sees a majority for every vote knows the outcome, so no single death blocks.
//!
//! What was sent stays sent: it can arrive at any time, again, in any order, or never. A leader opens
//! its ballot whenever it likes, that is, whenever it takes the one before for dead.

use super::checker::{Explored, Model, explore};
use super::tcommit::Manager;

const MANAGERS: usize = 2;
const ACCEPTORS: usize = 3;
const BALLOTS: usize = 3;
const MAJORITY: usize = ACCEPTORS / 2 + 1;

/// A deliberate mistake.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PaxosMistake {
    /// An acceptor accepts in a ballot although it has promised a later one.
    ForgetsPromise,
    /// An acceptor tells a new leader nothing of what it has accepted.
    ForgetsAccepted,
    /// A leader takes what one acceptor says for what a majority says.
    LeaderAsksOne,
    /// A vote counts as chosen when one acceptor has accepted it.
    OneIsChosen,
    /// A leader proposes what it likes although a vote was accepted.
    FreeChoice,
    /// A leader proposes the vote of the earliest ballot, not of the latest.
    EarliestWins,
    /// A new leader proposes to commit where nothing was accepted.
    CommitsUnheard,
    /// Somebody decides to commit on the vote of one resource manager.
    OneVoteCommits,
}

impl PaxosMistake {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::ForgetsPromise,
        Self::ForgetsAccepted,
        Self::LeaderAsksOne,
        Self::OneIsChosen,
        Self::FreeChoice,
        Self::EarliestWins,
        Self::CommitsUnheard,
        Self::OneVoteCommits,
    ];
}

/// The model, right or with a mistake.
pub struct PaxosCommit {
    mistake: Option<PaxosMistake>,
    /// Acceptors that take part; the others are dead from the start.
    alive: usize,
}

#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
enum Vote {
    Prepared,
    Aborted,
}

/// A vote that was accepted, and in which ballot.
type Accepted = Option<(u8, Vote)>;

#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd)]
struct Acceptor {
    promised: u8,
    accepted: [Accepted; MANAGERS],
    /// What it has answered to the leader of each ballot (phase 1b).
    answered: [Option<[Accepted; MANAGERS]>; BALLOTS],
    /// What it has said that it accepts in each ballot (phase 2b).
    said: [[Option<Vote>; MANAGERS]; BALLOTS],
}

#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(super) struct State {
    managers: [Manager; MANAGERS],
    /// Ballots whose leader has asked the acceptors (phase 1a).
    opened: [bool; BALLOTS],
    /// What was proposed in each ballot (phase 2a).
    proposed: [[Option<Vote>; MANAGERS]; BALLOTS],
    acceptors: [Acceptor; ACCEPTORS],
    commit_sent: bool,
    abort_sent: bool,
}

type Steps<'a> = dyn FnMut(&'static str, State) + 'a;

impl Default for PaxosCommit {
    fn default() -> Self {
        Self { mistake: None, alive: ACCEPTORS }
    }
}

impl PaxosCommit {
    /// The model with a deliberate mistake.
    pub fn with(mistake: PaxosMistake) -> Self {
        Self { mistake: Some(mistake), ..Self::default() }
    }

    /// The model with so many acceptors that never do anything.
    pub fn with_dead_acceptors(dead: usize) -> Self {
        Self { mistake: None, alive: ACCEPTORS.saturating_sub(dead) }
    }

    /// Explores every state.
    pub fn explore(&self) -> Explored {
        explore(self)
    }

    fn makes(&self, mistake: PaxosMistake) -> bool {
        self.mistake == Some(mistake)
    }

    fn manager(from: &State, index: usize, to: &mut Steps<'_>) {
        let becomes = |after: Manager| {
            let mut state = from.clone();
            state.managers[index] = after;
            state
        };
        let now = from.managers[index];
        if now == Manager::Working {
            let mut prepared = becomes(Manager::Prepared);
            prepared.proposed[0][index] = Some(Vote::Prepared);
            to("a resource manager prepares", prepared);
            let mut aborted = becomes(Manager::Aborted);
            aborted.proposed[0][index] = Some(Vote::Aborted);
            to("a resource manager chooses to abort", aborted);
        }
        if from.commit_sent && now != Manager::Committed {
            to("a resource manager is told to commit", becomes(Manager::Committed));
        }
        if from.abort_sent && now != Manager::Aborted {
            to("a resource manager is told to abort", becomes(Manager::Aborted));
        }
    }

    /// A new leader asks, or proposes once enough have answered.
    fn leader(&self, from: &State, ballot: usize, to: &mut Steps<'_>) {
        if !from.opened[ballot] {
            let mut state = from.clone();
            state.opened[ballot] = true;
            return to("a new leader asks the acceptors", state);
        }
        if from.proposed[ballot] != [None; MANAGERS] {
            return;
        }
        let needed = if self.makes(PaxosMistake::LeaderAsksOne) { 1 } else { MAJORITY };
        for heard in 0_u8..1 << ACCEPTORS {
            if (heard.count_ones() as usize) < needed {
                continue;
            }
            let heard = (0..ACCEPTORS).filter(|it| heard >> it & 1 == 1);
            let answers = heard.map(|it| from.acceptors[it].answered[ballot]);
            let Some(answers) = answers.collect::<Option<Vec<_>>>() else { continue };
            let mut state = from.clone();
            for manager in 0..MANAGERS {
                let vote = self.choice(&answers, manager);
                state.proposed[ballot][manager] = Some(vote);
            }
            to("a new leader proposes", state);
        }
    }

    fn choice(&self, answers: &[[Accepted; MANAGERS]], manager: usize) -> Vote {
        let accepted = answers.iter().filter_map(|answer| answer[manager]);
        let found = match self.makes(PaxosMistake::EarliestWins) {
            true => accepted.min(),
            false => accepted.max(),
        };
        match found {
            Some((_, vote)) if !self.makes(PaxosMistake::FreeChoice) => vote,
            None if self.makes(PaxosMistake::CommitsUnheard) => Vote::Prepared,
            Some(_) | None => Vote::Aborted,
        }
    }

    fn acceptor(&self, from: &State, index: usize, to: &mut Steps<'_>) {
        let acceptor = &from.acceptors[index];
        let becomes = |after: Acceptor| {
            let mut state = from.clone();
            state.acceptors[index] = after;
            state
        };
        for ballot in 0..BALLOTS as u8 {
            let number = usize::from(ballot);
            if from.opened[number] && acceptor.promised < ballot {
                let mut after = acceptor.clone();
                after.promised = ballot;
                after.answered[number] = Some(match self.makes(PaxosMistake::ForgetsAccepted) {
                    true => [None; MANAGERS],
                    false => after.accepted,
                });
                to("an acceptor promises", becomes(after));
            }
            if acceptor.promised > ballot && !self.makes(PaxosMistake::ForgetsPromise) {
                continue;
            }
            // The votes of ballot 0 come one by one, from the resource managers; later ones together.
            let messages: &[&[usize]] = if ballot == 0 { &[&[0], &[1]] } else { &[&[0, 1]] };
            for managers in messages {
                let proposed = &from.proposed[number];
                let news =
                    |&it: &usize| proposed[it].is_some() && acceptor.said[number][it].is_none();
                if !managers.iter().all(news) {
                    continue;
                }
                let mut after = acceptor.clone();
                after.promised = ballot;
                for &manager in *managers {
                    after.accepted[manager] = proposed[manager].map(|vote| (ballot, vote));
                    after.said[number][manager] = proposed[manager];
                }
                to("an acceptor accepts", becomes(after));
            }
        }
    }

    /// Somebody who has heard the acceptors knows the outcome, and tells it.
    fn outcome(&self, from: &State, to: &mut Steps<'_>) {
        let chosen = |manager, vote| self.is_chosen(from, manager, vote);
        let mut prepared = (0..MANAGERS).map(|it| chosen(it, Vote::Prepared));
        let commits = match self.makes(PaxosMistake::OneVoteCommits) {
            true => prepared.any(|it| it),
            false => prepared.all(|it| it),
        };
        if commits && !from.commit_sent {
            to(
                "somebody learns that all have voted yes",
                State { commit_sent: true, ..from.clone() },
            );
        }
        if (0..MANAGERS).any(|it| chosen(it, Vote::Aborted)) && !from.abort_sent {
            to("somebody learns that one has not", State { abort_sent: true, ..from.clone() });
        }
    }

    fn is_chosen(&self, state: &State, manager: usize, vote: Vote) -> bool {
        let needed = if self.makes(PaxosMistake::OneIsChosen) { 1 } else { MAJORITY };
        let said =
            |acceptor: &&Acceptor, ballot: usize| acceptor.said[ballot][manager] == Some(vote);
        let within = |ballot| state.acceptors.iter().filter(|it| said(it, ballot)).count();
        (0..BALLOTS).any(|ballot| within(ballot) >= needed)
    }
}

impl Model for PaxosCommit {
    type State = State;

    fn initial(&self) -> State {
        let acceptor = Acceptor {
            promised: 0,
            accepted: [None; MANAGERS],
            answered: [None; BALLOTS],
            said: [[None; MANAGERS]; BALLOTS],
        };
        State {
            managers: [Manager::Working; MANAGERS],
            opened: [false; BALLOTS],
            proposed: [[None; MANAGERS]; BALLOTS],
            acceptors: std::array::from_fn(|_| acceptor.clone()),
            commit_sent: false,
            abort_sent: false,
        }
    }

    fn steps(&self, from: &State, to: &mut dyn FnMut(&'static str, State)) {
        (0..MANAGERS).for_each(|index| Self::manager(from, index, to));
        (1..BALLOTS).for_each(|ballot| self.leader(from, ballot, to));
        // The dead stand last, whoever they are.
        (0..self.alive).for_each(|index| self.acceptor(from, index, to));
        self.outcome(from, to);
    }

    fn managers<'a>(&self, state: &'a State) -> &'a [Manager] {
        &state.managers
    }

    fn canonical(&self, mut state: State) -> State {
        let mut swapped = state.clone();
        swapped.managers.swap(0, 1);
        swapped.proposed.iter_mut().for_each(|it| it.swap(0, 1));
        for acceptor in &mut swapped.acceptors {
            acceptor.accepted.swap(0, 1);
            acceptor.answered.iter_mut().flatten().for_each(|it| it.swap(0, 1));
            acceptor.said.iter_mut().for_each(|it| it.swap(0, 1));
        }
        state.acceptors[..self.alive].sort();
        swapped.acceptors[..self.alive].sort();
        state.min(swapped)
    }
}
