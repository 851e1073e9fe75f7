//! Where the database is: `postgres://user@host:port/database?schema=unanimous&sslmode=verify-full`.
//!
//! A password is never in it. Several hosts may be named (`host1:5432,host2:5432`): the one that
//! takes writes is used.

use std::fmt::Write as _;
use std::str::FromStr;

use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};

use super::limits::{CONNECT, PROBES, SILENCE};
use crate::remote::tls::{Named, Tls, TlsFiles};

/// The schema of the tables unless the URL names one.
const SCHEMA: &str = "unanimous";

/// Settings of every session. Tables grow from nothing: what was planned for an empty one is planned
/// anew. What makes commits durable is set after the connection is made, because it may be stronger
/// already.
const SETTINGS: &str = "-c statement_timeout=0 -c lock_timeout=0 -c jit=off -c TimeZone=UTC \
                        -c plan_cache_mode=force_custom_plan \
                        -c default_transaction_isolation=read\\ committed";

/// Has the server give up a session whose other end is gone as soon as we give up the server. What such a
/// session has locked would be locked for hours, and nobody could take over.
fn given_up() -> String {
    let silence = SILENCE.as_secs();
    format!(
        "-c tcp_user_timeout={silence}s -c idle_in_transaction_session_timeout={silence}s \
         -c tcp_keepalives_idle={} -c tcp_keepalives_interval={} -c tcp_keepalives_count={PROBES}",
        silence / 2,
        silence / 5,
    )
}

/// Where and as whom to connect.
#[derive(Clone)]
pub(super) struct Address {
    pub(super) config: Config,
    pub(super) schema: String,
    pub(super) tls: Option<Tls>,
    /// The same for people.
    pub(super) shown: String,
}

impl Address {
    /// # Errors
    ///
    /// What is wrong with the URL, for the one who wrote it.
    pub(super) fn parse(url: &str, password: Option<&str>) -> Result<Self, String> {
        let (plain, params) = url.split_once('?').unwrap_or((url, ""));
        let rest =
            plain.strip_prefix("postgres://").or_else(|| plain.strip_prefix("postgresql://"));
        let rest = rest.ok_or("its url does not begin with postgres://")?;
        let authority = rest.split('/').next().unwrap_or_default();
        let Some((user, _)) = authority.rsplit_once('@').filter(|(user, _)| !user.is_empty())
        else {
            return Err(
                "its url names no user; write it as postgres://user@host:5432/database".to_owned()
            );
        };
        if user.contains(':') {
            return Err("its url must not carry a password: set UNANIMOUS_JOURNAL_PASSWORD, or \
                        journal_password_env or journal_password_file in the configuration"
                .to_owned());
        }
        let Params { schema, tls } = Params::parse(params)?;
        let tls = tls.map(|files| Tls::new(&files, None)).transpose()?;
        let mut config = Config::from_str(plain).map_err(|error| wrong(&error))?;
        if config.get_hosts().is_empty() {
            return Err("its url names no host".to_owned());
        }
        if config.get_dbname().is_none_or(str::is_empty) {
            return Err(
                "its url names no database; write it as postgres://user@host:5432/database"
                    .to_owned(),
            );
        }
        if let Some(password) = password {
            config.password(password);
        }
        config
            .ssl_mode(if tls.is_some() { SslMode::Require } else { SslMode::Disable })
            .target_session_attrs(TargetSessionAttrs::ReadWrite)
            .application_name("unanimous")
            .options(format!("-c search_path={schema} {SETTINGS} {}", given_up()))
            .connect_timeout(CONNECT)
            .tcp_user_timeout(SILENCE)
            .keepalives_idle(SILENCE / 2)
            .keepalives_interval(SILENCE / 5)
            .keepalives_retries(PROBES);
        let shown = shown(&config);
        Ok(Self { config, schema, tls, shown })
    }
}

/// What the parameters of the URL say.
struct Params {
    schema: String,
    tls: Option<TlsFiles>,
}

