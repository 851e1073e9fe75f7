//! The library of functions: loaded when a call finds it missing.

use super::resp::{Answered, Connection, Refused, Reply};

/// What runs inside Redis. Its names carry a version: coordinators of several versions may use one
/// server, and what one has prepared the others finish.
const SOURCE: &str = include_str!("functions.lua");

/// Calls a function, after loading the library if the server does not have it.
pub(super) async fn call(
    connection: &mut Connection,
    root: &str,
    function: &str,
    arguments: &[&str],
) -> Answered<Reply> {
    let name = format!("unanimous_v1_{function}");
    let mut words = vec!["FCALL", &name, "1", root];
    words.extend_from_slice(arguments);
    match connection.ask(&words).await? {
        Err(refused) if is_missing(&refused) => {
            match connection.ask(&["FUNCTION", "LOAD", SOURCE]).await? {
                // Another connection was faster.
                Err(Refused(why)) if why.contains("already exists") => {}
                Err(refused) => return Ok(Err(refused)),
                Ok(_) => {}
            }
            connection.ask(&words).await
        }
        answered => Ok(answered),
    }
}

/// Whether the user may load the library, without loading anything.
pub(super) async fn probe(connection: &mut Connection) -> Answered<()> {
    let answered = connection.ask(&["FUNCTION", "LOAD", "no library"]).await?;
    Ok(match answered {
        Err(refused) if refused.code() == "NOPERM" => Err(refused),
        Err(_) | Ok(_) => Ok(()),
    })
}

fn is_missing(refused: &Refused) -> bool {
    refused.0.starts_with("ERR Function not found")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server keeps the library it was given first: under a name that has been shipped, other source
    /// would never be loaded. What has not been shipped may be changed, with this digest.
    #[test]
    fn the_library_has_not_changed_under_its_version() {
        let fnv = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        let digest = SOURCE.bytes().fold(0xcbf2_9ce4_8422_2325, fnv);
        assert_eq!(
            digest, 11_594_371_725_931_065_184,
            "raise the version in functions.lua and here"
        );
        assert!(SOURCE.starts_with("#!lua name=unanimous_v1\n"));
    }
}
