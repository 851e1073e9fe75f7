//! Where a Redis server is and as whom to connect: the configured URL.
//!
//! `redis://user@host:port/number?connections=16&tag=shop&durability=strict`, and the same with
//! `rediss` for TLS. A password is never in it.

use crate::limits::{REDIS_CONNECTIONS, REDIS_CONNECTIONS_MAX, REDIS_TAG_LEN_MAX};
use crate::open::{Password, Settings};
use crate::tls::Connector;

/// Where and as whom to connect.
#[derive(Clone, Debug)]
pub(super) struct Address {
    pub(super) host: String,
    pub(super) port: u16,
    /// Of the server's access list; without one it is the default user.
    pub(super) user: Option<String>,
    pub(super) database: u16,
    pub(super) password: Option<Password>,
    /// Connections for the first phase.
    pub(super) connections: usize,
    /// The hash tag of every key, where the server is part of a cluster.
    pub(super) tag: Option<String>,
    pub(super) durability: Durability,
    /// None: what is sent can be read on the way.
    pub(super) tls: Option<Connector>,
}

/// What is asked of the server before it may vote.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Durability {
    /// That what it answers is on its disk.
    Strict,
    /// Nothing: a crash of the server may lose what it has promised, or done.
    Weak,
}

impl Address {
    /// # Errors
    ///
    /// What is wrong with the URL, for the one who configured it.
    pub(super) fn parse(url: &str, settings: &Settings) -> Result<Self, String> {
        let (scheme, rest) = url.split_once("://").ok_or("its url has no scheme")?;
        let tls = match scheme {
            "rediss" => Some(Connector::new(&settings.tls)?),
            _ => {
                settings.tls.refuse_unused("write rediss://")?;
                None
            }
        };
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, host) = match authority.rsplit_once('@') {
            Some((user, host)) => (Some(user).filter(|user| !user.is_empty()), host),
            None => (None, authority),
        };
        if user.is_some_and(|user| user.contains(':')) {
            return Err(
                "its url must not carry a password: use password_env or password_file".to_owned()
            );
        }
        let (host, port) = host_and_port(host)?;
        if host.is_empty() {
            return Err("its url names no host; write it as redis://host:6379".to_owned());
        }
        let database = match database {
            "" => 0,
            number => number.parse().map_err(|_| {
                format!("its url names the database {number:?}, and Redis numbers them")
            })?,
        };
        let mut address = Self {
            host,
            port,
            user: user.map(decoded).transpose()?,
            database,
            password: settings.password.clone(),
            connections: REDIS_CONNECTIONS,
            tag: None,
            durability: Durability::Strict,
            tls,
        };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            address.set(pair)?;
        }
        Ok(address)
    }

    fn set(&mut self, pair: &str) -> Result<(), String> {
        match pair.split_once('=') {
            Some(("connections", number)) => match number.parse() {
                Ok(number) if (1..=REDIS_CONNECTIONS_MAX).contains(&number) => {
                    self.connections = number;
                    Ok(())
                }
                Ok(_) | Err(_) => Err(format!(
                    "connections={number} in its url is not within 1 to {REDIS_CONNECTIONS_MAX}"
                )),
            },
            Some(("tag", tag)) => {
                let tag = decoded(tag)?;
                if tag.is_empty() || tag.len() > REDIS_TAG_LEN_MAX || tag.contains(['{', '}']) {
                    return Err(format!(
                        "tag in its url has 1 to {REDIS_TAG_LEN_MAX} bytes and no braces"
                    ));
                }
                self.tag = Some(tag);
                Ok(())
            }
            Some(("durability", "strict")) => Ok(()),
            Some(("durability", "weak")) => {
                self.durability = Durability::Weak;
                Ok(())
            }
            Some(("durability", other)) => {
                Err(format!("durability={other} in its url is neither strict nor weak"))
            }
            Some((name, _)) => Err(format!(
                "its url has an unknown parameter {name:?}; known: connections, tag, durability"
            )),
            None => Err(format!("its url has a parameter without a value: {pair:?}")),
        }
    }

    /// What the names of our own keys begin with: one hash slot for all of them.
    pub(super) fn root(&self) -> String {
        format!("unanimous:{{{}}}", self.tag.as_deref().unwrap_or("una"))
    }

    /// The same for people.
    pub(super) fn shown(&self) -> String {
        let Self { host, port, database, .. } = self;
        let scheme = if self.tls.is_some() { "rediss" } else { "redis" };
        let user = self.user.as_ref().map(|user| format!("{user}@")).unwrap_or_default();
        format!("{scheme}://{user}{host}:{port}/{database}")
    }
}

fn host_and_port(text: &str) -> Result<(String, u16), String> {
    // An IPv6 address has colons of its own, and stands in brackets.
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        Some(_) | None => (text, None),
    };
    let port = match port {
        None => 6379,
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

    fn parse(url: &str) -> Result<Address, String> {
        Address::parse(url, &Settings::default())
    }

    #[test]
    fn a_url_names_user_host_port_and_database() {
        let url = "redis://a%40b@[::1]:7000/3?connections=3&tag=shop&durability=weak";
        let all = parse(url).expect("a good url");
        assert_eq!((all.user.as_deref(), &*all.host, all.port), (Some("a@b"), "::1", 7000));
        assert_eq!((all.database, all.connections), (3, 3));
        assert_eq!((&*all.root(), all.durability), ("unanimous:{shop}", Durability::Weak));
        assert_eq!(all.shown(), "redis://a@b@::1:7000/3");
        let least = parse("redis://cache").expect("a good url");
        assert_eq!((least.port, least.database, least.user.as_deref()), (6379, 0, None));
        assert_eq!((&*least.root(), least.durability), ("unanimous:{una}", Durability::Strict));
    }

    #[test]
    fn what_cannot_be_followed_is_named() {
        for (url, named) in [
            ("redis://", "names no host"),
            ("redis://:secret@db", "password_env"),
            ("redis://a:secret@db", "password_env"),
            ("redis://db:port", "port"),
            ("redis://db/wallet", "numbers them"),
            ("redis://db?connections=0", "connections=0"),
            ("redis://db?tag={x}", "no braces"),
            ("redis://db?durability=some", "neither strict nor weak"),
            ("redis://db?nonsense=1", "nonsense"),
            ("redis://%zz@db", "percent"),
        ] {
            let why = parse(url).expect_err(url);
            assert!(why.contains(named) && !why.contains("secret"), "{url}: {why}");
        }
    }
}
