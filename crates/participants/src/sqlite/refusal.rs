//! What each error of SQLite means for a branch.
//!
//! An error to a statement says that its branch has not been carried out, because all of a branch is one
//! transaction of ours. An error to a commit says nothing: whoever asks again finds in the file what came
//! of it.

use rusqlite::{Error, ErrorCode};
use unanimous_core::Reason;

/// What RAISE in a trigger, ours or the user's, is reported as.
const RAISED: i32 = 1811;

/// SQLite has refused.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Refused {
    /// For programs.
    pub(super) kind: &'static str,
    /// One line, with what to do if something can be done.
    pub(super) detail: String,
    code: Option<ErrorCode>,
}

impl Refused {
    /// What this error to `what` means.
    pub(super) fn of(error: &Error, what: &str) -> Self {
        let code = error.sqlite_error_code();
        let extended = error.sqlite_error().map(|error| error.extended_code);
        let (kind, remedy) = match code {
            _ if extended == Some(RAISED) => ("refused", ""),
            Some(code) => kind(code),
            None => ("statement", ""),
        };
        let mut detail = format!("{what}: {}", said(error));
        if !remedy.is_empty() {
            detail = format!("{detail}; {remedy}");
        }
        Self { kind, detail, code }
    }

    /// Something that SQLite itself does not know of.
    pub(super) fn new(kind: &'static str, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), code: None }
    }

    pub(super) fn reason(&self) -> Reason {
        Reason::new(self.kind, &self.detail)
    }

    /// Whether somebody else is writing to the file.
    pub(super) fn is_busy(&self) -> bool {
        self.kind == "lock_timeout"
    }

    /// Whether the same may come out when it is asked for again.
    pub(super) fn may_pass(&self) -> bool {
        matches!(
            self.kind,
            "lock_timeout"
                | "statement_timeout"
                | "resources"
                | "read_only_resource"
                | "configuration"
                | "corrupt"
        )
    }

    /// Whether the file has to be opened anew before anything it says is believed.
    pub(super) fn spoils_the_file(&self) -> bool {
        use ErrorCode::{
            CannotOpen, DatabaseCorrupt, FileLockingProtocolFailed, InternalMalfunction,
            NotADatabase, SystemIoFailure,
        };
        self.code.is_some_and(|code| {
            matches!(
                code,
                CannotOpen
                    | DatabaseCorrupt
                    | FileLockingProtocolFailed
                    | InternalMalfunction
                    | NotADatabase
                    | SystemIoFailure
            )
        })
    }
}

/// The text of the error without the statement, which the reader has.
fn said(error: &Error) -> String {
    if let Error::SqlInputError { msg, .. } = error {
        return msg.clone();
    }
    error.to_string()
}

fn kind(code: ErrorCode) -> (&'static str, &'static str) {
    use ErrorCode as C;
    let among = |codes: &[ErrorCode]| codes.contains(&code);
    if among(&[C::ConstraintViolation]) {
        ("constraint", "")
    } else if among(&[C::TypeMismatch, C::TooBig]) {
        ("data", "")
    } else if among(&[C::DatabaseBusy, C::DatabaseLocked, C::FileLockingProtocolFailed]) {
        ("lock_timeout", "another program is using the file")
    } else if among(&[C::OperationInterrupted]) {
        ("statement_timeout", "")
    } else if among(&[C::ReadOnly]) {
        ("read_only_resource", "let the coordinator write to the file and to its folder")
    } else if among(&[C::PermissionDenied, C::CannotOpen]) {
        (
            "configuration",
            "look whether the file is there and the coordinator may write to it and to its folder",
        )
    } else if among(&[C::DiskFull]) {
        ("resources", "make room on its disk")
    } else if among(&[C::SystemIoFailure, C::OutOfMemory, C::NoLargeFileSupport]) {
        ("resources", "")
    } else if among(&[C::DatabaseCorrupt, C::NotADatabase]) {
        ("corrupt", "restore the file, or name another in the resource's url")
    } else {
        ("statement", "")
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::ffi;

    use super::*;

    fn of(code: i32) -> Refused {
        let error = Error::SqliteFailure(ffi::Error::new(code), Some("x".to_owned()));
        Refused::of(&error, "statement 1")
    }

    #[test]
    fn every_known_error_has_a_kind_of_its_own() {
        for (code, kind) in [
            (ffi::SQLITE_CONSTRAINT, "constraint"),
            (RAISED, "refused"),
            (ffi::SQLITE_MISMATCH, "data"),
            (ffi::SQLITE_TOOBIG, "data"),
            (ffi::SQLITE_BUSY, "lock_timeout"),
            (ffi::SQLITE_INTERRUPT, "statement_timeout"),
            (ffi::SQLITE_READONLY, "read_only_resource"),
            (ffi::SQLITE_CANTOPEN, "configuration"),
            (ffi::SQLITE_PERM, "configuration"),
            (ffi::SQLITE_FULL, "resources"),
            (ffi::SQLITE_IOERR, "resources"),
            (ffi::SQLITE_CORRUPT, "corrupt"),
            (ffi::SQLITE_NOTADB, "corrupt"),
            (ffi::SQLITE_AUTH, "statement"),
            (ffi::SQLITE_ERROR, "statement"),
        ] {
            let refused = of(code);
            assert_eq!(refused.kind, kind, "{code}");
            assert!(refused.detail.starts_with("statement 1: x"), "{}", refused.detail);
        }
        assert_eq!(Refused::of(&Error::MultipleStatement, "x").kind, "statement");
    }

    #[test]
    fn a_file_that_the_disk_failed_is_opened_anew() {
        assert!(of(ffi::SQLITE_IOERR).spoils_the_file());
        assert!(of(ffi::SQLITE_NOTADB).spoils_the_file());
        assert!(!of(ffi::SQLITE_FULL).spoils_the_file() && !of(ffi::SQLITE_BUSY).spoils_the_file());
        assert!(of(ffi::SQLITE_BUSY).may_pass() && !of(ffi::SQLITE_CONSTRAINT).may_pass());
    }
}
