//! Where the members are: `etcd://user@host1:2379,host2:2379/prefix?tls=on`.
//!
//! A password is never in it. Every member may be named, or some: whichever answers is used.

use super::limits::ENDED_MAX;
use crate::remote::tls::{Named, TlsFiles};

/// The port of a member unless the URL names one.
const PORT: u16 = 2_379;

/// The prefix of all keys unless the URL names one.
const PREFIX: &str = "unanimous";

/// Where and as whom to connect, and what to keep.
#[derive(Clone, Debug)]
pub(super) struct Address {
    pub(super) members: Vec<Member>,
    pub(super) user: Option<String>,
    pub(super) prefix: String,
    pub(super) tls: Option<TlsFiles>,
    /// Ended transactions that are kept at most.
    pub(super) ended_max: u64,
    pub(super) compaction: Compaction,
    /// The same for people.
    pub(super) shown: String,
}

/// One server.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Member {
    pub(super) host: String,
    pub(super) port: u16,
}

/// Who has etcd give up old revisions.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Compaction {
    /// The owner of the journal.
    Ours,
    /// Somebody else.
    NotOurs,
}

impl Address {
    /// # Errors
    ///
    /// What is wrong with the URL, for the one who wrote it.
    pub(super) fn parse(url: &str) -> Result<Self, String> {
        let (plain, params) = url.split_once('?').unwrap_or((url, ""));
        let rest = plain.strip_prefix("etcd://").ok_or("its url does not begin with etcd://")?;
        let (authority, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, hosts) = match authority.rsplit_once('@') {
            Some((user, hosts)) => (Some(user.to_owned()), hosts),
            None => (None, authority),
        };
        if user.as_ref().is_some_and(|user| user.contains(':')) {
            return Err("its url must not carry a password: set UNANIMOUS_JOURNAL_PASSWORD, or \
                        journal_password_env or journal_password_file in the configuration"
                .to_owned());
        }
        if user.as_ref().is_some_and(String::is_empty) {
            return Err("its url names an empty user: leave out the @".to_owned());
        }
        let members = hosts.split(',').map(Member::parse).collect::<Result<Vec<_>, _>>()?;
        let prefix = prefix.trim_matches('/');
        let prefix = if prefix.is_empty() { PREFIX } else { prefix };
        let allowed = |it: char| it.is_ascii_alphanumeric() || "-_./".contains(it);
        if !prefix.chars().all(allowed) || prefix.len() > 128 {
            return Err(format!(
                "prefix {prefix:?} in its url: use up to 128 letters, digits, and - _ . /"
            ));
        }
        let shown = format!(
            "etcd://{}{}",
            user.as_ref().map(|user| format!("{user}@")).unwrap_or_default(),
            members.iter().map(Member::shown).collect::<Vec<_>>().join(",")
        );
        let address = Self {
            members,
            user,
            prefix: prefix.to_owned(),
            tls: None,
            ended_max: ENDED_MAX,
            compaction: Compaction::Ours,
            shown,
        };
        address.with(params)
    }

    /// The same with what the parameters say.
    fn with(mut self, params: &str) -> Result<Self, String> {
        let mut tls = None;
        let mut named = Named::default();
        for param in params.split('&').filter(|param| !param.is_empty()) {
            let (name, value) = param
                .split_once('=')
                .filter(|(_, value)| !value.is_empty())
                .ok_or_else(|| format!("its url has a parameter without a value: {param:?}"))?;
            if named.take(name, value) {
                continue;
            }
            match (name, value) {
                ("tls", "on") => tls = Some(()),
                ("tls", "off") => tls = None,
                ("compact", "on") => self.compaction = Compaction::Ours,
                ("compact", "off") => self.compaction = Compaction::NotOurs,
                ("tls" | "compact", _) => {
                    return Err(format!(
                        "{name}={value} in its url: write {name}=on or {name}=off"
                    ));
                }
                ("ended_max", _) => {
                    self.ended_max = value.parse().ok().filter(|&it| it > 0).ok_or_else(|| {
                        format!("ended_max={value} in its url: write a number above 0")
                    })?;
                }
                (_, _) => {
                    return Err(format!(
                        "its url has an unknown parameter {name:?}; known: tls, ca_file, \
                         client_cert_file, client_key_file, ended_max, compact"
                    ));
                }
            }
        }
        let files = named.files()?;
        if tls.is_none() && files != TlsFiles::default() {
            return Err("its url names files for tls without asking for it: add tls=on".to_owned());
        }
        self.tls = tls.map(|()| files);
        Ok(self)
    }
}

impl Member {
    fn parse(text: &str) -> Result<Self, String> {
        let (host, port) = match text.rsplit_once(':') {
            // In the middle of an address of IPv6 there is no port.
            Some((host, port)) if !port.contains(']') => (host, Some(port)),
            Some(_) | None => (text, None),
        };
        let port = match port.map(str::parse) {
            None => PORT,
            Some(Ok(port)) => port,
            Some(Err(_)) => return Err(format!("its url names no port after {host:?}")),
        };
        let fits = |it: char| it.is_ascii_alphanumeric() || "-_.[]:".contains(it);
        match !host.is_empty() && host.chars().all(fits) {
            true => Ok(Self { host: host.to_owned(), port }),
            false => Err(format!(
                "its url names no host in {text:?}; write it as etcd://host1:2379,host2:2379"
            )),
        }
    }

    /// For people, and as etcd itself has it.
    pub(super) fn shown(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_members_user_prefix_and_what_to_keep() {
        let url = "etcd://app@one:1,two,[::1],[::2]:4/teams/una?tls=on&ca_file=/ca.pem\
                   &ended_max=1000&compact=off";
        let address = Address::parse(url).expect("a good url");
        assert_eq!(address.shown, "etcd://app@one:1,two:2379,[::1]:2379,[::2]:4");
        assert_eq!((&*address.prefix, address.user.as_deref()), ("teams/una", Some("app")));
        let files = TlsFiles { ca_file: Some("/ca.pem".into()), client: None };
        assert_eq!((address.tls, address.ended_max), (Some(files), 1_000));
        assert_eq!(address.compaction, Compaction::NotOurs);
        let least = Address::parse("etcd://db/").expect("a good url");
        assert_eq!((&*least.shown, &*least.prefix), ("etcd://db:2379", "unanimous"));
        assert_eq!((least.tls, least.user, least.ended_max), (None, None, ENDED_MAX));
        assert_eq!(least.compaction, Compaction::Ours);
    }

    #[test]
    fn what_cannot_be_followed_is_named_and_no_password_is_repeated() {
        for (url, named) in [
            ("http://db", "etcd://"),
            ("etcd://", "no host"),
            ("etcd://a,,b", "no host"),
            ("etcd://a:secret@db", "UNANIMOUS_JOURNAL_PASSWORD"),
            ("etcd://@db", "empty user"),
            ("etcd://db:port", "no port"),
            ("etcd://db/a b", "prefix"),
            ("etcd://db?tls=maybe", "tls=on or tls=off"),
            ("etcd://db?tls", "without a value"),
            ("etcd://db?ca_file=x", "add tls=on"),
            ("etcd://db?tls=on&client_key_file=x", "name both"),
            ("etcd://db?ended_max=0", "above 0"),
            ("etcd://db?nonsense=1", "nonsense"),
        ] {
            let why = Address::parse(url).expect_err(url);
            assert!(why.contains(named) && !why.contains("secret"), "{url}: {why}");
            assert!(!why.contains('\n'), "{why}");
        }
    }
}
