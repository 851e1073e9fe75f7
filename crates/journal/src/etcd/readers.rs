//! Reading and claiming: over a connection of its own, so that no list holds up a decision.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};
use unanimous_core::id::{Epoch, ShardId, TxnId};

use super::claims::{Claim, Claims};
use super::client::{Client, Trouble};
use super::keys::{Keys, Room, Span};
use super::limits::{FIRST_PAGES, PAGE_BYTES, PAGES, READS, READS_OF_ONE};
use super::proto::{Compare, KeyValue, More, Op, Range, Ranged, Txn, TxnDone, Want, Way};
use super::value::Value;
use super::writer::Head;
use crate::entry::{OpenTxn, Stored};
use crate::error::JournalError;
use crate::file::layout;
use crate::remote::gather::Gather;
use crate::remote::limits::{AGAIN, PATIENCE};
use crate::remote::questions::Answers;

/// Asks for what is there.
pub(super) struct Readers {
    pub(super) client: Client,
    pub(super) keys: Keys,
    logs: Gather<TxnId, Vec<Vec<u8>>>,
    begun: Gather<String, Option<Vec<u8>>>,
    epochs: Gather<ShardId, Epoch>,
}

impl Answers for Readers {
    async fn records(&self, txn: TxnId) -> Result<Vec<Stored>, JournalError> {
        let values = self.logs.ask(txn, |txns| self.logs_of(txns)).await?;
        let entries = self.entries(txn, values.into_iter()).await?;
        let stored = entries.and_then(|entries| checked(&entries));
        stored.map_err(|why| JournalError::Failed(format!("transaction {txn}: {why}")))
    }

    async fn open(&self, shards: &[ShardId]) -> Result<Vec<OpenTxn>, JournalError> {
        let mut open = Vec::new();
        let rooms = shards.iter().map(|&it| Room::Open(it));
        let mut all = Walk::begin(self, rooms, None, PAGES[1]).await?;
        while let Some((txn, values)) = all.next(self).await? {
            let entries = self.entries(txn, values.into_iter()).await?;
            let records = entries.and_then(|entries| checked(&entries));
            open.push(OpenTxn { txn, records });
        }
        open.reverse();
        Ok(open)
    }

    async fn epochs_of(&self, shards: Vec<ShardId>) -> Result<Vec<Epoch>, JournalError> {
        let found = self.scan_all(self.keys.shards()).await?.into_iter();
        let claims: BTreeMap<ShardId, Claim> = found.filter_map(|it| self.claim_in(it)).collect();
        let epoch = |shard| claims.get(shard).map(|it| it.epoch).unwrap_or_default();
        Ok(shards.iter().map(epoch).collect())
    }

    async fn epoch(&self, shard: ShardId) -> Result<Epoch, JournalError> {
        self.epochs.ask(shard, |shards| self.epochs_of(shards)).await
    }

    async fn find_key(&self, key: &str) -> Result<Option<TxnId>, JournalError> {
        let found = self.begun.ask(key.to_owned(), |keys| self.begun_under(keys)).await?;
        let Some(value) = found else { return Ok(None) };
        let text = String::from_utf8_lossy(&value).into_owned();
        text.parse().map(Some).map_err(|_| {
            JournalError::Failed(format!("idempotency key {key:?} names no transaction: {text:?}"))
        })
    }
}

impl Readers {
    pub(super) fn new(client: Client, keys: Keys) -> Self {
        let (logs, begun) = (Gather::new(READS / READS_OF_ONE), Gather::new(READS));
        Self { client, keys, logs, begun, epochs: Gather::new(READS) }
    }

    /// The values of each transaction.
    async fn logs_of(&self, txns: Vec<TxnId>) -> Result<Vec<Vec<Vec<u8>>>, JournalError> {
        let ranges = txns
            .into_iter()
            .flat_map(|txn| [Range::one(self.keys.ended(txn)), Range::all(self.keys.open(txn))]);
        let values = self.ranges(ranges).await?;
        Ok(values.chunks(READS_OF_ONE).map(<[_]>::concat).collect())
    }

