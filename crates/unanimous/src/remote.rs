//! The coordinator that a command talks to.

use unanimous_client::Client;

use crate::cli::Connection;
use crate::exit::Failure;

/// Milliseconds that a command tries to reach the coordinator: enough for one that is just being
/// restarted, and not so long that a wrong address is annoying.
const DEADLINE_MS: u64 = 3_000;

/// Connects as the flags and the environment say.
pub(crate) fn connect(connection: &Connection) -> Result<Client, Failure> {
    let mut builder = Client::builder(&connection.server).deadline_ms(DEADLINE_MS);
    if let Ok(token) = std::env::var("UNANIMOUS_TOKEN") {
        builder = builder.token(&token);
    }
    Ok(builder.build()?)
}
