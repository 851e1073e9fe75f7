//! Where a PostgreSQL server is and as whom to connect: the configured URL.
//!
//! `postgres://user@host:port/database?sslmode=verify-full&connections=16`. A password is never in it.
//!
//! Of the modes that PostgreSQL's own clients have, those that would encrypt without checking who
//! answers, or only if the other side likes to, are refused: they promise what they do not keep.

use crate::limits::{POSTGRES_CONNECTIONS, POSTGRES_CONNECTIONS_MAX};
use crate::open::{Password, Settings};
use crate::tls::{Connector, TlsFiles};
use crate::url::{self, Url};

/// Where and as whom to connect.
#[derive(Clone, Debug)]
pub(super) struct Address {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) user: String,
    pub(super) database: String,
    pub(super) password: Option<Password>,
    /// Connections for the first phase.
    pub(super) connections: usize,
    /// What encrypts, if the URL asks for that.
    pub(super) tls: Option<Connector>,
}

impl Address {
    /// # Errors
    ///
    /// What is wrong with the configuration, for the one who wrote it.
    pub(super) fn parse(url: &str, settings: &Settings) -> Result<Self, String> {
        let Url { user, host, port, path, params, .. } = Url::parse(url)?;
        let user =
            user.ok_or("its url names no user; write it as postgres://user@host:5432/database")?;
        if host.is_empty() {
            return Err("its url names no host".to_owned());
        }
        let mut address = Self {
            host,
            port: port.unwrap_or(5432),
            database: if path.is_empty() { user.clone() } else { path },
            user,
            password: settings.password.clone(),
            connections: POSTGRES_CONNECTIONS,
            tls: None,
        };
        for (name, value) in params {
            address.set(name, value, &settings.tls)?;
        }
        if address.tls.is_none() {
            settings.tls.refuse_unused("write sslmode=verify-full")?;
        }
        Ok(address)
    }

    fn set(&mut self, name: &str, value: &str, files: &TlsFiles) -> Result<(), String> {
        match (name, value) {
            ("sslmode", "disable") => self.tls = None,
            ("sslmode", "require" | "verify-full") => self.tls = Some(Connector::new(files)?),
            ("sslmode", mode) => return Err(url::unchecked(mode)),
            ("connections", number) => {
                self.connections = url::connections(number, POSTGRES_CONNECTIONS_MAX)?;
            }
            (name, _) => return Err(url::unknown(name, "sslmode, connections")),
        }
        Ok(())
    }

    /// The same for people.
    pub(super) fn shown(&self) -> String {
        let Self { host, port, user, database, .. } = self;
        format!("postgres://{user}@{}/{database}", url::shown(host, *port))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_user_host_port_and_database() {
        let all =
            Address::parse("postgres://a%40b@[::1]:5433/w%20x?connections=3", &Settings::default());
        let all = all.expect("a good url");
        assert_eq!((&*all.user, &*all.host, all.port), ("a@b", "::1", 5433));
        assert_eq!((&*all.database, all.connections), ("w x", 3));
        let least = Address::parse("postgres://app@db", &Settings::default()).expect("a good url");
        assert_eq!((least.port, &*least.database), (5432, "app"));
    }

    #[test]
    fn what_cannot_be_followed_is_named() {
        for (url, named) in [
            ("postgres://db/x", "names no user"),
            ("postgres://a:secret@db/x", "password_env"),
            ("postgres://a@db:port/x", "port"),
            ("postgres://a@db/x?sslmode=prefer", "does not check who answers"),
            ("postgres://a@db/x?sslmode=verify-ca", "verify-full"),
            ("postgres://a@db/x?connections=0", "connections=0"),
            ("postgres://a@db/x?nonsense=1", "nonsense"),
            ("postgres://a@db/%zz", "percent"),
        ] {
            let why = Address::parse(url, &Settings::default()).expect_err(url);
            assert!(why.contains(named) && !why.contains("secret"), "{url}: {why}");
        }
    }
}
