//! Connecting, proving who we are, and learning what the server is like.

use tokio::net::TcpStream;
use tokio::time::timeout;

use super::address::Address;
use super::fitness::Facts;
use super::refusal;
use super::resp::{Broken, Connection, Refused};
use crate::limits::CONNECT_TIMEOUT;
use crate::pool::Lendable;
use crate::tls::{Stream, TlsError};

/// Why there is no connection.
#[derive(Debug)]
pub(super) enum NoConnection {
    /// Nobody answered, or not in a way that makes sense.
    Unheard(String),
    /// The server is there and does not let us in now.
    Refused(Refused),
    /// It wants another user or password, or is not configured for what we need.
    Unable(String),
}

impl From<Broken> for NoConnection {
    fn from(Broken(seen): Broken) -> Self {
        Self::Unheard(seen)
    }
}

impl Lendable for Connection {
    type Address = Address;
    type NoConnection = NoConnection;

    async fn connect(address: &Address) -> Result<Self, NoConnection> {
        look(address).await.map(|(connection, _)| connection)
    }

    fn is_free(&self) -> bool {
        // One to a server whose settings will not do is not kept: they may be changed.
        self.is_between() && self.unfit.is_none()
    }

    fn is_quiet(&mut self) -> bool {
        self.stream.is_quiet() && self.is_between()
    }
}

/// Makes a connection, within [`CONNECT_TIMEOUT`], and says what the server told of itself.
pub(super) async fn look(address: &Address) -> Result<(Connection, Facts), NoConnection> {
    match timeout(CONNECT_TIMEOUT, login(address)).await {
        Ok(connection) => connection,
        Err(_) => Err(NoConnection::Unheard(format!(
            "no connection within {} ms",
            CONNECT_TIMEOUT.as_millis()
        ))),
    }
}

async fn login(address: &Address) -> Result<(Connection, Facts), NoConnection> {
    let unheard = |error: std::io::Error| NoConnection::Unheard(error.to_string());
    let stream = TcpStream::connect((&*address.host, address.port)).await.map_err(unheard)?;
    stream.set_nodelay(true).map_err(unheard)?;
    let stream = match &address.tls {
        None => Stream::Plain(stream),
        Some(connector) => {
            connector.connect(&address.host, stream).await.map_err(|error| match error {
                TlsError::Refused(why) => NoConnection::Unable(why),
                TlsError::Broken(seen) => NoConnection::Unheard(seen),
            })?
        }
    };
    let mut connection = Connection::new(stream);
    let database = address.database.to_string();
    let password = address.password.as_ref().map(|it| it.reveal());
    let mut questions: Vec<Vec<&str>> = Vec::new();
    match (&address.user, password) {
        (Some(user), Some(password)) => questions.push(vec!["AUTH", user, password]),
        // A user without a password is let in by any.
        (Some(user), None) => questions.push(vec!["AUTH", user, ""]),
        (None, Some(password)) => questions.push(vec!["AUTH", password]),
        (None, None) => {}
    }
    if address.database != 0 {
        questions.push(vec!["SELECT", &database]);
    }
    let before = questions.len();
    questions.push(vec!["INFO"]);
    questions.push(vec!["CONFIG", "GET", "appendfsync", "no-appendfsync-on-rewrite"]);
    let questions: Vec<&[&str]> = questions.iter().map(|words| &words[..]).collect();
    connection.send(&questions).await?;
    for _ in 0..before {
        connection.next().await?.map_err(not_let_in)?;
    }
    let info = connection.next().await?.map_err(not_let_in)?;
    let synced = connection.next().await?;
    let facts = Facts::read(&info.texts().concat(), synced);
    if facts.loading {
        return Err(NoConnection::Refused(Refused("LOADING it still reads its data".to_owned())));
    }
    connection.unfit = facts.unfit(address);
    Ok((connection, facts))
}

fn not_let_in(refused: Refused) -> NoConnection {
    if refusal::may_pass(&refused) {
        return NoConnection::Refused(refused);
    }
    let remedy = match refused.code() {
        "NOAUTH" => "; set password_env or password_file of the resource",
        "WRONGPASS" => "; correct the user in its url, or its password_env or password_file",
        "NOPERM" => "; docs/resources-redis.md lists the rights that the user needs",
        _ => "",
    };
    NoConnection::Unable(format!("{refused}{remedy}"))
}
