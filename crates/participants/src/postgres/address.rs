//! Where a PostgreSQL server is and as whom to connect: the configured URL.
//!
//! `postgres://user@host:port/database?sslmode=verify-full&connections=16`. A password is never in it.
//!
//! Of the modes that PostgreSQL's own clients have, those that would encrypt without checking who
//! answers, or only if the other side likes to, are refused: they promise what they do not keep.

use crate::limits::{POSTGRES_CONNECTIONS, POSTGRES_CONNECTIONS_MAX};
use crate::open::{Password, Settings};
use crate::tls::{Connector, TlsFiles};

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
        let (_, rest) = url.split_once("://").ok_or("its url has no scheme")?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, host) = authority
            .rsplit_once('@')
            .ok_or("its url names no user; write it as postgres://user@host:5432/database")?;
        if user.contains(':') {
            return Err(
                "its url must not carry a password: use password_env or password_file".to_owned()
            );
        }
        let (host, port) = host_and_port(host)?;
        let user = decoded(user)?;
        let database = if database.is_empty() { user.clone() } else { decoded(database)? };
        if host.is_empty() || user.is_empty() {
            return Err("its url names no host or no user".to_owned());
        }
        let connections = POSTGRES_CONNECTIONS;
        let password = settings.password.clone();
        let mut address = Self { host, port, user, database, password, connections, tls: None };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            address.set(pair, &settings.tls)?;
        }
        if address.tls.is_none() {
            settings.tls.refuse_unused("write sslmode=verify-full")?;
        }
        Ok(address)
    }

    fn set(&mut self, pair: &str, files: &TlsFiles) -> Result<(), String> {
        match pair.split_once('=') {
            Some(("sslmode", "disable")) => {
                self.tls = None;
                Ok(())
            }
            Some(("sslmode", "require" | "verify-full")) => {
                self.tls = Some(Connector::new(files)?);
                Ok(())
            }
            Some(("sslmode", mode)) => Err(format!(
                "sslmode={mode} in its url does not check who answers: use verify-full, with ca_file \
                 if the server's certificate is your own, or disable"
            )),
            Some(("connections", number)) => match number.parse() {
                Ok(number) if (1..=POSTGRES_CONNECTIONS_MAX).contains(&number) => {
                    self.connections = number;
                    Ok(())
                }
                Ok(_) | Err(_) => Err(format!(
                    "connections={number} in its url is not within 1 to {POSTGRES_CONNECTIONS_MAX}"
                )),
            },
            Some((name, _)) => Err(format!(
                "its url has an unknown parameter {name:?}; known: sslmode, connections"
            )),
            None => Err(format!("its url has a parameter without a value: {pair:?}")),
        }
    }

    /// The same for people.
    pub(super) fn shown(&self) -> String {
        let Self { host, port, user, database, .. } = self;
        format!("postgres://{user}@{host}:{port}/{database}")
    }
}

fn host_and_port(text: &str) -> Result<(String, u16), String> {
    // An IPv6 address has colons of its own, and stands in brackets.
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        Some(_) | None => (text, None),
    };
    let port = match port {
        None => 5432,
        Some(port) => port.parse().map_err(|_| format!("its url has a wrong port {port:?}"))?,
    };
    Ok((host.trim_start_matches('[').trim_end_matches(']').to_owned(), port))
}

/// Undoes percent encoding.
fn decoded(text: &str) -> Result<String, String> {
    let wrong =
        || "its url has a percent sign that two hexadecimal digits do not follow".to_owned();
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|it| char::from(it).to_digit(16)).ok_or_else(wrong);
        bytes.push((digit()? * 16 + digit()?) as u8);
    }
    String::from_utf8(bytes).map_err(|_| "its url is not UTF-8".to_owned())
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
