//! One connection to one member, and a call over it: gRPC, as HTTP/2 has it.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, Request, Version, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::address::Member;
use super::limits::{ANSWER_BYTES_MAX, CALL, CONNECT, WINDOWS};
use crate::remote::tls::Tls;

/// A connection.
#[derive(Clone)]
pub(super) struct Wire {
    sender: http2::SendRequest<Full<Bytes>>,
    base: String,
}

/// Why a call has no answer.
#[derive(Debug)]
pub(super) enum Fault {
    /// The member says so: a code of gRPC, and what is wrong.
    Status(u32, String),
    /// It may have been done or not.
    Broken(String),
}

impl Wire {
    /// Connects within [`CONNECT`].
    pub(super) async fn open(member: &Member, tls: Option<&Tls>) -> Result<Self, String> {
        match timeout(CONNECT, Self::connect(member, tls)).await {
            Ok(opened) => opened,
            Err(_) => Err(format!("no connection within {} ms", CONNECT.as_millis())),
        }
    }

    async fn connect(member: &Member, tls: Option<&Tls>) -> Result<Self, String> {
        let stream = TcpStream::connect(member.shown()).await.map_err(|error| error.to_string())?;
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        match tls {
            None => Self::over(format!("http://{}", member.shown()), stream).await,
            Some(tls) => {
                let stream = tls.connect(&member.host, stream).await?;
                Self::over(format!("https://{}", member.shown()), stream).await
            }
        }
    }

    async fn over<S>(base: String, stream: S) -> Result<Self, String>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let [connection_window, stream_window] = WINDOWS;
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_connection_window_size(connection_window)
            .initial_stream_window_size(stream_window)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| described(&error))?;
        // What ends it is told to whoever has a call under way.
        tokio::spawn(async move { drop(connection.await) });
        Ok(Self { sender, base })
    }

    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Calls a method, and waits for the answer within [`CALL`].
    pub(super) async fn call(
        &self,
        method: &str,
        token: Option<&str>,
        message: &[u8],
    ) -> Result<Bytes, Fault> {
        match timeout(CALL, self.exchange(method, token, message)).await {
            Ok(answer) => answer,
            Err(_) => Err(Fault::Broken(format!("no answer within {} ms", CALL.as_millis()))),
        }
    }

    async fn exchange(
        &self,
        method: &str,
        token: Option<&str>,
        message: &[u8],
    ) -> Result<Bytes, Fault> {
        let mut request = Request::post(format!("{}/etcdserverpb.{method}", self.base))
            .version(Version::HTTP_2)
            .header(header::CONTENT_TYPE, "application/grpc")
            .header(header::TE, "trailers")
            .header("grpc-timeout", grpc_timeout(CALL));
        if let Some(token) = token {
            request = request.header("token", token);
        }
        let request = request
            .body(Full::new(framed(message)))
            .map_err(|error| Fault::Broken(error.to_string()))?;
        let answer = self.sender.clone().send_request(request).await;
        let answer = answer.map_err(|error| Fault::Broken(described(&error)))?;
        let http = answer.status();
        if let Some(fault) = refusal(answer.headers()) {
            return Err(fault);
        }
        if !http.is_success() {
            return Err(Fault::Broken(format!("it answers {http}, as etcd does not")));
        }
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| Fault::Broken(format!("answer cut off: {error}")))?;
        match body.trailers().map(refusal) {
            Some(None) => {}
            Some(Some(fault)) => return Err(fault),
            None => return Err(Fault::Broken("the answer has no end".to_owned())),
        }
        unframed(body.to_bytes())
    }
}

/// A message as gRPC sends it: not compressed, with its length.
fn framed(message: &[u8]) -> Bytes {
    let len = u32::try_from(message.len()).expect("a request is bounded");
    let mut frame = BytesMut::with_capacity(5 + message.len());
    frame.put_u8(0);
    frame.put_u32(len);
    frame.put_slice(message);
    frame.freeze()
}

fn unframed(frame: Bytes) -> Result<Bytes, Fault> {
    match frame.get(..5) {
        Some(&[0, a, b, c, d]) if u32::from_be_bytes([a, b, c, d]) as usize == frame.len() - 5 => {
            Ok(frame.slice(5..))
        }
        Some(_) | None => Err(Fault::Broken("an answer that is none of etcd's".to_owned())),
    }
}

/// What headers or trailers say went wrong.
fn refusal(headers: &HeaderMap) -> Option<Fault> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    match text("grpc-status")?.parse() {
        Ok(0) => None,
        Ok(code) => Some(Fault::Status(code, decoded(text("grpc-message").unwrap_or("refused")))),
        Err(_) => Some(Fault::Broken("an answer without a status".to_owned())),
    }
}

/// A text in which some bytes are written as `%` and two hexadecimal digits.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let hex = tail.get(..2).filter(|_| first == b'%');
        let byte = hex.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        bytes.push(byte.unwrap_or(first));
        rest = if byte.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8_lossy(&bytes).replace('\n', "; ")
}

fn grpc_timeout(bound: Duration) -> String {
    format!("{}m", bound.as_millis())
}

fn described(error: &hyper::Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_taken_apart_as_it_was_made_and_nothing_else_is() {
        assert_eq!(unframed(framed(b"abc")).expect("it is whole"), b"abc"[..]);
        for wrong in [&b""[..], b"\0\0\0\0", b"\0\0\0\0\x02a", b"\x01\0\0\0\x01a"] {
            assert!(unframed(Bytes::from_static(wrong)).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn what_a_member_says_is_readable_and_one_line() {
        assert_eq!(
            decoded("etcdserver%3A no%0Aleader, 100% %zz"),
            "etcdserver: no; leader, 100% %zz"
        );
    }
}
