//! Whose turn it is where the branches of a transaction work one after the other.
//!
//! Branches that take locks in different orders can wait for each other across databases, where
//! nobody sees the cycle. If they work in one order, the same for every transaction, there is none.
//! Only the work is ordered: whoever has done it passes the turn on before it prepares, so that
//! the slow part, making the vote durable, goes on side by side.

use std::sync::Arc;

use tokio::sync::watch;

/// The branches of one transaction that work one after the other.
#[derive(Debug)]
pub struct Line {
    /// The place whose turn it is; [`CLOSED`] if nobody's will come any more.
    now: watch::Sender<usize>,
    places: usize,
}

const CLOSED: usize = usize::MAX;

impl Line {
    /// A line of as many branches, the first of which may begin.
    pub fn new(places: usize) -> Arc<Self> {
        Arc::new(Self { now: watch::Sender::new(0), places })
    }

    /// The turn of the branch at this place, counted from zero.
    pub fn turn(self: &Arc<Self>, place: usize) -> Turn {
        Turn { place: Some((Arc::clone(self), place)) }
    }

    /// Sends everybody home whose turn has not come: the transaction will not commit.
    pub fn close(&self) {
        self.now.send_replace(CLOSED);
    }
}

/// The turn of one branch. The default is that of a branch that waits for none and holds none up.
#[derive(Clone, Debug, Default)]
pub struct Turn {
    place: Option<(Arc<Line>, usize)>,
}

/// The turn will not come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Closed;

impl Turn {
    /// Waits until every branch before this one has done its work.
    ///
    /// # Errors
    ///
    /// [`Closed`] if one of them failed: do nothing.
    pub async fn come(&self) -> Result<(), Closed> {
        let Some((line, place)) = &self.place else { return Ok(()) };
        let mut now = line.now.subscribe();
        let now = now.wait_for(|now| now >= place).await.expect("the line is held here");
        match *now {
            CLOSED => Err(Closed),
            _ => Ok(()),
        }
    }

    /// Waits until everybody is sent home, which may be never.
    pub async fn closed(&self) {
        let Some((line, _)) = &self.place else { return std::future::pending().await };
        let mut now = line.now.subscribe();
        now.wait_for(|now| *now == CLOSED).await.expect("the line is held here");
    }

    /// Whether the turn comes only when others have worked.
    pub fn is_awaited(&self) -> bool {
        self.place.is_some()
    }

    /// Whether somebody waits for this branch to do its work.
    pub fn holds_up(&self) -> bool {
        self.place.as_ref().is_some_and(|(line, place)| place + 1 < line.places)
    }

    /// The work is done, and its locks are held: the next branch may begin. Saying so again is fine.
    pub fn pass(&self) {
        let Some((line, place)) = &self.place else { return };
        line.now.send_if_modified(|now| {
            let next = *now == *place;
            *now += usize::from(next);
            next
        });
    }

    /// As [`Line::close`].
    pub fn close(&self) {
        if let Some((line, _)) = &self.place {
            line.close();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_waits_for_the_one_before_and_a_turn_is_passed_once() {
        let line = Line::new(3);
        let [first, second, third] = [0, 1, 2].map(|place| line.turn(place));
        assert_eq!(first.come().await, Ok(()));
        assert!(first.holds_up() && !third.holds_up());
        first.pass();
        first.pass();
        assert_eq!(second.come().await, Ok(()));
        let third = tokio::spawn(async move { third.come().await });
        tokio::task::yield_now().await;
        assert!(!third.is_finished(), "the second has not passed it on");
        second.pass();
        assert_eq!(third.await.expect("it does not panic"), Ok(()));
    }

    #[tokio::test]
    async fn a_closed_line_sends_home_who_waits_and_who_comes_later() {
        let line = Line::new(2);
        let (first, second) = (line.turn(0), line.turn(1));
        let told = tokio::spawn({
            let second = second.clone();
            async move { second.closed().await }
        });
        tokio::task::yield_now().await;
        assert!(!told.is_finished());
        line.close();
        first.pass();
        told.await.expect("it does not panic");
        assert_eq!(second.come().await, Err(Closed));
        assert_eq!(first.come().await, Err(Closed));
    }

    #[tokio::test]
    async fn who_is_in_no_line_waits_for_nobody() {
        let turn = Turn::default();
        assert_eq!(turn.come().await, Ok(()));
        turn.pass();
        turn.close();
        assert!(!turn.holds_up() && !turn.is_awaited());
    }
}
