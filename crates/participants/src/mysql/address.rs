//! Where a MariaDB or MySQL server is and as whom to connect: the configured URL.
//!
//! `mysql://user@host:port/database?connections=16`. A password is never in it.

use crate::limits::{MYSQL_CONNECTIONS, MYSQL_CONNECTIONS_MAX};
use crate::open::Password;
use crate::url::{self, Url};

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
        let Url { scheme, user, host, port, path, params } = Url::parse(url)?;
        let user =
            user.ok_or("its url names no user; write it as mysql://user@host:3306/database")?;
        if host.is_empty() || path.is_empty() {
            return Err("its url names no host or no database".to_owned());
        }
        let mut address = Self {
            scheme: scheme.to_owned(),
            host,
            port: port.unwrap_or(3306),
            user,
            database: path,
            password,
            connections: MYSQL_CONNECTIONS,
        };
        for (name, value) in params {
            address.set(name, value)?;
        }
        Ok(address)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        match (name, value) {
            ("sslmode", "disable") => Ok(()),
            ("sslmode", _) => {
                Err("sslmode in its url asks for tls, which is not supported yet; use \
                     sslmode=disable through a tunnel or a proxy on this machine"
                    .to_owned())
            }
            ("connections", number) => {
                self.connections = url::connections(number, MYSQL_CONNECTIONS_MAX)?;
                Ok(())
            }
            (name, _) => Err(url::unknown(name, "sslmode, connections")),
        }
    }

    /// The same for people.
    pub(super) fn shown(&self) -> String {
        let Self { scheme, host, port, user, database, .. } = self;
        format!("{scheme}://{user}@{}/{database}", url::shown(host, *port))
    }
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
