//! Where a MariaDB or MySQL server is and as whom to connect: the configured URL.
//!
//! `mysql://user@host:port/database?sslmode=verify-full&connections=16`. A password is never in it.
//!
//! The modes are those of the other databases: what would encrypt without checking who answers is
//! refused.

use std::fmt;

use mysql_async::{ClientIdentity, Opts, OptsBuilder, SslOpts};

use crate::limits::{MYSQL_CONNECTIONS, MYSQL_CONNECTIONS_MAX};
use crate::open::Settings;
use crate::tls::{Material, TlsFiles};
use crate::url::{self, Url};

/// Where and as whom to connect.
#[derive(Clone)]
pub(super) struct Address {
    scheme: String,
    host: String,
    port: u16,
    user: String,
    database: String,
    tls: Option<Material>,
    /// Connections for the first phase.
    pub(super) connections: usize,
    /// The same for the driver; made once, because the files of TLS are read with it.
    pub(super) options: Opts,
}

/// Without what the driver is told: the password is among that.
impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown())
    }
}

impl Address {
    /// # Errors
    ///
    /// What is wrong with the configuration, for the one who wrote it.
    pub(super) fn parse(url: &str, settings: &Settings) -> Result<Self, String> {
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
            tls: None,
            connections: MYSQL_CONNECTIONS,
            options: Opts::default(),
        };
        for (name, value) in params {
            address.set(name, value, &settings.tls)?;
        }
        if address.tls.is_none() {
            settings.tls.refuse_unused("write sslmode=verify-full")?;
        }
        address.options = address.options(settings).into();
        Ok(address)
    }

    fn set(&mut self, name: &str, value: &str, files: &TlsFiles) -> Result<(), String> {
        match (name, value) {
            ("sslmode", "disable") => self.tls = None,
            ("sslmode", "require" | "verify-full") => self.tls = Some(Material::new(files)?),
            ("sslmode", mode) => return Err(url::unchecked(mode)),
            ("connections", number) => {
                self.connections = url::connections(number, MYSQL_CONNECTIONS_MAX)?;
            }
            (name, _) => return Err(url::unknown(name, "sslmode, connections")),
        }
        Ok(())
    }

    fn options(&self, settings: &Settings) -> OptsBuilder {
        let tls = self.tls.as_ref().map(|material| {
            let trusted = material.trusted.iter().map(|it| it.clone().into()).collect();
            let identity = material
                .identity
                .clone()
                .map(|(certificates, key)| ClientIdentity::new(certificates.into(), key.into()));
            SslOpts::default()
                .with_root_certs(trusted)
                .with_disable_built_in_roots(true)
                .with_client_identity(identity)
        });
        OptsBuilder::default()
            .ip_or_hostname(&*self.host)
            .tcp_port(self.port)
            .user(Some(&*self.user))
            .pass(settings.password.as_ref().map(|it| it.reveal()))
            .db_name(Some(&*self.database))
            .ssl_opts(tls)
            .prefer_socket(false)
            // Known, so that the driver does not ask for them.
            .max_allowed_packet(Some(16 * 1024 * 1024))
            .wait_timeout(Some(28_800))
            // Rows that an update found count, whether or not it changed them: as in PostgreSQL.
            .client_found_rows(true)
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
        let all =
            Address::parse("mysql://a%40b@[::1]:3307/w%20x?connections=3", &Settings::default());
        let all = all.expect("a good url");
        assert_eq!((&*all.user, &*all.host, all.port), ("a@b", "::1", 3307));
        assert_eq!((&*all.database, all.connections), ("w x", 3));
        let least =
            Address::parse("mariadb://app@db/bank", &Settings::default()).expect("a good url");
        assert_eq!(least.shown(), "mariadb://app@db:3306/bank");
    }

    #[test]
    fn what_cannot_be_followed_is_named() {
        for (url, named) in [
            ("mysql://db/x", "names no user"),
            ("mysql://a:secret@db/x", "password_env"),
            ("mysql://a@db", "no database"),
            ("mysql://a@db:port/x", "port"),
            ("mysql://a@db/x?sslmode=prefer", "does not check who answers"),
            ("mysql://a@db/x?connections=0", "connections=0"),
            ("mysql://a@db/x?nonsense=1", "nonsense"),
            ("mysql://a@db/%zz", "percent"),
        ] {
            let why = Address::parse(url, &Settings::default()).expect_err(url);
            assert!(why.contains(named) && !why.contains("secret"), "{url}: {why}");
        }
    }
}
