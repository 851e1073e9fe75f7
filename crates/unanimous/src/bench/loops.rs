//! Two bare loops that make bytes durable: the floors that the coordinator is measured against.
//!
//! They write as many bytes for each transaction as the coordinator does, into a file whose blocks
//! are there already, and wait once for a sync; there is no protocol in them and nothing is checked.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::thread::{self, JoinHandle};

use tokio::sync::oneshot;

const FILE_BYTES: u64 = 256 << 20;

/// A file of zeros that is written around and around.
struct Ring {
    file: File,
    offset: u64,
}

impl Ring {
    fn create(path: &Path) -> io::Result<Self> {
        let file = File::create(path)?;
        let zeros = vec![0; 1 << 20];
        for chunk in 0..FILE_BYTES >> 20 {
            file.write_all_at(&zeros, chunk << 20)?;
        }
        file.sync_all()?;
        Ok(Self { file, offset: 0 })
    }

    fn write(&mut self, bytes: &[u8]) {
        if self.offset + bytes.len() as u64 > FILE_BYTES {
            self.offset = 0;
        }
        self.file.write_all_at(bytes, self.offset).expect("the disk takes it");
        self.file.sync_data().expect("the disk keeps it");
        self.offset += bytes.len() as u64;
    }
}

/// A channel to a writer thread, which writes and syncs what has gathered.
pub(super) struct Simple {
    writer: mpsc::Sender<(Vec<u8>, Option<oneshot::Sender<()>>)>,
}

impl Simple {
    pub(super) fn start(path: &Path) -> io::Result<(Self, JoinHandle<()>)> {
        let mut ring = Ring::create(path)?;
        let (writer, records) = mpsc::channel::<(Vec<u8>, Option<oneshot::Sender<()>>)>();
        let thread = thread::spawn(move || {
            let (mut batch, mut waiting) = (Vec::new(), Vec::new());
            while let Ok(first) = records.recv() {
                for (bytes, waiter) in std::iter::once(first).chain(records.try_iter()) {
                    batch.extend_from_slice(&bytes);
                    waiting.extend(waiter);
                }
                ring.write(&batch);
                batch.clear();
                for waiter in waiting.drain(..) {
                    let _ = waiter.send(()); // The measurement may be over.
                }
            }
        });
        Ok((Self { writer }, thread))
    }

    /// One transaction: a record, a record that is waited for, and a record.
    pub(super) async fn transaction(&self, bytes: usize) {
        let third = vec![0xA5; bytes / 3];
        let (waiter, written) = oneshot::channel();
        let last = vec![0xA5; bytes - 2 * (bytes / 3)];
        for message in [(third.clone(), None), (third, Some(waiter))] {
            self.writer.send(message).expect("the writer outlives its clients");
        }
        written.await.expect("the writer answers");
        self.writer.send((last, None)).expect("the writer outlives its clients");
    }
}

#[derive(Default)]
struct Active {
    bytes: Vec<u8>,
    waiting: Vec<oneshot::Sender<()>>,
    stopped: bool,
}

/// A buffer that clients write into while the writer thread writes out the other one.
#[derive(Clone, Default)]
pub(super) struct Double {
    shared: Arc<(Mutex<Active>, Condvar)>,
}

impl Double {
    pub(super) fn start(path: &Path) -> io::Result<(Self, JoinHandle<()>)> {
        let mut ring = Ring::create(path)?;
        let double = Self::default();
        let shared = Arc::clone(&double.shared);
        let thread = thread::spawn(move || {
            let mut batch = Active::default();
            loop {
                {
                    let mut active = shared.0.lock().expect("nobody panics");
                    while active.waiting.is_empty() && !active.stopped {
                        active = shared.1.wait(active).expect("nobody panics");
                    }
                    if active.stopped {
                        return;
                    }
                    std::mem::swap(&mut *active, &mut batch);
                }
                ring.write(&batch.bytes);
                batch.bytes.clear();
                for waiter in batch.waiting.drain(..) {
                    let _ = waiter.send(()); // The measurement may be over.
                }
            }
        });
        Ok((double, thread))
    }

    /// One transaction: a record, a record that is waited for, and a record.
    pub(super) async fn transaction(&self, bytes: usize) {
        let third = bytes / 3;
        self.record(third, None);
        let (waiter, written) = oneshot::channel();
        self.record(third, Some(waiter));
        written.await.expect("the writer answers");
        self.record(bytes - 2 * third, None);
    }

    fn record(&self, bytes: usize, waiter: Option<oneshot::Sender<()>>) {
        let mut active = self.shared.0.lock().expect("nobody panics");
        let len = active.bytes.len() + bytes;
        active.bytes.resize(len, 0xA5);
        if let Some(waiter) = waiter {
            active.waiting.push(waiter);
            self.shared.1.notify_one();
        }
    }

    pub(super) fn stop(&self) {
        self.shared.0.lock().expect("nobody panics").stopped = true;
        self.shared.1.notify_one();
    }
}
