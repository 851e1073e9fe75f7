//! Domains of the business: parts of the transactions that have partitions, and perhaps a journal, of
//! their own.
//!
//! # Invariants
//!
//! 1. A partition is in one journal. Which one is the configuration's to say, and the main journal's to
//!    remember: whoever is configured otherwise does not start.
//! 2. Every node that is alive has the same domains, so that a key means one shard.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;
use unanimous_core::id::ShardId;

use super::partition::{PARTITIONS, Partition};
use crate::config::{ConfigError, is_name};
use crate::driver::hash_of_key;
use crate::journal::{JournalConfig, PasswordKeys};

/// The domains of the business, by name.
#[derive(Clone, Debug, Default)]
pub struct Domains(BTreeMap<String, Domain>);

/// One of them.
#[derive(Clone, Debug)]
struct Domain {
    partitions: Vec<Partition>,
    journal: Option<JournalConfig>,
}

/// `[domains.payments]`, as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FileDomain {
    partitions: Vec<u8>,
    journal: Option<String>,
    journal_password_env: Option<String>,
    journal_password_file: Option<PathBuf>,
}

/// What `[domains]` says, on a journal that several nodes can share.
///
/// # Errors
///
/// One line that names the key and what to do.
pub(crate) fn domains(
    file: BTreeMap<String, FileDomain>,
    main: &JournalConfig,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Domains, ConfigError> {
    if let Some(name) = file.keys().next().filter(|_| !main.is_shared()) {
        return Err(ConfigError(format!(
            "domains.{name}: a journal in a folder has no parts: set journal to one in PostgreSQL or \
             etcd, or remove [domains]"
        )));
    }
    let mut domains = Domains::default();
    for (name, file) in file {
        if !is_name(&name) {
            return Err(ConfigError(format!(
                "domains.{name}: use letters, digits, dashes, dots and underscores"
            )));
        }
        let domain = domain(&name, file, &domains, env)?;
        domains.0.insert(name, domain);
    }
    if !domains.0.is_empty() && domains.partitions(None).is_none_or(|rest| rest.is_empty()) {
        return Err(ConfigError(format!(
            "[domains] have all {PARTITIONS} partitions: leave one to transactions of no domain"
        )));
    }
    Ok(domains)
}

fn domain(
    name: &str,
    file: FileDomain,
    others: &Domains,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Domain, ConfigError> {
    let key = format!("domains.{name}.partitions");
    let mut partitions = Vec::new();
    for number in file.partitions {
        let partition =
            Partition::try_from(number).map_err(|why| ConfigError(format!("{key}: {why}")))?;
        let taken = others.of(partition).map(|(other, _)| other);
        if partitions.contains(&partition) || taken.is_some() {
            let by = taken.map_or("it", |other| other);
            return Err(ConfigError(format!("{key}: {by} has {number} already: remove one")));
        }
        partitions.push(partition);
    }
    if partitions.is_empty() {
        return Err(ConfigError(format!("{key}: name at least one of 0 to {}", PARTITIONS - 1)));
    }
    partitions.sort_unstable();
    let keys =
        PasswordKeys { variable: file.journal_password_env, file: file.journal_password_file };
    let within = |ConfigError(line)| ConfigError(format!("domains.{name}: {line}"));
    let password = keys.password(None, env).map_err(within)?;
    let journal = match file.journal {
        None => None,
        Some(url) => {
            let journal = JournalConfig::parse(None, Some(url), password).map_err(within)?;
            if !journal.is_shared() {
                return Err(ConfigError(format!(
                    "domains.{name}.journal: nodes cannot share a folder: name one in PostgreSQL or \
                     etcd"
                )));
            }
            Some(journal)
        }
    };
    Ok(Domain { partitions, journal })
}

impl Domains {
    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Their names.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(|name| &**name)
    }

    /// The partitions of a domain, or of what is of none; `None` if there is no such domain.
    pub(crate) fn partitions(&self, domain: Option<&str>) -> Option<Vec<Partition>> {
        match domain {
            Some(name) => self.0.get(name).map(|domain| domain.partitions.clone()),
            None => Some(Partition::all().filter(|&it| self.of(it).is_none()).collect()),
        }
    }

    /// The shard in which a key of a domain is looked for; `None` if there is no such domain.
    pub(crate) fn shard_of_key(&self, domain: Option<&str>, key: &str) -> Option<ShardId> {
        let shards: Vec<ShardId> =
            self.partitions(domain)?.into_iter().flat_map(Partition::shards).collect();
        let place = hash_of_key(key) % shards.len() as u64;
        Some(shards[place as usize])
    }

    /// The journal of a partition, if that is not the main one.
    pub(crate) fn journal_of(&self, partition: Partition) -> Option<&JournalConfig> {
        self.of(partition).and_then(|(_, domain)| domain.journal.as_ref())
    }

    /// Those with a journal of their own: name, partitions and journal.
    pub(crate) fn apart(&self) -> impl Iterator<Item = (&str, &[Partition], &JournalConfig)> {
        self.0.iter().filter_map(|(name, domain)| {
            Some((&**name, &*domain.partitions, domain.journal.as_ref()?))
        })
    }

    /// Partitions that share a journal; the main one's first.
    pub(crate) fn by_journal(&self) -> Vec<Vec<Partition>> {
        let main = Partition::all().filter(|&it| self.journal_of(it).is_none()).collect();
        let apart = self.apart().map(|(_, partitions, _)| partitions.to_vec());
        std::iter::once(main).chain(apart).collect()
    }

    /// What has to be the same at every node: `payments 6 7 apart`.
    pub(crate) fn layout(&self) -> String {
        let lines = self.0.iter().map(|(name, Domain { partitions, journal })| {
            let numbers: Vec<String> = partitions.iter().map(Partition::to_string).collect();
            let apart = if journal.is_some() { " apart" } else { "" };
            format!("{name} {}{apart}", numbers.join(" "))
        });
        lines.collect::<Vec<_>>().join(", ")
    }

    fn of(&self, partition: Partition) -> Option<(&str, &Domain)> {
        let found = self.0.iter().find(|(_, domain)| domain.partitions.contains(&partition));
        found.map(|(name, domain)| (&**name, domain))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Domains, String> {
        let main = "postgres://u@h/main".to_owned();
        let main = JournalConfig::parse(None, Some(main), None).expect("it is one");
        let file = toml::from_str(text).map_err(|error| error.to_string())?;
        domains(file, &main, &|_| None).map_err(|ConfigError(line)| line)
    }

    const TWO: &str = "[payments]\npartitions = [7, 6]\njournal = 'postgres://u@h/payments'\n\
                       [orders]\npartitions = [5]";

    #[test]
    fn each_partition_is_of_one_domain_and_in_one_journal() {
        let domains = read(TWO).expect("it is well");
        let numbers = |domain| -> Option<Vec<u8>> {
            Some(domains.partitions(domain)?.into_iter().map(Partition::number).collect())
        };
        assert_eq!(numbers(Some("payments")), Some(vec![6, 7]));
        assert_eq!(numbers(Some("orders")), Some(vec![5]));
        assert_eq!(numbers(None), Some(vec![0, 1, 2, 3, 4]));
        assert_eq!(numbers(Some("nobody")), None);
        let [five, six] = [5, 6].map(|it| Partition::try_from(it).expect("one of them"));
        assert!(domains.journal_of(six).is_some() && domains.journal_of(five).is_none());
        assert_eq!(domains.by_journal().iter().map(Vec::len).collect::<Vec<_>>(), [6, 2]);
        assert_eq!(domains.layout(), "orders 5, payments 6 7 apart");
    }

    #[test]
    fn a_key_is_looked_for_within_its_domain_and_without_domains_where_it_always_was() {
        let (domains, none) = (read(TWO).expect("it is well"), Domains::default());
        for number in 0..1_000 {
            let key = format!("order-{number}");
            for domain in [None, Some("payments"), Some("orders")] {
                let shard = domains.shard_of_key(domain, &key).expect("it is there");
                let partitions = domains.partitions(domain).expect("it is there");
                assert!(partitions.contains(&Partition::of(shard)));
            }
            assert_eq!(none.shard_of_key(None, &key), Some(ShardId::of(hash_of_key(&key))));
            assert_eq!(domains.shard_of_key(Some("nobody"), &key), None);
        }
    }

    #[test]
    fn what_cannot_be_is_said_with_its_key() {
        for (text, said) in [
            ("[a]\npartitions = []", "domains.a.partitions: name at least one of 0 to 7"),
            ("[a]\npartitions = [8]", "domains.a.partitions: 8 is no partition"),
            ("[a]\npartitions = [1, 1]", "domains.a.partitions: it has 1 already"),
            ("[a]\npartitions = [1]\n[b]\npartitions = [1]", "b.partitions: a has 1 already"),
            ("[a]\npartitions = [0,1,2,3,4,5,6,7]", "have all 8 partitions: leave one"),
            ("['a b']\npartitions = [1]", "domains.a b: use letters"),
            ("[a]\npartitions = [1]\njournal = 'file:x'", "a.journal: nodes cannot share a folder"),
            ("[a]\npartitions = [1]\njournal = 'x'", "domains.a: journal = \"x\": write it as"),
            (
                "[a]\npartitions = [1]\njournal_password_env = 'NO'",
                "domains.a: journal_password_env",
            ),
            ("[a]\npartition = [1]", "unknown field"),
        ] {
            let line = read(text).expect_err(text);
            assert!(line.contains(said), "{text}: {line}");
        }
        let folder = JournalConfig::Folder("x".into());
        let file = toml::from_str("[a]\npartitions = [1]").expect("it reads");
        let ConfigError(line) = domains(file, &folder, &|_| None).expect_err("no parts");
        assert!(line.starts_with("domains.a: a journal in a folder has no parts"), "{line}");
    }
}
