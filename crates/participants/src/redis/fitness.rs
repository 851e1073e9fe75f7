//! Whether a server's settings let it keep a promise: for the vote, and for `unanimous doctor`.
//!
//! A vote is against whatever `doctor` calls unfit, in the same words.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use unanimous_core::Reason;

use super::address::{Address, Durability};
use super::library;
use super::login;
use super::resp::{Broken, Connection, Refused, Reply};
use crate::Finding;
use crate::finding::Fitness;
use crate::limits::{CLOCK_DIFFERENCE_MAX, PREPARED_SHOWN_MAX, PREPARED_YOUNG};

/// What a server tells of itself.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Facts {
    /// Whether it still reads its data, and shows its append-only file as switched off meanwhile.
    pub(super) loading: bool,
    version: String,
    role: String,
    aof: bool,
    /// When the append-only file is synced; an error if the user may not see it.
    synced: Result<Synced, String>,
    memory_max: u64,
    eviction: String,
    cluster: bool,
    replicas: u64,
}

#[derive(Clone, Debug, Eq, PartialEq)]
struct Synced {
    /// `always`, `everysec` or `no`.
    appendfsync: String,
    /// `yes` if not even `always` is done while the file is rewritten.
    not_on_rewrite: String,
}

impl Facts {
    /// Reads what `INFO` and `CONFIG GET` replied.
    pub(super) fn read(info: &str, synced: Result<Reply, Refused>) -> Self {
        let field = |name: &str| {
            let mut lines = info.lines().filter_map(|line| line.split_once(':'));
            lines.find(|(found, _)| *found == name).map_or("", |(_, value)| value.trim())
        };
        let number = |name: &str| field(name).parse().unwrap_or(0);
        let synced = synced.map_err(|refused| refused.0).map(|reply| {
            let texts = reply.texts();
            let setting = |name: &str| {
                let mut pairs = texts.chunks_exact(2);
                pairs.find(|pair| pair[0] == name).map(|pair| pair[1].clone()).unwrap_or_default()
            };
            Synced {
                appendfsync: setting("appendfsync"),
                not_on_rewrite: setting("no-appendfsync-on-rewrite"),
            }
        });
        Self {
            loading: field("loading") == "1",
            version: field("redis_version").to_owned(),
            role: field("role").to_owned(),
            aof: field("aof_enabled") == "1",
            synced,
            memory_max: number("maxmemory"),
            eviction: field("maxmemory_policy").to_owned(),
            cluster: field("cluster_enabled") == "1",
            replicas: number("connected_slaves"),
        }
    }

    /// Why the server must not vote.
    pub(super) fn unfit(&self, address: &Address) -> Option<Reason> {
        let findings = self.findings(address);
        let unfit = findings.into_iter().find(|it| it.fitness == Fitness::Unfit)?;
        let kind = match unfit.subject {
            "redis_version" => "unsupported",
            "role" => "read_only_resource",
            "cluster_enabled" => "configuration",
            _ => "not_durable",
        };
        Some(Reason::new(kind, &unfit.detail))
    }

    fn findings(&self, address: &Address) -> Vec<Finding> {
        let mut findings =
            vec![self.version(), self.role(), self.aof(address), self.synced(address)];
        findings.extend([self.eviction(), self.cluster(address)]);
        if self.replicas > 0 {
            findings.push(Finding::doubtful(
                "connected_slaves",
                format!(
                    "{} replicas: Redis answers before they have a write, so a failover can lose \
                     prepared branches and committed work; nothing but not failing over by itself \
                     helps",
                    self.replicas
                ),
            ));
        }
        findings
    }

    fn version(&self) -> Finding {
        let major = self.version.split('.').next().and_then(|major| major.parse::<u32>().ok());
        match major {
            Some(7..) => Finding::fit("redis_version", format!("Redis {}", self.version)),
            Some(_) | None => Finding::unfit(
                "redis_version",
                format!("Redis {:?}: use 7 or later, which has functions", self.version),
            ),
        }
    }

    fn role(&self) -> Finding {
        match &*self.role {
            "master" => Finding::fit("role", "master"),
            role => Finding::unfit(
                "role",
                format!("the server is a {role}: name the master in the resource's url"),
            ),
        }
    }

