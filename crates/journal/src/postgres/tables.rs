//! The tables, made and brought up to date when the journal is opened.
//!
//! Two processes that make them at the same time do it one after the other: the transaction holds an
//! advisory lock. Tables that are up to date are opened without any lock, because every takeover opens
//! them, and whoever dies or is cut off meanwhile must be in nobody's way. A database that does not keep
//! what it says it wrote is refused.

use tokio::time::timeout;
use tokio_postgres::Error;
use tokio_postgres::error::SqlState;
use unanimous_core::id::Lsn;

use super::address::Address;
use super::limits::OPENING;
use super::session::{Session, Trouble, described};
use super::writer::Desk;
use crate::file::recover::new_instance;
use crate::remote::base;

/// Each brings the tables from the version of its place in the list to the next.
const MIGRATIONS: [&str; 3] = [
    include_str!("versions/1.sql"),
    include_str!("versions/2.sql"),
    include_str!("versions/3.sql"),
];

/// What the database says of the journal in it.
pub(super) struct Opened {
    pub(super) instance: String,
    /// The last position that no entry of this opening has.
    pub(super) base: Lsn,
}

/// Connects for the first time, makes the tables if they are missing, and brings them up to date.
///
/// # Errors
///
/// One line that says what to change.
pub(super) async fn connect(address: &Address) -> Result<Session, String> {
    let making = async {
        let session = Session::open(address).await.map_err(|error| refusal(address, &error))?;
        make(address, &session).await?;
        Ok(session)
    };
    soon(address, making).await
}

/// Begins a new range of positions, and has what it takes to write.
///
/// # Errors
///
/// One line that says what to change.
pub(super) async fn open(address: &Address, session: Session) -> Result<(Opened, Desk), String> {
    let opening = async {
        let opened = begin(address, &session).await?;
        let desk = Desk::of(session).await.map_err(|trouble| wrong(address, trouble))?;
        Ok((opened, desk))
    };
    soon(address, opening).await
}

async fn begin(address: &Address, session: &Session) -> Result<Opened, String> {
    let note = "UPDATE journal_meta SET openings = openings + 1 RETURNING instance, openings";
    let noted = session.read(note, &[]).await.map_err(|trouble| wrong(address, trouble))?;
    let openings: i64 = noted[0].get(1);
    let base = u64::try_from(openings).ok().and_then(base).ok_or_else(|| {
        format!("{}: it was opened {openings} times: begin a new one", address.shown)
    })?;
    Ok(Opened { instance: noted[0].get(0), base })
}

/// Waits for the server, and not for ever.
async fn soon<T>(
    address: &Address,
    work: impl Future<Output = Result<T, String>>,
) -> Result<T, String> {
    timeout(OPENING, work).await.unwrap_or_else(|_| {
        let (shown, bound) = (&address.shown, OPENING.as_secs());
        Err(format!("{shown}: no answer within {bound} s: see what it waits for"))
    })
}

async fn make(address: &Address, session: &Session) -> Result<(), String> {
    fit(session).await.map_err(|why| format!("{}: {why}", address.shown))?;
    let making = async {
        if missing(address, &standing(address, session).await?)?.is_empty() {
            return Ok(());
        }
        session.run("BEGIN").await?;
        let lock = "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))";
        session.read(lock, &[&format!("unanimous journal {}", address.schema)]).await?;
        migrate(address, session).await?;
        Ok(session.run("COMMIT").await?)
    };
    making.await.map_err(|unfit| match unfit {
        Unfit::Trouble(trouble) => wrong(address, trouble),
        Unfit::Line(line) => format!("{}: {line}", address.shown),
    })
}

/// What the database refused, and what to do.
fn wrong(address: &Address, trouble: Trouble) -> String {
    let (shown, text) = (&address.shown, trouble.text());
    match text.contains(SqlState::INSUFFICIENT_PRIVILEGE.code()) {
        true => {
            let user = address.config.get_user().unwrap_or_default();
            let schema = &address.schema;
            format!("{shown}: {text}: make \"{user}\" the owner of schema {schema} and its tables")
        }
        false => format!("{shown}: {text}"),
    }
}

/// Why the tables cannot be used.
enum Unfit {
    Trouble(Trouble),
    Line(String),
}

impl From<Trouble> for Unfit {
    fn from(trouble: Trouble) -> Self {
        Self::Trouble(trouble)
    }
}

/// Whether the server keeps what it says it wrote, and every text as it is.
async fn fit(session: &Session) -> Result<(), String> {
    for (setting, wanted, why) in [
        ("fsync", "on", "a crash of its machine would lose decisions: set fsync = on"),
        ("full_page_writes", "on", "a power cut would damage it: set full_page_writes = on"),
        ("server_encoding", "UTF8", "make the database with ENCODING 'UTF8'"),
    ] {
        let rows = session.read("SELECT current_setting($1)", &[&setting]).await;
        let rows = rows.map_err(Trouble::text)?;
        let value: String = rows.first().map(|row| row.get(0)).unwrap_or_default();
        if value != wanted {
            return Err(format!("{setting} is {value}: {why}"));
        }
    }
    Ok(())
}

