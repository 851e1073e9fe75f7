//! One connection: messages out, messages in, and what the server said to a statement.
//!
//! A reply counts only when it has come whole. Whatever breaks a connection, or makes no sense, ends
//! it: a connection that is given back to its pool is always between two questions, outside of any
//! transaction.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use bytes::{Buf, BytesMut};
use fallible_iterator::FallibleIterator;
use postgres_protocol::IsNull;
use postgres_protocol::message::backend::{DataRowBody, ErrorFields, Header, Message};
use postgres_protocol::message::frontend;
use tokio::io::{AsyncReadExt, AsyncWrite};

use super::value::{self, Column};
use crate::limits::{POSTGRES_MESSAGE_BYTES_MAX, RESULT_BYTES_MAX, RESULT_ROWS_MAX};
use crate::statement::StatementResult;
use crate::tls::{self, Stream};

/// A connection that has been logged in.
pub(super) struct Connection {
    pub(super) stream: Stream,
    pub(super) output: BytesMut,
    pub(super) input: BytesMut,
    /// The transaction's state as of the last answer: idle, in a transaction, in a failed one.
    status: u8,
    /// Whether the server gave up waiting for a standby since the last question.
    pub(super) unreplicated: bool,
    /// Bytes of the results that were kept since the last question.
    kept_bytes: usize,
    /// The server's process as it was named when we were let in.
    pub(super) process: i32,
}

/// The connection is of no more use. The text says what was seen.
#[derive(Debug)]
pub(super) struct Broken(pub(super) String);

/// An error that the server reported.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Refused {
    /// SQLSTATE.
    pub(super) code: String,
    pub(super) message: String,
    pub(super) detail: Option<String>,
    /// Who the branch waited for, as far as somebody has looked.
    pub(super) waited: Option<String>,
    /// Whether the server closes the connection after it.
    pub(super) fatal: bool,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.code)?;
        self.detail.iter().try_for_each(|detail| write!(f, ": {detail}"))?;
        self.waited.iter().try_for_each(|waited| write!(f, "; {waited}"))
    }
}

impl Refused {
    /// An error after which the server closes the connection says why that is of no more use.
    fn or_broken(self) -> Result<Self, Broken> {
        match self.fatal {
            true => Err(Broken(self.to_string())),
            false => Ok(self),
        }
    }
}

/// What came of one statement.
#[derive(Debug, Default)]
pub(super) struct Executed {
    /// Such as `UPDATE 1`.
    pub(super) tag: String,
    pub(super) result: StatementResult,
    /// The first field of the first row, if there is one that is not null.
    pub(super) first: Option<String>,
}

pub(super) type Answered<T> = Result<Result<T, Refused>, Broken>;

impl Connection {
    pub(super) fn new(stream: Stream) -> Self {
        Self {
            stream,
            output: BytesMut::new(),
            input: BytesMut::new(),
            status: b'I',
            unreplicated: false,
            kept_bytes: 0,
            process: 0,
        }
    }

    /// Whether no transaction is open.
    pub(super) fn is_outside(&self) -> bool {
        self.status == b'I'
    }

    /// Whether a transaction is open and has not failed.
    pub(super) fn is_inside(&self) -> bool {
        self.status == b'T'
    }

    /// Adds a statement of the extended protocol; values are texts, whose types the server infers.
    pub(super) fn statement(&mut self, sql: &str, params: &[Option<String>]) -> Result<(), Broken> {
        let out = &mut self.output;
        frontend::parse("", sql, [], out).map_err(unsendable)?;
        let write = |value: &Option<String>, out: &mut BytesMut| match value {
            None => Ok(IsNull::Yes),
            Some(text) => {
                out.extend_from_slice(text.as_bytes());
                Ok(IsNull::No)
            }
        };
        frontend::bind("", "", [], params, write, [], out)
            .map_err(|_| Broken("the values of a statement cannot be sent".to_owned()))?;
        frontend::describe(b'P', "", out).map_err(unsendable)?;
        frontend::execute("", 0, out).map_err(unsendable)
    }

