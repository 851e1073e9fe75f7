//! The journal's own runtime, for callers that may have another one, or none.

use std::sync::mpsc::{Receiver, sync_channel};

use tokio::runtime::{Builder, Runtime};

use crate::error::JournalError;

/// One thread that everything of the journal runs on.
pub(crate) struct Engine(Option<Runtime>);

impl Engine {
    /// Starts the thread, under this name.
    pub(crate) fn start(name: &str) -> Result<Self, JournalError> {
        let built =
            Builder::new_multi_thread().worker_threads(1).thread_name(name).enable_all().build();
        match built {
            Ok(runtime) => Ok(Self(Some(runtime))),
            Err(error) => Err(JournalError::Failed(format!("{name}: {error}"))),
        }
    }

    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        if let Some(runtime) = &self.0 {
            runtime.spawn(work);
        }
    }

    /// Waits for what `work` comes to. The caller's thread waits, whatever else runs on it.
    pub(crate) fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, JournalError>> + Send + 'static,
    ) -> Result<T, JournalError> {
        heard(&self.begin(work))
    }

    /// The same for several that are under way at once; what each comes to, in their order.
    pub(crate) fn run_all<T: Send + 'static, F>(
        &self,
        works: impl IntoIterator<Item = F>,
    ) -> Vec<Result<T, JournalError>>
    where
        F: Future<Output = Result<T, JournalError>> + Send + 'static,
    {
        let begun: Vec<_> = works.into_iter().map(|work| self.begin(work)).collect();
        begun.iter().map(heard).collect()
    }

    fn begin<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, JournalError>> + Send + 'static,
    ) -> Receiver<Result<T, JournalError>> {
        let (sender, receiver) = sync_channel(1);
        // Nobody gives up waiting.
        self.spawn(async move { drop(sender.send(work.await)) });
        receiver
    }
}

fn heard<T>(receiver: &Receiver<Result<T, JournalError>>) -> Result<T, JournalError> {
    receiver.recv().unwrap_or_else(|_| Err(JournalError::Failed("it is closed".to_owned())))
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            // The journal may be dropped where nothing may wait.
            runtime.shutdown_background();
        }
    }
}
