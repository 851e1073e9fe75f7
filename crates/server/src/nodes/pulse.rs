//! A thread of its own for what nodes hear of each other: a node that has so much to do that everything
//! is late must not be taken for dead. Its work would go to others, who have too much to do as well.

use std::io;

use tokio::runtime::{Builder, Handle, Runtime};

/// The thread. What runs on it ends with this.
pub(super) struct Pulse(Option<Runtime>);

impl Pulse {
    /// # Errors
    ///
    /// As the system says if there is no thread to be had.
    pub(super) fn start() -> io::Result<Self> {
        let mut thread = Builder::new_multi_thread();
        thread.worker_threads(1).thread_name("unanimous-pulse").enable_all();
        Ok(Self(Some(thread.build()?)))
    }

    /// The way to run something on it.
    pub(super) fn handle(&self) -> Handle {
        let runtime = self.0.as_ref().expect("it is there until it is dropped");
        runtime.handle().clone()
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            // A node may be dropped where nothing may wait.
            runtime.shutdown_background();
        }
    }
}
