//! What each error of Redis means for a branch.
//!
//! An error to a first phase says that it was not carried out. In the second phase nothing is refused
//! any more: every error is asked about again.

use unanimous_core::Reason;

use super::resp::Refused;

/// Whether it may be different in a moment without anybody's help.
pub(super) fn may_pass(refused: &Refused) -> bool {
    matches!(refused.code(), "LOADING" | "BUSY" | "TRYAGAIN" | "CLUSTERDOWN" | "MASTERDOWN")
        || refused.0.contains("max number of clients reached")
}

/// Why a branch cannot commit. The kind is for programs: `lock_timeout` and `resources` may pass when
/// all is tried again.
pub(super) fn reason(refused: &Refused) -> Reason {
    let (kind, remedy) = kind(refused);
    let detail = if remedy.is_empty() { refused.0.clone() } else { format!("{refused}; {remedy}") };
    Reason::new(kind, &detail)
}

fn kind(refused: &Refused) -> (&'static str, &'static str) {
    match refused.code() {
        "OOM" => ("resources", "raise maxmemory or remove data"),
        "MISCONF" => ("resources", "the server cannot write to its disk: see its log"),
        "NOREPLICAS" => ("resources", "fewer replicas than min-replicas-to-write are there"),
        "READONLY" => ("read_only_resource", "name the master in the resource's url"),
        "MOVED" | "ASK" => {
            ("configuration", "name the node that holds the slot of the tag in the resource's url")
        }
        "CROSSSLOT" => ("configuration", "all keys of a branch need the tag of the resource's url"),
        "NOAUTH" | "WRONGPASS" => ("configuration", "correct the user or the password"),
        "NOPERM" => ("permission", "docs/resources-redis.md lists the rights that the user needs"),
        "WRONGTYPE" => ("data", ""),
        _ => (of_text(&refused.0), ""),
    }
}

/// Errors of the same first word, `ERR`.
fn of_text(text: &str) -> &'static str {
    let of_data = ["not an integer", "overflow", "not a valid float", "would produce NaN"];
    let of_slot = ["non local key", "do not hash to the same slot", "-MOVED"];
    if of_data.iter().any(|it| text.contains(it)) {
        return "data";
    }
    if of_slot.iter().any(|it| text.contains(it)) {
        return "configuration";
    }
    if text.contains("ACL failure") || text.contains("can't run this command") {
        return "permission";
    }
    "command"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_error_has_a_kind_of_its_own() {
        for (text, kind) in [
            ("OOM command not allowed when used memory > 'maxmemory'.", "resources"),
            ("MISCONF Errors writing to the AOF file: No space left on device", "resources"),
            ("NOREPLICAS Not enough good replicas to write.", "resources"),
            ("READONLY You can't write against a read only replica.", "read_only_resource"),
            ("MOVED 866 127.0.0.1:7001", "configuration"),
            ("CROSSSLOT Keys in request don't hash to the same slot", "configuration"),
            ("ERR Script attempted to access a non local key in a cluster node", "configuration"),
            ("NOPERM this user has no permissions to run the 'fcall' command", "permission"),
            ("WRONGTYPE Operation against a key holding the wrong kind of value", "data"),
            ("ERR increment or decrement would overflow", "data"),
            ("ERR hash value is not an integer", "data"),
            ("ERR Wrong number of args calling Redis command from script", "command"),
        ] {
            assert_eq!(&*reason(&Refused(text.to_owned())).kind, kind, "{text}");
        }
    }

    #[test]
    fn what_passes_by_itself_is_asked_again() {
        for text in [
            "LOADING Redis is loading the dataset in memory",
            "BUSY Redis is busy running a script.",
            "CLUSTERDOWN The cluster is down",
            "TRYAGAIN Multiple keys request during rehashing of slot",
            "MASTERDOWN Link with MASTER is down",
            "ERR max number of clients reached",
        ] {
            assert!(may_pass(&Refused(text.to_owned())), "{text}");
        }
        assert!(!may_pass(&Refused("OOM command not allowed".to_owned())));
    }
}
