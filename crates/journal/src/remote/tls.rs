//! TLS to a server: the certificate is always checked, for whom it was made and who signed it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{Error as PemError, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// Files for TLS, all in PEM.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct TlsFiles {
    /// Authorities to trust, instead of those that the machine trusts.
    pub(crate) ca_file: Option<PathBuf>,
    /// The certificate to show, with its private key.
    pub(crate) client: Option<(PathBuf, PathBuf)>,
}

/// The same as the parameters of a URL name them.
#[derive(Default)]
pub(crate) struct Named {
    ca_file: Option<PathBuf>,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
}

impl Named {
    /// Takes a parameter; false if it names no file.
    pub(crate) fn take(&mut self, name: &str, value: &str) -> bool {
        let file = match name {
            "ca_file" => &mut self.ca_file,
            "client_cert_file" => &mut self.certificate,
            "client_key_file" => &mut self.key,
            _ => return false,
        };
        *file = Some(PathBuf::from(value));
        true
    }

    /// # Errors
    ///
    /// What is missing, for the one who wrote the URL.
    pub(crate) fn files(self) -> Result<TlsFiles, String> {
        let client = match (self.certificate, self.key) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            (Some(_), None) | (None, Some(_)) => {
                return Err("its url names one of client_cert_file and client_key_file: name both"
                    .to_owned());
            }
        };
        Ok(TlsFiles { ca_file: self.ca_file, client })
    }
}

/// Encrypts connections.
#[derive(Clone)]
pub(crate) struct Tls(TlsConnector);

impl Tls {
    /// Reads the files. Connects to nothing. `protocol` is what is spoken, where that is said.
    ///
    /// # Errors
    ///
    /// Which file cannot be used, and why.
    pub(crate) fn new(files: &TlsFiles, protocol: Option<&[u8]>) -> Result<Self, String> {
        let trusted = match &files.ca_file {
            Some(path) => authorities(path)?,
            None => of_the_machine()?,
        };
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| format!("tls cannot be used: {error}"))?
            .with_root_certificates(trusted);
        let mut config = match &files.client {
            None => config.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain = certificates("client_cert_file", certificate)?;
                let secret = PrivateKeyDer::from_pem_file(key)
                    .map_err(|error| unusable("client_key_file", key, &error))?;
                config.with_client_auth_cert(chain, secret).map_err(|error| {
                    format!("client_key_file={} in its url: {error}", key.display())
                })?
            }
        };
        config.alpn_protocols = protocol.map(<[u8]>::to_vec).into_iter().collect();
        Ok(Self(TlsConnector::from(Arc::new(config))))
    }

    /// Encrypts a connection to `host`, which the certificate has to name.
    ///
    /// # Errors
    ///
    /// Why not, in one line.
    pub(crate) async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        host: &str,
        stream: S,
    ) -> Result<TlsStream<S>, String> {
        let name = ServerName::try_from(host.trim_start_matches('[').trim_end_matches(']'))
            .map_err(|_| format!("{host:?} is no name that a certificate has"))?
            .to_owned();
        self.0.connect(name, stream).await.map_err(|error| format!("tls: {error}"))
    }
}

fn authorities(path: &Path) -> Result<RootCertStore, String> {
    let mut trusted = RootCertStore::empty();
    for certificate in certificates("ca_file", path)? {
        let added = trusted.add(certificate);
        added.map_err(|error| format!("ca_file={} in its url: {error}", path.display()))?;
    }
    Ok(trusted)
}

fn of_the_machine() -> Result<RootCertStore, String> {
    let mut trusted = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    // Old ones that nobody can parse any more are in many machines' lists.
    let (added, _) = trusted.add_parsable_certificates(found.certs);
    match added {
        0 => Err("this machine trusts no certificate authority: install ca-certificates, or add \
                  ca_file=FILE to its url"
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
    format!("{key}={} in its url: {why}", path.display())
}
