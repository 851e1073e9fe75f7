//! A disk in memory that loses power, tears writes, fills up and fails.
//!
//! Everything is kept twice: as a process sees it (the page cache) and as the platters have it. A
//! sync carries the one over to the other. At a power loss, each sector that was written and not
//! synced is old or new by chance, and the folder has any prefix of what was done to it since it
//! was synced. A failed sync marks what it should have written as clean: a later one does not
//! write it either, as Linux does it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use super::Rng;
use crate::file::storage::{Handle, Storage};

const SECTOR: usize = 512;

/// How a life ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Crash {
    /// The process is gone; the page cache stays.
    Kill,
    /// The machine is gone; each sector not synced is new in so many percent of cases.
    PowerLoss(u64),
}

pub(super) struct Disk {
    inner: Mutex<Inner>,
}

#[derive(Clone)]
struct Inner {
    rng: Rng,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    undone: Vec<FolderOp>,
    files: Vec<FileState>,
    /// Operations until everything fails.
    crash_in: Option<u64>,
    /// Syncs of files until one fails.
    sync_fails_in: Option<u64>,
    /// Bytes that all files may have.
    room: u64,
    ops: u64,
}

#[derive(Clone)]
enum FolderOp {
    Link(String, usize),
    Unlink(String),
    Rename(String, String),
}

#[derive(Clone, Default)]
struct FileState {
    cache: Vec<u8>,
    platters: Vec<u8>,
    dirty: BTreeSet<usize>,
}

impl Disk {
    pub(super) fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self {
            inner: Mutex::new(Inner {
                rng: Rng::new(seed),
                names: BTreeMap::new(),
                durable_names: BTreeMap::new(),
                undone: Vec::new(),
                files: Vec::new(),
                crash_in: None,
                sync_fails_in: None,
                room: u64::MAX,
                ops: 0,
            }),
        })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no test goes on after a panic")
    }

    /// Another disk in the same state, with other luck from here on.
    pub(super) fn fork(&self, seed: u64) -> Arc<Self> {
        let inner = Inner { rng: Rng::new(seed), ..self.inner().clone() };
        Arc::new(Self { inner: Mutex::new(inner) })
    }

    /// Writing operations so far.
    pub(super) fn ops(&self) -> u64 {
        self.inner().ops
    }

    /// Everything fails from the operation after the next `ops` on.
    pub(super) fn crash_after(&self, ops: u64) {
        self.inner().crash_in = Some(ops);
    }

    pub(super) fn crashed(&self) -> bool {
        self.inner().crash_in == Some(0)
    }

    pub(super) fn fail_sync_after(&self, syncs: u64) {
        self.inner().sync_fails_in = Some(syncs);
    }

    pub(super) fn set_room(&self, bytes: u64) {
        self.inner().room = bytes;
    }

    pub(super) fn used(&self) -> u64 {
        let inner = self.inner();
        inner.names.values().map(|&file| inner.files[file].cache.len() as u64).sum()
    }

    /// Ends this life of the disk's user; the disk works again afterwards.
    pub(super) fn crash(&self, crash: Crash) {
        let mut inner = self.inner();
        let inner = &mut *inner;
        inner.crash_in = None;
        inner.sync_fails_in = None;
        let Crash::PowerLoss(percent) = crash else { return };
        for file in &mut inner.files {
            file.platters.resize(file.cache.len(), 0);
            for sector in std::mem::take(&mut file.dirty) {
                if inner.rng.below(100) < percent {
                    file.write_back(sector);
                }
            }
            file.cache.clone_from(&file.platters);
        }
        let kept = match percent {
            0 => 0,
            100 => inner.undone.len(),
            _ => inner.rng.below(inner.undone.len() as u64 + 1) as usize,
        };
        for op in std::mem::take(&mut inner.undone).into_iter().take(kept) {
            op.apply(&mut inner.durable_names);
        }
        inner.names.clone_from(&inner.durable_names);
    }

    /// The bytes of every file.
    pub(super) fn image(&self) -> BTreeMap<String, Vec<u8>> {
        let inner = self.inner();
        let bytes = |&file: &usize| inner.files[file].cache.clone();
        inner.names.iter().map(|(name, file)| (name.clone(), bytes(file))).collect()
    }

    /// A disk with these files.
    pub(super) fn with(image: &BTreeMap<String, Vec<u8>>) -> Arc<Self> {
        let disk = Self::new(0);
        {
            let mut inner = disk.inner();
            for (name, bytes) in image {
                let file = inner.files.len();
                let (cache, platters) = (bytes.clone(), bytes.clone());
                inner.files.push(FileState { cache, platters, dirty: BTreeSet::new() });
                inner.names.insert(name.clone(), file);
                inner.durable_names.insert(name.clone(), file);
            }
        }
        disk
    }
}

