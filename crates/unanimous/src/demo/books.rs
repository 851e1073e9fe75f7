//! The audit: what the three parties have booked, and whether that agrees with what clients were told.

use std::collections::BTreeMap;
use std::path::Path;

use rusqlite::{Connection, OpenFlags};
use serde::Serialize;

use super::load::Told;
use super::plan::{CUSTOMERS, Plan, Role};
use crate::exit::Failure;

/// What one party has booked.
#[derive(Debug, Default)]
pub(crate) struct Book {
    /// Amounts booked, by transfer.
    entries: BTreeMap<String, Vec<u64>>,
    /// Branches prepared and not ended.
    prepared: u64,
    /// What all accounts hold, in rupees.
    balance: u64,
    /// How long the branches were prepared, in milliseconds.
    held_ms: Vec<u64>,
}

/// Branches that the file at `path` holds prepared.
pub(crate) fn prepared(path: &Path) -> rusqlite::Result<u64> {
    let db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    db.query_row("SELECT count(*) FROM hold", [], number)
}

impl Book {
    /// A book without entries.
    pub(crate) fn new(prepared: u64, balance: u64) -> Self {
        Self { prepared, balance, ..Self::default() }
    }

    /// Adds an entry, and how long it was prepared, if that is known.
    pub(crate) fn enter(&mut self, transfer: String, amount: u64, held_ms: Option<u64>) {
        self.entries.entry(transfer).or_default().push(amount);
        self.held_ms.extend(held_ms);
    }

    /// Reads the file of a service that has stopped.
    pub(crate) fn read(path: &Path) -> Result<Self, Failure> {
        Self::read_all(path)
            .map_err(|error| Failure::not_done(format!("{}: {error}", path.display())))
    }

    fn read_all(path: &Path) -> rusqlite::Result<Self> {
        let db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        let prepared = db.query_row("SELECT count(*) FROM hold", [], number)?;
        let balance = "SELECT coalesce(sum(balance), 0) FROM account";
        let mut book = Self::new(prepared, db.query_row(balance, [], number)?);
        let mut query = db.prepare("SELECT transfer, amount, held_ms FROM entry")?;
        let mut rows = query.query([])?;
        while let Some(row) = rows.next()? {
            let amount: i64 = row.get(1)?;
            let held_ms: i64 = row.get(2)?;
            book.enter(row.get(0)?, amount.cast_unsigned(), Some(held_ms.cast_unsigned()));
        }
        Ok(book)
    }

    fn total(&self) -> u64 {
        self.entries.values().flatten().sum()
    }
}

fn number(row: &rusqlite::Row<'_>) -> rusqlite::Result<u64> {
    row.get::<_, i64>(0).map(i64::cast_unsigned)
}

/// What the audit found.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Audit {
    /// Rupees booked by each party.
    pub(crate) totals: BTreeMap<Role, u64>,
    /// Rupees that left the customers' accounts.
    pub(crate) left_the_accounts: u64,
    /// Transfers that the parties do not agree about, or booked twice or with a wrong amount.
    pub(crate) broken: u64,
    /// Rupees in them.
    pub(crate) broken_amount: u64,
    /// The first of them, in words.
    pub(crate) example: Option<String>,
    /// Transfers booked everywhere, or nowhere, against what the client was told.
    pub(crate) lied_about: u64,
    /// Branches prepared and not ended.
    pub(crate) left_prepared: u64,
    /// How long branches were prepared, in milliseconds: the longest, and one in the middle. Of those
    /// parties that know.
    pub(crate) held_ms_max: u64,
    pub(crate) held_ms_median: u64,
}

impl Audit {
    /// Compares the books of the three parties with each other, with the plan, and with what the
    /// clients were told.
    pub(crate) fn of(
        plan: &Plan,
        books: &BTreeMap<Role, Book>,
        told: &BTreeMap<String, Told>,
    ) -> Self {
        let mut held_ms: Vec<_> = books.values().flat_map(|book| &book.held_ms).copied().collect();
        held_ms.sort_unstable();
        let funds = plan.opening * u64::from(CUSTOMERS);
        let mut audit = Self {
            totals: books.iter().map(|(&role, book)| (role, book.total())).collect(),
            left_the_accounts: funds.saturating_sub(books[&Role::Wallet].balance),
            broken: 0,
            broken_amount: 0,
            example: None,
            lied_about: 0,
            left_prepared: books.values().map(|book| book.prepared).sum(),
            held_ms_max: held_ms.last().copied().unwrap_or_default(),
            held_ms_median: held_ms.get(held_ms.len() / 2).copied().unwrap_or_default(),
        };
        for transfer in &plan.transfers {
            let booked = Role::BANKS.map(|role| {
                let amounts = books[&role].entries.get(&transfer.transfer);
                (role, amounts.map_or(&[][..], Vec::as_slice))
            });
            let once = booked.iter().all(|&(_, amounts)| amounts == [transfer.amount]);
            let never = booked.iter().all(|&(_, amounts)| amounts.is_empty());
            let told = told.get(&transfer.transfer);
            match told {
                _ if !once && !never => {
                    audit.broken += 1;
                    audit.broken_amount += transfer.amount;
                    let words = || in_words(&transfer.transfer, transfer.amount, &booked, told);
                    audit.example.get_or_insert_with(words);
                }
                Some(Told::Committed) if !once => audit.lied_about += 1,
                Some(Told::Refused(_) | Told::Aborted(_)) if !never => audit.lied_about += 1,
                Some(Told::Committed | Told::Refused(_) | Told::Aborted(_) | Told::Unknown(_)) => {}
                None => audit.lied_about += 1,
            }
        }
        audit
    }

