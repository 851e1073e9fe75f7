//! An authority of a test's own, and what it has certified.

use std::fs;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;

/// An authority, with its files.
pub(crate) struct Authority {
    folder: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// The files of one certificate.
pub(crate) struct Certified {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("randomness");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("a sound certificate");
        let authority = Self { folder, issuer };
        fs::write(authority.file("ca.crt"), authority.issuer.pem()).expect("the folder is ours");
        authority
    }

    /// A file of its folder.
    pub(crate) fn file(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// Its own certificate.
    pub(crate) fn ca(&self) -> String {
        self.file("ca.crt")
    }

    /// Certifies a host, or a user, in files of this name.
    pub(crate) fn certify(&self, name: &str, host: &str) -> Certified {
        let key = KeyPair::generate().expect("randomness");
        let mut params = CertificateParams::new([host.to_owned()]).expect("a good name");
        params.distinguished_name.push(rcgen::DnType::CommonName, host);
        let certificate = params.signed_by(&key, &self.issuer).expect("a sound certificate");
        let certified = Certified {
            certificate: self.file(&format!("{name}.crt")),
            key: self.file(&format!("{name}.key")),
        };
        fs::write(&certified.certificate, certificate.pem()).expect("the folder is ours");
        fs::write(&certified.key, key.serialize_pem()).expect("the folder is ours");
        certified
    }
}

impl Certified {
    /// The parameters of a URL that show it.
    pub(crate) fn params(&self) -> String {
        format!("&client_cert_file={}&client_key_file={}", self.certificate, self.key)
    }
}
