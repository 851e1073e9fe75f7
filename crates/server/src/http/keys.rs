//! Idempotency keys of requests other than begin.
//!
//! Those requests may be repeated as they are, so nothing has to be saved for them: a repeat shows
//! the present state. What is remembered is the fingerprint, so that a key is not taken for two
//! requests. A key that is forgotten after a restart costs no more than that check.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use sha2::{Digest, Sha256};
use unanimous_api::Code;

use super::Failure;
use crate::limits::REQUEST_KEYS_MAX;

/// Digest of a request: its path and its body.
pub(super) fn fingerprint(path: &str, body: &[u8]) -> [u8; 16] {
    let digest = Sha256::new().chain_update(path).chain_update([0]).chain_update(body).finalize();
    let mut fingerprint = [0; 16];
    fingerprint.copy_from_slice(&digest[..16]);
    fingerprint
}

/// The last [`REQUEST_KEYS_MAX`] keys.
#[derive(Default)]
pub(crate) struct Keys(Mutex<Remembered>);

#[derive(Default)]
struct Remembered {
    by_key: HashMap<String, [u8; 16]>,
    oldest: VecDeque<String>,
}

impl Keys {
    /// Takes a key for a request, or says that it was used for another one.
    pub(super) fn take(&self, key: &str, fingerprint: [u8; 16]) -> Result<(), Failure> {
        let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match keys.by_key.get(key) {
            Some(known) if *known == fingerprint => return Ok(()),
            Some(_) => {
                let detail = format!("the key {key:?} was used for another request");
                return Err(Failure::new(Code::KeyReused, detail));
            }
            None => {}
        }
        if keys.oldest.len() == REQUEST_KEYS_MAX
            && let Some(oldest) = keys.oldest.pop_front()
        {
            keys.by_key.remove(&oldest);
        }
        keys.by_key.insert(key.to_owned(), fingerprint);
        keys.oldest.push_back(key.to_owned());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_good_for_one_request_however_often_it_is_repeated() {
        let keys = Keys::default();
        let commit = fingerprint("/v1/transactions/1/commit", b"{}");
        assert!(keys.take("k", commit).is_ok());
        assert!(keys.take("k", commit).is_ok());
        assert!(keys.take("k", fingerprint("/v1/transactions/2/commit", b"{}")).is_err());
        assert!(keys.take("k", fingerprint("/v1/transactions/1/commit", b"{ }")).is_err());
    }
}
