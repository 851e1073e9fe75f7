//! Who holds the lock that a session of the server waits for, as InnoDB knows it now.
//!
//! Without the privilege `PROCESS` nothing is told, and nothing is known. A prepared branch is told by the
//! session it is tied to; once that is gone, and in MySQL from the start, by its name alone, among those that
//! are in the same state.
//! Statements are never looked at.

use unanimous_core::id::BranchName;

use super::session::{Product, Session, Texts};
use super::{Inner, tie, xid};
use crate::limits::{HOLDERS_NAMED_MAX, HOLDERS_SEEN_MAX};
use crate::lookout::{Holder, Waits, Who, lasted};

/// One who is in the way.
#[derive(Clone, Debug)]
struct Seen {
    /// Zero if it is prepared and its session is gone.
    session: i64,
    waits: Waits,
    begun_ms: Option<u64>,
    user: Option<String>,
    command: Option<String>,
    command_ms: Option<u64>,
}

/// Something that is prepared, with the session that it is tied to as far as that is known.
#[derive(Clone, Debug)]
struct Prepared {
    id: String,
    session: Option<i64>,
}

/// Who is in the way of `waiting`. `None` if that cannot be known.
pub(super) async fn look(inner: &Inner, waiting: i64) -> Option<Vec<Holder>> {
    let mut lent = inner.looking.lend().await.ok()?;
    let session = &mut lent.session;
    let rows = session.rows(&question(session.product, waiting)).await.ok()?.ok()?;
    let seen: Vec<Seen> = rows.into_iter().filter_map(|row| Seen::read(&row)).collect();
    let others = seen.iter().any(|it| inner.at_work.branch(it.session).is_none());
    let prepared = if others { prepared(session).await? } else { Vec::new() };
    let product = session.product;
    inner.looking.give_back(lent.into_session());
    let loose = loose(product, &prepared);
    Some(seen.into_iter().map(|it| it.told(inner, &prepared, &loose)).collect())
}

/// What InnoDB has of those who hold, or asked before, what `waiting` asks for.
fn question(product: Product, waiting: i64) -> String {
    let (waits, asker, holder) = match product {
        Product::MariaDb => {
            ("information_schema.innodb_lock_waits", "requesting_trx_id", "blocking_trx_id")
        }
        Product::MySql => (
            "performance_schema.data_lock_waits",
            "requesting_engine_transaction_id",
            "blocking_engine_transaction_id",
        ),
    };
    format!(
        "SELECT DISTINCT holder.trx_mysql_thread_id, holder.trx_state = 'LOCK WAIT', \
             TIMESTAMPDIFF(SECOND, holder.trx_started, NOW()) * 1000, \
             process.user, process.command, process.time * 1000 \
         FROM information_schema.innodb_trx AS asker \
         JOIN {waits} AS waits ON waits.{asker} = asker.trx_id \
         JOIN information_schema.innodb_trx AS holder ON holder.trx_id = waits.{holder} \
         LEFT JOIN information_schema.processlist AS process \
             ON process.id = holder.trx_mysql_thread_id \
         WHERE asker.trx_mysql_thread_id = {waiting} LIMIT {HOLDERS_SEEN_MAX}"
    )
}

/// What is prepared on the server: all of it, or only some of what is tied to a session. Of what is not
/// ours nobody knows the session.
async fn prepared(session: &mut Session) -> Option<Vec<Prepared>> {
    let rows = session.rows("XA RECOVER").await.ok()?.ok()?;
    let is_whole = rows.len() <= HOLDERS_SEEN_MAX;
    let mut all = Vec::with_capacity(rows.len().min(HOLDERS_SEEN_MAX));
    for row in rows.into_iter().take(HOLDERS_SEEN_MAX) {
        let [Some(format), Some(global_len), Some(_), Some(data)] = &*row else { continue };
        let ours = xid::read(format, global_len, data);
        let name = ours.as_deref().and_then(|it| it.parse::<BranchName>().ok());
        let id = ours.unwrap_or_else(|| String::from_utf8_lossy(data).into_owned());
        let session = match name {
            Some(name) => tie::holder(session, &name).await.ok()?,
            None => None,
        };
        if is_whole || session.is_some() {
            all.push(Prepared { id, session });
        }
    }
    Some(all)
}