    /// The values in each of these spans, all of them as of one moment.
    async fn ranges(
        &self,
        ranges: impl Iterator<Item = Range>,
    ) -> Result<Vec<Vec<Vec<u8>>>, JournalError> {
        let read = Txn { then: ranges.map(Op::Range).collect(), ..Txn::default() };
        let ranges = self.txn(&read).await?.into_ranges().into_iter();
        Ok(ranges.map(|it| it.found.into_iter().map(|it| it.value).collect()).collect())
    }

    /// What the values of one transaction say, or why they cannot be read.
    pub(super) async fn entries(
        &self,
        txn: TxnId,
        values: impl Iterator<Item = Vec<u8>>,
    ) -> Result<Result<Vec<u8>, String>, JournalError> {
        let mut entries = Vec::new();
        for value in values {
            match Value::decode(&value) {
                Ok(Value::Inline(bytes)) => entries.extend_from_slice(bytes),
                Ok(Value::Apart(lsn, parts)) => {
                    let found = self.scan_all(self.keys.blob_of(txn, lsn)).await?;
                    if found.len() != parts {
                        return Ok(Err(format!("{} of {parts} parts are there", found.len())));
                    }
                    found.iter().for_each(|part| entries.extend_from_slice(&part.value));
                }
                Err(error) => return Ok(Err(error.what.to_owned())),
            }
        }
        Ok(Ok(entries))
    }

    fn claim_in(&self, KeyValue { key, value }: KeyValue) -> Option<(ShardId, Claim)> {
        Some((self.keys.to_shard(&key)?, Claim::read(value)))
    }

    /// What stands under each key.
    async fn begun_under(&self, keys: Vec<String>) -> Result<Vec<Option<Vec<u8>>>, JournalError> {
        let ranges = keys.iter().map(|key| Range::one(self.keys.idempotency(key)));
        Ok(self.ranges(ranges).await?.into_iter().map(|mut found| found.pop()).collect())
    }

    /// Raises the epochs of shards, in one step for all of them, and has a head there.
    pub(super) async fn claim(
        &self,
        shards: &[ShardId],
        owner: &str,
        claims: &Claims,
    ) -> Result<Vec<(ShardId, Epoch)>, JournalError> {
        loop {
            let mut standing = self.standing(self.keys.head(claims.word)).await?;
            let mut request = Txn::default();
            self.hold_head(&standing, claims, &mut request)?;
            let mut raised = Vec::new();
            for &shard in shards {
                let (key, held) = (self.keys.shard(shard), standing.claims.remove(&shard));
                if let Some(journal) = held.as_ref().and_then(Claim::moved_to) {
                    return Err(JournalError::Unusable(format!(
                        "shard {} is kept in another journal, {journal}",
                        shard.index()
                    )));
                }
                request.compare.push(match &held {
                    Some(held) => Compare::Value(key.clone(), held.value.clone()),
                    None => Compare::Absent(key.clone()),
                });
                let epoch = Epoch(held.unwrap_or_default().epoch.0 + 1);
                let claim = Claim::new(epoch, claims.word, owner);
                request.then.push(Op::Put(key, claim.value.clone()));
                raised.push((shard, claim));
            }
            // One that was carried out unheard is in the way of its repetition, and raised once more.
            if self.txn(&request).await?.way == Way::Then {
                let epochs = raised.iter().map(|(shard, claim)| (*shard, claim.epoch)).collect();
                raised.into_iter().for_each(|(shard, claim)| claims.set(shard, claim));
                return Ok(epochs);
            }
        }
    }

    /// Makes the head with the first claim, and sees to it that it is there with every other. It goes
    /// when no shard is claimed with its word: then another journal has taken them all.
    fn hold_head(
        &self,
        standing: &Standing,
        claims: &Claims,
        request: &mut Txn,
    ) -> Result<(), JournalError> {
        let head = self.keys.head(claims.word);
        match (standing.heads.is_empty(), claims.any()) {
            (false, _) => request.compare.push(Compare::Present(head)),
            (true, None) => {
                request.compare.push(Compare::Absent(head.clone()));
                request.then.push(Op::Put(head, Head::value(0)));
            }
            (true, Some((shard, ours))) => {
                let current = standing.claims.get(&shard).map(|it| it.epoch).unwrap_or_default();
                return Err(JournalError::Fenced { ours, current });
            }
        }
        Ok(())
    }

