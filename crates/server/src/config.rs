//! What can be set: file, then environment, then flags, parsed once into plain types.
//!
//! A key that is not known, a value of the wrong type and a secret that is missing are errors that
//! name the key and what to do. Nothing here is ever printed with a secret in it.

use std::collections::BTreeMap;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use unanimous_api::{BODY_BYTES_MAX_DEFAULT, DEFAULT_LISTEN, TIMEOUT_MS_MAX};
use unanimous_core::commit::Phases;
use unanimous_core::id::is_cluster_name;
use unanimous_core::limits::NAME_LEN_MAX;
use unanimous_participants::{Password, SigningSecret, TlsFiles};

use crate::definitions::{FileSaga, SagaConfig, sagas};
use crate::driver::BranchOrder;
use crate::invariants::InvariantConfig;
use crate::invariants::config::{FileInvariant, invariants};
use crate::journal::{JournalConfig, PasswordKeys};
use crate::limits::{
    BODY_BYTES_MAX, CALL_TIMEOUT_MS_DEFAULT, CALLS_MAX, DRAIN_MS_DEFAULT, OPEN_MAX,
    OPEN_MAX_DEFAULT, ORPHAN_GRACE_MS_DEFAULT, QUEUE_MAX_DEFAULT, RETENTION_DAYS_DEFAULT,
    RETENTION_DAYS_MAX,
};
use crate::nodes::config::{FileNode, NodeConfig, node};
use crate::nodes::domains::{Domains, FileDomain, domains};
pub use crate::secret::Secret;

/// The configuration of one coordinator.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen.
    pub listen: SocketAddr,
    /// Where the journal is.
    pub journal: JournalConfig,
    /// The cluster's name; the journal's own if it is not set.
    pub cluster: Option<String>,
    /// What clients have to show.
    pub token: Option<Secret>,
    /// The resources by name.
    pub resources: BTreeMap<String, ResourceConfig>,
    /// What always holds across them, by name.
    pub invariants: BTreeMap<String, InvariantConfig>,
    /// Sagas that are known by name.
    pub sagas: Vec<SagaConfig>,
    /// Domains of the business that have a part of the work to themselves.
    pub domains: Domains,
    /// Bounds and times.
    pub limits: Limits,
    /// What this process is called among those that share its journal.
    pub node: NodeConfig,
}

/// Bounds and times, each with its default in `limits.rs`.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of a request body.
    pub body_bytes_max: usize,
    /// Transactions open at once.
    pub open_max: usize,
    /// Requests queued before new transactions are refused.
    pub queue_max: usize,
    /// Milliseconds a call to a participant may take.
    pub call_timeout_ms: u64,
    /// When statements in several databases run in one order.
    pub branch_order: BranchOrder,
    /// Milliseconds a shutdown waits for open transactions.
    pub drain_ms: u64,
    /// Milliseconds after which a branch that nobody knows is an orphan.
    pub orphan_grace_ms: u64,
    /// Days that ended transactions and their keys are kept.
    pub retention_days: u64,
}

/// One configured resource.
#[derive(Clone, Debug)]
pub struct ResourceConfig {
    /// Where it is.
    pub url: String,
    /// Calls of one phase at once; the adapter's default if not set.
    pub calls_max: Option<usize>,
    /// In how few phases it can commit.
    pub phases: Phases,
    /// What it asks for, if it asks.
    pub password: Option<Password>,
    /// Files for TLS. They are read when the resource is made.
    pub tls: TlsFiles,
    /// What calls to a service are signed with.
    pub signing: Option<SigningSecret>,
}

/// The configuration cannot be followed: one line that names the key and what to do.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

