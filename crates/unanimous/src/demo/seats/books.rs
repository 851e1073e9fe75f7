//! The count: what the services have done of each attempt, by their own files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use rusqlite::{Connection, OpenFlags};
use serde::Serialize;

use super::super::stock::{Book, Deed, Done};
use super::load::{Attempt, Told};
use super::service::ServiceName;
use crate::exit::Failure;

/// How long each seat showed reserved that was set free again, in milliseconds, without the first
/// `known` of them.
pub(super) fn shown(path: &Path, known: usize) -> Result<Vec<f64>, Failure> {
    let read = || -> rusqlite::Result<Vec<f64>> {
        let db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        let mut query = db.prepare("SELECT ms FROM shown ORDER BY rowid LIMIT -1 OFFSET ?")?;
        query.query_map([known as i64], |row| row.get(0))?.collect()
    };
    read().map_err(|error| Failure::not_done(format!("{}: {error}", path.display())))
}

/// What the count found.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Audit {
    /// Attempts that are there as a whole: one seat, one charge, one ticket, one message.
    pub(super) whole: u64,
    /// Attempts of which nothing is left, and whose seat is free.
    pub(super) undone: u64,
    /// Attempts that failed and whose seat is not free.
    pub(super) seats_kept: u64,
    /// Attempts that were charged twice, or failed and were charged.
    pub(super) charged_wrongly: u64,
    /// Attempts that came out and have no ticket, or several; or failed and have one.
    pub(super) tickets_wrong: u64,
    /// Attempts that are wrong otherwise, or whose users were told other than what is so.
    pub(super) otherwise_wrong: u64,
    /// Seats and accounts that were oversold, or do not have what is left.
    pub(super) unbalanced: u64,
    /// The first attempt that anything is wrong with, in words.
    pub(super) example: Option<String>,
}

type ByBooking<'a> = BTreeMap<&'a str, Vec<&'a Done>>;

impl Audit {
    pub(super) fn of<'a>(
        books: &[(ServiceName, Book)],
        attempts: impl Iterator<Item = &'a Attempt>,
    ) -> Self {
        let mut audit = Self {
            unbalanced: books.iter().map(|(_, book)| book.oversold() + book.unbalanced()).sum(),
            ..Self::default()
        };
        let done = ServiceName::ALL.map(|name| {
            let mut by_booking = ByBooking::new();
            for done in books.iter().filter(|it| it.0 == name).flat_map(|(_, book)| &book.done) {
                by_booking.entry(&done.booking).or_default().push(done);
            }
            by_booking
        });
        let mut known = BTreeSet::new();
        for attempt in attempts {
            let booking = Attempt::booking(attempt.number);
            let deeds = done.each_ref().map(|it| it.get(&*booking).map_or(&[][..], Vec::as_slice));
            audit.count(attempt, deeds);
            known.insert(booking);
        }
        for booking in done.iter().flat_map(BTreeMap::keys) {
            if !known.contains(*booking) {
                audit.otherwise_wrong += 1;
                audit.example.get_or_insert_with(|| format!("{booking}: nobody asked for it"));
            }
        }
        audit
    }

    fn count(&mut self, attempt: &Attempt, [seats, wallet, tickets, sms]: [&[&Done]; 4]) {
        let of = |done: &[&Done]| done.iter().map(|it| it.deed).collect::<Vec<_>>();
        let deeds = [of(seats), of(wallet), of(tickets), of(sms)];
        let is_free = matches!(&*deeds[0], [] | [Deed::Taken, Deed::GivenBack]);
        let (is_whole, is_undone) = (deeds == WHOLE.map(<[_]>::to_vec), {
            let [_, rest @ ..] = &deeds;
            is_free && rest.iter().all(Vec::is_empty)
        });
        let is_right = match &attempt.told {
            Told::Booked(ticket) => is_whole && tickets[0].number.as_ref() == Some(ticket),
            Told::Failed(_) => is_undone,
            // Who knows nothing was not told anything that is not so.
            Told::Unknown(_) => is_whole || is_undone,
        };
        self.whole += u64::from(is_whole);
        self.undone += u64::from(is_undone);
        if is_right {
            return;
        }
        let has_come_out = matches!(attempt.told, Told::Booked(_));
        let wrong = if deeds[1].len() != usize::from(has_come_out) {
            &mut self.charged_wrongly
        } else if deeds[2].len() != usize::from(has_come_out) {
            &mut self.tickets_wrong
        } else if !has_come_out && !is_free {
            &mut self.seats_kept
        } else {
            &mut self.otherwise_wrong
        };
        *wrong += 1;
        let booking = Attempt::booking(attempt.number);
        let at = ServiceName::ALL.map(ServiceName::as_str).into_iter().zip(&deeds);
        let at: Vec<_> = at.map(|(name, deeds)| format!("{name} {deeds:?}")).collect();
        let words = || format!("{booking}: {}; told {:?}", at.join(", "), attempt.told);
        self.example.get_or_insert_with(words);
    }

    /// Whether there is nothing at all to complain about.
    pub(super) fn is_whole(&self) -> bool {
        let wrong = self.seats_kept + self.charged_wrongly + self.tickets_wrong;
        wrong + self.otherwise_wrong + self.unbalanced == 0
    }
}

