//! The name under which one node asks another for a transaction to begin.

use std::fmt;
use std::str::FromStr;

use unanimous_core::id::{Epoch, TxnId};

/// An identity, and the epoch of its partition under which alone it may begin.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Name {
    pub(super) txn: TxnId,
    pub(super) epoch: Epoch,
}

/// It is not written as names are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct NotAName;

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.txn, self.epoch.0)
    }
}

impl FromStr for Name {
    type Err = NotAName;

    fn from_str(text: &str) -> Result<Self, NotAName> {
        let (txn, epoch) = text.split_once('@').ok_or(NotAName)?;
        let txn = txn.parse().map_err(|_| NotAName)?;
        Ok(Self { txn, epoch: Epoch(epoch.parse().map_err(|_| NotAName)?) })
    }
}

#[cfg(test)]
mod tests {
    use unanimous_core::id::ShardId;

    use super::*;

    #[test]
    fn a_name_is_read_as_it_was_written() {
        let txn = TxnId::mint(1_700_000_000_000, ShardId::of(7), 42);
        let name = Name { txn, epoch: Epoch(12) };
        assert_eq!(name.to_string().parse(), Ok(name));
        for bad in ["", "@", "12", &txn.to_string(), &format!("{txn}@"), &format!("{txn}@-1")] {
            assert_eq!(bad.parse::<Name>(), Err(NotAName), "{bad}");
        }
    }
}
