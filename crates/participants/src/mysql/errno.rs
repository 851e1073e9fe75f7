//! What each error of MariaDB and MySQL means for a branch.
//!
//! In the first phase an error is a no, and the adapter rolls back: after most of them the server
//! would go on and prepare what was done before. In the second phase nothing is refused any more: an
//! error is asked about again, and only a branch that is gone is looked into.

use unanimous_core::Reason;

use super::session::Refused;
use crate::lookout::Lookout;

/// What an error to `XA COMMIT` or `XA ROLLBACK` means.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Unfinished {
    /// The server knows no such branch, or not here: it has ended, or another session has it.
    Gone,
    /// It is not finished yet: ask again.
    AskAgain,
}

/// Why a branch cannot commit. The kind is for programs: `deadlock`, `lock_timeout` and `resources`
/// may pass when all is tried again.
pub(super) fn reason(refused: &Refused, what: &str) -> Reason {
    let (kind, remedy) = kind(refused);
    let mut detail = format!("{what}: {refused}");
    if !remedy.is_empty() && refused.waited.is_none() {
        detail = format!("{detail}; {remedy}");
    }
    Reason::new(kind, &detail)
}

fn kind(refused: &Refused) -> (&'static str, &'static str) {
    let state = refused.state.get(..2).unwrap_or_default();
    match (refused.code, state) {
        (1213 | 1614, _) => ("deadlock", ""),
        (1205, _) => ("lock_timeout", "another transaction holds the lock"),
        (1402, _) => ("serialization", ""),
        (1969 | 3024 | 1317 | 1613, _) => ("statement_timeout", ""),
        (1290 | 1792 | 1836 | 3989, _) => {
            ("read_only_resource", "name the primary in the resource's url")
        }
        (1044 | 1045 | 1142 | 1143 | 1227 | 1370, _) => ("permission", ""),
        (1021 | 1030 | 1037 | 1038 | 1041 | 1114 | 1180, _) => ("resources", ""),
        (1399, _) => ("unsupported", "a branch cannot do this"),
        (1401, _) | (3101, _) => ("refused", "the server has rolled it back"),
        (1048 | 1062 | 1169 | 1216 | 1217 | 1451 | 1452 | 1557 | 1586 | 1761 | 1762, _)
        | (3819 | 4025, _)
        | (_, "23") => ("constraint", ""),
        (1264 | 1265 | 1292 | 1365 | 1366 | 1406 | 1411 | 1690, _) | (_, "22") => ("data", ""),
        (1054 | 1064 | 1136 | 1146 | 1305, _) | (_, "42") => ("statement", ""),
        _ => ("refused", ""),
    }
}

/// Adds who the branch waited for, if that is why it was refused.
pub(super) fn explained(mut refused: Refused, lookout: &Lookout<'_>) -> Refused {
    let waited = matches!(kind(&refused).0, "deadlock" | "lock_timeout" | "statement_timeout");
    refused.waited = waited.then(|| lookout.seen()).flatten();
    refused
}

/// Whether the same statements may come out when they are run again.
pub(super) fn may_come_out(refused: &Refused) -> bool {
    const CONFLICTS: [u16; 3] = [1206, 1401, 3101];
    let (kind, _) = kind(refused);
    CONFLICTS.contains(&refused.code)
        || matches!(kind, "deadlock" | "lock_timeout" | "serialization" | "statement_timeout")
        || matches!(kind, "resources" | "read_only_resource")
}

/// Whether there is a branch under the same name already.
pub(super) fn is_name_taken(refused: &Refused) -> bool {
    refused.code == 1440
}

/// Whether a table is not there.
pub(super) fn is_no_table(refused: &Refused) -> bool {
    refused.code == 1146
}

/// Whether a row is there already.
pub(super) fn is_duplicate(refused: &Refused) -> bool {
    matches!(refused.code, 1062 | 1586)
}

/// Whether somebody else holds a row that was asked for without waiting.
pub(super) fn is_locked(refused: &Refused) -> bool {
    matches!(refused.code, 1205 | 3572)
}

/// Whether something wrote in a transaction that was begun only to read.
pub(super) fn is_write_in_reader(refused: &Refused) -> bool {
    refused.code == 1792
}

pub(super) fn unfinished(refused: &Refused) -> Unfinished {
    match refused.code {
        // Unknown; rolled back by the server; an error in the middle of either.
        1397 | 1401 | 1402 | 1613 | 1614 => Unfinished::Gone,
        _ => Unfinished::AskAgain,
    }
}

/// Whether the server closes the connection after it.
pub(super) fn is_last_word(code: u16) -> bool {
    matches!(code, 1053 | 1077 | 1079 | 1152 | 1158..=1161 | 1184 | 1927 | 3169 | 4031)
}

/// Whether a server that does not let us in may do so later without anybody's help.
pub(super) fn may_pass(refused: &Refused) -> bool {
    matches!(refused.code, 1040 | 1129 | 1203 | 1205 | 1226) || is_last_word(refused.code)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: u16, state: &str) -> Refused {
        Refused { code, state: state.to_owned(), message: "x".to_owned(), waited: None }
    }

    #[test]
    fn every_known_error_has_a_kind_of_its_own() {
        for (code, state, expected) in [
            (1213, "40001", "deadlock"),
            (1614, "XA102", "deadlock"),
            (1402, "XA100", "serialization"),
            (1205, "HY000", "lock_timeout"),
            (1969, "70100", "statement_timeout"),
            (3024, "HY000", "statement_timeout"),
            (1062, "23000", "constraint"),
            (1452, "23000", "constraint"),
            (4025, "23000", "constraint"),
            (3819, "HY000", "constraint"),
            (1264, "22003", "data"),
            (1366, "22007", "data"),
            (1146, "42S02", "statement"),
            (1064, "42000", "statement"),
            (1142, "42000", "permission"),
            (1290, "HY000", "read_only_resource"),
            (1836, "HY000", "read_only_resource"),
            (1399, "XAE07", "unsupported"),
            (1114, "HY000", "resources"),
            (9999, "HY000", "refused"),
        ] {
            assert_eq!(&*reason(&refused(code, state), "x").kind, expected, "{code}");
        }
    }

    #[test]
    fn only_a_branch_that_is_gone_is_looked_into() {
        for code in [1397, 1401, 1402, 1613, 1614] {
            assert_eq!(unfinished(&refused(code, "XAE04")), Unfinished::Gone, "{code}");
        }
        for code in [1399, 1290, 1205, 3197, 1021, 1317, 1180] {
            assert_eq!(unfinished(&refused(code, "HY000")), Unfinished::AskAgain, "{code}");
        }
    }
}
