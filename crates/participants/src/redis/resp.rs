//! One connection: commands out, replies in (RESP, version 2 of the protocol).
//!
//! A reply counts only when it has come whole. Whatever breaks a connection, or makes no sense, ends
//! it: a connection that is given back to its pool is always between two questions.

use std::fmt;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use unanimous_core::Reason;

use crate::limits::{REDIS_REPLY_BYTES_MAX, REDIS_REPLY_DEPTH_MAX};
use crate::tls::{self, Stream};

/// A connection that has been logged in.
pub(super) struct Connection {
    pub(super) stream: Stream,
    input: BytesMut,
    /// Questions whose answers have not come.
    open: usize,
    /// Why no branch may be prepared on the server, if its settings forbid that.
    pub(super) unfit: Option<Reason>,
}

/// The connection is of no more use. The text says what was seen.
#[derive(Debug)]
pub(super) struct Broken(pub(super) String);

/// An error that the server reported.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Refused(pub(super) String);

impl Refused {
    /// The word that says which error it is, such as `READONLY`.
    pub(super) fn code(&self) -> &str {
        self.0.split_ascii_whitespace().next().unwrap_or_default()
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What the server replied.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Reply {
    /// A text, or bytes that are read as one.
    Text(String),
    Integer(i64),
    Nothing,
    List(Vec<Reply>),
}

impl Reply {
    /// The texts of a list of texts, or of one text.
    pub(super) fn texts(self) -> Vec<String> {
        match self {
            Self::Text(text) => vec![text],
            Self::Integer(number) => vec![number.to_string()],
            Self::Nothing => Vec::new(),
            Self::List(list) => list.into_iter().flat_map(Self::texts).collect(),
        }
    }
}

pub(super) type Answered<T> = Result<Result<T, Refused>, Broken>;

impl Connection {
    pub(super) fn new(stream: Stream) -> Self {
        Self { stream, input: BytesMut::new(), open: 0, unfit: None }
    }

    /// Whether every question has been answered.
    pub(super) fn is_between(&self) -> bool {
        self.open == 0 && self.input.is_empty()
    }

    /// Asks one question.
    pub(super) async fn ask(&mut self, words: &[&str]) -> Answered<Reply> {
        self.send(&[words]).await?;
        self.next().await
    }

    /// Sends several questions at once; each has one [`next`](Self::next).
    pub(super) async fn send(&mut self, questions: &[&[&str]]) -> Result<(), Broken> {
        let mut output = Vec::new();
        for words in questions {
            output.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
            for word in *words {
                output.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
                output.extend_from_slice(word.as_bytes());
                output.extend_from_slice(b"\r\n");
            }
        }
        self.open += questions.len();
        let sent = async {
            self.stream.write_all(&output).await?;
            // What is encrypted may wait in a buffer.
            self.stream.flush().await
        };
        sent.await.map_err(|error| Broken(tls::seen(&error)))
    }

    pub(super) async fn next(&mut self) -> Answered<Reply> {
        loop {
            let mut rest = &self.input[..];
            if let Some(answered) = parse(&mut rest, 0)? {
                let parsed = self.input.len() - rest.len();
                self.input.advance(parsed);
                self.open -= 1;
                return Ok(answered);
            }
            if self.input.len() > REDIS_REPLY_BYTES_MAX {
                return Err(Broken(format!("a reply of more than {REDIS_REPLY_BYTES_MAX} bytes")));
            }
            match self.stream.read_buf(&mut self.input).await {
                Ok(0) => return Err(Broken("the server closed the connection".to_owned())),
                Ok(_) => {}
                Err(error) => return Err(Broken(tls::seen(&error))),
            }
        }
    }
}

fn senseless() -> Broken {
    Broken("a reply that is not of the protocol".to_owned())
}

/// Reads one reply, or nothing if it has not come whole.
fn parse(rest: &mut &[u8], depth: usize) -> Result<Option<Result<Reply, Refused>>, Broken> {
    let Some(end) = rest.windows(2).position(|pair| pair == b"\r\n") else { return Ok(None) };
    let (line, after) = (&rest[..end], &rest[end + 2..]);
    let (&mark, line) = line.split_first().ok_or_else(senseless)?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let number = || text(line).parse::<i64>().map_err(|_| senseless());
    *rest = after;
    Ok(Some(Ok(match mark {
        b'+' => Reply::Text(text(line)),
        b'-' => return Ok(Some(Err(Refused(text(line))))),
        b':' => Reply::Integer(number()?),
        b'$' => {
            let Ok(len) = usize::try_from(number()?) else { return Ok(Some(Ok(Reply::Nothing))) };
            if len > REDIS_REPLY_BYTES_MAX {
                return Err(Broken(format!("a reply of {len} bytes")));
            }
            if rest.len() < len + 2 {
                return Ok(None);
            }
            let bytes = &rest[..len];
            *rest = &rest[len + 2..];
            Reply::Text(text(bytes))
        }
        b'*' => {
            let Ok(len) = usize::try_from(number()?) else { return Ok(Some(Ok(Reply::Nothing))) };
            if depth == REDIS_REPLY_DEPTH_MAX {
                return Err(senseless());
            }
            let mut list = Vec::new();
            for _ in 0..len {
                match parse(rest, depth + 1)? {
                    None => return Ok(None),
                    Some(Ok(reply)) => list.push(reply),
                    Some(Err(Refused(error))) => list.push(Reply::Text(error)),
                }
            }
            Reply::List(list)
        }
        _ => return Err(senseless()),
    })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_counts_only_when_it_has_come_whole() {
        let whole = b"*4\r\n$3\r\na\r\n\r\n:-7\r\n$-1\r\n*1\r\n+OK\r\n";
        for end in 0..whole.len() {
            let mut rest = &whole[..end];
            assert!(parse(&mut rest, 0).expect("sense").is_none(), "{end} bytes");
        }
        let mut rest = &whole[..];
        let reply = parse(&mut rest, 0).expect("sense").expect("whole").expect("no error");
        let text = |text: &str| Reply::Text(text.to_owned());
        let inner = Reply::List(vec![text("OK")]);
        assert_eq!(
            reply,
            Reply::List(vec![text("a\r\n"), Reply::Integer(-7), Reply::Nothing, inner])
        );
        assert!(rest.is_empty());
    }

    #[test]
    fn an_error_is_told_apart_by_its_first_word() {
        let mut rest = &b"-READONLY You can't write\r\n+next\r\n"[..];
        let refused = parse(&mut rest, 0).expect("sense").expect("whole").expect_err("an error");
        assert_eq!(refused.code(), "READONLY");
        assert_eq!(rest, b"+next\r\n");
    }

    #[test]
    fn what_is_not_of_the_protocol_breaks_the_connection() {
        for bytes in [&b"HTTP/1.1 400\r\n"[..], b"\r\n", b"$x\r\n", b":\r\n", b"$99999999999\r\n"] {
            assert!(parse(&mut &*bytes, 0).is_err(), "{bytes:?}");
        }
        assert!(parse(&mut &*b"*1\r\n".repeat(1_000), 0).is_err());
    }
}
