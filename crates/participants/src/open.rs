//! From a configured URL to a resource.

use std::fmt;
use std::sync::Arc;

use unanimous_core::commit::Phases;

use crate::Resource;
use crate::guard::{Guarded, Observer};
use crate::http::HttpAdapter;
use crate::limits::{FIRST_PHASE_CALLS_MAX, SECOND_PHASE_CALLS_MAX, WAITING_MAX};
use crate::mysql::MysqlAdapter;
use crate::postgres::PostgresAdapter;
use crate::redis::RedisAdapter;
use crate::signing::SigningSecret;
use crate::sqlite::SqliteAdapter;
use crate::tls::TlsFiles;

/// What can be set for one resource.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Settings {
    /// Calls of the first phase at once, at least one.
    pub first_phase_calls_max: usize,
    /// Calls of the second phase at once, at least one.
    pub second_phase_calls_max: usize,
    /// Calls that may wait for a place, for each phase.
    pub waiting_max: usize,
    /// In how few phases the resource can commit. One saves a call and a sync if it is alone in a
    /// transaction. A service has to be able to do it, so the default is two: one that does not know
    /// the header `unanimous-phases` takes such a commit for one of a branch that it never heard of.
    pub phases: Phases,
    /// What the resource asks for, if it asks.
    pub password: Option<Password>,
    /// Files for TLS, if its URL asks for that.
    pub tls: TlsFiles,
    /// What calls to it are signed with, if it is a service.
    pub signing: Option<SigningSecret>,
}

/// A password, which is never shown.
#[derive(Clone, Eq, PartialEq)]
pub struct Password(String);

impl Password {
    /// Hides `text`.
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// For the one who has to prove that it is known.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            first_phase_calls_max: FIRST_PHASE_CALLS_MAX,
            second_phase_calls_max: SECOND_PHASE_CALLS_MAX,
            waiting_max: WAITING_MAX,
            phases: Phases::Two,
            password: None,
            tls: TlsFiles::default(),
            signing: None,
        }
    }
}

/// The configuration of a resource cannot be followed: correct it.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("resource {resource}: {problem}")]
pub struct OpenError {
    /// The resource.
    pub resource: String,
    /// What is wrong and what to do, without any secret.
    pub problem: String,
}

/// Makes the resource that `url` names. Connects to nothing yet.
///
/// # Errors
///
/// [`OpenError`] if the URL does not parse, or its scheme is not known, or a setting is out of
/// bounds.
pub fn open(
    name: &str,
    url: &str,
    settings: &Settings,
    observer: Arc<dyn Observer>,
) -> Result<Arc<dyn Resource>, OpenError> {
    let wrong = |problem: String| OpenError { resource: name.to_owned(), problem };
    if settings.first_phase_calls_max == 0 || settings.second_phase_calls_max == 0 {
        return Err(wrong("at least one call at once must be allowed in each phase".to_owned()));
    }
    if url.starts_with("sqlite:") {
        let adapter = SqliteAdapter::new(url, settings).map_err(wrong)?;
        return Ok(Arc::new(Guarded::new(name, adapter, settings, observer)));
    }
    let Some((scheme, _)) = url.split_once("://") else {
        return Err(wrong("the url has no scheme; write it as http://host:port/path".to_owned()));
    };
    match scheme {
        "http" | "https" => {
            let adapter = HttpAdapter::new(url, settings).map_err(wrong)?;
            Ok(Arc::new(Guarded::new(name, adapter, settings, observer)))
        }
        "postgres" | "postgresql" => {
            let adapter = PostgresAdapter::new(url, settings).map_err(wrong)?;
            // More would only wait for a connection.
            let calls_max = settings.first_phase_calls_max.min(adapter.connections());
            let settings = Settings { first_phase_calls_max: calls_max, ..settings.clone() };
            Ok(Arc::new(Guarded::new(name, adapter, &settings, observer)))
        }
        "redis" | "rediss" => {
            let adapter = RedisAdapter::new(url, settings).map_err(wrong)?;
            Ok(Arc::new(Guarded::new(name, adapter, settings, observer)))
        }
        "mysql" | "mariadb" => {
            let adapter = MysqlAdapter::new(url, settings).map_err(wrong)?;
            // More would only wait for a connection.
            let calls_max = settings.first_phase_calls_max.min(adapter.connections());
            let settings = Settings { first_phase_calls_max: calls_max, ..settings.clone() };
            Ok(Arc::new(Guarded::new(name, adapter, &settings, observer)))
        }
        unknown => Err(wrong(format!(
            "unknown scheme {unknown:?} in its url; known: http, https, mysql, postgres, redis, \
             sqlite"
        ))),
    }
}
