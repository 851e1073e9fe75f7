//! Where the journal is, and opening it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use unanimous_journal::{
    Directory, EtcdDirectory, EtcdJournal, EtcdOptions, FileJournal, Journal, JournalError,
    Listener, Options, PostgresDirectory, PostgresJournal, PostgresOptions,
};
use unanimous_participants::Password;

use crate::config::{ConfigError, DATA_DEFAULT};

/// Where the journal is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum JournalConfig {
    /// In a folder of this machine.
    Folder(PathBuf),
    /// In a PostgreSQL database.
    Postgres {
        /// Without a password.
        url: String,
        /// What the server asks for, if it asks.
        password: Option<Password>,
    },
    /// In an etcd cluster.
    Etcd {
        /// Without a password.
        url: String,
        /// What the cluster asks for, if it asks.
        password: Option<Password>,
    },
}

/// What the file says of the journal's password.
pub(crate) struct PasswordKeys {
    pub(crate) variable: Option<String>,
    pub(crate) file: Option<PathBuf>,
}

impl JournalConfig {
    /// From `data`, a folder, or `journal`, a URL, at most one of which may be set.
    pub(crate) fn parse(
        data: Option<PathBuf>,
        journal: Option<String>,
        password: Option<Password>,
    ) -> Result<Self, ConfigError> {
        let url = match (data, journal) {
            (Some(data), Some(url)) => {
                return Err(ConfigError(format!(
                    "the data folder {} and journal = {:?} are both set: remove one",
                    data.display(),
                    shown(&url)
                )));
            }
            (Some(data), None) => return Ok(Self::Folder(data)),
            (None, None) => return Ok(Self::Folder(PathBuf::from(DATA_DEFAULT))),
            (None, Some(url)) => url,
        };
        match url.split_once(':') {
            Some(("file", folder)) if !folder.is_empty() => Ok(Self::Folder(PathBuf::from(folder))),
            Some(("postgres" | "postgresql", _)) => Ok(Self::Postgres { url, password }),
            Some(("etcd", _)) => Ok(Self::Etcd { url, password }),
            Some(_) | None => Err(ConfigError(format!(
                "journal = {:?}: write it as file:FOLDER, postgres://user@host:5432/database or \
                 etcd://host1:2379,host2:2379",
                shown(&url)
            ))),
        }
    }

    /// Its folder, if it has one.
    pub fn folder(&self) -> Option<&Path> {
        match self {
            Self::Folder(folder) => Some(folder),
            Self::Postgres { .. } | Self::Etcd { .. } => None,
        }
    }

    /// Opens it. What has ended is kept for `retention_ms` milliseconds. In a database `owner` stands
    /// beside what it claims; the process, if there is none.
    ///
    /// # Errors
    ///
    /// [`JournalError`], which says what to change.
    pub fn open(
        &self,
        retention_ms: u64,
        owner: Option<&str>,
        listener: Arc<dyn Listener>,
    ) -> Result<Arc<dyn Journal>, JournalError> {
        match self {
            Self::Folder(folder) => {
                let options = Options { retention_ms, ..Options::default() };
                Ok(Arc::new(FileJournal::open(folder, options, listener)?))
            }
            Self::Postgres { url, password } => {
                let mut options = PostgresOptions { retention_ms, ..PostgresOptions::default() };
                options.password = password.as_ref().map(|it| it.reveal().to_owned());
                if let Some(owner) = owner {
                    owner.clone_into(&mut options.coordinator);
                }
                Ok(Arc::new(PostgresJournal::open(url, options, listener)?))
            }
            Self::Etcd { url, password } => {
                let mut options = EtcdOptions { retention_ms, ..EtcdOptions::default() };
                options.password = password.as_ref().map(|it| it.reveal().to_owned());
                if let Some(owner) = owner {
                    owner.clone_into(&mut options.coordinator);
                }
                Ok(Arc::new(EtcdJournal::open(url, options, listener)?))
            }
        }
    }

    /// Whether several nodes can share it.
    pub fn is_shared(&self) -> bool {
        match self {
            Self::Folder(_) => false,
            Self::Postgres { .. } | Self::Etcd { .. } => true,
        }
    }

    /// The directory of the nodes that share it.
    pub(crate) fn directory(&self) -> Result<Arc<dyn Directory>, JournalError> {
        match self {
            Self::Folder(folder) => Err(JournalError::Unusable(format!(
                "{}: a folder belongs to one process",
                folder.display()
            ))),
            Self::Postgres { url, password } => {
                Ok(Arc::new(PostgresDirectory::open(url, password.as_ref().map(Password::reveal))?))
            }
            Self::Etcd { url, password } => {
                Ok(Arc::new(EtcdDirectory::open(url, password.as_ref().map(Password::reveal))?))
            }
        }
    }
}

/// For messages about it.
impl fmt::Display for JournalConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(folder) => write!(f, "data folder {}", folder.display()),
            // The journal's own errors say which one.
            Self::Postgres { .. } | Self::Etcd { .. } => f.write_str("journal"),
        }
    }
}

/// A URL without what may be a password in it.
fn shown(url: &str) -> String {
    match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, rest))) => format!("{scheme}://…@{rest}"),
        (Some(_) | None, _) => url.to_owned(),
    }
}

impl PasswordKeys {
    /// The password: from the environment, or as the file says.
    pub(crate) fn password(
        &self,
        from_environment: Option<String>,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Option<Password>, ConfigError> {
        let wrong = |line: String| Err(ConfigError(line));
        let found = match (from_environment, &self.variable, &self.file) {
            (_, Some(_), Some(_)) => {
                return wrong(
                    "journal_password_env and journal_password_file are both set: remove one"
                        .to_owned(),
                );
            }
            (Some(password), _, _) => password,
            (None, None, None) => return Ok(None),
            (None, Some(variable), None) => match env(variable) {
                Some(password) => password,
                None => {
                    return wrong(format!(
                        "journal_password_env = {variable:?}, but that variable is not set: set it"
                    ));
                }
            },
            (None, None, Some(path)) => match std::fs::read_to_string(path) {
                Ok(text) => text.trim_end_matches(['\r', '\n']).to_owned(),
                Err(error) => {
                    return wrong(format!("journal_password_file = {:?}: {error}", path.display()));
                }
            },
        };
        match found.is_empty() {
            true => wrong("the password of the journal is empty: set one".to_owned()),
            false => Ok(Some(Password::new(found))),
        }
    }
}