    fn aof(&self, address: &Address) -> Finding {
        match (self.aof, address.durability) {
            (true, _) => Finding::fit("appendonly", "appendonly yes"),
            (false, Durability::Strict) => Finding::unfit(
                "appendonly",
                "appendonly is no, so a crash of the server loses what it has promised: set \
                 appendonly yes and appendfsync always",
            ),
            (false, Durability::Weak) => Finding::doubtful(
                "appendonly",
                "appendonly is no: a crash of the server loses prepared branches and committed work",
            ),
        }
    }

    fn synced(&self, address: &Address) -> Finding {
        const SUBJECT: &str = "appendfsync";
        let seen = match &self.synced {
            Ok(synced) if synced.appendfsync != "always" => {
                format!("appendfsync is {}", synced.appendfsync)
            }
            Ok(synced) if synced.not_on_rewrite == "yes" => {
                "no-appendfsync-on-rewrite is yes".to_owned()
            }
            Ok(_) => return Finding::fit(SUBJECT, "appendfsync always"),
            Err(why) => format!("appendfsync cannot be seen ({why})"),
        };
        match (address.durability, self.synced.is_ok()) {
            (Durability::Strict, true) => Finding::unfit(
                SUBJECT,
                format!(
                    "{seen}, so a crash of the server may lose what it has promised: set \
                     appendfsync always and no-appendfsync-on-rewrite no, or durability=weak in the \
                     resource's url"
                ),
            ),
            (Durability::Strict, false) => Finding::unfit(
                SUBJECT,
                format!(
                    "{seen}: give the user the right +config|get, or set durability=weak in the \
                     resource's url"
                ),
            ),
            (Durability::Weak, _) => Finding::doubtful(
                SUBJECT,
                format!(
                    "{seen}: a crash of the server may lose prepared branches and committed work"
                ),
            ),
        }
    }

    fn eviction(&self) -> Finding {
        const SUBJECT: &str = "maxmemory-policy";
        match (self.memory_max, &*self.eviction) {
            (0, _) => Finding::fit(SUBJECT, "no maxmemory"),
            (_, "noeviction") => Finding::fit(SUBJECT, "noeviction"),
            (_, policy) => Finding::unfit(
                SUBJECT,
                format!(
                    "maxmemory-policy is {policy}, so that prepared branches can be thrown away: set \
                     maxmemory-policy noeviction"
                ),
            ),
        }
    }

    fn cluster(&self, address: &Address) -> Finding {
        const SUBJECT: &str = "cluster_enabled";
        match (self.cluster, &address.tag) {
            (false, _) => Finding::fit(SUBJECT, "no cluster"),
            (true, Some(tag)) => Finding::fit(SUBJECT, format!("cluster with the tag {{{tag}}}")),
            (true, None) => Finding::unfit(
                SUBJECT,
                "the server is part of a cluster: set tag=… in the resource's url, and use only keys \
                 with this hash tag",
            ),
        }
    }
}

pub(super) async fn examine(address: &Address) -> Vec<Finding> {
    let (mut connection, facts) = match login::look(address).await {
        Ok(looked) => looked,
        Err(why) => return vec![Finding::unfit("connection", why.to_string())],
    };
    let mut findings = facts.findings(address);
    match further(&mut connection, address).await {
        Ok(more) => findings.extend(more),
        Err(Broken(seen)) => findings.push(Finding::unfit("connection", seen)),
    }
    findings
}

async fn further(connection: &mut Connection, address: &Address) -> Result<Vec<Finding>, Broken> {
    let library = library::probe(connection).await?;
    let time = connection.ask(&["TIME"]).await?;
    let now_ms = time.ok().and_then(|reply| {
        let texts = reply.texts();
        let part = |at: usize| texts.get(at)?.parse::<u64>().ok();
        Some(part(0)? * 1_000 + part(1)? / 1_000)
    });
    let ours_ms =
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |it| it.as_millis() as u64);
    let mut findings = vec![match library {
        Ok(()) => Finding::fit("functions", "functions can be loaded"),
        Err(Refused(why)) => Finding::unfit(
            "functions",
            format!("{why}: give the user the rights +function|load and +fcall"),
        ),
    }];
    let Some(now_ms) = now_ms else { return Ok(findings) };
    let apart = Duration::from_millis(now_ms.abs_diff(ours_ms));
    findings.push(match apart > CLOCK_DIFFERENCE_MAX {
        false => Finding::fit("clock", "clocks agree"),
        true => Finding::doubtful(
            "clock",
            format!("differs from ours by {} ms: set one of them", apart.as_millis()),
        ),
    });
    let key = format!("{}:prepared", address.root());
    let before = u128::from(now_ms).saturating_sub(PREPARED_YOUNG.as_millis()).to_string();
    let old = connection.ask(&["ZRANGE", &key, "-inf", &before, "BYSCORE"]).await?;
    findings.push(match old {
        Ok(reply) => aged(&reply.texts()),
        Err(refused) => Finding::unfit("prepared", refused.0),
    });
    Ok(findings)
}

