//! What each error of PostgreSQL means for a branch.
//!
//! In the first phase an error is a no: the server has rolled back. In the second phase nothing is
//! refused any more: an error is asked about again, and only a branch that is gone is looked into.

use unanimous_core::Reason;

use super::wire::Refused;
use crate::lookout::Lookout;

/// What an error to `COMMIT PREPARED` or `ROLLBACK PREPARED` means.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Unfinished {
    /// No transaction is prepared under the name: it has ended, whichever way.
    Gone,
    /// Somebody is finishing it, or waits for a standby.
    Busy,
    /// It is not finished yet: ask again.
    AskAgain,
}

/// Why a branch cannot commit. The kind is for programs: `serialization`, `deadlock`,
/// `lock_timeout` and `resources` may pass when all is tried again.
pub(super) fn reason(refused: &Refused, what: &str) -> Reason {
    let (kind, remedy) = kind(refused);
    let mut detail = format!("{what}: {refused}");
    if !remedy.is_empty() && refused.waited.is_none() {
        detail = format!("{detail}; {remedy}");
    }
    Reason::new(kind, &detail)
}

fn kind(refused: &Refused) -> (&'static str, &'static str) {
    match (&*refused.code, refused.code.get(..2).unwrap_or_default()) {
        ("40001", _) => ("serialization", ""),
        ("40P01", _) => ("deadlock", ""),
        ("55P03", _) => ("lock_timeout", "another transaction holds the lock"),
        ("57014", _) => ("statement_timeout", ""),
        ("25006", _) => ("read_only_resource", "name the primary in the resource's url"),
        ("42501", _) => ("permission", ""),
        ("55000", _) if refused.message.contains("prepared transactions are disabled") => (
            "two_phase_disabled",
            "set max_prepared_transactions to a nonzero value in postgresql.conf and restart \
             PostgreSQL",
        ),
        ("53200", _) if refused.message.contains("prepared transactions") => (
            "resources",
            "raise max_prepared_transactions and restart PostgreSQL, or lower connections in the \
             resource's url",
        ),
        (_, "23") => ("constraint", ""),
        (_, "22") => ("data", ""),
        (_, "42") => ("statement", ""),
        (_, "53") => ("resources", ""),
        (_, "0A") => ("unsupported", "a transaction that does this cannot be prepared"),
        _ => ("refused", ""),
    }
}

/// Adds who the branch waited for, if that is why it was refused.
pub(super) fn explained(mut refused: Refused, lookout: &Lookout<'_>) -> Refused {
    refused.waited = match &*refused.code {
        "40P01" => {
            let detail = refused.detail.as_deref().unwrap_or_default();
            lookout.named(processes(detail).into_iter()).or_else(|| lookout.seen())
        }
        "55P03" | "57014" => lookout.seen(),
        _ => None,
    };
    refused
}

/// The processes that the detail of a deadlock names, in a server that speaks English.
fn processes(detail: &str) -> Vec<i64> {
    let behind = detail.split(['P', 'p']).filter_map(|it| it.strip_prefix("rocess "));
    let number = |text: &str| text.split(|it: char| !it.is_ascii_digit()).next()?.parse().ok();
    behind.filter_map(number).collect()
}

/// Whether the same statements may come out when they are run again.
pub(super) fn may_come_out(refused: &Refused) -> bool {
    // Conflicts, want of resources, locks, operators, the system, the server itself.
    matches!(refused.code.get(..2), Some("08" | "40" | "53" | "57" | "58" | "XX"))
        || matches!(&*refused.code, "55P03" | "55006")
}

/// Whether a table is not there.
pub(super) fn is_no_table(refused: &Refused) -> bool {
    refused.code == "42P01"
}

/// Whether a row is there already.
pub(super) fn is_duplicate(refused: &Refused) -> bool {
    refused.code == "23505"
}