impl FolderOp {
    fn apply(self, names: &mut BTreeMap<String, usize>) {
        match self {
            Self::Link(name, file) => {
                names.insert(name, file);
            }
            Self::Unlink(name) => {
                names.remove(&name);
            }
            Self::Rename(from, to) => {
                if let Some(file) = names.remove(&from) {
                    names.insert(to, file);
                }
            }
        }
    }
}

/// What becomes of an operation.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Fate {
    Done,
    /// The crash comes in the middle of it.
    Cut,
}

impl Inner {
    fn operate(&mut self) -> io::Result<Fate> {
        self.ops += 1;
        match &mut self.crash_in {
            Some(0) => Err(io::Error::other("crashed")),
            Some(left) => {
                *left -= 1;
                Ok(if *left == 0 { Fate::Cut } else { Fate::Done })
            }
            None => Ok(Fate::Done),
        }
    }

    fn folder(&mut self, op: FolderOp) -> io::Result<()> {
        let fate = self.operate()?;
        op.clone().apply(&mut self.names);
        self.undone.push(op);
        fate.result()
    }

    fn find(&self, name: &str) -> io::Result<usize> {
        self.names.get(name).copied().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }
}

impl Fate {
    fn result(self) -> io::Result<()> {
        match self {
            Self::Done => Ok(()),
            Self::Cut => Err(io::Error::other("crashed")),
        }
    }
}

impl FileState {
    fn write_back(&mut self, sector: usize) {
        let start = sector * SECTOR;
        let end = (start + SECTOR).min(self.cache.len());
        self.platters[start..end].copy_from_slice(&self.cache[start..end]);
    }

    fn write_all_back(&mut self) {
        self.platters.resize(self.cache.len(), 0);
        for sector in std::mem::take(&mut self.dirty) {
            self.write_back(sector);
        }
    }
}

struct OpenFile {
    disk: Arc<Disk>,
    file: usize,
}

/// A disk that can hand out files which refer to it.
pub(super) struct Mounted(pub(super) Arc<Disk>);

impl Mounted {
    fn handle(&self, file: usize) -> Arc<dyn Handle> {
        Arc::new(OpenFile { disk: Arc::clone(&self.0), file })
    }
}

impl Storage for Mounted {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.0.inner().names.keys().cloned().collect())
    }

    fn create(&self, name: &str, len: u64) -> io::Result<Arc<dyn Handle>> {
        let used = self.0.used();
        let mut inner = self.0.inner();
        if used + len > inner.room {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let file = inner.files.len();
        let zeros = vec![0; usize::try_from(len).expect("small")];
        let cut = inner.operate()?;
        inner.files.push(FileState { cache: zeros, ..FileState::default() });
        FolderOp::Link(name.into(), file).apply(&mut inner.names);
        inner.undone.push(FolderOp::Link(name.into(), file));
        cut.result()?;
        inner.files[file].write_all_back();
        drop(inner);
        Ok(self.handle(file))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn Handle>> {
        let file = self.0.inner().find(name)?;
        Ok(self.handle(file))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut inner = self.0.inner();
        inner.find(from)?;
        inner.folder(FolderOp::Rename(from.into(), to.into()))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut inner = self.0.inner();
        inner.find(name)?;
        inner.folder(FolderOp::Unlink(name.into()))
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut inner = self.0.inner();
        inner.operate()?.result()?;
        let inner = &mut *inner;
        for op in std::mem::take(&mut inner.undone) {
            op.apply(&mut inner.durable_names);
        }
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from("/disk").join(name)
    }
}

impl Handle for OpenFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.inner().files[self.file].cache.len() as u64)
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        let inner = self.disk.inner();
        let start = usize::try_from(offset).expect("small");
        let found = inner.files[self.file].cache.get(start..start + bytes.len());
        bytes.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut inner = self.disk.inner();
        let fate = inner.operate()?;
        let len = match fate {
            Fate::Done => bytes.len(),
            Fate::Cut => inner.rng.below(bytes.len() as u64 + 1) as usize,
        };
        let start = usize::try_from(offset).expect("small");
        let file = &mut inner.files[self.file];
        assert!(start + bytes.len() <= file.cache.len(), "a segment is never written past its end");
        file.cache[start..start + len].copy_from_slice(&bytes[..len]);
        if len > 0 {
            file.dirty.extend(start / SECTOR..=(start + len - 1) / SECTOR);
        }
        fate.result()
    }

    fn sync(&self) -> io::Result<()> {
        let mut inner = self.disk.inner();
        let fate = inner.operate()?;
        if let Some(left) = &mut inner.sync_fails_in {
            if *left == 0 {
                inner.sync_fails_in = None;
                inner.files[self.file].dirty.clear();
                return Err(io::Error::other("the disk refused"));
            }
            *left -= 1;
        }
        // Cut in the middle, it may have come to its end.
        if fate == Fate::Done || inner.rng.below(2) == 0 {
            inner.files[self.file].write_all_back();
        }
        fate.result()
    }
}
