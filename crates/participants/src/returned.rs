//! What a branch returns with its vote: results for the client, and a memo for the adapter itself.
//!
//! Both are kept with the decision, so the adapter has its memo again when it finishes the branch,
//! whatever has restarted since. Clients see the results only.
//!
//! ```text
//! [result, …]                             results alone
//! {"memo":"…","results":[result, …]}      with a memo
//! ```

use serde::{Deserialize, Serialize};
use serde_json::Value;
use unanimous_core::Opaque;

#[derive(Deserialize, Serialize)]
struct WithMemo<R> {
    memo: String,
    results: R,
}

/// Puts a memo to results.
pub fn with_memo(memo: &str, results: &[Value]) -> Opaque {
    let both = WithMemo { memo: memo.to_owned(), results };
    Opaque::new(&serde_json::to_vec(&both).expect("texts and values are always JSON"))
}

/// The results alone, for the client; none if the bytes are not of this form.
pub fn results(returned: &[u8]) -> Vec<Value> {
    if returned.first() == Some(&b'{') {
        let both = serde_json::from_slice::<WithMemo<Vec<Value>>>(returned);
        return both.map(|both| both.results).unwrap_or_default();
    }
    serde_json::from_slice(returned).unwrap_or_default()
}

/// The memo; `None` if there is none.
pub fn memo(returned: &[u8]) -> Option<String> {
    let both = serde_json::from_slice::<WithMemo<serde::de::IgnoredAny>>(returned);
    both.map(|both| both.memo).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_memo_travels_with_the_results_and_is_not_among_them() {
        let list = [serde_json::json!({"rows_affected": 1})];
        let both = with_memo("731", &list);
        assert_eq!(memo(both.bytes()).as_deref(), Some("731"));
        assert_eq!(results(both.bytes()), list);
    }

    #[test]
    fn results_alone_have_no_memo_and_nothing_is_nothing() {
        assert_eq!(results(b"[1,2]"), [1, 2]);
        assert_eq!(memo(b"[1,2]"), None);
        assert!(results(b"").is_empty() && memo(b"").is_none());
    }
}