    /// Whether there is nothing at all to complain about.
    pub(crate) fn balances(&self) -> bool {
        let equal = self.totals.values().all(|&total| total == self.left_the_accounts);
        equal && self.broken == 0 && self.lied_about == 0 && self.left_prepared == 0
    }
}

fn in_words(
    transfer: &str,
    amount: u64,
    booked: &[(Role, &[u64]); 3],
    told: Option<&Told>,
) -> String {
    let times = booked.map(|(role, amounts)| match amounts.len() {
        0 => format!("not in the {}", role.as_str()),
        1 => format!("in the {}", role.as_str()),
        times => format!("{times} times in the {}", role.as_str()),
    });
    let told = match told {
        Some(Told::Committed) => "\"done\"".to_owned(),
        Some(Told::Refused(kind) | Told::Aborted(kind)) => format!("\"not done, {kind}\""),
        Some(Told::Unknown(what)) => format!("\"{what}\""),
        None => "nothing".to_owned(),
    };
    let amount = crate::output::rupees(amount);
    format!("{transfer}, {amount}: {}; the client was told {told}", times.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Books in which every service has what `amounts` says of the plan's only transfer.
    fn audit(amounts: [&[u64]; 3], told: Told) -> Audit {
        let mut plan = Plan::new(1, 1);
        plan.transfers[0].amount = 500;
        let transfer = plan.transfers[0].transfer.clone();
        let book = |(role, amounts): (Role, &[u64])| {
            let entries = BTreeMap::from([(transfer.clone(), amounts.to_vec())]);
            let funds = plan.opening * u64::from(CUSTOMERS);
            let balance =
                if role == Role::Wallet { funds - amounts.iter().sum::<u64>() } else { 0 };
            (role, Book { entries, balance, ..Book::default() })
        };
        let books = Role::BANKS.into_iter().zip(amounts).map(book).collect();
        Audit::of(&plan, &books, &BTreeMap::from([(transfer.clone(), told)]))
    }

    #[test]
    fn books_balance_if_all_services_agree_with_each_other_and_with_the_client() {
        let all: [&[u64]; 3] = [&[500]; 3];
        assert!(audit(all, Told::Committed).balances());
        assert!(audit(all, Told::Unknown(String::new())).balances());
        assert!(audit([&[]; 3], Told::Aborted(String::new())).balances());
        assert!(audit([&[]; 3], Told::Unknown(String::new())).balances());
    }

    #[test]
    fn whatever_is_missing_doubled_altered_or_untrue_is_found() {
        let committed = || Told::Committed;
        assert_eq!(audit([&[500], &[500], &[]], committed()).broken, 1);
        assert_eq!(audit([&[500], &[], &[500]], committed()).broken, 1);
        assert_eq!(audit([&[500, 500]; 3], committed()).broken, 1);
        assert_eq!(audit([&[400]; 3], committed()).broken, 1);
        assert_eq!(audit([&[]; 3], committed()).lied_about, 1);
        assert_eq!(audit([&[500]; 3], Told::Aborted(String::new())).lied_about, 1);
        for amounts in [[&[500][..], &[500], &[]], [&[500, 500][..]; 3], [&[][..]; 3]] {
            assert!(!audit(amounts, committed()).balances(), "{amounts:?}");
        }
    }

    #[test]
    fn a_broken_transfer_is_told_in_words() {
        let example = audit([&[500], &[], &[500, 500]], Told::Committed).example;
        let expected = "transfer-0001, ₹500: in the wallet, not in the ledger, 2 times in the \
                        audit; the client was told \"done\"";
        assert_eq!(example.as_deref(), Some(expected));
    }
}
