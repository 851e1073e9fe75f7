//! Branch names as the identifiers of XA (X/Open, Distributed Transaction Processing: The XA
//! Specification): format, global part and qualifier.
//!
//! ```text
//! una:main:01939f6e-7a30-7c41-9b1d-3f2a5c7e9d10:0
//! └──────────── global part ─────────────────┘ └ qualifier, without the colon
//! ```
//!
//! What is listed under another format is somebody else's, however its parts read. MariaDB itself
//! tells identifiers apart by the two parts alone.

use unanimous_core::id::BranchName;

/// The format number of identifiers of ours: `UNA` in ASCII.
pub(super) const FORMAT: u32 = 0x55_4E41;

/// The identifier of a branch as SQL spells it. A name has no character that a literal could not.
pub(super) fn spelled(name: &BranchName) -> String {
    let BranchName { cluster, txn, branch } = name;
    format!("'una:{cluster}:{txn}','{}',{FORMAT}", branch.0)
}

/// A line of `XA RECOVER` as a name like ours; `None` if it is somebody else's.
///
/// The two parts stand there as one, and may be any bytes.
pub(super) fn read(format: &[u8], global_len: &[u8], data: &[u8]) -> Option<String> {
    let number = |text: &[u8]| std::str::from_utf8(text).ok()?.parse::<u32>().ok();
    let (global, qualifier) = data.split_at_checked(number(global_len)? as usize)?;
    let [global, qualifier] = [global, qualifier].map(std::str::from_utf8);
    let name = format!("{}:{}", global.ok()?, qualifier.ok()?);
    (number(format)? == FORMAT && name.starts_with("una:")).then_some(name)
}

#[cfg(test)]
mod tests {
    use unanimous_core::id::{BranchId, ShardId, TxnId};

    use super::*;

    #[test]
    fn a_name_is_listed_as_it_was_spelled() {
        let txn = TxnId::mint(5, ShardId::of(3), 9);
        let name = BranchName { cluster: "c".repeat(20), txn, branch: BranchId(u16::MAX) };
        let spelled = spelled(&name);
        let parts: Vec<&str> = spelled.split(',').map(|it| it.trim_matches('\'')).collect();
        assert!(parts[0].len() <= 64 && parts[1].len() <= 64);
        let (len, data) = (parts[0].len().to_string(), format!("{}{}", parts[0], parts[1]));
        let read = read(parts[2].as_bytes(), len.as_bytes(), data.as_bytes());
        assert_eq!(read.expect("ours").parse(), Ok(name));
    }

    #[test]
    fn what_is_not_ours_is_foreign_whatever_its_bytes() {
        let ours = FORMAT.to_string();
        for (format, len, data) in [
            ("1", "5", &b"una:x0"[..]),
            (&ours, "5", b"uma:x0"),
            (&ours, "9", b"una:x0"),
            (&ours, "-1", b"una:x0"),
            (&ours, "4", b"una:\xff\x00"),
            ("4294967296", "5", b"una:x0"),
        ] {
            assert_eq!(read(format.as_bytes(), len.as_bytes(), data), None);
        }
        assert!(read(ours.as_bytes(), b"5", b"una:x0").is_some());
    }
}
