//! The coordinator that a command talks to.

use unanimous_client::Client;

use crate::cli::Connection;
use crate::exit::Failure;

/// Milliseconds that a command tries to reach each node of the coordinator: enough for one that is just
/// being restarted, and not so long that a wrong address is annoying.
const DEADLINE_MS: u64 = 3_000;

/// Milliseconds that a command waits for what takes the coordinator long: sums over large tables, read
/// several times.
const LONG_DEADLINE_MS: u64 = 60_000;

/// Connects as the flags and the environment say.
pub(crate) fn connect(connection: &Connection) -> Result<Client, Failure> {
    connect_within(connection, DEADLINE_MS)
}

/// The same for what takes long, of a coordinator that was reached before.
pub(crate) fn connect_patiently(connection: &Connection) -> Result<Client, Failure> {
    connect_within(connection, LONG_DEADLINE_MS)
}

fn connect_within(connection: &Connection, deadline_ms: u64) -> Result<Client, Failure> {
    let nodes = connection.server.split(',').count() as u64;
    let mut builder = Client::builder(&connection.server)
        .deadline_ms(deadline_ms * nodes)
        .reply_timeout_ms(deadline_ms);
    if let Ok(token) = std::env::var("UNANIMOUS_TOKEN") {
        builder = builder.token(&token);
    }
    Ok(builder.build()?)
}
