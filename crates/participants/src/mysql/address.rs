//! Where a MariaDB or MySQL server is and as whom to connect: the configured URL.
//!
//! `mysql://user@host:port/database?connections=16`. A password is never in it.

use crate::limits::{MYSQL_CONNECTIONS, MYSQL_CONNECTIONS_MAX};
use crate::open::Password;

/// Where and as whom to connect.
#[derive(Clone, Debug)]
pub(super) struct Address {
    scheme: String,
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) user: String,
    pub(super) database: String,
    pub(super) password: Option<Password>,
    /// Connections for the first phase.
    pub(super) connections: usize,
}

impl Address {
    /// # Errors
    ///
    /// What is wrong with the URL, for the one who configured it.
    pub(super) fn parse(url: &str, password: Option<Password>) -> Result<Self, String> {
        let (scheme, rest) = url.split_once("://").ok_or("its url has no scheme")?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, host) = authority
            .rsplit_once('@')
            .ok_or("its url names no user; write it as mysql://user@host:3306/database")?;
        if user.contains(':') {
            return Err(
                "its url must not carry a password: use password_env or password_file".to_owned()
            );
        }
        let (host, port) = host_and_port(host)?;
        let (user, database) = (decoded(user)?, decoded(database)?);
        if host.is_empty() || user.is_empty() || database.is_empty() {
            return Err("its url names no host, no user or no database".to_owned());
        }
        let (scheme, connections) = (scheme.to_owned(), MYSQL_CONNECTIONS);
        let mut address = Self { scheme, host, port, user, database, password, connections };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            address.set(pair)?;
        }
        Ok(address)
    }

    fn set(&mut self, pair: &str) -> Result<(), String> {
        match pair.split_once('=') {
            Some(("sslmode", "disable")) => Ok(()),
            Some(("sslmode", _)) => {
                Err("sslmode in its url asks for tls, which is not supported yet; use \
                     sslmode=disable through a tunnel or a proxy on this machine"
                    .to_owned())
            }
            Some(("connections", number)) => match number.parse() {
                Ok(number) if (1..=MYSQL_CONNECTIONS_MAX).contains(&number) => {
                    self.connections = number;
                    Ok(())
                }
                Ok(_) | Err(_) => Err(format!(
                    "connections={number} in its url is not within 1 to {MYSQL_CONNECTIONS_MAX}"
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
        let Self { scheme, host, port, user, database, .. } = self;
        format!("{scheme}://{user}@{host}:{port}/{database}")
    }
}

fn host_and_port(text: &str) -> Result<(String, u16), String> {
    // An IPv6 address has colons of its own, and stands in brackets.
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        Some(_) | None => (text, None),
    };
    let port = match port {
        None => 3306,
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
        let all = Address::parse("mysql://a%40b@[::1]:3307/w%20x?connections=3", None);
        let all = all.expect("a good url");
        assert_eq!((&*all.user, &*all.host, all.port), ("a@b", "::1", 3307));
        assert_eq!((&*all.database, all.connections), ("w x", 3));
        let least = Address::parse("mariadb://app@db/bank", None).expect("a good url");
        assert_eq!(least.shown(), "mariadb://app@db:3306/bank");
    }

    #[test]
    fn what_cannot_be_followed_is_named() {
        for (url, named) in [
            ("mysql://db/x", "names no user"),
            ("mysql://a:secret@db/x", "password_env"),
            ("mysql://a@db", "no database"),
            ("mysql://a@db:port/x", "port"),
            ("mysql://a@db/x?sslmode=require", "tls"),
            ("mysql://a@db/x?connections=0", "connections=0"),
            ("mysql://a@db/x?nonsense=1", "nonsense"),
            ("mysql://a@db/%zz", "percent"),
        ] {
            let why = Address::parse(url, None).expect_err(url);
            assert!(why.contains(named) && !why.contains("secret"), "{url}: {why}");
        }
    }
}