/// What has been prepared for long, the oldest first.
fn aged(names: &[String]) -> Finding {
    let age_s = PREPARED_YOUNG.as_secs();
    match names {
        [] => Finding::fit("prepared", "none prepared for long"),
        names => {
            let first = names[..names.len().min(PREPARED_SHOWN_MAX)].join(", ");
            let count = names.len();
            Finding::doubtful(
                "prepared",
                format!(
                    "{count} branches have been prepared for more than {age_s} s and hold locks; the \
                     oldest: {first}; see `unanimous resource in-doubt`"
                ),
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::open::Settings;

    const GOOD: &str = "# Server\r\nredis_version:7.0.15\r\nrole:master\r\naof_enabled:1\r\n\
                        maxmemory:0\r\nmaxmemory_policy:allkeys-lru\r\ncluster_enabled:0\r\n";

    fn unfit(info: &str, synced: &str, url: &str) -> Option<(String, String)> {
        let address = Address::parse(url, &Settings::default()).expect("a good url");
        let text = |text: &str| Reply::Text(text.to_owned());
        let rewrite = if synced == "always but" { "yes" } else { "no" };
        let synced = Ok(Reply::List(vec![
            text("no-appendfsync-on-rewrite"),
            text(rewrite),
            text("appendfsync"),
            text(synced.split(' ').next().expect("a word")),
        ]));
        let reason = Facts::read(info, synced).unfit(&address)?;
        Some((reason.kind.to_string(), reason.detail.to_string()))
    }

    #[test]
    fn a_server_with_the_right_settings_may_vote() {
        assert_eq!(unfit(GOOD, "always", "redis://db"), None);
        let bounded =
            GOOD.replace("maxmemory:0", "maxmemory:1000").replace("allkeys-lru", "noeviction");
        assert_eq!(unfit(&bounded, "always", "redis://db"), None);
    }

    #[test]
    fn a_server_that_reads_its_data_is_not_judged_by_what_it_shows_meanwhile() {
        let facts = |info: &str| Facts::read(info, Ok(Reply::Nothing));
        assert!(facts("loading:1\r\naof_enabled:0\r\n").loading);
        assert!(!facts("loading:0\r\naof_enabled:1\r\n").loading && !facts(GOOD).loading);
    }

    #[test]
    fn each_setting_that_breaks_promises_is_named_with_what_to_change() {
        let replaced = |from: &str, to: &str| GOOD.replace(from, to);
        for (info, synced, kind, named) in [
            (replaced("aof_enabled:1", "aof_enabled:0"), "always", "not_durable", "appendonly yes"),
            (GOOD.to_owned(), "everysec", "not_durable", "appendfsync always"),
            (GOOD.to_owned(), "always but", "not_durable", "no-appendfsync-on-rewrite no"),
            (replaced("maxmemory:0", "maxmemory:1"), "always", "not_durable", "noeviction"),
            (replaced("master", "slave"), "always", "read_only_resource", "name the master"),
            (replaced("7.0.15", "6.2.1"), "always", "unsupported", "use 7 or later"),
            (replaced("cluster_enabled:0", "cluster_enabled:1"), "always", "configuration", "tag="),
        ] {
            let (found, detail) = unfit(&info, synced, "redis://db").expect(named);
            assert_eq!(found, kind, "{detail}");
            assert!(detail.contains(named), "{detail}");
        }
    }

    #[test]
    fn weak_durability_accepts_a_server_that_may_forget_but_not_one_that_evicts() {
        assert_eq!(unfit(GOOD, "everysec", "redis://db?durability=weak"), None);
        let evicts = GOOD.replace("maxmemory:0", "maxmemory:1");
        assert!(unfit(&evicts, "everysec", "redis://db?durability=weak").is_some());
    }
}
