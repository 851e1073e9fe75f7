//! The file, opened: one connection that writes, and what Unanimous keeps beside the user's tables.
//!
//! | table | what |
//! |---|---|
//! | `unanimous_branch` | each branch: prepared, with what it changes, or how it ended |
//! | `unanimous_lock` | what prepared branches hold: rows by their key, or whole tables (`*`) |
//! | `unanimous_barrier` | each half of a step of a saga that was done |
//!
//! Only one process has the file open in this way: it holds the lock of a file beside it.

use std::cell::RefCell;
use std::fs::{self, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags};

use super::refusal::Refused;
use super::shape::Shapes;
use super::watch::Watch;
use crate::limits::{SQLITE_BUSY_WAIT, SQLITE_OWNER_WAIT};

const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS unanimous_branch (
      name TEXT NOT NULL PRIMARY KEY,
      state TEXT NOT NULL CHECK (state IN ('prepared', 'committed', 'rolled_back', 'failed')),
      changes TEXT, results TEXT, at INTEGER NOT NULL);
    CREATE INDEX IF NOT EXISTS unanimous_prepared ON unanimous_branch (at) WHERE state = 'prepared';
    CREATE TABLE IF NOT EXISTS unanimous_lock (
      tbl TEXT NOT NULL, key TEXT NOT NULL, branch TEXT NOT NULL,
      PRIMARY KEY (tbl, key)) WITHOUT ROWID;
    CREATE INDEX IF NOT EXISTS unanimous_holder ON unanimous_lock (branch);
    CREATE TABLE IF NOT EXISTS unanimous_barrier (
      branch TEXT NOT NULL, verb TEXT NOT NULL, result TEXT,
      at INTEGER NOT NULL DEFAULT (CAST(strftime('%s', 'now') AS INTEGER)),
      PRIMARY KEY (branch, verb)) WITHOUT ROWID;";

/// Tables and indexes above.
const OBJECTS: i64 = 5;

/// Everything that work touches is written down here, by triggers that only this connection has.
const TOUCHED: &str = "CREATE TEMP TABLE unanimous_touched (tbl, k1, k2, k3, k4, k5, k6, k7, k8)";

/// A file that is open.
pub(super) struct File {
    pub(super) db: Connection,
    pub(super) watch: Watch,
    pub(super) shapes: RefCell<Shapes>,
    path: PathBuf,
    is: Identity,
    /// Held for as long as this lives.
    _lock: fs::File,
}

/// Which file on which device.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Identity(u64, u64);

impl Identity {
    fn of(path: &Path) -> io::Result<Self> {
        fs::metadata(path).map(|it| Self(it.dev(), it.ino()))
    }
}

impl File {
    /// Opens the file for a coordinator, and makes the tables that it needs.
    pub(super) fn open(path: &Path) -> Result<Self, Refused> {
        let path = found(path)?;
        let lock = own(&path)?;
        let is = Identity::of(&path).map_err(|error| missing(&path, &error))?;
        let refused = |error: rusqlite::Error| Refused::of(&error, &shown(&path));
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut db = Connection::open_with_flags(&path, flags).map_err(refused)?;
        if db.is_readonly("main").map_err(refused)? {
            return Err(Refused::new(
                "read_only_resource",
                format!("{} is write-protected: let the coordinator write to it", shown(&path)),
            ));
        }
        db.busy_timeout(SQLITE_BUSY_WAIT).map_err(refused)?;
        let watch = Watch::begin(&mut db).map_err(refused)?;
        settle(&db).map_err(refused)?;
        Ok(Self { db, watch, shapes: RefCell::default(), path, is, _lock: lock })
    }

    /// Whether the file that is open is still the one at its path.
    pub(super) fn is_current(&self) -> bool {
        Identity::of(&self.path).is_ok_and(|is| is == self.is)
    }
}

/// Settings of the connection, and tables. What is acknowledged is on disk, whatever the journal mode.
fn settle(db: &Connection) -> rusqlite::Result<()> {
    let mode: String = db.pragma_query_value(None, "journal_mode", |row| row.get(0))?;
    let synchronous = if mode == "wal" { "FULL" } else { "EXTRA" };
    db.execute_batch(&format!(
        "PRAGMA synchronous = {synchronous}; PRAGMA foreign_keys = ON; \
         PRAGMA recursive_triggers = OFF; PRAGMA temp_store = MEMORY; {TOUCHED}"
    ))?;
    let ours = "SELECT count(*) FROM sqlite_schema WHERE name IN ('unanimous_branch', \
                'unanimous_prepared', 'unanimous_lock', 'unanimous_holder', 'unanimous_barrier')";
    if db.query_row(ours, [], |row| row.get::<_, i64>(0))? < OBJECTS {
        db.execute_batch(&format!("BEGIN IMMEDIATE; {TABLES} COMMIT"))?;
    }
    Ok(())
}

/// The file's own path, whatever links lead to it.
pub(super) fn found(path: &Path) -> Result<PathBuf, Refused> {
    path.canonicalize().map_err(|error| missing(path, &error))
}

fn missing(path: &Path, error: &io::Error) -> Refused {
    let detail = match error.kind() == io::ErrorKind::NotFound {
        true => format!("there is no file {}: make it, with its tables", path.display()),
        false => format!("{}: {error}", path.display()),
    };
    Refused::new("configuration", detail)
}

pub(super) fn shown(path: &Path) -> String {
    path.display().to_string()
}

fn lock_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("-unanimous");
    PathBuf::from(name)
}

/// Takes the lock that makes this process the file's only coordinator.
fn own(path: &Path) -> Result<fs::File, Refused> {
    let at = lock_path(path);
    let wrong = |error: io::Error| {
        let remedy = "let the coordinator write to the file's folder";
        Refused::new("configuration", format!("{}: {error}: {remedy}", at.display()))
    };
    let mut options = fs::OpenOptions::new();
    let options = options.read(true).write(true).create(true).truncate(false);
    let mut lock = options.open(&at).map_err(wrong)?;
    let deadline = Instant::now() + SQLITE_OWNER_WAIT;
    loop {
        match lock.try_lock() {
            Ok(()) => break,
            Err(TryLockError::Error(error)) => return Err(wrong(error)),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                sleep(Duration::from_millis(5));
            }
            Err(TryLockError::WouldBlock) => {
                let detail = format!(
                    "{} belongs to {}: stop that one, or give each coordinator a file of its own; \
                     several share one through a service",
                    path.display(),
                    owner(&at)
                );
                return Err(Refused::new("owned_elsewhere", detail));
            }
        }
    }
    let pid = std::process::id().to_string();
    lock.set_len(0).and_then(|()| lock.write_all(pid.as_bytes())).map_err(wrong)?;
    Ok(lock)
}

/// Who holds the lock, in words.
fn owner(at: &Path) -> String {
    match fs::read_to_string(at).ok().and_then(|text| text.trim().parse::<u32>().ok()) {
        Some(pid) if pid == std::process::id() => {
            "another resource of this coordinator, under another path".to_owned()
        }
        Some(pid) => format!("another coordinator, process {pid}"),
        None => "another coordinator".to_owned(),
    }
}

/// Who owns the file at the moment, if anybody; takes nothing.
pub(super) fn owned_by(path: &Path) -> Option<String> {
    let at = lock_path(path);
    let lock = fs::OpenOptions::new().read(true).open(&at).ok()?;
    match lock.try_lock_shared() {
        Err(TryLockError::WouldBlock) => Some(owner(&at)),
        Ok(()) | Err(TryLockError::Error(_)) => None,
    }
}
