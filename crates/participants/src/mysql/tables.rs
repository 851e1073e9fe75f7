//! Tables that cannot be rolled back: a branch must not write to them.
//!
//! The server lets them take part without a word, and leaves in them what a branch wrote before it
//! was rolled back. A statement that names one is refused. What is reached by triggers, views and
//! procedures only is not seen; an examination of the resource lists all such tables.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use super::lexer::Lexed;
use super::session::{Answered, Session};
use crate::limits::MYSQL_TABLES_KEPT;

/// The tables whose engine knows no XA, by schema.
pub(super) const LIST: &str = "SELECT t.table_schema, t.table_name FROM information_schema.tables t \
     JOIN information_schema.engines e ON e.engine = t.engine WHERE t.table_type = 'BASE TABLE' \
     AND e.xa <> 'YES' AND t.table_schema NOT IN \
     ('mysql', 'information_schema', 'performance_schema', 'sys')";

/// The names of such tables, in capitals, and when they were asked for.
#[derive(Default)]
pub(super) struct Unsafe(Mutex<Option<(HashSet<String>, Instant)>>);

impl Unsafe {
    /// Asks the server unless it was asked a short while ago.
    pub(super) async fn refresh(&self, session: &mut Session) -> Answered<()> {
        if self.is_fresh() {
            return Ok(Ok(()));
        }
        Ok(session.rows(LIST).await?.map(|rows| {
            let name = |row: Vec<Option<Vec<u8>>>| row.into_iter().nth(1)?;
            let names = rows.into_iter().filter_map(name);
            let names = names.map(|it| String::from_utf8_lossy(&it).to_uppercase()).collect();
            let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            *known = Some((names, Instant::now()));
        }))
    }

    fn is_fresh(&self) -> bool {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.as_ref().is_some_and(|(_, at)| at.elapsed() < MYSQL_TABLES_KEPT)
    }

    /// The first such table that a statement which writes names.
    pub(super) fn named_in(&self, statement: &Lexed<'_>) -> Option<String> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (names, _) = known.as_ref()?;
        if names.is_empty() || statement.reads() {
            return None;
        }
        statement.words().find(|word| names.contains(word))
    }
}
