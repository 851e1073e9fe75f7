//! What statements of branches may do in the connection that they share, and for how long.
//!
//! A branch reads and writes tables. It does not begin or end transactions, change the schema or the
//! connection's settings, or touch tables of Unanimous: its bookkeeping is true only if nobody else writes
//! it. Which tables a statement writes is known as soon as it is compiled, triggers included.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use rusqlite::Connection;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};

use crate::limits::SQLITE_OPS_BETWEEN_LOOKS;

/// Begins the names of everything of ours in a file.
pub(super) const OURS: &str = "unanimous_";

/// Looks after a connection.
#[derive(Clone, Default)]
pub(super) struct Watch(Arc<Mutex<Watched>>);

#[derive(Default)]
struct Watched {
    whose: Whose,
    until: Option<Instant>,
    written: BTreeSet<String>,
    denied: Option<String>,
}

/// Whose statement is compiled.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum Whose {
    #[default]
    Ours,
    /// A branch's, which may write.
    Branch,
    /// That of somebody who may only read.
    Reader,
}

impl Watch {
    /// Looks after `db` from now on.
    pub(super) fn begin(db: &mut Connection) -> rusqlite::Result<Self> {
        let watch = Self::default();
        let judge = watch.clone();
        db.authorizer(Some(move |context: AuthContext<'_>| judge.lock().judge(&context)))?;
        let clock = watch.clone();
        let is_late = move || clock.lock().until.is_some_and(|until| Instant::now() >= until);
        db.progress_handler(SQLITE_OPS_BETWEEN_LOOKS, Some(is_late))?;
        Ok(watch)
    }

    /// The statements that follow are compiled for this one, and are cut short at that time.
    pub(super) fn hand_to(&self, whose: Whose, until: Option<Instant>) {
        let mut watched = self.lock();
        watched.whose = whose;
        watched.until = until;
        watched.denied = None;
    }

    /// What follows is ours again. What was refused can still be asked for.
    pub(super) fn hand_to_us(&self) {
        let mut watched = self.lock();
        watched.whose = Whose::Ours;
        watched.until = None;
    }

    /// The tables that statements of branches were going to write since this was asked before.
    pub(super) fn written(&self) -> BTreeSet<String> {
        std::mem::take(&mut self.lock().written)
    }

    /// What the last statement was refused for.
    pub(super) fn denied(&self) -> Option<String> {
        self.lock().denied.take()
    }

    fn lock(&self) -> MutexGuard<'_, Watched> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watched {
    fn judge(&mut self, context: &AuthContext<'_>) -> Authorization {
        let ruling = match self.whose {
            Whose::Ours => Ok(()),
            Whose::Branch | Whose::Reader => self.may(context),
        };
        match ruling {
            Ok(()) => Authorization::Allow,
            Err(why) => {
                self.denied.get_or_insert(why);
                Authorization::Deny
            }
        }
    }

    fn may(&mut self, context: &AuthContext<'_>) -> Result<(), String> {
        use AuthAction as A;
        let action = &context.action;
        if matches!(action, A::Select | A::Read { .. } | A::Recursive) {
            return Ok(());
        }
        if let A::Function { function_name } = action {
            return match function_name.eq_ignore_ascii_case("load_extension") {
                true => Err("load_extension is not for a branch".to_owned()),
                false => Ok(()),
            };
        }
        if let A::Insert { table_name } | A::Update { table_name, .. } | A::Delete { table_name } =
            action
        {
            return self.may_write(table_name, context);
        }
        if let A::Pragma { pragma_name, .. } = action {
            // Virtual tables ask for it.
            if *pragma_name == "data_version" {
                return Ok(());
            }
            return Err(format!(
                "PRAGMA {pragma_name} is not for a branch: its connection is shared"
            ));
        }
        let why = if matches!(action, A::Transaction { .. } | A::Savepoint { .. }) {
            "the coordinator begins and ends the transaction of a branch"
        } else if matches!(action, A::Attach { .. } | A::Detach { .. }) {
            "a branch is in one file"
        } else {
            "a branch does not change the schema"
        };
        Err(why.to_owned())
    }

    fn may_write(&mut self, table: &str, context: &AuthContext<'_>) -> Result<(), String> {
        if self.whose == Whose::Reader {
            return Err("it is only to read".to_owned());
        }
        if context.database_name != Some("main") {
            // What is written down of a branch is written by triggers of ours.
            return match context.accessor {
                Some(trigger) if trigger.starts_with(OURS) => Ok(()),
                Some(_) | None => Err(format!("{table} is not in the file, and would not stay")),
            };
        }
        let name = table.to_ascii_lowercase();
        if name.starts_with("sqlite_") {
            return Err("a branch does not change the schema".to_owned());
        }
        if name.starts_with(OURS) {
            return Err(format!("{table} is not for a branch to write"));
        }
        self.written.insert(table.to_owned());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_branch_reads_and_writes_tables_and_does_nothing_else() {
        let mut db = Connection::open_in_memory().expect("memory");
        let watch = Watch::begin(&mut db).expect("hooks");
        db.execute_batch(
            "CREATE TABLE a (x); CREATE TABLE b (x); CREATE TABLE unanimous_lock (x); \
             CREATE TEMP TABLE t (x); \
             CREATE TRIGGER follow AFTER INSERT ON a BEGIN DELETE FROM b; END",
        )
        .expect("ours");
        watch.hand_to(Whose::Branch, None);
        for good in ["SELECT max(x) FROM a", "INSERT INTO a VALUES (1)", "UPDATE b SET x = 2"] {
            assert!(db.prepare(good).is_ok(), "{good}");
        }
        assert!(watch.written().into_iter().eq(["a", "b"]), "triggers count");
        for (bad, named) in [
            ("COMMIT", "begins and ends"),
            ("SAVEPOINT x", "begins and ends"),
            ("PRAGMA synchronous = OFF", "PRAGMA synchronous"),
            ("ATTACH ':memory:' AS other", "one file"),
            ("CREATE TABLE c (x)", "schema"),
            ("DROP TABLE a", "schema"),
            ("ALTER TABLE a ADD COLUMN y", "schema"),
            ("DELETE FROM unanimous_lock", "not for a branch"),
            ("UPDATE sqlite_schema SET sql = ''", "schema"),
            ("INSERT INTO t VALUES (1)", "would not stay"),
            ("SELECT load_extension('x')", "load_extension"),
        ] {
            watch.hand_to(Whose::Branch, None);
            assert!(db.prepare(bad).is_err(), "{bad}");
            let denied = watch.denied().unwrap_or_default();
            // SQLite keeps its own tables from everybody.
            assert!(denied.contains(named) || bad.contains("sqlite_schema"), "{bad}: {denied}");
        }
        watch.hand_to(Whose::Reader, None);
        assert!(db.prepare("SELECT x FROM a").is_ok() && db.prepare("DELETE FROM a").is_err());
        watch.hand_to_us();
        assert!(db.prepare("DELETE FROM unanimous_lock").is_ok());
    }

    #[test]
    fn a_statement_is_cut_short_when_its_time_is_over() {
        let mut db = Connection::open_in_memory().expect("memory");
        let watch = Watch::begin(&mut db).expect("hooks");
        let endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) \
                       SELECT count(*) FROM n";
        watch.hand_to(Whose::Branch, Some(Instant::now() + Duration::from_millis(20)));
        let error = db.query_row(endless, [], |_| Ok(())).expect_err("it is endless");
        let code = error.sqlite_error_code();
        assert_eq!(code, Some(rusqlite::ErrorCode::OperationInterrupted));
    }
}
