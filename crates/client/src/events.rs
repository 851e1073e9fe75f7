//! Changes of state as they happen: server-sent events (WHATWG HTML, section 9.2).

use std::sync::{Mutex, PoisonError};

use axum::body::Body;
use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use tokio::time::{Instant, sleep, timeout};
use unanimous_api::{Code, EventView};

use crate::client::Client;
use crate::error::Error;
use crate::limits::{EVENT_BYTES_MAX, REPLY_BYTES_MAX};
use crate::repeat::Pauses;
use crate::transport::{Call, Heard, Meaning, Reply, Server, escape};

/// Changes of state, from [`crate::Client::events`].
///
/// If the connection breaks it is opened anew, at another node if there is one. What happened meanwhile
/// is not repeated: see [`Events::gaps`]. Those of one transaction go on with its present state. Who
/// reads too slowly misses some: see [`Events::missed`].
#[derive(Debug)]
pub struct Events {
    client: Client,
    call: Call,
    of: Of,
    open: Option<Open>,
    /// Between attempts to open it, since an event has come.
    pauses: Pauses,
    missed: u64,
    gaps: u64,
}

/// What they are about.
#[derive(Debug)]
enum Of {
    All,
    /// One transaction, with the version that was shown last. A connection begins with its state.
    One(Option<u32>),
}

/// A connection over which events come.
#[derive(Debug)]
struct Open {
    server: Server,
    /// One task reads it: the lock is what lets others hold it meanwhile.
    body: Mutex<Body>,
    lines: Lines,
    /// The version that was shown before it was opened, until it has told of one.
    shown: Option<u32>,
}

impl Events {
    pub(crate) async fn open(client: Client, transaction: Option<&str>) -> Result<Self, Error> {
        let (path, of) = match transaction {
            Some(id) => (format!("/v1/events?transaction={}", escape(id)), Of::One(None)),
            None => ("/v1/events".to_owned(), Of::All),
        };
        let call = Call::get(path);
        let pauses = client.pauses();
        let mut events = Self { client, call, of, open: None, pauses, missed: 0, gaps: 0 };
        events.open = Some(events.connect().await?);
        Ok(events)
    }

    /// The next change.
    ///
    /// # Errors
    ///
    /// [`Error::Unreachable`] if no node answers within the client's deadline, [`Error::NotFound`] if
    /// the transaction is not known any more. The next call tries again.
    pub async fn next(&mut self) -> Result<EventView, Error> {
        loop {
            let Some(open) = &mut self.open else {
                self.open = Some(self.reconnect().await?);
                self.gaps = self.gaps.saturating_add(1);
                continue;
            };
            if let Some(Event { kind, data }) = open.lines.event() {
                if kind == "missed" {
                    self.missed = self.missed.saturating_add(data.parse().unwrap_or(1));
                    continue;
                }
                let event: EventView = match serde_json::from_str(&data) {
                    Ok(event) => event,
                    Err(error) => return Err(self.foreign(&error)),
                };
                self.pauses = self.client.pauses();
                if let Of::One(shown) = &mut self.of {
                    *shown = Some(event.version);
                }
                match open.shown.take() {
                    Some(version) if version == event.version => continue,
                    Some(_) | None => return Ok(event),
                }
            }
            let body = open.body.get_mut().unwrap_or_else(PoisonError::into_inner);
            match body.frame().await {
                Some(Ok(frame)) => {
                    let more = frame.into_data().unwrap_or_default();
                    if open.lines.push(&more).is_err() {
                        return Err(self.foreign(&"an event is too long"));
                    }
                }
                // A node that closes it shuts down.
                Some(Err(_)) | None => {
                    self.client.transport().leave(open.server);
                    self.open = None;
                }
            }
        }
    }

    /// How many changes the coordinator has left out so far because they were not read in time.
    pub fn missed(&self) -> u64 {
        self.missed
    }

    /// How often the connection was opened anew so far: each time, look at the transactions that matter.
    pub fn gaps(&self) -> u64 {
        self.gaps
    }

    /// Opens it anew, after a pause: a node may take it only to close it again.
    async fn reconnect(&mut self) -> Result<Open, Error> {
        let until = self.client.deadline();
        loop {
            sleep(self.pauses.next()).await;
            let opened = self.connect().await;
            let is_over = |error: &Error| {
                self.client.transport().is_within() && error.code() == Some(Code::ShuttingDown)
            };
            match opened {
                Err(error @ Error::Busy(_)) if is_over(&error) => return Err(error),
                Err(Error::Unreachable { .. } | Error::Busy(_)) if Instant::now() < until => {}
                opened => return opened,
            }
        }
    }

