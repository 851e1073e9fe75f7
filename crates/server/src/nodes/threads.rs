//! Threads of their own for what must not be late, whatever else goes on.
//!
//! What nodes hear of each other, and what they drive then: a node that has so much to do that everything
//! is late must not be taken for dead. Its work would go to others, who have too much to do as well. And
//! whoever takes over from the dead is to do it first.
//!
//! Who comes in: when a node dies, thousands of its callers turn to the others at once. Transactions that
//! are at work there hold locks that everybody waits for, and do not stand in one line with them.

use std::io;
use std::thread::available_parallelism;

use tokio::runtime::{Builder, Handle, Runtime};

/// Some threads. What runs on them ends with this.
pub(super) struct Threads(Option<Runtime>);

impl Threads {
    /// One for what nodes hear of each other.
    ///
    /// # Errors
    ///
    /// As the system says if there are no threads to be had.
    pub(super) fn pulse() -> io::Result<Self> {
        Self::start("unanimous-pulse", 1)
    }

    /// For connections and what is asked over them.
    ///
    /// # Errors
    ///
    /// As [`pulse`](Self::pulse).
    pub(super) fn doors() -> io::Result<Self> {
        Self::start("unanimous-door", available_parallelism().map_or(1, usize::from))
    }

    fn start(name: &str, count: usize) -> io::Result<Self> {
        let mut threads = Builder::new_multi_thread();
        threads.worker_threads(count).thread_name(name).enable_all();
        Ok(Self(Some(threads.build()?)))
    }

    /// The way to run something on them.
    pub(super) fn handle(&self) -> Handle {
        let runtime = self.0.as_ref().expect("it is there until it is dropped");
        runtime.handle().clone()
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            // A node may be dropped where nothing may wait.
            runtime.shutdown_background();
        }
    }
}
