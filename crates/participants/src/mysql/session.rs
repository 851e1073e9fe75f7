//! One session of a server: texts of statements out, and what came of each of them.
//!
//! A session is never reset: on MariaDB 10.11 that takes a prepared branch away from the server's
//! session layer, which then acknowledges a commit that it does not carry out. A session whose state
//! is not known is closed; the server rolls back what is not prepared, and keeps what is.

use std::fmt;
use std::time::Instant;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, DriverError, Error, IoError, Row, TlsError, Value as Field};
use tokio::time::timeout;

use super::address::Address;
use super::{errno, value};
use crate::limits::{CONNECT_TIMEOUT, RESULT_BYTES_MAX, RESULT_ROWS_MAX};
use crate::statement::StatementResult;
use crate::tls;

/// A connection that has been logged in and set up.
pub(super) struct Session {
    conn: Conn,
    pub(super) product: Product,
    /// The server's own number of it, also behind a proxy.
    pub(super) number: i64,
    pub(super) used_at: Instant,
}

/// Whose server it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Product {
    MariaDb,
    MySql,
}

/// The connection is of no more use. The text says what was seen.
#[derive(Debug)]
pub(super) struct Broken(pub(super) String);

/// An error that the server reported.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Refused {
    pub(super) code: u16,
    /// SQLSTATE.
    pub(super) state: String,
    pub(super) message: String,
    /// Who the branch waited for, as far as somebody has looked.
    pub(super) waited: Option<String>,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}, {})", self.message, self.code, self.state)?;
        self.waited.iter().try_for_each(|waited| write!(f, "; {waited}"))
    }
}

/// Why there is no connection.
#[derive(Debug)]
pub(super) enum NoSession {
    /// Nobody answered, or not in a way that makes sense.
    Unheard(String),
    /// The server is there and does not let us in now.
    Refused(Refused),
    /// It cannot be trusted, or does not speak TLS.
    Untrusted(String),
}

impl From<Broken> for NoSession {
    fn from(Broken(seen): Broken) -> Self {
        Self::Unheard(seen)
    }
}

impl NoSession {
    /// Whether it may be different later without anybody's help.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Unheard(_) => true,
            Self::Refused(refused) => errno::may_pass(refused),
            Self::Untrusted(_) => false,
        }
    }
}

impl fmt::Display for NoSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unheard(seen) | Self::Untrusted(seen) => write!(f, "no connection: {seen}"),
            Self::Refused(refused) if matches!(refused.code, 1045 | 3159) => write!(
                f,
                "no connection: {refused}; check the user in the resource's url, its password_env \
                 or password_file, and sslmode=verify-full if it is let in over tls only"
            ),
            Self::Refused(refused) => write!(f, "no connection: {refused}"),
        }
    }
}

/// A statement ready to be sent.
#[derive(Clone, Debug)]
pub(super) struct Sql {
    pub(super) text: String,
    pub(super) answers: Answers,
}

/// What a statement may be answered with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Answers {
    /// A count.
    Count,
    /// Rows, even several sets of them.
    Rows,
}

impl Sql {
    /// One that is answered with a count.
    pub(super) fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), answers: Answers::Count }
    }

    /// One that may be answered with rows.
    pub(super) fn asking(text: impl Into<String>) -> Self {
        Self { text: text.into(), answers: Answers::Rows }
    }
}

/// What came of a list of statements: of all of them, or up to the one that was refused.
#[derive(Debug, Default)]
pub(super) struct Ran {
    pub(super) results: Vec<StatementResult>,
    pub(super) refused: Option<Refused>,
    /// Bytes of the rows that were kept.
    kept_bytes: usize,
}

pub(super) type Answered<T> = Result<Result<T, Refused>, Broken>;

/// The fields of a row as texts.
pub(super) type Texts = Vec<Option<Vec<u8>>>;

impl Session {
    /// Makes a connection, within [`CONNECT_TIMEOUT`].
    pub(super) async fn connect(address: &Address) -> Result<Self, NoSession> {
        match timeout(CONNECT_TIMEOUT, Self::login(address)).await {
            Ok(session) => session,
            Err(_) => Err(NoSession::Unheard(format!(
                "no connection within {} ms",
                CONNECT_TIMEOUT.as_millis()
            ))),
        }
    }

    async fn login(address: &Address) -> Result<Self, NoSession> {
        let conn = Conn::new(address.options.clone()).await.map_err(not_let_in)?;
        let mut session =
            Self { conn, product: Product::MySql, number: 0, used_at: Instant::now() };
        // A server may set sessions up in its own way.
        let setup = "SET NAMES utf8mb4, autocommit = 1, innodb_lock_wait_timeout = 1, sql_mode = \
             TRIM(BOTH ',' FROM REPLACE(CONCAT(',', @@sql_mode, ','), ',NO_BACKSLASH_ESCAPES,', ','))\n\
             ;\nSELECT CONCAT(CONNECTION_ID(), ' ', VERSION())";
        let told = session.first(setup).await?.map_err(NoSession::Refused)?;
        let told = told.as_deref().and_then(|it| it.split_once(' '));
        let told = told.and_then(|(number, version)| Some((number.parse().ok()?, version)));
        let Some((number, version)) = told else {
            return Err(NoSession::Unheard("its set-up was answered strangely".to_owned()));
        };
        session.number = number;
        if version.contains("MariaDB") {
            session.product = Product::MariaDb;
        }
        Ok(session)
    }

    /// Whether it is there.
    pub(super) async fn answers(&mut self) -> bool {
        self.conn.ping().await.is_ok()
    }

    /// Closes it in good order, so that the server lets go of its branch at once.
    pub(super) async fn close(self) {
        // What the server has not heard of it sees when the connection ends.
        drop(self.conn.disconnect().await);
    }