    /// Asks each node once, until one answers.
    async fn connect(&self) -> Result<Open, Error> {
        let transport = self.client.transport();
        let mut others = transport.count() - 1;
        loop {
            let server = transport.server();
            let heard = match self.connect_to(server).await {
                Ok(open) => return Ok(open),
                Err(heard) => heard,
            };
            if heard.is_farewell() {
                transport.leave(server);
                if others > 0 {
                    others -= 1;
                    continue;
                }
            }
            return Err(self.error_of(server, heard));
        }
    }

    async fn connect_to(&self, server: Server) -> Result<Open, Heard> {
        let (transport, patience) = (self.client.transport(), self.client.reply_timeout());
        let late = || Heard::Lost(format!("no reply within {} ms", patience.as_millis()));
        let response = timeout(patience, transport.open(server, &self.call)).await;
        let (head, body) = response.unwrap_or_else(|_| Err(late()))?.into_parts();
        if head.status.is_success() {
            let shown = match self.of {
                Of::One(shown) => shown,
                Of::All => None,
            };
            let body = Mutex::new(body);
            return Ok(Open { server, body, lines: Lines::default(), shown });
        }
        let body = timeout(patience, Limited::new(body, REPLY_BYTES_MAX).collect()).await;
        let body = match body {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(_)) | Err(_) => Bytes::new(),
        };
        Err(Heard::Reply(Reply::new(head.status, body)))
    }

    fn error_of(&self, server: Server, heard: Heard) -> Error {
        let server = self.client.transport().name(server).to_owned();
        match heard {
            Heard::NotSent(cause) | Heard::Lost(cause) => Error::Unreachable { server, cause },
            Heard::Reply(reply) => match reply.meaning() {
                Meaning::Refused(problem) => Error::of_problem(problem),
                Meaning::TurnedAway(problem) => Error::Busy(Box::new(problem)),
                Meaning::Done(_) => unreachable!("a success is no error"),
                Meaning::Unsettled(cause) => Error::Unreachable { server, cause },
                Meaning::Foreign(cause) => Error::NotACoordinator { server, cause },
            },
        }
    }

    /// Ends the connection, over which comes what nobody understands.
    fn foreign(&mut self, cause: &dyn std::fmt::Display) -> Error {
        self.open = None;
        self.client.foreign(cause)
    }
}

/// Bytes that came and have not been read as events.
#[derive(Debug, Default)]
struct Lines {
    bytes: Vec<u8>,
    next: Event,
}

#[derive(Debug, Default, Eq, PartialEq)]
struct Event {
    kind: String,
    data: String,
}

#[derive(Debug)]
struct TooLong;

impl Lines {
    fn push(&mut self, more: &[u8]) -> Result<(), TooLong> {
        if self.bytes.len() + self.next.data.len() >= EVENT_BYTES_MAX {
            return Err(TooLong);
        }
        self.bytes.extend_from_slice(more);
        Ok(())
    }

    /// The next whole event. One without data is none.
    fn event(&mut self) -> Option<Event> {
        while let Some(end) = self.bytes.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = self.bytes.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            let line = line.trim_end_matches(['\r', '\n']);
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "" if line.is_empty() => {
                    let event = std::mem::take(&mut self.next);
                    if !event.data.is_empty() {
                        return Some(event);
                    }
                }
                "event" => self.next.kind = value.to_owned(),
                "data" => {
                    if !self.next.data.is_empty() {
                        self.next.data.push('\n');
                    }
                    self.next.data.push_str(value);
                }
                _ => {}
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_however_the_bytes_are_cut() {
        let text = ": hello\n\nevent: state\r\ndata: {\"a\":\r\ndata: 1}\r\n\r\ndata:x\n\n";
        for cut in 0..text.len() {
            let mut lines = Lines::default();
            let mut events = Vec::new();
            for part in [&text[..cut], &text[cut..]] {
                lines.push(part.as_bytes()).expect("short");
                events.extend(std::iter::from_fn(|| lines.event()));
            }
            let read: Vec<_> = events.iter().map(|it: &Event| (&*it.kind, &*it.data)).collect();
            assert_eq!(read, [("state", "{\"a\":\n1}"), ("", "x")], "cut at {cut}");
        }
    }

    #[test]
    fn an_endless_event_is_refused() {
        let mut lines = Lines::default();
        let long = vec![b'x'; EVENT_BYTES_MAX];
        assert!(lines.push(&long).is_ok());
        assert!(lines.push(b"xx").is_err());
    }
}
