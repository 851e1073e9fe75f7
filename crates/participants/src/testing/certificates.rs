//! A certificate authority of a test's own.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd,
};
use tempfile::TempDir;

/// An authority that nobody trusts unless told to. Its files go with it.
pub struct Authority {
    folder: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate with its key, as files.
#[derive(Clone, Debug)]
pub struct Certified {
    /// The certificate, in PEM.
    pub certificate: PathBuf,
    /// Its private key, in PEM.
    pub key: PathBuf,
}

/// Whether a certificate is still good.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Validity {
    /// It is.
    Good,
    /// It was.
    Expired,
}

/// What a certificate that signed itself says that it is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// To be shown by a server.
    Server,
    /// To sign others.
    Authority,
}

impl Authority {
    /// Makes one.
    ///
    /// # Panics
    ///
    /// If there is no room for its files.
    #[expect(clippy::new_without_default, reason = "each is another one")]
    pub fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("una-ca-").tempdir().expect("a folder");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "authority of a test");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("this machine has randomness");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("good parameters");
        fs::write(folder.path().join("ca.pem"), issuer.pem()).expect("the folder is ours");
        Self { folder, issuer }
    }

    /// Its own certificate, in PEM: what `ca_file` takes.
    pub fn file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// Makes a certificate for a host or address, or for a client of that name.
    ///
    /// # Panics
    ///
    /// If there is no room for its files.
    pub fn certify(&self, name: &str, validity: Validity) -> Certified {
        let mut params = CertificateParams::new([name.to_owned()]).expect("a good name");
        params.distinguished_name.push(DnType::CommonName, name);
        params.use_authority_key_identifier_extension = true;
        if validity == Validity::Expired {
            params.not_before = date_time_ymd(2020, 1, 1);
            params.not_after = date_time_ymd(2020, 2, 1);
        }
        let key = KeyPair::generate().expect("this machine has randomness");
        let certificate = params.signed_by(&key, &self.issuer).expect("good parameters");
        self.kept(&format!("{name}-{validity:?}"), &certificate.pem(), &key)
    }

    /// Makes a certificate that nobody has signed but itself.
    ///
    /// # Panics
    ///
    /// If there is no room for its files.
    pub fn self_signed(&self, name: &str, kind: Kind) -> Certified {
        let mut params = CertificateParams::new([name.to_owned()]).expect("a good name");
        params.is_ca = match kind {
            Kind::Server => IsCa::ExplicitNoCa,
            Kind::Authority => IsCa::Ca(BasicConstraints::Unconstrained),
        };
        let key = KeyPair::generate().expect("this machine has randomness");
        let certificate = params.self_signed(&key).expect("good parameters");
        self.kept(&format!("{name}-{kind:?}"), &certificate.pem(), &key)
    }

    fn kept(&self, name: &str, certificate: &str, key: &KeyPair) -> Certified {
        let file = |kind: &str| self.folder.path().join(format!("{name}.{kind}"));
        let certified = Certified { certificate: file("crt"), key: file("key") };
        write(&certified.certificate, certificate);
        write(&certified.key, &key.serialize_pem());
        certified
    }
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).expect("the folder is ours");
}
