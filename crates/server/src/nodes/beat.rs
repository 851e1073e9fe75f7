//! What nodes tell each other, ten times a second and whenever it changes.
//!
//! A beat is a hint: where to send a request, and who may be gone. Whoever rests on it wrongly is slow
//! and not unsafe, because the epochs in the journal alone say who owns what.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use unanimous_core::id::Epoch;

use super::partition::Partition;

/// A node as it sees itself.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Beat {
    pub(crate) node: String,
    pub(crate) incarnation: u64,
    /// It gives away what it owns, and takes nothing.
    pub(crate) draining: bool,
    /// It does not reach the journal, so it can do nothing for what it owns.
    pub(crate) cut_off: bool,
    /// What it drives, with the epoch under which it does.
    pub(crate) owns: BTreeMap<Partition, u64>,
    /// What it is about to own.
    pub(crate) claims: BTreeSet<Partition>,
    /// What it has let go of, and for whom.
    pub(crate) offers: BTreeMap<Partition, String>,
    /// Its domains.
    #[serde(default)]
    pub(crate) layout: String,
}

impl Beat {
    /// One line, for the stream of beats.
    pub(crate) fn line(&self) -> String {
        let mut line = serde_json::to_string(self).expect("a beat is always JSON");
        line.push('\n');
        line
    }

    pub(crate) fn read(line: &str) -> Option<Self> {
        serde_json::from_str(line).ok()
    }

    pub(crate) fn epoch(&self, partition: Partition) -> Option<Epoch> {
        self.owns.get(&partition).map(|&epoch| Epoch(epoch))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beat_is_read_as_it_was_told() {
        let [first, second] = [0, 7].map(|it| Partition::try_from(it).expect("one of them"));
        let beat = Beat {
            node: "a".to_owned(),
            incarnation: u64::MAX,
            draining: true,
            cut_off: false,
            owns: [(first, 3)].into(),
            claims: [second].into(),
            offers: [(second, "b".to_owned())].into(),
            layout: "payments 7".to_owned(),
        };
        assert_eq!(Beat::read(&beat.line()), Some(beat));
        assert_eq!(Beat::read(r#"{"owns":{"9":1}}"#), None, "there is no such partition");
    }
}
