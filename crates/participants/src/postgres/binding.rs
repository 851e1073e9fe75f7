//! Ties a proof of the password to the certificate that the server has shown.
//!
//! `tls-server-end-point` of RFC 5929: whoever passes the proof on from one connection to another
//! would have to show the same certificate on both. The hash is that of the certificate's signature,
//! or SHA-256 where that is older; for signatures without a hash of their own none is defined.

use sha2::{Digest, Sha256, Sha384, Sha512};

/// Signature algorithms by their object identifier, as certificates write it.
const RSA: &[u8] = &[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x01];
const ECDSA: &[u8] = &[0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x04, 0x03];
const ECDSA_WITH_SHA_1: &[u8] = &[0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x04, 0x01];

/// What a certificate in DER is bound by. `None` if nothing is defined for it.
pub(super) fn end_point(certificate: &[u8]) -> Option<Vec<u8>> {
    let hash = match signature(certificate)? {
        ECDSA_WITH_SHA_1 => sha_256,
        identifier => match (identifier.strip_prefix(RSA), identifier.strip_prefix(ECDSA)) {
            (Some([4 | 5 | 11]), _) | (_, Some([2])) => sha_256,
            (Some([12]), _) | (_, Some([3])) => sha_384,
            (Some([13]), _) | (_, Some([4])) => sha_512,
            (Some(_) | None, Some(_) | None) => return None,
        },
    };
    Some(hash(certificate))
}

fn sha_256(bytes: &[u8]) -> Vec<u8> {
    Sha256::digest(bytes).to_vec()
}

fn sha_384(bytes: &[u8]) -> Vec<u8> {
    Sha384::digest(bytes).to_vec()
}

fn sha_512(bytes: &[u8]) -> Vec<u8> {
    Sha512::digest(bytes).to_vec()
}

/// The identifier of what a certificate is signed with, which stands behind all that is signed.
fn signature(certificate: &[u8]) -> Option<&[u8]> {
    let (certificate, _) = element(certificate)?;
    let (_, behind_the_signed) = element(certificate)?;
    let (algorithm, _) = element(behind_the_signed)?;
    let (identifier, _) = element(algorithm)?;
    Some(identifier)
}

/// The content of the first element in DER, and what stands behind it.
fn element(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let [_tag, first, rest @ ..] = der else { return None };
    let (len, rest) = match first {
        // Long lengths say first how many bytes they have.
        0x81..=0x84 => {
            let (len, rest) = rest.split_at_checked(usize::from(first & 0x7F))?;
            (len.iter().fold(0, |len, &byte| len << 8 | usize::from(byte)), rest)
        }
        short => (usize::from(*short), rest),
    };
    rest.split_at_checked(len)
}

#[cfg(test)]
mod tests {
    use rcgen::{
        CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519,
        SignatureAlgorithm,
    };

    use super::*;

    fn certificate(algorithm: &'static SignatureAlgorithm) -> Vec<u8> {
        let key = KeyPair::generate_for(algorithm).expect("it can be made");
        let params = CertificateParams::new(["localhost".to_owned()]).expect("a good name");
        params.self_signed(&key).expect("good parameters").der().to_vec()
    }

    #[test]
    fn the_hash_is_that_of_the_signature() {
        let p256 = certificate(&PKCS_ECDSA_P256_SHA256);
        assert_eq!(end_point(&p256), Some(sha_256(&p256)));
        let p384 = certificate(&PKCS_ECDSA_P384_SHA384);
        assert_eq!(end_point(&p384), Some(sha_384(&p384)));
        assert_eq!(end_point(&certificate(&PKCS_ED25519)), None);
    }

    #[test]
    fn what_is_no_certificate_has_none() {
        let whole = certificate(&PKCS_ECDSA_P256_SHA256);
        for len in 0..whole.len() {
            assert_eq!(end_point(&whole[..len]), None, "{len} bytes");
        }
        assert_eq!(end_point(&[0xFF; 64]), None);
    }
}