/// How far the tables have come.
struct Standing {
    has_schema: bool,
    /// 0 if there are none.
    version: i32,
}

async fn standing(address: &Address, session: &Session) -> Result<Standing, Unfit> {
    // From the tables themselves: what the server remembers of an earlier look may be of before the lock.
    let known = "SELECT count(*) > 0, bool_or(relname IS NOT NULL) IS TRUE FROM pg_namespace
        LEFT JOIN pg_class ON relnamespace = pg_namespace.oid AND relname = 'journal_meta'
        WHERE nspname = $1";
    let found = session.read(known, &[&address.schema]).await?;
    let (has_schema, has_tables): (bool, bool) = (found[0].get(0), found[0].get(1));
    // Named with its schema: who may not use that is told so.
    let version = format!("SELECT schema_version FROM {}.journal_meta", address.schema);
    let version = match has_tables {
        true => session.read(&version, &[]).await?[0].get(0),
        false => 0,
    };
    Ok(Standing { has_schema, version })
}

/// The migrations that are still to be made.
fn missing(address: &Address, standing: &Standing) -> Result<&'static [&'static str], Unfit> {
    let Standing { version, .. } = standing;
    let done = usize::try_from(*version).unwrap_or(usize::MAX);
    MIGRATIONS.get(done..).ok_or_else(|| {
        Unfit::Line(format!(
            "the tables in schema {} are of version {version}, this release knows {}: use the \
             release that made them, or a newer one",
            address.schema,
            MIGRATIONS.len()
        ))
    })
}

async fn migrate(address: &Address, session: &Session) -> Result<(), Unfit> {
    let schema = &address.schema;
    // Whoever had the lock before has come further.
    let standing = standing(address, session).await?;
    if !standing.has_schema {
        session.run(&format!("CREATE SCHEMA {schema}")).await.map_err(|trouble| {
            let user = address.config.get_user().unwrap_or_default();
            let database = address.config.get_dbname().unwrap_or_default();
            Unfit::Line(format!(
                "schema {schema} cannot be made: {}: run CREATE SCHEMA {schema} AUTHORIZATION \
                 \"{user}\" in database {database} as its owner",
                trouble.text()
            ))
        })?;
    }
    let missing = missing(address, &standing)?;
    if missing.is_empty() {
        return Ok(());
    }
    for migration in missing {
        session.run(migration).await?;
    }
    let current = i32::try_from(MIGRATIONS.len()).expect("a few versions");
    let note = "INSERT INTO journal_meta (instance, schema_version, openings) VALUES ($1, $2, 0)
        ON CONFLICT (one) DO UPDATE SET schema_version = excluded.schema_version";
    session.read(note, &[&new_instance(), &current]).await?;
    Ok(())
}

/// Why there is no first connection, and what to do.
fn refusal(address: &Address, error: &Error) -> String {
    let (shown, text) = (&address.shown, described(error));
    let database = address.config.get_dbname().unwrap_or_default();
    let password = "set the right one in UNANIMOUS_JOURNAL_PASSWORD, or name it with \
                    journal_password_env or journal_password_file";
    let advice = match error.code() {
        Some(code) if *code == SqlState::INVALID_CATALOG_NAME => {
            format!("make it: createdb {database}")
        }
        Some(code) if *code == SqlState::INVALID_PASSWORD => password.to_owned(),
        Some(_) if text.contains("no encryption") => {
            "add sslmode=verify-full to its url, or let this user in without it: see pg_hba.conf"
                .to_owned()
        }
        Some(_) if text.contains("client certificate") => {
            "name one by client_cert_file=FILE and client_key_file=FILE in its url".to_owned()
        }
        Some(code) if *code == SqlState::INVALID_AUTHORIZATION_SPECIFICATION => {
            "let this user in: see pg_hba.conf, and whether the user exists".to_owned()
        }
        Some(_) => "see to that, and start again".to_owned(),
        None if text.contains("password missing") => password.to_owned(),
        None if text.contains("does not allow writes") => {
            "it is a standby: name the primary, or all of them as host1,host2".to_owned()
        }
        None if text.contains("does not support TLS") => {
            "set ssl = on there, or sslmode=disable in its url".to_owned()
        }
        None if text.contains("TLS handshake") => {
            "its certificate has to name the host as the url does, and be signed by whom this \
             machine trusts or by an authority in ca_file=FILE"
                .to_owned()
        }
        None => "is it running, and is this its address?".to_owned(),
    };
    format!("{shown}: {text}: {advice}")
}