/// Whether somebody has prepared a transaction under the same name before.
pub(super) fn is_name_taken(refused: &Refused) -> bool {
    refused.code == "42710" && refused.message.contains("transaction identifier")
}

/// Whether the values may have been written for types that have changed since.
pub(super) fn is_wrong_text(refused: &Refused) -> bool {
    refused.code == "22P02"
}

pub(super) fn unfinished(refused: &Refused) -> Unfinished {
    match &*refused.code {
        "42704" => Unfinished::Gone,
        "55000" if refused.message.contains("busy") => Unfinished::Busy,
        _ => Unfinished::AskAgain,
    }
}

/// Whether a server that does not let us in may do so later without anybody's help.
pub(super) fn may_pass(refused: &Refused) -> bool {
    matches!(&*refused.code, "53300" | "57P03" | "57P01" | "57P02")
        || refused.code.starts_with("08")
        || refused.code.starts_with("53")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: &str, message: &str) -> Refused {
        Refused {
            code: code.into(),
            message: message.into(),
            detail: None,
            waited: None,
            fatal: false,
        }
    }

    #[test]
    fn every_known_error_has_a_kind_of_its_own() {
        for (code, message, kind) in [
            ("40001", "could not serialize access", "serialization"),
            ("40P01", "deadlock detected", "deadlock"),
            ("55P03", "canceling statement due to lock timeout", "lock_timeout"),
            ("57014", "canceling statement due to statement timeout", "statement_timeout"),
            ("23505", "duplicate key value", "constraint"),
            ("22003", "integer out of range", "data"),
            ("42P01", "relation does not exist", "statement"),
            ("42501", "permission denied", "permission"),
            ("25006", "cannot execute UPDATE in a read-only transaction", "read_only_resource"),
            ("0A000", "cannot PREPARE a transaction that has executed LISTEN", "unsupported"),
            ("53200", "maximum number of prepared transactions reached", "resources"),
            ("53100", "could not extend file", "resources"),
            ("55000", "prepared transactions are disabled", "two_phase_disabled"),
            ("XX000", "anything else", "refused"),
        ] {
            assert_eq!(&*reason(&refused(code, message), "PREPARE").kind, kind, "{code}");
        }
    }

    #[test]
    fn who_was_waited_for_stands_in_place_of_the_advice() {
        let mut refused = refused("55P03", "canceling statement due to lock timeout");
        let without = reason(&refused, "statement 1");
        assert_eq!(
            &*without.detail,
            "statement 1: canceling statement due to lock timeout (55P03); another transaction holds \
             the lock"
        );
        refused.waited = Some("after 375 ms it waited for process 7".to_owned());
        let with = reason(&refused, "statement 1");
        assert_eq!(with.kind, without.kind);
        assert_eq!(
            &*with.detail,
            "statement 1: canceling statement due to lock timeout (55P03); after 375 ms it waited for \
             process 7"
        );
    }

    #[test]
    fn the_processes_of_a_deadlock_are_read_from_its_detail() {
        let detail = "Process 4711 waits for ShareLock on transaction 734; blocked by process 4712.\n\
             Process 4712 waits for ShareLock on transaction 733; blocked by process 4711.";
        assert_eq!(processes(detail), [4711, 4712, 4712, 4711]);
        assert_eq!(processes("Prozess 4711 wartet; processing, process x"), [0; 0]);
    }

    #[test]
    fn only_a_branch_that_is_gone_is_looked_into() {
        let gone = "prepared transaction with identifier \"una:x\" does not exist";
        assert_eq!(unfinished(&refused("42704", gone)), Unfinished::Gone);
        let busy = "prepared transaction with identifier \"una:x\" is busy";
        assert_eq!(unfinished(&refused("55000", busy)), Unfinished::Busy);
        for code in ["42501", "25006", "0A000", "25001", "53100", "40001", "57014"] {
            assert_eq!(unfinished(&refused(code, "x")), Unfinished::AskAgain, "{code}");
        }
    }
}