    /// Runs statements one after the other, in as few round trips as their answers can be told apart
    /// in, up to the first that is refused. Each is given its own lines, so that a comment at
    /// its end ends there.
    pub(super) async fn run(&mut self, statements: &[Sql], ran: &mut Ran) -> Result<(), Broken> {
        let count = ran.results.len() + statements.len();
        // The last of a group may answer with rows: an error among them is its own.
        for group in statements.split_inclusive(|it| it.answers == Answers::Rows) {
            let texts: Vec<&str> = group.iter().map(|it| &*it.text).collect();
            if let Err(error) = self.run_group(&texts.join("\n;\n"), group.len(), ran).await {
                ran.refused = Some(told(error)?);
                return Ok(());
            }
        }
        match ran.results.len() == count {
            true => Ok(()),
            false => Err(Broken("other answers came than were asked for".to_owned())),
        }
    }

    async fn run_group(&mut self, text: &str, count: usize, ran: &mut Ran) -> Result<(), Error> {
        let mut answer = self.conn.query_iter(text).await?;
        let mut last: Option<StatementResult> = None;
        let mut seen = 0;
        while let Some(columns) = answer.columns() {
            seen += 1;
            // What comes after the last belongs to it: a procedure answers more than once.
            let mut result = match seen > count {
                true => last.take().unwrap_or_default(),
                false => {
                    ran.results.extend(last.take());
                    StatementResult::default()
                }
            };
            if columns.is_empty() {
                result.rows_affected += answer.affected_rows();
                last = Some(result);
                answer.next().await?;
                continue;
            }
            result.rows.get_or_insert_default();
            while let Some(row) = answer.next().await? {
                result.rows_affected += 1;
                keep(&row, &mut result, &mut ran.kept_bytes);
            }
            last = Some(result);
        }
        // The driver keeps the error that ended the answers until it is asked for more. If all have
        // answered it is the last's, which had begun to.
        if seen < count {
            ran.results.extend(last.take());
        }
        answer.next().await?;
        ran.results.extend(last);
        Ok(())
    }

    /// Runs one text of statements and returns the rows of the last that has any.
    pub(super) async fn rows(&mut self, text: &str) -> Answered<Vec<Texts>> {
        match self.all_rows(text).await {
            Ok(rows) => Ok(Ok(rows)),
            Err(error) => told(error).map(Err),
        }
    }

    async fn all_rows(&mut self, text: &str) -> Result<Vec<Texts>, Error> {
        let mut answer = self.conn.query_iter(text).await?;
        let mut rows = Vec::new();
        while let Some(columns) = answer.columns() {
            if !columns.is_empty() {
                rows.clear();
            }
            while let Some(row) = answer.next().await? {
                rows.push((0..row.len()).map(|at| text_of(row.as_ref(at)?)).collect());
            }
        }
        answer.next().await?;
        Ok(rows)
    }

    /// The first field of the first row, if there is one that is not null.
    pub(super) async fn first(&mut self, text: &str) -> Answered<Option<String>> {
        let rows = self.rows(text).await?;
        let first = |rows: Vec<Texts>| rows.into_iter().next()?.into_iter().next()?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok(rows.map(|rows| first(rows).map(text)))
    }

    /// Runs one statement that has no rows.
    pub(super) async fn execute(&mut self, text: &str) -> Answered<()> {
        Ok(self.rows(text).await?.map(drop))
    }
}

fn text_of(field: &Field) -> Option<Vec<u8>> {
    match field {
        Field::NULL => None,
        Field::Bytes(bytes) => Some(bytes.clone()),
        Field::Int(_)
        | Field::UInt(_)
        | Field::Float(_)
        | Field::Double(_)
        | Field::Date(..)
        | Field::Time(..) => Some(field.as_sql(false).into_bytes()),
    }
}

fn keep(row: &Row, result: &mut StatementResult, kept_bytes: &mut usize) {
    let rows = result.rows.get_or_insert_default();
    if rows.len() == RESULT_ROWS_MAX || *kept_bytes >= RESULT_BYTES_MAX {
        result.truncated = true;
        return;
    }
    let row = value::row(row);
    let len = row.to_string().len();
    if *kept_bytes + len > RESULT_BYTES_MAX {
        result.truncated = true;
        return;
    }
    *kept_bytes += len;
    rows.push(row);
}

/// Why the server has let nobody in.
#[expect(clippy::wildcard_enum_match_arm, reason = "the driver's errors, not ours")]
fn not_let_in(error: Error) -> NoSession {
    let untrusted = match &error {
        Error::Io(IoError::Tls(TlsError::Tls(fault))) => Some(tls::explained(fault)),
        Error::Io(IoError::Io(error)) => tls::explained_if_tls(error),
        Error::Driver(DriverError::NoClientSslFlagFromServer) => {
            Some("the server speaks no tls: give it ssl_cert and ssl_key".to_owned())
        }
        _ => None,
    };
    match (untrusted, told(error)) {
        (Some(why), _) => NoSession::Untrusted(why),
        (None, Ok(refused)) => NoSession::Refused(refused),
        (None, Err(Broken(seen))) => NoSession::Unheard(seen),
    }
}

/// What an error says: a refusal, or that the connection is of no more use.
fn told(error: Error) -> Result<Refused, Broken> {
    match error {
        Error::Server(it) if !errno::is_last_word(it.code) => {
            Ok(Refused { code: it.code, state: it.state, message: it.message, waited: None })
        }
        Error::Server(_) | Error::Io(_) | Error::Driver(_) | Error::Other(_) | Error::Url(_) => {
            Err(Broken(error.to_string()))
        }
    }
}