    /// Ends a group of statements: the server answers all of them, or up to the first error.
    pub(super) fn sync(&mut self) {
        frontend::sync(&mut self.output);
    }

    /// Sends what was added. Reads meanwhile: a server that cannot get rid of its answers stops
    /// reading.
    pub(super) async fn send(&mut self) -> Result<(), Broken> {
        self.unreplicated = false;
        self.kept_bytes = 0;
        poll_fn(|context| self.poll_send(context)).await
    }

    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        while !self.output.is_empty() {
            match Pin::new(&mut self.stream).poll_write(context, &self.output) {
                Poll::Ready(written) => self.output.advance(some(written)?),
                Poll::Pending => return self.poll_receive(context),
            }
        }
        // What is encrypted may not have been sent yet.
        match Pin::new(&mut self.stream).poll_flush(context) {
            Poll::Ready(flushed) => Poll::Ready(flushed.map_err(|error| Broken(tls::seen(&error)))),
            Poll::Pending => self.poll_receive(context),
        }
    }

    fn poll_receive(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        while let Poll::Ready(read) = pin!(self.stream.read_buf(&mut self.input)).poll(context) {
            some(read)?;
        }
        Poll::Pending
    }

    /// The next message that is about a question.
    pub(super) async fn next(&mut self) -> Result<Message, Broken> {
        loop {
            if let Some(header) = Header::parse(&self.input).map_err(senseless)?
                && header.len() as usize > POSTGRES_MESSAGE_BYTES_MAX
            {
                return Err(Broken(format!(
                    "a message of {} bytes, more than {POSTGRES_MESSAGE_BYTES_MAX}",
                    header.len()
                )));
            }
            match Message::parse(&mut self.input).map_err(senseless)? {
                None => {
                    some(self.stream.read_buf(&mut self.input).await)?;
                }
                Some(Message::NoticeResponse(notice)) => {
                    let notice = refused(notice.fields())?;
                    self.unreplicated |= notice.message.contains("synchronous replication");
                }
                Some(Message::ParameterStatus(_) | Message::NotificationResponse(_)) => {}
                Some(message) => return Ok(message),
            }
        }
    }

    /// What came of the next statement. After a refusal the rest of its group is not answered.
    #[expect(clippy::wildcard_enum_match_arm, reason = "the protocol's messages, not ours")]
    pub(super) async fn executed(&mut self) -> Answered<Executed> {
        let mut executed = Executed::default();
        let mut columns: Vec<Column> = Vec::new();
        loop {
            match self.next().await? {
                Message::ParseComplete | Message::BindComplete | Message::NoData => {}
                Message::RowDescription(body) => {
                    columns = value::columns(&body).map_err(senseless)?;
                    executed.result.rows = Some(Vec::new());
                }
                Message::DataRow(row) => {
                    executed.keep(&columns, &row, &mut self.kept_bytes).map_err(senseless)?;
                }
                Message::CommandComplete(body) => {
                    executed.tag = body.tag().map_err(senseless)?.to_owned();
                    let count = executed.tag.rsplit(' ').next().and_then(|it| it.parse().ok());
                    executed.result.rows_affected = count.unwrap_or_default();
                    return Ok(Ok(executed));
                }
                Message::EmptyQueryResponse => return Ok(Ok(executed)),
                Message::ErrorResponse(body) => {
                    return refused(body.fields())?.or_broken().map(Err);
                }
                _ => return Err(Broken("a message that answers nothing that was asked".into())),
            }
        }
    }

    /// Reads up to the end of the group.
    #[expect(clippy::wildcard_enum_match_arm, reason = "the protocol's messages, not ours")]
    pub(super) async fn ready(&mut self) -> Answered<()> {
        let mut answer = Ok(());
        loop {
            match self.next().await? {
                Message::ReadyForQuery(body) => {
                    self.status = body.status();
                    return Ok(answer);
                }
                // An error at the very end, such as of a deferred constraint at a commit.
                Message::ErrorResponse(body) => answer = Err(refused(body.fields())?.or_broken()?),
                Message::CopyInResponse(_) | Message::CopyOutResponse(_) => {
                    return Err(Broken("a statement wants to copy".to_owned()));
                }
                _ => {}
            }
        }
    }

    /// Sends a text of statements without values and reads the answers to it.
    pub(super) async fn simple(&mut self, sql: &str) -> Answered<Executed> {
        self.text(sql)?;
        self.send().await?;
        self.answered().await
    }

    /// Adds a text of statements without values.
    pub(super) fn text(&mut self, sql: &str) -> Result<(), Broken> {
        frontend::query(sql, &mut self.output).map_err(unsendable)
    }

    /// What came of the next such text.
    pub(super) async fn answered(&mut self) -> Answered<Executed> {
        let executed = self.executed().await?;
        let ready = self.ready().await?;
        Ok(executed.and_then(|executed| ready.map(|()| executed)))
    }

    /// The types that the server infers for the placeholders of a statement.
    #[expect(clippy::wildcard_enum_match_arm, reason = "the protocol's messages, not ours")]
    pub(super) async fn types(&mut self, sql: &str) -> Answered<Vec<u32>> {
        frontend::parse("", sql, [], &mut self.output).map_err(unsendable)?;
        frontend::describe(b'S', "", &mut self.output).map_err(unsendable)?;
        self.sync();
        self.send().await?;
        let mut answer = Ok(Vec::new());
        loop {
            match self.next().await? {
                Message::ParameterDescription(body) => {
                    answer = Ok(body.parameters().collect().map_err(senseless)?);
                }
                Message::ErrorResponse(body) => answer = Err(refused(body.fields())?.or_broken()?),
                Message::ReadyForQuery(body) => {
                    self.status = body.status();
                    return Ok(answer);
                }
                _ => {}
            }
        }
    }
}

