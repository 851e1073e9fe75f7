//! TLS to resources: whom we trust, who we are, and in plain words what went wrong.
//!
//! A certificate is always checked: who signed it, until when, and for which name. There is no way
//! to encrypt without that, because whoever can listen can also answer. Trusted is `ca_file` alone
//! if it is set, else whom the machine trusts: a company's own authority is known there already,
//! and one that is no longer trusted goes with the next update of the machine.
//!
//! Adapters make a [`Connector`] while the configuration is read, so that a file that is missing or
//! wrong is heard of at the start, and use [`Stream`] for both kinds of connections.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{Error as PemError, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{
    AlertDescription, CertificateError, ClientConfig, Error as TlsFault, RootCertStore,
};

use crate::limits::CONNECT_TIMEOUT;

/// The files that are configured for TLS to one resource, all in PEM. They are read once.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct TlsFiles {
    /// Certificates of the authorities to trust, instead of those that the machine trusts.
    pub ca_file: Option<PathBuf>,
    /// The certificate to show, and those between it and an authority.
    pub client_cert_file: Option<PathBuf>,
    /// Its private key.
    pub client_key_file: Option<PathBuf>,
}

impl TlsFiles {
    /// Refuses files that nobody would read, because the URL asks for no TLS. `remedy` says what to do.
    ///
    /// # Errors
    ///
    /// Which key is set in vain and what to do.
    pub fn refuse_unused(&self, remedy: &str) -> Result<(), String> {
        let keys = [
            ("ca_file", &self.ca_file),
            ("client_cert_file", &self.client_cert_file),
            ("client_key_file", &self.client_key_file),
        ];
        match keys.into_iter().find(|(_, file)| file.is_some()) {
            None => Ok(()),
            Some((key, _)) => Err(format!("{key} is set, but its url asks for no tls: {remedy}")),
        }
    }
}

/// What the files say, for a driver that encrypts by itself. Every file has been found good.
#[derive(Clone)]
pub(crate) struct Material {
    /// Certificates of the authorities to trust, in DER.
    pub(crate) trusted: Vec<Vec<u8>>,
    /// The certificate to show and those behind it, and its key, in PEM.
    pub(crate) identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl Material {
    /// Reads the files.
    ///
    /// # Errors
    ///
    /// As [`Connector::new`].
    pub(crate) fn new(files: &TlsFiles) -> Result<Self, String> {
        Connector::new(files)?;
        let trusted = match &files.ca_file {
            Some(path) => certificates("ca_file", path)?,
            // One that cannot be parsed would spoil the others.
            None => rustls_native_certs::load_native_certs()
                .certs
                .into_iter()
                .filter(|it| RootCertStore::empty().add(it.clone()).is_ok())
                .collect(),
        };
        let read = |key: &str, path: &Path| {
            std::fs::read(path).map_err(|error| unusable(key, path, &PemError::Io(error)))
        };
        let identity = match (&files.client_cert_file, &files.client_key_file) {
            (Some(certificate), Some(key)) => {
                Some((read("client_cert_file", certificate)?, read("client_key_file", key)?))
            }
            (Some(_) | None, _) => None,
        };
        let trusted = trusted.into_iter().map(|it| it.to_vec()).collect();
        Ok(Self { trusted, identity })
    }
}

/// Makes connections with TLS 1.2 or 1.3 to one resource.
#[derive(Clone)]
pub struct Connector {
    config: Arc<ClientConfig>,
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connector")
    }
}

impl Connector {
    /// Reads the files. Connects to nothing.
    ///
    /// # Errors
    ///
    /// Which key names a file that cannot be used, and why.
    pub fn new(files: &TlsFiles) -> Result<Self, String> {
        let trusted = match &files.ca_file {
            Some(path) => authorities(path)?,
            None => of_the_machine()?,
        };
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| format!("tls cannot be used: {error}"))?
            .with_root_certificates(trusted);
        let config = match (&files.client_cert_file, &files.client_key_file) {
            (None, None) => config.with_no_client_auth(),
            (Some(certificate), Some(key)) => {
                let chain = certificates("client_cert_file", certificate)?;
                let secret = PrivateKeyDer::from_pem_file(key)
                    .map_err(|error| unusable("client_key_file", key, &error))?;
                config.with_client_auth_cert(chain, secret).map_err(|error| {
                    format!(
                        "client_key_file = {:?} is not the key of client_cert_file: {error}",
                        key.display()
                    )
                })?
            }
            (Some(_), None) => {
                return Err("client_cert_file is set without client_key_file: set both".to_owned());
            }
            (None, Some(_)) => {
                return Err("client_key_file is set without client_cert_file: set both".to_owned());
            }
        };
        Ok(Self { config: Arc::new(config) })
    }

    /// Encrypts a connection to `host`, which the certificate has to name, within
    /// [`CONNECT_TIMEOUT`].
    ///
    /// # Errors
    ///
    /// [`TlsError`] says whether somebody has to change something first.
    pub async fn connect(&self, host: &str, stream: TcpStream) -> Result<Stream, TlsError> {
        let name = ServerName::try_from(host.trim_start_matches('[').trim_end_matches(']'))
            .map_err(|_| TlsError::Refused(format!("{host:?} is no name that a certificate has")))?
            .to_owned();
        let shaking = TlsConnector::from(Arc::clone(&self.config)).connect(name, stream);
        match timeout(CONNECT_TIMEOUT, shaking).await {
            Ok(Ok(stream)) => Ok(Stream::Tls(Box::new(stream))),
            Ok(Err(error)) => Err(match fault(&error) {
                Some(fault) => TlsError::Refused(explained(fault)),
                None => TlsError::Broken(error.to_string()),
            }),
            Err(_) => Err(TlsError::Broken(format!(
                "no tls handshake within {} ms",
                CONNECT_TIMEOUT.as_millis()
            ))),
        }
    }
}

