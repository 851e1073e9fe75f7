//! The seam between the file journal and the file system.
//!
//! Everything the journal asks of a disk goes through these two traits, so that tests can put a
//! disk behind it that loses power, tears writes, fills up and fails.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::FlockOperation;

use crate::error::JournalError;

/// One folder.
pub(crate) trait Storage: Send + Sync + 'static {
    /// Names of the files in the folder, in no order.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Makes a file of `len` zero bytes, for which the disk has set room aside. What was there
    /// under this name is replaced. Its name is durable only after [`Storage::sync_dir`].
    fn create(&self, name: &str, len: u64) -> io::Result<Arc<dyn Handle>>;
    /// Opens a file to read and write.
    fn open(&self, name: &str) -> io::Result<Arc<dyn Handle>>;
    /// Gives a file another name; what was there under that name is replaced.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes the names of the files durable.
    fn sync_dir(&self) -> io::Result<()>;
    /// Where a file is, for messages.
    fn path(&self, name: &str) -> PathBuf;
}

/// One open file.
pub(crate) trait Handle: Send + Sync + 'static {
    fn len(&self) -> io::Result<u64>;
    /// Fills `bytes` from the file, or fails.
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()>;
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Makes everything written durable.
    fn sync(&self) -> io::Result<()>;
}

/// A real folder, held by this process alone.
pub(crate) struct Folder {
    dir: PathBuf,
    lock: File,
}

impl Folder {
    /// Makes the folder if it is missing and locks it.
    pub(crate) fn open(dir: &Path) -> Result<Self, JournalError> {
        let failed = |error: io::Error| JournalError::Failed(format!("{}: {error}", dir.display()));
        fs::create_dir_all(dir).map_err(failed)?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(dir.join("lock"))
            .map_err(failed)?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { dir: dir.to_owned(), lock }),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                Err(JournalError::Locked { path: dir.to_owned() })
            }
            Err(error) => Err(failed(error.into())),
        }
    }
}

impl Drop for Folder {
    /// Unlocks, and does not only close: the system keeps a lock for as long as any copy of its
    /// descriptor is open, and a process that is just being started holds copies of all of them.
    fn drop(&mut self) {
        // Whoever opens the folder next says so if that failed.
        let _ = rustix::fs::flock(&self.lock, FlockOperation::Unlock);
    }
}

impl Storage for Folder {
    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            names.extend(entry?.file_name().into_string());
        }
        Ok(names)
    }

    fn create(&self, name: &str, len: u64) -> io::Result<Arc<dyn Handle>> {
        // Written, not only allocated: a first write to an allocated block changes the file
        // system's own records, and the sync after it pays for that.
        static ZEROS: [u8; 1 << 18] = [0; 1 << 18];
        let path = self.dir.join(name);
        let file =
            OpenOptions::new().create(true).truncate(true).read(true).write(true).open(path)?;
        let mut offset = 0;
        while offset < len {
            let part = ZEROS.len().min(usize::try_from(len - offset).unwrap_or(usize::MAX));
            file.write_all_at(&ZEROS[..part], offset)?;
            offset += part as u64;
        }
        file.sync_all()?;
        Ok(Arc::new(file))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn Handle>> {
        Ok(Arc::new(OpenOptions::new().read(true).write(true).open(self.dir.join(name))?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.dir.join(from), self.dir.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.dir.join(name))
    }

    fn sync_dir(&self) -> io::Result<()> {
        File::open(&self.dir)?.sync_all()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

impl Handle for File {
    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_exact_at(bytes, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::Folder;

    #[test]
    fn a_folder_is_let_go_though_a_copy_of_its_descriptor_is_open() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let folder = Folder::open(dir.path()).expect("nobody holds it");
        let copy = folder.lock.try_clone().expect("a copy as a new process has it");
        drop(folder);
        Folder::open(dir.path()).expect("nobody holds it any more");
        drop(copy);
    }
}