impl Executed {
    fn keep(
        &mut self,
        columns: &[Column],
        row: &DataRowBody,
        bytes: &mut usize,
    ) -> std::io::Result<()> {
        let Some(rows) = &mut self.result.rows else { return Ok(()) };
        if rows.is_empty() && self.first.is_none() {
            self.first = value::first(row)?;
        }
        if rows.len() == RESULT_ROWS_MAX || *bytes + row.buffer().len() > RESULT_BYTES_MAX {
            self.result.truncated = true;
            return Ok(());
        }
        let row = value::row(columns, row)?;
        let len = row.to_string().len();
        if *bytes + len > RESULT_BYTES_MAX {
            self.result.truncated = true;
            return Ok(());
        }
        *bytes += len;
        rows.push(row);
        Ok(())
    }
}

fn some(moved: std::io::Result<usize>) -> Result<usize, Broken> {
    match moved {
        Ok(0) => Err(Broken("the server closed the connection".to_owned())),
        Ok(bytes) => Ok(bytes),
        Err(error) => Err(Broken(tls::seen(&error))),
    }
}

pub(super) fn senseless(error: std::io::Error) -> Broken {
    Broken(format!("an answer that is not of the protocol: {error}"))
}

pub(super) fn unsendable(error: std::io::Error) -> Broken {
    Broken(format!("a question that cannot be sent: {error}"))
}

pub(super) fn refused(mut fields: ErrorFields<'_>) -> Result<Refused, Broken> {
    let (code, message) = (String::new(), String::new());
    let mut refused = Refused { code, message, detail: None, waited: None, fatal: false };
    while let Some(field) = fields.next().map_err(senseless)? {
        let text = String::from_utf8_lossy(field.value_bytes()).into_owned();
        match field.type_() {
            b'V' => refused.fatal = matches!(&*text, "FATAL" | "PANIC"),
            b'C' => refused.code = text,
            b'M' => refused.message = text,
            b'D' => refused.detail = Some(text),
            _ => {}
        }
    }
    Ok(refused)
}