    /// Who has claimed what, and these heads, as of one moment.
    pub(super) async fn standing(&self, heads: impl Into<Span>) -> Result<Standing, JournalError> {
        let spans = [self.keys.shards(), heads.into()];
        let then = spans.map(|span| Op::Range(Range::all(span))).into();
        let done = self.txn(&Txn { then, ..Txn::default() }).await?;
        let revision = done.revision;
        let mut found = done.into_ranges().into_iter();
        let mut next = || found.next().unwrap_or_default().found.into_iter();
        let claims = next().filter_map(|it| self.claim_in(it)).collect();
        Ok(Standing { revision, claims, heads: next().map(|it| it.key).collect() })
    }

    /// How many keys a span has.
    pub(super) async fn count(&self, span: Span) -> Result<u64, JournalError> {
        Ok(self.range(&Range { want: Want::Count, ..Range::all(span) }).await?.count)
    }

    /// The next transaction of a scan, with its values.
    pub(super) async fn next(
        &self,
        scan: &mut Scan,
    ) -> Result<Option<(TxnId, Vec<Vec<u8>>)>, JournalError> {
        loop {
            while let Some(KeyValue { key, value }) = scan.ahead.pop_front() {
                let txn = self.keys.to_txn(scan.room, &key).ok_or_else(|| {
                    let key = String::from_utf8_lossy(&key).into_owned();
                    JournalError::Failed(format!("a key that is none of ours: {key:?}"))
                })?;
                match &mut scan.held {
                    Some((held, values)) if *held == txn => values.push(value),
                    Some(_) | None => {
                        // The one before is whole, now that another one follows.
                        if let Some(whole) = scan.held.replace((txn, vec![value])) {
                            scan.after = Some(whole.0);
                            return Ok(Some(whole));
                        }
                    }
                }
            }
            match scan.more {
                More::Yes => self.fetch(scan).await?,
                More::No => return Ok(scan.held.take()),
            }
        }
    }

    /// Reads more keys of a scan, all as of one moment. If that moment is given up, the scan goes on
    /// as of now, behind the last transaction that it gave.
    async fn fetch(&self, scan: &mut Scan) -> Result<(), JournalError> {
        let range = scan.range();
        let Some(ranged) = self.ask(|| self.client.range(&range)).await? else {
            scan.held = None;
            scan.rest = self.keys.all(scan.room, scan.after);
            scan.revision = 0;
            return Ok(());
        };
        let revision = ranged.revision;
        scan.take(ranged, revision);
        Ok(())
    }

    async fn scan_all(&self, span: Span) -> Result<Vec<KeyValue>, JournalError> {
        Ok(self.range(&Range::all(span)).await?.found)
    }

    /// Reads one span, as it is now.
    pub(super) async fn range(&self, range: &Range) -> Result<Ranged, JournalError> {
        let found = self.ask(|| self.client.range(range)).await?;
        found.ok_or_else(|| JournalError::Failed("the present revision is given up".to_owned()))
    }

    /// Does one transaction. One that writes may be done twice.
    pub(super) async fn txn(&self, txn: &Txn) -> Result<TxnDone, JournalError> {
        let done = self.ask(|| self.client.txn(txn)).await?;
        done.ok_or_else(|| JournalError::Failed("the present revision is given up".to_owned()))
    }

    /// Asks until there is an answer; `None` if the revision asked for is given up.
    async fn ask<T, F: Future<Output = Result<T, Trouble>>>(
        &self,
        question: impl Fn() -> F,
    ) -> Result<Option<T>, JournalError> {
        let deadline = Instant::now() + PATIENCE;
        let mut seen = "it is slow".to_owned();
        let asking = async {
            let mut pause = Duration::ZERO;
            loop {
                match question().await {
                    Ok(answer) => return Ok(Some(answer)),
                    Err(Trouble::Again(text)) => seen = text,
                    Err(Trouble::Compacted) => return Ok(None),
                    Err(trouble @ Trouble::Refused(..)) => {
                        return Err(JournalError::Failed(trouble.text()));
                    }
                }
                sleep(pause).await;
                pause = AGAIN[1].min(AGAIN[0].max(pause * 2));
            }
        };
        match timeout_at(deadline, asking).await {
            Ok(answer) => answer,
            Err(_) => Err(JournalError::Unreachable(seen)),
        }
    }
}