/// Why a connection was not encrypted. The text is one line and says what to do.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum TlsError {
    /// Configuration or certificates have to be changed first.
    #[error("{0}")]
    Refused(String),
    /// The connection broke; another one may come out.
    #[error("{0}")]
    Broken(String),
}

/// What an error of a connection says, where TLS may have a part in it.
pub fn seen(error: &io::Error) -> String {
    fault(error).map_or_else(|| error.to_string(), explained)
}

/// The same for a driver's own words, if TLS has a part in it: `None` for any other error.
pub(crate) fn explained_if_tls(error: &io::Error) -> Option<String> {
    fault(error).map(explained)
}

fn authorities(path: &Path) -> Result<RootCertStore, String> {
    let mut trusted = RootCertStore::empty();
    for certificate in certificates("ca_file", path)? {
        trusted.add(certificate).map_err(|error| {
            format!(
                "ca_file = {:?} holds a certificate that cannot be used: {error}",
                path.display()
            )
        })?;
    }
    Ok(trusted)
}

fn of_the_machine() -> Result<RootCertStore, String> {
    let mut trusted = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    // Old ones that nobody can parse any more are in many machines' lists.
    let (added, _) = trusted.add_parsable_certificates(found.certs);
    match added {
        0 => Err("this machine trusts no certificate authority: install ca-certificates, or set \
                  ca_file"
            .to_owned()),
        _ => Ok(trusted),
    }
}

fn certificates(key: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(path).and_then(|certificates| certificates.collect());
    match all {
        Ok(all) if all.is_empty() => Err(unusable(key, path, &PemError::NoItemsFound)),
        Ok(all) => Ok(all),
        Err(error) => Err(unusable(key, path, &error)),
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the parser's errors, not ours")]
fn unusable(key: &str, path: &Path, error: &PemError) -> String {
    let why = match error {
        PemError::Io(error) => error.to_string(),
        PemError::NoItemsFound => "nothing of that kind in it; it has to be in PEM".to_owned(),
        other => format!("not PEM: {other}"),
    };
    format!("{key} = {:?}: {why}", path.display())
}

fn fault(error: &io::Error) -> Option<&TlsFault> {
    error.get_ref().and_then(|inner| inner.downcast_ref())
}

/// What was seen and what to do, in one line.
#[expect(clippy::wildcard_enum_match_arm, reason = "the library's errors, not ours")]
pub(crate) fn explained(fault: &TlsFault) -> String {
    match fault {
        TlsFault::InvalidCertificate(error) => format!("its certificate {}", untrusted(error)),
        TlsFault::InvalidMessage(_) => {
            "it does not speak tls there: correct the port, or ask for no tls in the url".to_owned()
        }
        TlsFault::AlertReceived(alert) => match alert {
            AlertDescription::CertificateRequired
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::DecryptError
            | AlertDescription::AccessDenied => format!(
                "it refuses our certificate ({alert:?}): set client_cert_file and client_key_file \
                 to one that it accepts"
            ),
            AlertDescription::HandshakeFailure => "it breaks the tls handshake off: it may want \
                 client_cert_file and client_key_file, or speak no tls that is still safe"
                .to_owned(),
            other => format!("it breaks tls off ({other:?})"),
        },
        TlsFault::PeerIncompatible(why) => {
            format!("it speaks no tls that is still safe ({why:?}): let it speak TLS 1.2 or 1.3")
        }
        other => format!("tls: {other}"),
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the library's errors, not ours")]
fn untrusted(error: &CertificateError) -> String {
    match error {
        // An authority that was made anew under its old name shows as a bad signature.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "is signed by nobody we trust: set ca_file to the \
             certificate of who signed it"
                .to_owned()
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "has expired: renew it, or correct this machine's clock".to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "is not valid yet: correct this machine's clock".to_owned()
        }
        CertificateError::NotValidForName => {
            "is for another name: write the name that it has in the url".to_owned()
        }
        CertificateError::NotValidForNameContext { presented, .. } => format!(
            "is for another name: write the name that it has in the url ({})",
            presented.join(", ")
        ),
        CertificateError::Revoked => "has been revoked: renew it".to_owned(),
        other => format!(
            "cannot be used ({other}): have one made for this server that is not an \
                            authority's own"
        ),
    }
}

/// A connection, encrypted or not.
#[derive(Debug)]
pub enum Stream {
    /// As it is.
    Plain(TcpStream),
    /// Encrypted.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// The certificate that the other side has shown, in DER.
    pub fn certificate(&self) -> Option<&[u8]> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(stream) => stream.get_ref().1.peer_certificates()?.first().map(|it| &**it),
        }
    }

    /// Whether nothing has been said or closed by the other side. What was said is lost by asking, so
    /// a connection of which that is not true is of no more use.
    pub fn is_quiet(&mut self) -> bool {
        let mut byte = [0];
        match self {
            Self::Plain(stream) => stream
                .try_read(&mut byte)
                .is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock),
            // What arrives need not be said to us: sessions are renewed by messages of their own.
            Self::Tls(stream) => {
                let mut buffer = ReadBuf::new(&mut byte);
                let asking = std::future::poll_fn(|context| {
                    Pin::new(&mut *stream).poll_read(context, &mut buffer)
                });
                // The runtime answers "later" to a task that has done much, whatever is there.
                let asking = pin!(tokio::task::unconstrained(asking));
                asking.poll(&mut Context::from_waker(Waker::noop())).is_pending()
            }
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(context, parts),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(context, parts),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
