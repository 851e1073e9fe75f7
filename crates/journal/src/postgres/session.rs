//! A connection to the database, and what its errors mean to whoever asked.

use std::collections::HashMap;
use std::error::Error as _;
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use tokio_postgres::error::SqlState;
use tokio_postgres::tls::TlsStream;
use tokio_postgres::types::ToSql;
use tokio_postgres::{AsyncMessage, Client, Connection, Error, NoTls, Row, Socket, Statement};

use super::address::Address;
use super::encryption::Encryption;
use super::limits::SERVER_LOOKS_EVERY;

/// Stronger is left as it is.
const DURABLE: &str = "SELECT set_config('synchronous_commit', 'on', false)
    WHERE current_setting('synchronous_commit') NOT IN ('on', 'remote_apply')";

/// Every statement goes by keys, whatever the planner thinks of a table that was empty when it planned, or
/// of which it knows nothing yet: it would read all that has ended to find what is open.
const BY_KEYS: &str =
    "SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_hashjoin = off;
    SET enable_mergejoin = off; SET plan_cache_mode = force_generic_plan";

/// The same for lists, which ask for whatever anybody wants to see.
const FREELY: &str = "RESET enable_seqscan; RESET enable_bitmapscan; RESET enable_hashjoin;
    RESET enable_mergejoin; RESET plan_cache_mode";

/// A connection.
pub(super) struct Session {
    client: Client,
    warned: Arc<AtomicBool>,
    /// Statements of readers, by their text.
    prepared: Mutex<HashMap<String, Statement>>,
}

/// Why a statement did not do what it should.
#[derive(Debug)]
pub(super) enum Trouble {
    /// It may have been done or not: look, and ask again.
    Again(String),
    /// What is there does not fit. Nothing was done.
    Misfit,
    /// Nothing was done, and asking again is of no use.
    Refused(String),
}

impl Trouble {
    /// What happened, for people.
    pub(super) fn text(self) -> String {
        match self {
            Self::Again(text) | Self::Refused(text) => text,
            Self::Misfit => "what is there does not fit".to_owned(),
        }
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        let text = described(&error);
        let Some(code) = error.code() else { return Self::Again(text) };
        if *code == SqlState::UNIQUE_VIOLATION || *code == SqlState::DIVISION_BY_ZERO {
            return Self::Misfit;
        }
        // Connection, rollback, objects in use, resources, operator; a primary that is none now.
        let passes = ["08", "40", "55", "53", "57", "25", "28", "3D"];
        match passes.iter().any(|class| code.code().starts_with(class)) {
            true => Self::Again(text),
            false => Self::Refused(text),
        }
    }
}

/// An error in one line.
pub(super) fn described(error: &Error) -> String {
    let text = match (error.as_db_error(), error.source()) {
        (Some(refusal), _) => format!("{} ({})", refusal.message(), refusal.code().code()),
        (None, Some(source)) => format!("{error}: {source}"),
        (None, None) => error.to_string(),
    };
    text.replace('\n', "; ")
}

impl Session {
    /// Connects. Must be called within the journal's runtime.
    pub(super) async fn open(address: &Address) -> Result<Self, Error> {
        let warned = Arc::new(AtomicBool::new(false));
        let client = match &address.tls {
            None => {
                let (client, connection) = address.config.connect(NoTls).await?;
                tokio::spawn(attend(connection, Arc::clone(&warned)));
                client
            }
            Some(tls) => {
                let (client, connection) = address.config.connect(Encryption::by(tls)).await?;
                tokio::spawn(attend(connection, Arc::clone(&warned)));
                client
            }
        };
        client.batch_execute(&format!("{BY_KEYS}; {DURABLE}")).await?;
        // Not before version 14. Where the server's system cannot tell, setting it is refused, and nothing
        // is lost.
        let looks = SERVER_LOOKS_EVERY.as_millis();
        let be_looked_after = format!(
            "SELECT set_config(name, '{looks}', false) FROM pg_settings
            WHERE name = 'client_connection_check_interval'"
        );
        drop(client.batch_execute(&be_looked_after).await);
        Ok(Self { client, warned, prepared: Mutex::default() })
    }

    /// Leaves it to the server from now on how it finds what is asked for.
    pub(super) async fn plan_freely(&self) -> Result<(), Trouble> {
        self.run(FREELY).await
    }

    pub(super) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    pub(super) async fn prepare(&self, sql: &str) -> Result<Statement, Trouble> {
        Ok(self.client.prepare(sql).await?)
    }

    /// Several statements without parameters.
    pub(super) async fn run(&self, sql: &str) -> Result<(), Trouble> {
        Ok(self.client.batch_execute(sql).await?)
    }

    /// Runs one statement of a reader.
    pub(super) async fn read(
        &self,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, Trouble> {
        let known = self.prepared.lock().expect("looking up does not panic").get(sql).cloned();
        let statement = match known {
            Some(statement) => statement,
            None => {
                let made = self.prepare(sql).await?;
                let mut prepared = self.prepared.lock().expect("looking up does not panic");
                prepared.entry(sql.to_owned()).or_insert(made).clone()
            }
        };
        self.write(&statement, params).await
    }

    /// Runs one statement, and returns when what it wrote is durable.
    ///
    /// The wait for a synchronous standby can be cancelled; the server then says that all is well,
    /// with a warning beside it. What was written is visible, and may still be lost.
    pub(super) async fn write(
        &self,
        statement: &Statement,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, Trouble> {
        self.warned.store(false, Ordering::SeqCst);
        let rows = self.client.query(statement, params).await?;
        match self.warned.load(Ordering::SeqCst) {
            true => Err(Trouble::Again("the wait for the standby was cancelled".to_owned())),
            false => Ok(rows),
        }
    }
}

/// Works for a connection until it is closed, and notes that the server has warned.
async fn attend<T: TlsStream + Unpin>(
    mut connection: Connection<Socket, T>,
    warned: Arc<AtomicBool>,
) {
    while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
        if let AsyncMessage::Notice(notice) = message
            && [SqlState::WARNING, SqlState::ADMIN_SHUTDOWN].contains(notice.code())
        {
            warned.store(true, Ordering::SeqCst);
        }
    }
}