impl Params {
    fn parse(params: &str) -> Result<Self, String> {
        let (mut schema, mut encrypted, mut named) = (SCHEMA.to_owned(), false, Named::default());
        for param in params.split('&').filter(|param| !param.is_empty()) {
            let (name, value) = param
                .split_once('=')
                .ok_or_else(|| format!("its url has a parameter without a value: {param:?}"))?;
            match (name, value) {
                _ if named.take(name, value) => {}
                ("schema", _) => value.clone_into(&mut schema),
                ("sslmode", "disable") => encrypted = false,
                ("sslmode", "require" | "verify-full") => encrypted = true,
                ("sslmode", "allow" | "prefer" | "verify-ca") => {
                    return Err(format!(
                        "sslmode={value} in its url would encrypt without knowing for whom: write \
                         sslmode=verify-full"
                    ));
                }
                ("sslmode", _) => {
                    return Err(format!(
                        "sslmode={value} in its url: write sslmode=verify-full or sslmode=disable"
                    ));
                }
                (_, _) => {
                    return Err(format!(
                        "its url has an unknown parameter {name:?}; known: schema, sslmode, \
                         ca_file, client_cert_file, client_key_file"
                    ));
                }
            }
        }
        let files = named.files()?;
        if !encrypted && files != TlsFiles::default() {
            return Err("its url names files for tls without asking for it: add \
                        sslmode=verify-full"
                .to_owned());
        }
        Ok(Self { schema: allowed(schema)?, tls: encrypted.then_some(files) })
    }
}

/// A schema that needs no quotes.
fn allowed(schema: String) -> Result<String, String> {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    let begins = schema.bytes().next().is_some_and(|byte| !byte.is_ascii_digit());
    match begins && schema.len() < 64 && schema.bytes().all(fits) {
        true => Ok(schema),
        false => Err(format!(
            "schema={schema} in its url: use up to 63 lower-case letters, digits and underscores"
        )),
    }
}

fn wrong(error: &tokio_postgres::Error) -> String {
    let source = std::error::Error::source(error).map(|source| format!(": {source}"));
    format!("its url is wrong: {error}{}", source.unwrap_or_default())
}

fn shown(config: &Config) -> String {
    let mut shown = format!("postgres://{}@", config.get_user().unwrap_or_default());
    let ports = config.get_ports();
    for (index, host) in config.get_hosts().iter().enumerate() {
        let port = ports.get(index).or(ports.first()).copied().unwrap_or(5432);
        let comma = if index > 0 { "," } else { "" };
        let written = match host {
            Host::Tcp(host) => write!(shown, "{comma}{host}:{port}"),
            Host::Unix(path) => write!(shown, "{comma}{}:{port}", path.display()),
        };
        written.expect("a text takes what is written to it");
    }
    shown + "/" + config.get_dbname().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_user_hosts_database_and_schema() {
        let url = "postgres://a%40b@one:5433,two:5434/books?schema=una_2";
        let address = Address::parse(url, Some("s3cret")).expect("a good url");
        assert_eq!(address.shown, "postgres://a@b@one:5433,two:5434/books");
        assert_eq!(address.schema, "una_2");
        assert_eq!(address.config.get_password(), Some(&b"s3cret"[..]));
        let least = Address::parse("postgresql://app@db/books", None).expect("a good url");
        assert_eq!((&*least.shown, &*least.schema), ("postgres://app@db:5432/books", "unanimous"));
    }

    #[test]
    fn what_cannot_be_followed_is_named_and_no_password_is_repeated() {
        for (url, named) in [
            ("mysql://a@db/x", "postgres://"),
            ("postgres://db/x", "names no user"),
            ("postgres://a:secret@db/x", "UNANIMOUS_JOURNAL_PASSWORD"),
            ("postgres://a@db:port/x", "url is wrong"),
            ("postgres://a@db", "names no database"),
            ("postgres://a@db/x?sslmode=prefer", "without knowing for whom"),
            ("postgres://a@db/x?sslmode=on", "sslmode=verify-full"),
            ("postgres://a@db/x?ca_file=x", "add sslmode=verify-full"),
            ("postgres://a@db/x?sslmode=require&client_key_file=x", "name both"),
            ("postgres://a@db/x?sslmode=verify-full&ca_file=/no/such", "ca_file=/no/such"),
            ("postgres://a@db/x?schema=Una", "schema=Una"),
            ("postgres://a@db/x?schema=", "schema="),
            ("postgres://a@db/x?nonsense=1", "nonsense"),
            ("postgres://a@db/x?nonsense", "without a value"),
        ] {
            let why = Address::parse(url, None).err().expect(url);
            assert!(why.contains(named) && !why.contains("secret"), "{url}: {why}");
            assert!(!why.contains('\n'), "{why}");
        }
    }
}
