//! The count: what each service has done, and whether that agrees with the plan and with what users were
//! told.

use std::collections::BTreeMap;

use serde::Serialize;

use super::super::stock::{Book, Deed, Done};
use super::load::Told;
use super::plan::{Booking, Plan};
use super::service::ServiceName;

/// What the count found.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Audit {
    /// Bookings that are there as a whole.
    pub(super) whole: u64,
    /// Bookings of which nothing is there.
    pub(super) undone: u64,
    /// Bookings that are neither.
    pub(super) half_done: u64,
    /// Things that a service did twice, with another amount, or undid before it did them.
    pub(super) done_wrongly: u64,
    /// Flights, hotels and accounts of which more was taken than there was.
    pub(super) oversold: u64,
    /// Flights, hotels and accounts that do not have what is left of what they started with.
    pub(super) unbalanced: u64,
    /// Bookings whose users were told other than what is so.
    pub(super) lied_about: u64,
    /// The first booking that anything is wrong with, in words.
    pub(super) example: Option<String>,
    /// In rupees.
    pub(super) charged: u64,
    pub(super) refunded: u64,
    /// Rupees that left the accounts.
    pub(super) left_the_accounts: u64,
    /// Seats and rooms that were taken and given back.
    pub(super) given_back: BTreeMap<ServiceName, u64>,
}

/// How much of a booking is there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Extent {
    Whole,
    Nothing,
    Part,
}

impl Audit {
    pub(super) fn of(
        plan: &Plan,
        books: &[(ServiceName, Book)],
        told: &BTreeMap<String, Told>,
    ) -> Self {
        let payments = books.iter().filter(|(name, _)| *name == ServiceName::Payment);
        let sum = |of: fn(&Book) -> u64| payments.clone().map(|(_, book)| of(book)).sum();
        let mut audit = Self {
            whole: 0,
            undone: 0,
            half_done: 0,
            done_wrongly: 0,
            oversold: books.iter().map(|(_, book)| book.oversold()).sum(),
            unbalanced: books.iter().map(|(_, book)| book.unbalanced()).sum(),
            lied_about: 0,
            example: None,
            charged: sum(|book| book.total(Deed::Taken)),
            refunded: sum(|book| book.total(Deed::GivenBack)),
            left_the_accounts: sum(|book| {
                book.stock.values().map(|(has, opening)| (opening - has).cast_unsigned()).sum()
            }),
            given_back: books
                .iter()
                .filter(|(name, _)| *name != ServiceName::Payment)
                .map(|(name, book)| (*name, book.total(Deed::GivenBack)))
                .collect(),
        };
        let by_booking: BTreeMap<ServiceName, BTreeMap<&str, Vec<&Done>>> = books
            .iter()
            .map(|(name, book)| {
                let mut done = BTreeMap::<&str, Vec<&Done>>::new();
                book.done.iter().for_each(|it| done.entry(&it.booking).or_default().push(it));
                (*name, done)
            })
            .collect();
        for booking in &plan.bookings {
            let done = |name| {
                let found = by_booking.get(&name).and_then(|it| it.get(&*booking.booking));
                found.map_or(&[][..], Vec::as_slice)
            };
            audit.count(booking, done, told.get(&booking.booking));
        }
        audit
    }

    fn count<'a>(
        &mut self,
        booking: &Booking,
        done: impl Fn(ServiceName) -> &'a [&'a Done],
        told: Option<&Told>,
    ) {
        let wrongly = ServiceName::ALL.map(|name| wrongly(booking, name, done(name)));
        let extents = ServiceName::ALL.map(|name| extent(name, done(name)));
        let ticket = done(ServiceName::Flight).iter().find_map(|it| it.number.as_deref());
        let (whole, nothing) = (
            extents.iter().all(|it| *it == Extent::Whole),
            extents.iter().all(|it| *it == Extent::Nothing),
        );
        self.whole += u64::from(whole);
        self.undone += u64::from(nothing);
        self.half_done += u64::from(!whole && !nothing);
        let wrongly: u64 = wrongly.iter().sum();
        self.done_wrongly += wrongly;
        let is_so = match told {
            Some(Told::Made(number)) => whole && ticket == Some(number),
            Some(Told::Refused(_) | Told::Cancelled) => nothing,
            // Who knows nothing was not told anything that is not so.
            Some(Told::Unknown(_)) => true,
            None => false,
        };
        self.lied_about += u64::from(!is_so);
        if (!whole && !nothing) || wrongly > 0 || !is_so {
            self.example.get_or_insert_with(|| in_words(booking, done, told));
        }
    }

    /// Whether there is nothing at all to complain about.
    pub(super) fn is_whole(&self) -> bool {
        let wrong = self.half_done + self.done_wrongly + self.oversold + self.unbalanced;
        wrong + self.lied_about == 0 && self.charged == self.refunded + self.left_the_accounts
    }
}

fn times(done: &[&Done], deed: Deed) -> u64 {
    done.iter().filter(|it| it.deed == deed).count() as u64
}

/// How often a service did something of a booking that it should not have.
fn wrongly(booking: &Booking, name: ServiceName, done: &[&Done]) -> u64 {
    let twice = [Deed::Taken, Deed::GivenBack, Deed::Confirmed]
        .map(|deed| times(done, deed).saturating_sub(1));
    let altered = done.iter().filter(|it| (it.item, it.amount) != booking.share(name));
    let out_of_order = done.first().is_some_and(|first| first.deed != Deed::Taken);
    twice.iter().sum::<u64>() + altered.count() as u64 + u64::from(out_of_order)
}