/// What flags and environment set. Environment variables are read by whoever parses the flags.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `--listen`, `UNANIMOUS_LISTEN`.
    pub listen: Option<String>,
    /// `--data`, `UNANIMOUS_DATA`.
    pub data: Option<PathBuf>,
    /// `--journal`, `UNANIMOUS_JOURNAL`.
    pub journal: Option<String>,
    /// `UNANIMOUS_JOURNAL_PASSWORD`.
    pub journal_password: Option<String>,
    /// `UNANIMOUS_TOKEN`.
    pub token: Option<String>,
    /// `--node`, `UNANIMOUS_NODE`.
    pub node: Option<String>,
    /// `--node-address`, `UNANIMOUS_NODE_ADDRESS`.
    pub node_address: Option<String>,
}

/// The file `unanimous.toml`, as written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    listen: Option<String>,
    journal: Option<String>,
    journal_password_env: Option<String>,
    journal_password_file: Option<PathBuf>,
    cluster: Option<String>,
    token_env: Option<String>,
    token_file: Option<PathBuf>,
    #[serde(default)]
    limits: FileLimits,
    #[serde(default)]
    resources: BTreeMap<String, FileResource>,
    #[serde(default)]
    invariants: BTreeMap<String, FileInvariant>,
    #[serde(default)]
    sagas: Vec<FileSaga>,
    #[serde(default)]
    domains: BTreeMap<String, FileDomain>,
    #[serde(default)]
    node: FileNode,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileLimits {
    body_bytes_max: Option<usize>,
    open_max: Option<usize>,
    queue_max: Option<usize>,
    call_timeout_ms: Option<u64>,
    branch_order: Option<FileBranchOrder>,
    drain_ms: Option<u64>,
    orphan_grace_ms: Option<u64>,
    retention_days: Option<u64>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum FileBranchOrder {
    Contended,
    Always,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileResource {
    url: String,
    calls_max: Option<usize>,
    #[serde(default)]
    one_phase: bool,
    password_env: Option<String>,
    password_file: Option<PathBuf>,
    ca_file: Option<PathBuf>,
    client_cert_file: Option<PathBuf>,
    client_key_file: Option<PathBuf>,
    signing_secret_env: Option<String>,
    signing_secret_file: Option<PathBuf>,
}

/// Where the configuration is looked for if no flag names it.
pub const FILE_DEFAULT: &str = "unanimous.toml";

/// The journal's folder unless something else is set.
pub const DATA_DEFAULT: &str = "unanimous-data";

impl Config {
    /// Milliseconds for which ended transactions are kept.
    pub(crate) fn retention_ms(&self) -> u64 {
        self.limits.retention_days.saturating_mul(24 * 60 * 60 * 1_000)
    }

    /// Reads the file (the default one may be missing) and lays the overrides over it.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] with one line that names the key and what to do.
    pub fn load(file: Option<&Path>, overrides: Overrides) -> Result<Self, ConfigError> {
        let path = file.unwrap_or(Path::new(FILE_DEFAULT));
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && file.is_none() => {
                String::new()
            }
            Err(error) => return Err(wrong(format!("{}: {error}", path.display()))),
        };
        let env = |name: &str| std::env::var(name).ok();
        Self::parse(&text, path, overrides, &env)
    }

    /// The same, from the text of the file and an environment to look secrets up in.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] with one line that names the key and what to do.
    pub fn parse(
        text: &str,
        path: &Path,
        overrides: Overrides,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, ConfigError> {
        let file: File = toml::from_str(text).map_err(|error| unreadable(path, text, &error))?;
        let token = token(&file, overrides.token, env)?;
        let listen = overrides.listen.or(file.listen).unwrap_or_else(|| DEFAULT_LISTEN.to_owned());
        let listen = address(&listen)?;
        if !listen.ip().is_loopback() && token.is_none() {
            return Err(wrong(format!(
                "listen = \"{listen}\" can be reached from outside: set token_env or token_file, \
                 or listen on 127.0.0.1"
            )));
        }
        if let Some(cluster) = &file.cluster
            && !is_cluster_name(cluster)
        {
            return Err(wrong(format!(
                "cluster = {cluster:?}: use 1 to {} lower-case letters, digits and dashes",
                unanimous_core::limits::CLUSTER_LEN_MAX
            )));
        }
        let keys =
            PasswordKeys { variable: file.journal_password_env, file: file.journal_password_file };
        let password = keys.password(overrides.journal_password, env)?;
        let in_file = if overrides.data.is_none() { file.journal } else { None };
        let journal =
            JournalConfig::parse(overrides.data, overrides.journal.or(in_file), password)?;
        let resources = file.resources.into_iter();
        let resources = resources.map(|it| resource(it, env)).collect::<Result<_, _>>()?;
        let invariants = invariants(file.invariants, &resources)?;
        let node = node(file.node, overrides.node, overrides.node_address)?;
        let domains = domains(file.domains, &journal, env)?;
        Ok(Self {
            node,
            domains,
            listen,
            journal,
            cluster: file.cluster,
            token,
            resources,
            invariants,
            sagas: sagas(file.sagas)?,
            limits: limits(&file.limits)?,
        })
    }
}

impl Config {
    /// Adds a resource that needs nothing but its URL.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] if its name cannot be one, or is another's.
    pub fn add_resource(&mut self, name: String, url: String) -> Result<(), ConfigError> {
        let (name, config) =
            resource((name, FileResource { url, ..FileResource::default() }), &|_| None)?;
        match self.resources.insert(name.clone(), config) {
            None => Ok(()),
            Some(_) => Err(wrong(format!("resources.{name} is configured twice: remove one"))),
        }
    }
}

fn wrong(line: String) -> ConfigError {
    ConfigError(line)
}

fn unreadable(path: &Path, text: &str, error: &toml::de::Error) -> ConfigError {
    let line = error.span().map_or(1, |span| 1 + text[..span.start].matches('\n').count());
    wrong(format!("{}, line {line}: {}", path.display(), error.message().replace('\n', "; ")))
}

fn address(text: &str) -> Result<SocketAddr, ConfigError> {
    let mut found = text.to_socket_addrs().map_err(|error| {
        wrong(format!("listen = {text:?}: {error}; write it as 127.0.0.1:7070"))
    })?;
    found.next().ok_or_else(|| wrong(format!("listen = {text:?} names no address")))
}

fn token(
    file: &File,
    from_environment: Option<String>,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Option<Secret>, ConfigError> {
    let found = match (from_environment, &file.token_env, &file.token_file) {
        (_, Some(_), Some(_)) => {
            return Err(wrong("token_env and token_file are both set: remove one".into()));
        }
        (Some(token), _, _) => Some(token),
        (None, Some(name), None) => Some(env(name).ok_or_else(|| {
            wrong(format!("token_env = {name:?}, but that variable is not set: set it"))
        })?),
        (None, None, Some(path)) => Some(
            std::fs::read_to_string(path)
                .map_err(|error| wrong(format!("token_file = {:?}: {error}", path.display())))?,
        ),
        (None, None, None) => None,
    };
    match found.as_deref().map(str::trim) {
        Some("") => Err(wrong("the token is empty: set one, or remove its key".into())),
        Some(token) if !token.bytes().all(|byte| byte.is_ascii_graphic()) => {
            Err(wrong("the token has to be printable ASCII without spaces: use another".into()))
        }
        Some(token) => Ok(Some(Secret::new(token.to_owned()))),
        None => Ok(None),
    }
}

fn resource(
    (name, file): (String, FileResource),
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<(String, ResourceConfig), ConfigError> {
    if !is_name(&name) {
        return Err(wrong(format!(
            "resources.{name}: use 1 to {NAME_LEN_MAX} letters, digits, dashes, dots and underscores"
        )));
    }
    if let Some(calls_max) = file.calls_max {
        within(&format!("resources.{name}.calls_max"), calls_max as u64, CALLS_MAX)?;
    }
    let phases = if file.one_phase { Phases::One } else { Phases::Two };
    let keys = ("password", &file.password_env, &file.password_file);
    let password = secret(&name, keys, env)?.map(Password::new);
    let keys = ("signing_secret", &file.signing_secret_env, &file.signing_secret_file);
    let signing = secret(&name, keys, env)?.map(|text| SigningSecret::read(&text)).transpose();
    let signing =
        signing.map_err(|why| wrong(format!("resources.{name}: the signing secret: {why}")))?;
    let is_service = file.url.starts_with("http://") || file.url.starts_with("https://");
    if signing.is_some() && !is_service {
        return Err(wrong(format!(
            "resources.{name}.signing_secret: only calls to a service are signed: remove it"
        )));
    }
    let FileResource { url, calls_max, ca_file, client_cert_file, client_key_file, .. } = file;
    let tls = TlsFiles { ca_file, client_cert_file, client_key_file };
    Ok((name, ResourceConfig { url, calls_max, phases, password, tls, signing }))
}

/// A secret of a resource, from where its two keys say.
fn secret(
    name: &str,
    (key, variable, file): (&str, &Option<String>, &Option<PathBuf>),
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Option<String>, ConfigError> {
    let secret = match (variable, file) {
        (None, None) => return Ok(None),
        (Some(_), Some(_)) => {
            return Err(wrong(format!(
                "resources.{name}: {key}_env and {key}_file are both set: remove one"
            )));
        }
        (Some(variable), None) => env(variable).ok_or_else(|| {
            wrong(format!(
                "resources.{name}.{key}_env = {variable:?}, but that variable is not set: set it"
            ))
        })?,
        (None, Some(path)) => {
            let text = std::fs::read_to_string(path).map_err(|error| {
                wrong(format!("resources.{name}.{key}_file = {:?}: {error}", path.display()))
            })?;
            text.trim_end_matches(['\r', '\n']).to_owned()
        }
    };
    match secret.is_empty() {
        true => {
            let word = key.replace('_', " ");
            Err(wrong(format!("resources.{name}: the {word} is empty: set one")))
        }
        false => Ok(Some(secret)),
    }
}

/// Whether `name` may name a resource or a participant.
pub fn is_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (1..=NAME_LEN_MAX).contains(&name.len()) && name.bytes().all(allowed)
}

fn limits(file: &FileLimits) -> Result<Limits, ConfigError> {
    let limits = Limits {
        body_bytes_max: file.body_bytes_max.unwrap_or(BODY_BYTES_MAX_DEFAULT),
        open_max: file.open_max.unwrap_or(OPEN_MAX_DEFAULT),
        queue_max: file.queue_max.unwrap_or(QUEUE_MAX_DEFAULT),
        call_timeout_ms: file.call_timeout_ms.unwrap_or(CALL_TIMEOUT_MS_DEFAULT),
        branch_order: match file.branch_order {
            None | Some(FileBranchOrder::Contended) => BranchOrder::Contended,
            Some(FileBranchOrder::Always) => BranchOrder::Always,
        },
        drain_ms: file.drain_ms.unwrap_or(DRAIN_MS_DEFAULT),
        orphan_grace_ms: file.orphan_grace_ms.unwrap_or(ORPHAN_GRACE_MS_DEFAULT),
        retention_days: file.retention_days.unwrap_or(RETENTION_DAYS_DEFAULT),
    };
    for (key, value, most) in [
        ("body_bytes_max", limits.body_bytes_max as u64, BODY_BYTES_MAX as u64),
        ("open_max", limits.open_max as u64, OPEN_MAX as u64),
        ("queue_max", limits.queue_max as u64, OPEN_MAX as u64),
        ("call_timeout_ms", limits.call_timeout_ms, TIMEOUT_MS_MAX),
        ("drain_ms", limits.drain_ms.max(1), TIMEOUT_MS_MAX),
        ("orphan_grace_ms", limits.orphan_grace_ms, TIMEOUT_MS_MAX),
        ("retention_days", limits.retention_days, RETENTION_DAYS_MAX),
    ] {
        within(&format!("limits.{key}"), value, most)?;
    }
    Ok(limits)
}

fn within(key: &str, value: u64, most: u64) -> Result<(), ConfigError> {
    match (1..=most).contains(&value) {
        true => Ok(()),
        false => Err(wrong(format!("{key} is {value}: choose from 1 to {most}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        let env = |name: &str| match name {
            "SET" => Some("s3cret".to_owned()),
            "EMPTY" => Some(" ".to_owned()),
            "SPACED" => Some("open sesame".to_owned()),
            _ => None,
        };
        Config::parse(text, Path::new("unanimous.toml"), Overrides::default(), &env)
            .map_err(|error| error.0)
    }

    #[test]
    fn nothing_has_to_be_configured() {
        let config = parse("").expect("defaults");
        assert_eq!(config.listen.to_string(), DEFAULT_LISTEN);
        assert_eq!(config.journal.folder(), Some(Path::new(DATA_DEFAULT)));
    }

    #[test]
    fn flags_win_over_the_file() {
        let overrides = Overrides { listen: Some("127.0.0.1:1".into()), ..Overrides::default() };
        let text = "listen = '127.0.0.1:2'\njournal = 'file:there'";
        let config = Config::parse(text, Path::new("f"), overrides, &|_| None).expect("valid");
        assert_eq!((config.listen.port(), config.journal.folder()), (1, Some(Path::new("there"))));
    }

    #[test]
    fn every_mistake_gets_one_line_that_names_the_key() {
        for (text, named) in [
            ("lissten = 'x'", "lissten"),
            ("listen = 7070", "line 1"),
            ("\n\n[limits]\nopen_max = 'many'", "line 4"),
            ("listen = '0.0.0.0:7070'", "token_env"),
            ("listen = 'nowhere'", "listen"),
            ("token_env = 'UNSET'", "UNSET"),
            ("token_env = 'SET'\ntoken_file = 'x'", "remove one"),
            ("token_file = '/nonexistent/token'", "/nonexistent/token"),
            ("journal = 'mysql://u:s3cret@x'", "postgres://user@host"),
            ("journal = 'postgres:x'\njournal_password_env = 'UNSET'", "UNSET"),
            ("journal_password_env = 'SET'\njournal_password_file = 'x'", "remove one"),
            ("journal_password_file = '/nonexistent/p'", "/nonexistent/p"),
            ("cluster = 'Main!'", "cluster"),
            ("[limits]\nopen_max = 0", "limits.open_max"),
            ("[limits]\nbranch_order = 'any'", "contended"),
            ("[resources.a]\nurl = 'http://x'\npassword = 'p'", "password"),
            ("[resources.\"a b\"]\nurl = 'http://x'", "resources.a b"),
            ("[resources.a]\nurl = 'http://x'\ncalls_max = 0", "calls_max"),
            ("[resources.a]\nurl = 'http://x'\ncalls_max = 100_001", "1 to 100000"),
            ("[resources.a]\nurl = 'http://x'\none_phase = 1", "line 3"),
            ("[resources.a]", "url"),
            ("[resources]\na = 'http://x'", "line 2"),
            ("listen = ''", "listen"),
            ("listen = '127.0.0.1'", "127.0.0.1:7070"),
            ("listen = '127.0.0.1:70700'", "listen"),
            ("listen = '[::]:7070'", "token_env"),
            ("listen = 'x", "line 1"),
            ("listen = 'a'\nlisten = 'b'", "line 2"),
            ("token = 'x'", "token"),
            ("token_env = 'EMPTY'", "empty"),
            ("token_env = 'SPACED'", "printable"),
            ("journal = 'file:'", "file:FOLDER"),
            ("journal = 'here'", "file:FOLDER"),
            ("cluster = ''", "cluster"),
            ("cluster = 'a23456789012345678901'", "1 to 20"),
            ("[limits]\nbody_bytes_max = 0", "limits.body_bytes_max"),
            ("[limits]\nbody_bytes_max = 1_000_000_000", "limits.body_bytes_max"),
            ("[limits]\nqueue_max = 0", "limits.queue_max"),
            ("[limits]\ncall_timeout_ms = 0", "limits.call_timeout_ms"),
            ("[limits]\ncall_timeout_ms = -1", "line 2"),
            ("[limits]\nretention_days = 0", "limits.retention_days"),
            ("[limits]\nretention_days = 9_000_000_000_000_000_000", "1 to 36500"),
            ("[limits]\nretention = 7", "retention"),
            ("[resources.a]\nurl = 'postgres://u@h'\npassword_env = 'UNSET'", "UNSET"),
            ("[resources.a]\nurl = 'x'\npassword_env = 'SET'\npassword_file = 'f'", "remove one"),
            ("[resources.a]\nurl = 'x'\npassword_file = '/nonexistent/p'", "/nonexistent/p"),
        ] {
            let line = parse(text).expect_err(text);
            assert!(line.contains(named), "{text}: {line}");
            assert!(!line.contains('\n'), "{line}");
        }
    }

    #[test]
    fn the_environment_wins_over_the_file() {
        let env = |_: &str| Some("of-the-file".to_owned());
        let parse = |text: &str, overrides| Config::parse(text, Path::new("f"), overrides, &env);
        let overrides =
            Overrides { token: Some("of-the-environment".into()), ..Overrides::default() };
        let config = parse("token_env = 'X'", overrides).expect("valid");
        assert!(config.token.expect("set").is("of-the-environment"));
        let overrides = Overrides { data: Some("there".into()), ..Overrides::default() };
        let config = parse("journal = 'file:here'", overrides).expect("valid");
        assert_eq!(config.journal.folder(), Some(Path::new("there")));
    }

    #[test]
    fn files_for_tls_are_kept_for_who_makes_the_resource() {
        let text = "[resources.a]\nurl = 'https://h'\nca_file = 'ca.pem'\n\
                    client_cert_file = 'c.pem'\nclient_key_file = 'k.pem'";
        let files = TlsFiles {
            ca_file: Some("ca.pem".into()),
            client_cert_file: Some("c.pem".into()),
            client_key_file: Some("k.pem".into()),
        };
        assert_eq!(parse(text).expect("valid").resources["a"].tls, files);
    }

    #[test]
    fn two_places_for_the_journal_are_one_too_many() {
        let data = Some("here".into());
        let overrides =
            Overrides { data, journal: Some("file:there".into()), ..Overrides::default() };
        let line = Config::parse("", Path::new("f"), overrides, &|_| None).expect_err("two").0;
        assert!(line.contains("here") && line.contains("file:there"), "{line}");
    }

    #[test]
    fn a_token_file_may_end_with_a_line_break() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("token");
        std::fs::write(&path, "s3cret\n").expect("it is written");
        let config = parse(&format!("token_file = '{}'", path.display())).expect("valid");
        assert!(config.token.expect("set").is("s3cret"));
    }

    #[test]
    fn a_file_that_was_named_has_to_be_there() {
        let line = Config::load(Some(Path::new("nowhere/unanimous.toml")), Overrides::default());
        assert!(line.expect_err("missing").0.contains("nowhere/unanimous.toml"));
    }

    #[test]
    fn a_secret_is_compared_whole_and_never_shown() {
        let config = parse("token_env = 'SET'\nlisten = '0.0.0.0:1'").expect("valid");
        let token = config.token.clone().expect("set");
        assert!(token.is("s3cret") && !token.is("s3cre") && !token.is("s3creT"));
        assert!(!format!("{config:?}").contains("s3cret"));
        let text = "[resources.a]\nurl = 'postgres://u@h'\npassword_env = 'SET'";
        let config = parse(text).expect("valid");
        let password = config.resources["a"].password.as_ref().expect("set");
        assert_eq!(password.reveal(), "s3cret");
        assert!(!format!("{config:?}").contains("s3cret"));
    }
}
