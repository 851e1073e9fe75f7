//! HTTP/1.1 with little around it, for who measures.
//!
//! Client and services share the machine with the coordinator that is measured: what they take, it does
//! not have. So a request is one write and one read, and a service is one thread. They understand what
//! coordinators send, and nothing else of HTTP.

use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::thread;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;

/// Headers of one message; a message that has more is not understood.
const HEADERS: usize = 32;

/// What is read at once.
const PIECE: usize = 4 * 1024;

const AGREED: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

/// Posts to one URL, over connections that it keeps.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    authority: Arc<str>,
    /// The request up to the length of its body.
    head: Arc<str>,
    idle: Arc<Mutex<Vec<TcpStream>>>,
}

impl Caller {
    /// `url` is `http://host:port/path`.
    pub(super) fn new(url: &str) -> Self {
        let rest = url.strip_prefix("http://").unwrap_or(url);
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let head = format!(
            "POST {} HTTP/1.1\r\nhost: {authority}\r\ncontent-type: application/json\r\ncontent-length: ",
            if path.is_empty() { "/" } else { path },
        );
        Self { authority: authority.into(), head: head.into(), idle: Arc::default() }
    }

    /// The status and the body of the answer.
    pub(super) async fn post(&self, body: &[u8]) -> io::Result<(u16, Vec<u8>)> {
        let idle = self.idle.lock().expect("nobody panics").pop();
        let mut stream = match idle {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect(&*self.authority).await?;
                stream.set_nodelay(true)?;
                stream
            }
        };
        let mut bytes = Vec::with_capacity(PIECE);
        write!(bytes, "{}{}\r\n\r\n", self.head, body.len())?;
        bytes.extend_from_slice(body);
        stream.write_all(&bytes).await?;
        bytes.clear();
        loop {
            if stream.read_buf(&mut bytes).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if let Some((status, body)) = answer(&bytes)? {
                self.idle.lock().expect("nobody panics").push(stream);
                return Ok((status, body));
            }
        }
    }
}

/// The answer in these bytes; `None` until all of it is there.
fn answer(bytes: &[u8]) -> io::Result<Option<(u16, Vec<u8>)>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(start) = response.parse(bytes).map_err(io::Error::other)? else {
        return Ok(None);
    };
    let status = response.code.unwrap_or_default();
    let body = &bytes[start..];
    match length(response.headers) {
        Some(length) => Ok(body.get(..length).map(|body| (status, body.to_vec()))),
        // In chunks, as whoever does not know the length beforehand sends it.
        None => Ok(body.ends_with(b"0\r\n\r\n").then(|| (status, body.to_vec()))),
    }
}

fn length(headers: &[httparse::Header<'_>]) -> Option<usize> {
    let header =
        headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"))?;
    std::str::from_utf8(header.value).ok()?.trim().parse().ok()
}

/// What a service does with a request.
#[derive(Clone, Copy, Debug)]
pub(super) enum Reply {
    /// It answers 200.
    Agree,
    /// It never answers.
    Hang,
}

/// Serves with what `reply` says to each path, until this process ends; returns where.
pub(super) fn serve(
    reply: impl Fn(&str) -> Reply + Clone + Send + Sync + 'static,
) -> io::Result<SocketAddr> {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let runtime = Builder::new_current_thread().enable_io().build()?;
    let accept = async move {
        let listener = TcpListener::from_std(listener).expect("this thread has a runtime");
        while let Ok((stream, _)) = listener.accept().await {
            let reply = reply.clone();
            // A connection that breaks is its caller's to notice.
            tokio::spawn(async move { drop(answer_all(stream, &reply).await) });
        }
    };
    thread::spawn(move || runtime.block_on(accept));
    Ok(address)
}

/// Answers the requests of one connection, one after the other, until it is closed.
async fn answer_all(mut stream: TcpStream, reply: &impl Fn(&str) -> Reply) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut bytes = Vec::with_capacity(PIECE);
    while stream.read_buf(&mut bytes).await? > 0 {
        while let Some((said, len)) = request(&bytes, reply)? {
            match said {
                Reply::Agree => stream.write_all(AGREED).await?,
                Reply::Hang => {}
            }
            bytes.drain(..len);
        }
    }
    Ok(())
}

/// What to do with the first request in these bytes, and how long it is; `None` until all of it is there.
fn request(bytes: &[u8], reply: &impl Fn(&str) -> Reply) -> io::Result<Option<(Reply, usize)>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(start) = request.parse(bytes).map_err(io::Error::other)? else {
        return Ok(None);
    };
    let end = start + length(request.headers).unwrap_or_default();
    Ok((end <= bytes.len()).then(|| (reply(request.path.unwrap_or_default()), end)))
}
