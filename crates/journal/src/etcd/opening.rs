//! The first calls: whether the cluster can be used, what the journal is called, the next positions.

use unanimous_core::id::Lsn;

use super::address::Address;
use super::client::{Client, Refusal, Trouble};
use super::keys::Keys;
use super::proto::{Compare, Op, Range, Ranged, Txn, Way};
use crate::file::recover::new_instance;
use crate::remote::base;
use crate::remote::limits::{AGAIN, PATIENCE};

/// The layout of keys and values that this release knows.
const LAYOUT: u64 = 2;

/// The oldest release of etcd whose answers are known to be right.
const OLDEST: (u64, u64) = (3, 4);

/// What etcd says of the journal in it.
pub(super) struct Opened {
    pub(super) instance: String,
    /// The last position that no entry of this opening has.
    pub(super) base: Lsn,
}

/// Opens the journal, and makes it if it is missing.
///
/// # Errors
///
/// One line that says what to change.
pub(super) async fn open(
    address: &Address,
    client: &Client,
    keys: &Keys,
) -> Result<Opened, String> {
    insist(address, || attempt(client, keys)).await
}

/// Looks whether the cluster and what it holds can be used. Writes nothing.
///
/// # Errors
///
/// One line that says what to change.
pub(super) async fn look(address: &Address, client: &Client, keys: &Keys) -> Result<(), String> {
    insist(address, || async { meta(client, keys).await.map(drop) }).await
}

/// Tries until it comes out, or cannot.
async fn insist<T, F: Future<Output = Result<T, Unfit>>>(
    address: &Address,
    attempt: impl Fn() -> F,
) -> Result<T, String> {
    let mut seen = "it is slow".to_owned();
    let insisting = async {
        loop {
            match attempt().await {
                Ok(done) => return Ok(done),
                Err(Unfit::Line(line)) => return Err(line),
                Err(Unfit::Trouble(Trouble::Refused(refusal, text))) => {
                    return Err(format!("{text}: {}", remedy(address, refusal, &text)));
                }
                // Somebody else may be opening it, or a leader may have to be found.
                Err(Unfit::Trouble(trouble)) => seen = trouble.text(),
                Err(Unfit::Overtaken) => {}
            }
            if seen.contains("Connection refused") || seen.contains("lookup address") {
                return Err(format!("{seen}: is it running, and is this its address?"));
            }
            if seen.contains("tls: ") {
                return Err(format!(
                    "{seen}: the certificate has to be for the host in its url, and signed by whom \
                     this machine trusts or by ca_file=FILE in its url"
                ));
            }
            if seen.contains("database space exceeded") {
                return Err(format!(
                    "{seen}: compact and defragment it, or raise --quota-backend-bytes, then \
                     etcdctl alarm disarm"
                ));
            }
            tokio::time::sleep(AGAIN[0] * 5).await;
        }
    };
    let done = match tokio::time::timeout(PATIENCE, insisting).await {
        Ok(done) => done,
        Err(_) => Err(format!("{seen}: is it running, and is this its address?")),
    };
    done.map_err(|why| format!("{}: {why}", address.shown))
}

enum Unfit {
    Trouble(Trouble),
    Line(String),
    /// Somebody else has opened it in between.
    Overtaken,
}

impl From<Trouble> for Unfit {
    fn from(trouble: Trouble) -> Self {
        Self::Trouble(trouble)
    }
}

/// What stands at the key of the journal, if the cluster can be used.
async fn meta(client: &Client, keys: &Keys) -> Result<Option<(Meta, Vec<u8>)>, Unfit> {
    match client.version().await {
        Ok(version) if is_too_old(&version) => {
            let (major, minor) = OLDEST;
            return Err(Unfit::Line(format!(
                "etcd is of version {version}: use {major}.{minor} or a newer one"
            )));
        }
        // Newer ones tell their version to administrators only.
        Ok(_) | Err(Trouble::Refused(Refusal::Rights, _)) => {}
        Err(trouble) => return Err(trouble.into()),
    }
    let found = client.range(&Range::one(keys.meta())).await?;
    let Some(value) = Ranged::into_value(found) else { return Ok(None) };
    let meta = Meta::read(&value).ok_or_else(|| {
        Unfit::Line(format!(
            "{:?} holds {:?}, which is none of a journal: use another prefix",
            String::from_utf8_lossy(&keys.meta()),
            String::from_utf8_lossy(&value)
        ))
    })?;
    match meta.layout == LAYOUT {
        true => Ok(Some((meta, value))),
        false => Err(Unfit::Line(format!(
            "the keys are of version {}, this release knows {LAYOUT}: use the release that made \
             them, or a newer one",
            meta.layout
        ))),
    }
}

