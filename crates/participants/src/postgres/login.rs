//! Connecting and proving who we are.
//!
//! The password is sent as it is only if the server asks for that; SCRAM-SHA-256 and MD5 show no
//! more than that it is known, and SCRAM over TLS shows it to nobody but the owner of the certificate.

use bytes::BytesMut;
use fallible_iterator::FallibleIterator;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{
    ChannelBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256,
};
use postgres_protocol::message::backend::{AuthenticationSaslBody, Message};
use postgres_protocol::message::frontend;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::address::Address;
use super::binding;
use super::wire::{Broken, Connection, Refused, refused, senseless, unsendable};
use crate::limits::{CONNECT_TIMEOUT, POSTGRES_LOOKS_EVERY};
use crate::pool::Lendable;
use crate::tls::{Connector, Stream, TlsError};

/// What our sessions are called.
pub(super) const APPLICATION: &str = "unanimous";

/// Why there is no connection.
#[derive(Debug)]
pub(super) enum NoConnection {
    /// Nobody answered, or not in a way that makes sense.
    Unheard(String),
    /// The server is there and does not let us in now.
    Refused(Refused),
    /// It asks for a password and none is configured, or for what we cannot do.
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
        match timeout(CONNECT_TIMEOUT, login(address)).await {
            Ok(connection) => connection,
            Err(_) => {
                let waited_ms = CONNECT_TIMEOUT.as_millis();
                Err(NoConnection::Unheard(format!("no connection within {waited_ms} ms")))
            }
        }
    }

    fn is_free(&self) -> bool {
        self.is_outside() && self.input.is_empty()
    }

    fn is_quiet(&mut self) -> bool {
        self.stream.is_quiet() && self.is_free()
    }
}

async fn login(address: &Address) -> Result<Connection, NoConnection> {
    let unheard = |error: std::io::Error| NoConnection::Unheard(error.to_string());
    let stream = TcpStream::connect((&*address.host, address.port)).await.map_err(unheard)?;
    stream.set_nodelay(true).map_err(unheard)?;
    let stream = match &address.tls {
        None => Stream::Plain(stream),
        Some(connector) => encrypted(connector, &address.host, stream).await?,
    };
    let mut connection = Connection::new(stream);
    let parameters = [
        ("user", &*address.user),
        ("database", &*address.database),
        ("application_name", APPLICATION),
        ("client_encoding", "UTF8"),
        ("DateStyle", "ISO"),
    ];
    frontend::startup_message(parameters, &mut connection.output).map_err(unsendable)?;
    connection.send().await?;
    authenticate(&mut connection, address).await?;
    let_in(&mut connection).await?;
    be_looked_after(&mut connection).await?;
    Ok(connection)
}

/// Has the server notice if this process dies: otherwise a branch that waits for a lock is prepared when its
/// turn comes, and has the lock until somebody finds it.
async fn be_looked_after(connection: &mut Connection) -> Result<(), Broken> {
    // Not before version 14. Where the system cannot tell, setting it is refused, and nothing is lost.
    let sql = format!(
        "SELECT set_config(name, '{}', false) FROM pg_settings \
         WHERE name = 'client_connection_check_interval'",
        POSTGRES_LOOKS_EVERY.as_millis()
    );
    drop(connection.simple(&sql).await?);
    Ok(())
}

/// Asks for TLS as the protocol wants it. Exactly one byte is read: whatever somebody else put behind
/// it must not be taken for the server's.
async fn encrypted(
    connector: &Connector,
    host: &str,
    mut stream: TcpStream,
) -> Result<Stream, NoConnection> {
    let unheard = |error: std::io::Error| NoConnection::Unheard(error.to_string());
    let mut question = BytesMut::new();
    frontend::ssl_request(&mut question);
    stream.write_all(&question).await.map_err(unheard)?;
    match stream.read_u8().await.map_err(unheard)? {
        b'S' => connector.connect(host, stream).await.map_err(|error| match error {
            TlsError::Refused(why) => NoConnection::Unable(why),
            TlsError::Broken(seen) => NoConnection::Unheard(seen),
        }),
        b'N' => {
            let why =
                "it offers no tls: set ssl = on in postgresql.conf, or sslmode=disable in the url";
            Err(NoConnection::Unable(why.to_owned()))
        }
        _ => Err(out_of_turn()),
    }
}

