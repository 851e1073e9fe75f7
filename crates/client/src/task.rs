//! Tasks that do not outlive what they are for.

use tokio::task::AbortHandle;

/// Ends a task when its last owner is gone.
#[derive(Debug)]
pub(crate) struct AbortOnDrop(pub(crate) AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