async fn attempt(client: &Client, keys: &Keys) -> Result<Opened, Unfit> {
    let (meta, compare) = match meta(client, keys).await? {
        Some((meta, value)) => (meta, Compare::Value(keys.meta(), value)),
        None => {
            let meta = Meta { layout: LAYOUT, instance: new_instance(), openings: 0 };
            (meta, Compare::Absent(keys.meta()))
        }
    };
    let meta = Meta { openings: meta.openings + 1, ..meta };
    let base = base(meta.openings).ok_or_else(|| {
        let openings = meta.openings;
        Unfit::Line(format!("it was opened {openings} times: begin a new one, with another prefix"))
    })?;
    let note = Txn {
        compare: vec![compare],
        then: vec![Op::Put(keys.meta(), meta.written())],
        otherwise: Vec::new(),
    };
    match client.txn(&note).await?.way {
        Way::Otherwise => Err(Unfit::Overtaken),
        Way::Then => Ok(Opened { instance: meta.instance, base }),
    }
}

/// What a journal says of itself: `layout 2 instance abcdefgh openings 7`.
struct Meta {
    layout: u64,
    instance: String,
    openings: u64,
}

impl Meta {
    fn read(value: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(value).ok()?;
        let words: Vec<&str> = text.split(' ').collect();
        let [_, layout, _, instance, _, openings] = words[..] else { return None };
        let (layout, openings) = (layout.parse().ok()?, openings.parse().ok()?);
        Some(Self { layout, instance: instance.to_owned(), openings })
    }

    fn written(&self) -> Vec<u8> {
        let Self { layout, instance, openings } = self;
        format!("layout {layout} instance {instance} openings {openings}").into_bytes()
    }
}

fn is_too_old(version: &str) -> bool {
    let mut numbers = version.split('.').map(|it| it.parse::<u64>().unwrap_or_default());
    let found = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
    found < OLDEST
}

fn remedy(address: &Address, refusal: Refusal, text: &str) -> String {
    let password = "set the right one in UNANIMOUS_JOURNAL_PASSWORD, or name it with \
                    journal_password_env or journal_password_file";
    match (refusal, &address.user) {
        (Refusal::Login, Some(_)) if text.contains("not enabled") => {
            "leave the user out of its url, or have etcd ask for one: etcdctl auth enable"
                .to_owned()
        }
        (Refusal::Login, Some(_)) => password.to_owned(),
        (Refusal::Login, None) => "name a user: etcd://user@host:2379".to_owned(),
        (Refusal::Rights, user) => format!(
            "let {:?} read and write: etcdctl role grant-permission ROLE --prefix=true readwrite {}/",
            user.as_deref().unwrap_or_default(),
            address.prefix
        ),
        (Refusal::Request, _) => "is this etcd, and as it comes?".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_releases_before_the_oldest_that_will_do_are_refused() {
        for (version, old) in
            [("3.3.27", true), ("2.9", true), ("3.4.0", false), ("3.10.1", false), ("4.0", false)]
        {
            assert_eq!(is_too_old(version), old, "{version}");
        }
    }

    #[test]
    fn what_a_journal_says_of_itself_is_read_as_it_was_written() {
        let meta = Meta { layout: 1, instance: "abc".to_owned(), openings: 9 };
        let read = Meta::read(&meta.written()).expect("it is whole");
        assert_eq!((read.layout, &*read.instance, read.openings), (1, "abc", 9));
        assert!(Meta::read(b"something else").is_none());
    }
}