/// How claims and heads stand.
pub(super) struct Standing {
    pub(super) revision: u64,
    /// Of shards that were claimed at all.
    pub(super) claims: BTreeMap<ShardId, Claim>,
    /// Keys.
    pub(super) heads: Vec<Vec<u8>>,
}

/// A walk through all transactions of a room, newest first.
pub(super) struct Scan {
    room: Room,
    rest: Span,
    ahead: VecDeque<KeyValue>,
    /// What may have more values than were read so far.
    held: Option<(TxnId, Vec<Vec<u8>>)>,
    more: More,
    /// Keys that are read next: as many as have few bytes, going by those before. The server goes through
    /// the whole rest of a span for each answer, however few keys are asked for.
    page: u64,
    /// The moment as of which it reads.
    revision: u64,
    /// The last transaction that was given.
    after: Option<TxnId>,
}

impl Scan {
    /// From the newest on that is older than `after`, if that is set.
    pub(super) fn new(keys: &Keys, room: Room, after: Option<TxnId>) -> Self {
        Self {
            room,
            rest: keys.all(room, after),
            ahead: VecDeque::new(),
            held: None,
            more: More::Yes,
            page: PAGES[0],
            revision: 0,
            after,
        }
    }

    /// What it reads next.
    fn range(&self) -> Range {
        let (span, limit, revision) = (self.rest.clone(), self.page, self.revision);
        Range { span, limit, revision, want: Want::Values }
    }

    /// Takes what was read, as of this revision.
    fn take(&mut self, ranged: Ranged, revision: u64) {
        if let Some(last) = ranged.found.last() {
            self.rest.from = [&last.key[..], &[0]].concat();
        }
        if self.revision == 0 {
            self.revision = revision;
        }
        let bytes: usize = ranged.found.iter().map(|it| it.value.len()).sum();
        let each = bytes / ranged.found.len().max(1);
        self.page = ((PAGE_BYTES / each.max(1)) as u64).clamp(PAGES[0], PAGES[1]);
        self.more = ranged.more;
        self.ahead.extend(ranged.found);
    }
}

/// A walk through several rooms together, newest first.
pub(super) struct Walk(Vec<(Scan, Option<Whole>)>);

/// A transaction with its values.
type Whole = (TxnId, Vec<Vec<u8>>);

impl Walk {
    /// From the newest on that is older than `after`, if that is set. All rooms are read as of one moment, at
    /// most so many keys of each to begin with.
    pub(super) async fn begin(
        readers: &Readers,
        rooms: impl Iterator<Item = Room>,
        after: Option<TxnId>,
        most: u64,
    ) -> Result<Self, JournalError> {
        let mut scans: Vec<Scan> =
            rooms.map(|room| Scan::new(&readers.keys, room, after)).collect();
        if scans.is_empty() {
            return Ok(Self(Vec::new()));
        }
        let each = (FIRST_PAGES / scans.len() as u64).clamp(1, most);
        scans.iter_mut().for_each(|scan| scan.page = each);
        let then = scans.iter().map(|scan| Op::Range(scan.range())).collect();
        let done = readers.txn(&Txn { then, ..Txn::default() }).await?;
        let revision = done.revision;
        let mut walk = Vec::with_capacity(scans.len());
        for (mut scan, ranged) in scans.into_iter().zip(done.into_ranges()) {
            scan.take(ranged, revision);
            let first = readers.next(&mut scan).await?;
            walk.push((scan, first));
        }
        Ok(Self(walk))
    }

    pub(super) async fn next(&mut self, readers: &Readers) -> Result<Option<Whole>, JournalError> {
        let standing = self.0.iter_mut().filter(|(_, first)| first.is_some());
        let newest = standing.max_by_key(|(_, first)| first.as_ref().map(|(txn, _)| *txn));
        let Some((scan, first)) = newest else { return Ok(None) };
        let next = readers.next(scan).await?;
        Ok(std::mem::replace(first, next))
    }
}

/// The records of a transaction, if none is missing.
fn checked(entries: &[u8]) -> Result<Vec<Stored>, String> {
    let mut count = 0;
    for entry in layout::kept(entries) {
        let (_, records, _) = entry.map_err(|error| error.to_string())?;
        if records.expected != count {
            return Err(format!("records {count} to {} are missing", records.expected));
        }
        count += records.count;
    }
    layout::stored(entries).map_err(|error| error.to_string())
}
