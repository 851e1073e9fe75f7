//! Where a Redis server is and as whom to connect: the configured URL.
//!
//! `redis://user@host:port/number?connections=16&tag=shop&durability=strict`, and the same with
//! `rediss` for TLS. A password is never in it.

use crate::limits::{REDIS_CONNECTIONS, REDIS_CONNECTIONS_MAX, REDIS_TAG_LEN_MAX};
use crate::open::{Password, Settings};
use crate::tls::Connector;
use crate::url::{self, Url};

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
        let Url { scheme, user, host, port, path, params } = Url::parse(url)?;
        let tls = match scheme {
            "rediss" => Some(Connector::new(&settings.tls)?),
            _ => {
                settings.tls.refuse_unused("write rediss://")?;
                None
            }
        };
        if host.is_empty() {
            return Err("its url names no host; write it as redis://host:6379".to_owned());
        }
        let database = match &*path {
            "" => 0,
            number => number.parse().map_err(|_| {
                format!("its url names the database {number:?}, and Redis numbers them")
            })?,
        };
        let mut address = Self {
            host,
            port: port.unwrap_or(6379),
            user,
            database,
            password: settings.password.clone(),
            connections: REDIS_CONNECTIONS,
            tag: None,
            durability: Durability::Strict,
            tls,
        };
        for (name, value) in params {
            address.set(name, value)?;
        }
        Ok(address)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        match (name, value) {
            ("connections", number) => {
                self.connections = url::connections(number, REDIS_CONNECTIONS_MAX)?;
                Ok(())
            }
            ("tag", tag) => {
                let tag = url::decoded(tag)?;
                if tag.is_empty() || tag.len() > REDIS_TAG_LEN_MAX || tag.contains(['{', '}']) {
                    return Err(format!(
                        "tag in its url has 1 to {REDIS_TAG_LEN_MAX} bytes and no braces"
                    ));
                }
                self.tag = Some(tag);
                Ok(())
            }
            ("durability", "strict") => Ok(()),
            ("durability", "weak") => {
                self.durability = Durability::Weak;
                Ok(())
            }
            ("durability", other) => {
                Err(format!("durability={other} in its url is neither strict nor weak"))
            }
            (name, _) => Err(url::unknown(name, "connections, tag, durability")),
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
        format!("{scheme}://{user}{}/{database}", url::shown(host, *port))
    }
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
        assert_eq!(all.shown(), "redis://a@b@[::1]:7000/3");
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