/// Who has proved to be somebody may still be refused: there is no such database, or no room.
#[expect(clippy::wildcard_enum_match_arm, reason = "the protocol's messages, not ours")]
async fn let_in(connection: &mut Connection) -> Result<(), NoConnection> {
    loop {
        match reply(connection).await? {
            Message::BackendKeyData(body) => connection.process = body.process_id(),
            Message::ReadyForQuery(_) => return Ok(()),
            _ => return Err(out_of_turn()),
        }
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the protocol's messages, not ours")]
async fn authenticate(connection: &mut Connection, address: &Address) -> Result<(), NoConnection> {
    loop {
        match connection.next().await? {
            Message::AuthenticationOk => return Ok(()),
            Message::AuthenticationCleartextPassword => {
                let password = password(address)?;
                frontend::password_message(password, &mut connection.output).map_err(unsendable)?;
                connection.send().await?;
            }
            Message::AuthenticationMd5Password(body) => {
                let hash = md5_hash(address.user.as_bytes(), password(address)?, body.salt());
                frontend::password_message(hash.as_bytes(), &mut connection.output)
                    .map_err(unsendable)?;
                connection.send().await?;
            }
            Message::AuthenticationSasl(body) => scram(connection, address, &body).await?,
            Message::ErrorResponse(body) => {
                return Err(NoConnection::Refused(refused(body.fields())?));
            }
            _ => {
                let why = "it asks for a way to log in that is not supported; supported: scram, md5, \
                           password, trust";
                return Err(NoConnection::Unable(why.to_owned()));
            }
        }
    }
}

fn password(address: &Address) -> Result<&[u8], NoConnection> {
    let none = || {
        let why = "it asks for a password: set password_env or password_file of the resource";
        NoConnection::Unable(why.to_owned())
    };
    address.password.as_ref().map(|it| it.reveal().as_bytes()).ok_or_else(none)
}

/// RFC 5802 and 7677. The server proves that it knows the password, too.
async fn scram(
    connection: &mut Connection,
    address: &Address,
    body: &AuthenticationSaslBody,
) -> Result<(), NoConnection> {
    let offered: Vec<_> =
        body.mechanisms().map(|it| Ok(it.to_owned())).collect().map_err(senseless)?;
    let offers = |name: &str| offered.iter().any(|it| it == name);
    let end_point = connection.stream.certificate().and_then(binding::end_point);
    let (mechanism, bound) = match end_point {
        Some(hash) if offers(SCRAM_SHA_256_PLUS) => {
            (SCRAM_SHA_256_PLUS, ChannelBinding::tls_server_end_point(hash))
        }
        // Said to the server, who breaks off if somebody has taken its offer out on the way.
        Some(_) => (SCRAM_SHA_256, ChannelBinding::unrequested()),
        None => (SCRAM_SHA_256, ChannelBinding::unsupported()),
    };
    if !offers(mechanism) {
        let why = format!("it offers {}, but not {mechanism}", offered.join(", "));
        return Err(NoConnection::Unable(why));
    }
    let mut scram = ScramSha256::new(password(address)?, bound);
    frontend::sasl_initial_response(mechanism, scram.message(), &mut connection.output)
        .map_err(unsendable)?;
    connection.send().await?;
    let Message::AuthenticationSaslContinue(body) = reply(connection).await? else {
        return Err(out_of_turn());
    };
    scram.update(body.data()).map_err(senseless)?;
    frontend::sasl_response(scram.message(), &mut connection.output).map_err(unsendable)?;
    connection.send().await?;
    let Message::AuthenticationSaslFinal(body) = reply(connection).await? else {
        return Err(out_of_turn());
    };
    Ok(scram.finish(body.data()).map_err(senseless)?)
}

async fn reply(connection: &mut Connection) -> Result<Message, NoConnection> {
    let message = connection.next().await?;
    let Message::ErrorResponse(body) = message else { return Ok(message) };
    Err(NoConnection::Refused(refused(body.fields())?))
}

fn out_of_turn() -> NoConnection {
    NoConnection::Unheard("an answer out of turn while logging in".to_owned())
}
