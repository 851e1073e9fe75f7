//! What a coordinator within a process is opened with: a file or its text, and what the program sets.
//!
//! What the program sets goes before what the file says. Nothing is read or checked before it is opened,
//! but for a file.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::net::TcpListener;
use unanimous_server::config::{Config as Parsed, ConfigError, Overrides};
use unanimous_server::{Brought, Resources, StartError};

use super::OpenError;
use super::resource::Resource;

/// Where nobody else needs to find it.
const ANY_PORT: &str = "127.0.0.1:0";

/// What a coordinator within a process is opened with.
#[derive(Default)]
#[must_use = "nothing happens until a coordinator is opened with it"]
pub struct Config {
    text: String,
    /// Where the text is from.
    file: PathBuf,
    overrides: Overrides,
    resources: Vec<(String, String)>,
    own: Resources,
    listener: Option<TcpListener>,
}

impl Config {
    /// A journal in the folder `unanimous-data`, and no resources.
    pub fn new() -> Self {
        Self::default()
    }

    /// As the text of an `unanimous.toml` says, but for `listen`: where a coordinator within a process
    /// listens is for the process to say.
    pub fn from_toml(text: impl Into<String>) -> Self {
        Self { text: text.into(), file: "unanimous.toml".into(), ..Self::default() }
    }

    /// The same of a file.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] if it cannot be read.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, ConfigError> {
        let path = path.as_ref();
        let text = std::fs::read_to_string(path);
        let text = text.map_err(|error| ConfigError(format!("{}: {error}", path.display())))?;
        Ok(Self { file: path.to_owned(), ..Self::from_toml(text) })
    }

    /// Where the journal is: `file:FOLDER`, `postgres://user@host:5432/database` or
    /// `etcd://host1:2379,host2:2379`.
    pub fn journal(mut self, url: impl Into<String>) -> Self {
        self.overrides.journal = Some(url.into());
        self
    }

    /// What the journal's server asks for.
    pub fn journal_password(mut self, password: impl Into<String>) -> Self {
        self.overrides.journal_password = Some(password.into());
        self
    }

    /// A service or a database, by its URL. One with a password, TLS or bounds of its own is written in
    /// TOML.
    pub fn resource(mut self, name: impl Into<String>, url: impl Into<String>) -> Self {
        self.resources.push((name.into(), url.into()));
        self
    }

    /// A resource of the program's own. Of two under one name the later counts.
    pub fn own_resource(mut self, name: &str, resource: Arc<dyn Resource>) -> Self {
        self.own = self.own.with(name, resource);
        self
    }

    /// Serves the HTTP interface at an address such as `127.0.0.1:7070`, for other programs and the
    /// command line. Beyond this machine it needs a token.
    pub fn listen(mut self, address: impl Into<String>) -> Self {
        self.overrides.listen = Some(address.into());
        self
    }

    /// The same on a listener.
    pub fn listener(mut self, listener: TcpListener) -> Self {
        self.listener = Some(listener);
        self
    }

    /// What other programs, and the nodes to each other, have to show. This process needs none.
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.overrides.token = Some(token.into());
        self
    }

    /// What this process is called among those that share its journal; machine and port unless set.
    pub fn node(mut self, name: impl Into<String>) -> Self {
        self.overrides.node = Some(name.into());
        self
    }

    /// Where the others that share its journal find it, as `http://host:port`; where it listens unless
    /// set.
    pub fn node_address(mut self, address: impl Into<String>) -> Self {
        self.overrides.node_address = Some(address.into());
        self
    }

    /// What is to be started, and with what.
    pub(crate) async fn resolve(self) -> Result<(Parsed, Brought), OpenError> {
        let Self { text, file, mut overrides, resources, own, listener } = self;
        let listens = listener.is_some() || overrides.listen.is_some();
        if let Some(listener) = &listener {
            let address = listener.local_addr();
            let address = address.map_err(|error| ConfigError(format!("the listener: {error}")))?;
            overrides.listen = Some(address.to_string());
        }
        overrides.listen.get_or_insert_with(|| ANY_PORT.to_owned());
        let env = |name: &str| std::env::var(name).ok();
        let mut config = Parsed::parse(&text, &file, overrides, &env)?;
        for (name, url) in resources {
            config.add_resource(name, url)?;
        }
        let listener = match listener {
            None if listens || config.journal.is_shared() => {
                let address = config.listen;
                let bound = TcpListener::bind(address).await;
                Some(bound.map_err(|error| StartError::Listen { address, error })?)
            }
            listener => listener,
        };
        Ok((config, Brought { listener, resources: own }))
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config").field("file", &self.file).finish_non_exhaustive()
    }
}
