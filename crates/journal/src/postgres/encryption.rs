//! TLS as the driver asks for it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::Socket;
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};

use crate::remote::tls::Tls;

/// Encrypts the connections of a driver.
pub(super) struct Encryption(Tls);

/// Encrypts one connection.
pub(super) struct To {
    tls: Tls,
    host: String,
}

/// A connection that is encrypted.
pub(super) struct Encrypted(tokio_rustls::client::TlsStream<Socket>);

impl Encryption {
    pub(super) fn by(tls: &Tls) -> Self {
        Self(tls.clone())
    }
}

impl MakeTlsConnect<Socket> for Encryption {
    type Stream = Encrypted;
    type TlsConnect = To;
    type Error = String;

    fn make_tls_connect(&mut self, host: &str) -> Result<To, String> {
        Ok(To { tls: self.0.clone(), host: host.to_owned() })
    }
}

impl TlsConnect<Socket> for To {
    type Stream = Encrypted;
    type Error = String;
    type Future = Pin<Box<dyn Future<Output = Result<Encrypted, String>> + Send>>;

    fn connect(self, stream: Socket) -> Self::Future {
        Box::pin(async move { Ok(Encrypted(self.tls.connect(&self.host, stream).await?)) })
    }
}

impl TlsStream for Encrypted {
    /// The certificate is checked by name and authority; the password is not bound to it besides.
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

impl AsyncRead for Encrypted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Encrypted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