impl Seen {
    fn read(row: &Texts) -> Option<Self> {
        let text = |at: usize| Some(String::from_utf8_lossy(row.get(at)?.as_ref()?).into_owned());
        let number = |at: usize| text(at)?.parse::<i64>().ok();
        let ms = |at: usize| u64::try_from(number(at)?).ok();
        Some(Self {
            session: number(0)?,
            waits: if number(1)? == 0 { Waits::No } else { Waits::Yes },
            begun_ms: ms(2),
            user: text(3),
            command: text(4),
            command_ms: ms(5),
        })
    }

    fn told(self, inner: &Inner, prepared: &[Prepared], loose: &[&str]) -> Holder {
        let begun = self.begun_ms.map(|ms| format!("begun {} ago", lasted(ms)));
        let connection = format!("connection {}", self.session);
        if self.session == 0 {
            return Holder {
                who: untied(loose),
                known: begun.into_iter().collect(),
                waits: self.waits,
            };
        }
        if let Some(branch) = prepared.iter().find(|it| it.session == Some(self.session)) {
            let known = [Some(connection), begun].into_iter().flatten().collect();
            return Holder { who: Who::Prepared(branch.id.clone()), known, waits: self.waits };
        }
        let state = self.command.map(|command| {
            let doing = if command == "Sleep" { "idle".to_owned() } else { command };
            match self.command_ms {
                Some(ms) => format!("{doing} for {}", lasted(ms)),
                None => doing,
            }
        });
        let (who, known) = match inner.at_work.branch(self.session) {
            Some(branch) => (Who::Executing(branch), [Some(connection), state, begun]),
            None => {
                let user = self.user.map(|it| format!("user {it:?}"));
                let begun = begun.map(|it| format!("transaction {it}"));
                (Who::Other(connection), [user, state, begun])
            }
        };
        Holder { who, known: known.into_iter().flatten().collect(), waits: self.waits }
    }
}

/// What is prepared and not known to be tied to a session. MySQL sets a branch free when it is prepared,
/// though the session that did it lives.
fn loose(product: Product, prepared: &[Prepared]) -> Vec<&str> {
    let is_loose = |it: &&Prepared| product == Product::MySql || it.session.is_none();
    prepared.iter().filter(is_loose).map(|it| &*it.id).collect()
}

/// One of those. InnoDB does not say which of them has the lock.
fn untied(loose: &[&str]) -> Who {
    match loose {
        [] => Who::Other("a prepared transaction without a connection".to_owned()),
        [one] => Who::Prepared((*one).to_owned()),
        several => {
            let named = several.iter().take(HOLDERS_NAMED_MAX).map(|id| format!("{id:?}"));
            let named: Vec<String> = named.collect();
            let more = match several.len() - named.len() {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            let one_of = "a prepared transaction without a connection, one of";
            Who::Other(format!("{one_of} {}{more}", named.join(", ")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prepared(id: &str, session: Option<i64>) -> Prepared {
        Prepared { id: id.to_owned(), session }
    }

    #[test]
    fn what_is_prepared_without_a_connection_is_named_if_it_can_be_only_one() {
        let tied = prepared("a", Some(7));
        let two = [tied.clone(), prepared("b", None)];
        assert_eq!(untied(&loose(Product::MariaDb, &two)), Who::Prepared("b".to_owned()));
        assert_eq!(loose(Product::MySql, &two), ["a", "b"]);
        let expected =
            "a prepared transaction without a connection, one of \"b\", \"c\", \"d\" and 1 more";
        assert_eq!(untied(&["b", "c", "d", "e"]), Who::Other(expected.to_owned()));
        let none = "a prepared transaction without a connection".to_owned();
        assert_eq!(untied(&loose(Product::MariaDb, &[tied])), Who::Other(none));
    }
}
