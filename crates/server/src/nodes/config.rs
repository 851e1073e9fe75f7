//! What a node is called, and where the others find it.

use axum::http::Uri;
use serde::Deserialize;
use unanimous_core::limits::NAME_LEN_MAX;

use crate::config::ConfigError;

/// What this process is called among those that share its journal.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct NodeConfig {
    /// Its name; machine and port if it is not set.
    pub name: Option<String>,
    /// Where the other nodes find it, as `http://host:port`; where it listens if it is not set.
    pub address: Option<String>,
}

/// `[node]`, as written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FileNode {
    name: Option<String>,
    address: Option<String>,
}

/// Flags and environment before the file.
pub(crate) fn node(
    file: FileNode,
    name: Option<String>,
    address: Option<String>,
) -> Result<NodeConfig, ConfigError> {
    let name = name.or(file.name);
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
    if let Some(name) = &name
        && (name.is_empty() || name.len() > NAME_LEN_MAX || !name.bytes().all(is_plain))
    {
        return Err(ConfigError(format!(
            "[node] name = {name:?}: use 1 to {NAME_LEN_MAX} letters, digits, dashes, dots, colons \
             and underscores"
        )));
    }
    let address = address.or(file.address).map(|address| {
        let uri = address.trim_end_matches('/').parse::<Uri>().ok();
        let uri = uri.filter(|uri| uri.scheme_str() == Some("http") && uri.path() == "/");
        uri.and_then(|uri| Some(format!("http://{}", uri.authority()?))).ok_or_else(|| {
            ConfigError(format!("[node] address = {address:?}: write it as http://host:7070"))
        })
    });
    Ok(NodeConfig { name, address: address.transpose()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, address: &str) -> Result<NodeConfig, String> {
        let (name, address) = (Some(name.to_owned()), Some(address.to_owned()));
        node(FileNode::default(), name, address).map_err(|ConfigError(line)| line)
    }

    #[test]
    fn a_name_is_plain_and_an_address_is_one_of_http() {
        let config = read("db-1:7070", "http://10.0.0.1:7070/").expect("it is well");
        assert_eq!(config.name.as_deref(), Some("db-1:7070"));
        assert_eq!(config.address.as_deref(), Some("http://10.0.0.1:7070"));
        for name in ["", "a b", "ä", &"x".repeat(NAME_LEN_MAX + 1)] {
            assert!(read(name, "http://a").is_err(), "{name:?}");
        }
        for address in ["", "a:1", "https://a:1", "http://a:1/x", "http://"] {
            let error = read("a", address).expect_err(address);
            assert!(error.starts_with("[node] address"), "{error}");
        }
    }
}