/// What the services did of an attempt that came out, in the order of [`ServiceName::ALL`].
const WHOLE: [&[Deed]; 4] =
    [&[Deed::Taken], &[Deed::Taken], &[Deed::Confirmed], &[Deed::Confirmed]];

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn audit(deeds: [&[Deed]; 4], told: Told) -> Audit {
        let attempt = Attempt { number: 7, told, took: Duration::ZERO };
        let book = |(name, deeds): (ServiceName, &[Deed])| {
            let mut stock = BTreeMap::from([(7, (1, 1))]);
            let done = deeds.iter().map(|&deed| {
                let has = &mut stock.get_mut(&7).expect("it is there").0;
                match deed {
                    Deed::Taken => *has -= 1,
                    Deed::GivenBack => *has += 1,
                    Deed::Confirmed => {}
                }
                let number = (deed == Deed::Confirmed).then(|| "t".to_owned());
                Done { booking: Attempt::booking(7), deed, item: 7, amount: 1, number }
            });
            let done = done.collect();
            (name, Book { done, stock })
        };
        let books: Vec<_> = ServiceName::ALL.into_iter().zip(deeds).map(book).collect();
        Audit::of(&books, [attempt].iter())
    }

    #[test]
    fn an_attempt_is_whole_or_undone_as_its_user_was_told() {
        use Deed::{GivenBack, Taken};
        let failed = || Told::Failed("no_funds".to_owned());
        let booked = || Told::Booked("t".to_owned());
        let undone: [&[Deed]; 4] = [&[Taken, GivenBack], &[], &[], &[]];
        assert!(audit(WHOLE, booked()).is_whole());
        assert!(audit(undone, failed()).is_whole());
        assert_eq!(audit([&[Taken], &[], &[], &[]], failed()).seats_kept, 1);
        assert_eq!(audit([WHOLE[0], &[], WHOLE[2], WHOLE[3]], booked()).charged_wrongly, 1);
        assert_eq!(audit([undone[0], &[Taken], &[], &[]], failed()).charged_wrongly, 1);
        assert_eq!(audit([WHOLE[0], WHOLE[1], &[], WHOLE[3]], booked()).tickets_wrong, 1);
        assert_eq!(audit([WHOLE[0], WHOLE[1], WHOLE[2], &[]], booked()).otherwise_wrong, 1);
        assert_eq!(audit(WHOLE, Told::Booked("another".to_owned())).otherwise_wrong, 1);
        let twice = audit([WHOLE[0], &[Taken, Taken], WHOLE[2], WHOLE[3]], booked());
        assert_eq!((twice.charged_wrongly, twice.unbalanced), (1, 1), "an account below zero");
    }
}