fn extent(name: ServiceName, done: &[&Done]) -> Extent {
    let [taken, given_back, confirmed] =
        [Deed::Taken, Deed::GivenBack, Deed::Confirmed].map(|deed| times(done, deed));
    let confirms = match name {
        ServiceName::Flight | ServiceName::Hotel => 1,
        ServiceName::Payment => 0,
    };
    match (taken.checked_sub(given_back), confirmed) {
        (Some(0), 0) => Extent::Nothing,
        (Some(1), confirmed) if confirmed == confirms => Extent::Whole,
        (Some(_) | None, _) => Extent::Part,
    }
}

fn in_words<'a>(
    booking: &Booking,
    done: impl Fn(ServiceName) -> &'a [&'a Done],
    told: Option<&Told>,
) -> String {
    let at = ServiceName::ALL.map(|name| {
        let deeds: Vec<_> = done(name).iter().map(|it| it.deed.to_string()).collect();
        let deeds = if deeds.is_empty() { "nothing".to_owned() } else { deeds.join(", ") };
        format!("{} {deeds}", name.as_str())
    });
    let told = match told {
        Some(Told::Made(_)) => "\"done\"".to_owned(),
        Some(Told::Refused(kind)) => format!("\"not done, {kind}\""),
        Some(Told::Cancelled) => "\"cancelled\"".to_owned(),
        Some(Told::Unknown(what)) => format!("\"{what}\""),
        None => "nothing".to_owned(),
    };
    format!("{}: {}; the user was told {told}", booking.booking, at.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        Plan::new(1, 1)
    }

    /// Books with what each service did of the plan's only booking.
    fn books(plan: &Plan, deeds: [&[Deed]; 3]) -> Vec<(ServiceName, Book)> {
        let booking = &plan.bookings[0];
        let book = |(name, deeds): (ServiceName, &[Deed])| {
            let (item, amount) = booking.share(name);
            let mut has = plan.opening(name).cast_signed();
            let opening = has;
            let mut done = Vec::new();
            for &deed in deeds {
                match deed {
                    Deed::Taken => has -= amount.cast_signed(),
                    Deed::GivenBack => has += amount.cast_signed(),
                    Deed::Confirmed => {}
                }
                let number = (deed == Deed::Confirmed).then(|| "7".to_owned());
                done.push(Done { booking: booking.booking.clone(), deed, item, amount, number });
            }
            (name, Book { done, stock: BTreeMap::from([(item, (has, opening))]) })
        };
        ServiceName::ALL.into_iter().zip(deeds).map(book).collect()
    }

    fn audit(deeds: [&[Deed]; 3], told: Told) -> Audit {
        let plan = plan();
        let told = BTreeMap::from([(plan.bookings[0].booking.clone(), told)]);
        Audit::of(&plan, &books(&plan, deeds), &told)
    }

    const WHOLE: [&[Deed]; 3] =
        [&[Deed::Taken, Deed::Confirmed], &[Deed::Taken, Deed::Confirmed], &[Deed::Taken]];
    const NOTHING: [&[Deed]; 3] = [&[Deed::Taken, Deed::GivenBack], &[], &[]];

    #[test]
    fn a_booking_is_whole_or_nothing_and_its_user_knows_which() {
        let made = || Told::Made("7".to_owned());
        assert!(audit(WHOLE, made()).is_whole());
        assert!(audit(NOTHING, Told::Cancelled).is_whole());
        assert!(audit([&[]; 3], Told::Refused("no_seat".into())).is_whole());
        assert_eq!(audit(WHOLE, Told::Cancelled).lied_about, 1);
        assert_eq!(audit(NOTHING, made()).lied_about, 1);
        assert_eq!(audit(WHOLE, Told::Made("8".to_owned())).lied_about, 1, "another ticket");
    }

    #[test]
    fn whatever_is_half_done_doubled_or_in_the_wrong_order_is_found() {
        use Deed::{Confirmed, GivenBack, Taken};
        let refused = || Told::Refused("no_funds".to_owned());
        assert_eq!(audit([&[Taken], &[], &[]], refused()).half_done, 1);
        assert_eq!(audit([&[Taken], &[Taken], &[Taken]], refused()).half_done, 1);
        assert_eq!(audit([WHOLE[0], &[Taken], WHOLE[2]], refused()).half_done, 1);
        let twice = audit([&[Taken, GivenBack, Taken, GivenBack], &[], &[]], refused());
        assert_eq!((twice.half_done, twice.done_wrongly), (0, 2));
        assert_eq!(audit([&[GivenBack, Taken], &[], &[]], refused()).done_wrongly, 1);
        assert_eq!(audit([&[Taken, Confirmed, GivenBack], &[], &[]], refused()).half_done, 1);
        let example = audit([&[Taken], &[], &[]], refused()).example;
        let expected = "booking-0001: flight taken; hotel nothing; payment nothing; the user was \
                        told \"not done, no_funds\"";
        assert_eq!(example.as_deref(), Some(expected));
    }

    #[test]
    fn more_taken_than_there_was_and_stock_that_is_not_right_are_found() {
        let plan = plan();
        let mut books = books(&plan, WHOLE);
        for (_, book) in &mut books {
            for (has, opening) in book.stock.values_mut() {
                (*has, *opening) = (*has - *opening, 0);
            }
        }
        let told = BTreeMap::from([(plan.bookings[0].booking.clone(), Told::Made("7".into()))]);
        let audit = Audit::of(&plan, &books, &told);
        assert_eq!((audit.oversold, audit.unbalanced), (3, 0));
        books[0].1.stock.values_mut().for_each(|(has, _)| *has += 1);
        assert_eq!(Audit::of(&plan, &books, &told).unbalanced, 1);
    }
}
