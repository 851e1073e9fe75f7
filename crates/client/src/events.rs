//! Changes of state as they happen: server-sent events (WHATWG HTML, section 9.2).

use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use unanimous_api::EventView;

use crate::error::{Error, chain};
use crate::limits::{EVENT_BYTES_MAX, REPLY_BYTES_MAX};
use crate::transport::{Call, Heard, Meaning, Reply, Transport};

/// Changes of state, from [`crate::Client::events`].
///
/// A broken connection ends it, and what happened meanwhile is not repeated: open it anew, and look
/// at the transactions that matter. Who reads too slowly misses some: see [`Events::missed`].
#[derive(Debug)]
pub struct Events {
    server: String,
    body: Incoming,
    lines: Lines,
    missed: u64,
}

impl Events {
    pub(crate) async fn open(
        transport: &Transport,
        call: &Call,
        patience: Duration,
    ) -> Result<Self, Error> {
        let server = transport.server().to_owned();
        let unreachable = |cause| Error::Unreachable { server: server.clone(), cause };
        let opened = tokio::time::timeout(patience, transport.open(call)).await;
        let response = match opened {
            Ok(Ok(response)) => response,
            Ok(Err(Heard::NotSent(cause) | Heard::Lost(cause))) => return Err(unreachable(cause)),
            Ok(Err(Heard::Reply(_))) => unreachable!("opening reads no reply"),
            Err(_) => return Err(unreachable(format!("no reply within {patience:?}"))),
        };
        if response.status().is_success() {
            let lines = Lines::default();
            return Ok(Self { server, body: response.into_body(), lines, missed: 0 });
        }
        let status = response.status();
        let body = http_body_util::Limited::new(response.into_body(), REPLY_BYTES_MAX);
        let body = match tokio::time::timeout(patience, body.collect()).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(_)) | Err(_) => Bytes::new(),
        };
        Err(match Reply::new(status, body).meaning() {
            Meaning::Refused(problem) => Error::of_problem(problem),
            Meaning::TurnedAway(problem) => Error::Busy(Box::new(problem)),
            Meaning::Done(_) => unreachable!("a success was told apart above"),
            Meaning::Unsettled(cause) => unreachable(cause),
            Meaning::Foreign(cause) => Error::NotACoordinator { server, cause },
        })
    }

    /// The next change, or `None` when the coordinator has closed the stream.
    ///
    /// # Errors
    ///
    /// [`Error::Unreachable`] if the connection broke.
    pub async fn next(&mut self) -> Option<Result<EventView, Error>> {
        loop {
            if let Some(Event { kind, data }) = self.lines.event() {
                if kind == "missed" {
                    self.missed = self.missed.saturating_add(data.parse().unwrap_or(1));
                    continue;
                }
                return Some(serde_json::from_str(&data).map_err(|error| self.foreign(&error)));
            }
            let more = match self.body.frame().await? {
                Ok(frame) => frame.into_data().unwrap_or_default(),
                Err(error) => {
                    let (server, cause) = (self.server.clone(), chain(&error));
                    return Some(Err(Error::Unreachable { server, cause }));
                }
            };
            if self.lines.push(&more).is_err() {
                return Some(Err(self.foreign(&"an event is too long")));
            }
        }
    }

    /// How many changes the coordinator has left out so far because they were not read in time.
    pub fn missed(&self) -> u64 {
        self.missed
    }

    fn foreign(&self, cause: &dyn std::fmt::Display) -> Error {
        Error::NotACoordinator { server: self.server.clone(), cause: cause.to_string() }
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
