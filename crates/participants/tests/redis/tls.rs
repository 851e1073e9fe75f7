//! Redis over TLS: who is believed, and who is not.

use std::sync::Arc;
use std::time::Duration;

use unanimous_core::{Answer, Verb};
use unanimous_participants::testing::conformance::{Subject, fresh_name};
use unanimous_participants::testing::{Authority, Validity, free_port};
use unanimous_participants::{Resource, Settings, TlsFiles, Unobserved, open};

use crate::common::{Shop, done, finish, prepare, refusal};

fn opened(port: u16, tls: TlsFiles) -> Arc<dyn Resource> {
    let settings = Settings { tls, ..Settings::default() };
    let url = format!("rediss://127.0.0.1:{port}");
    open("shop", &url, &settings, Arc::new(Unobserved)).expect("a good configuration")
}

#[tokio::test]
async fn a_branch_commits_over_tls_with_certificates_on_both_sides_and_not_without() {
    let authority = Authority::new();
    let server = authority.certify("127.0.0.1", Validity::Good);
    let client = authority.certify("unanimous", Validity::Good);
    let port = free_port();
    let options = [
        format!("tls-port {port}"),
        format!("tls-cert-file {}", server.certificate.display()),
        format!("tls-key-file {}", server.key.display()),
        format!("tls-ca-cert-file {}", authority.file().display()),
    ];
    let Some(shop) = Shop::start(&options.each_ref().map(String::as_str)) else { return };
    let trusting = TlsFiles { ca_file: Some(authority.file()), ..TlsFiles::default() };
    let known = TlsFiles {
        client_cert_file: Some(client.certificate),
        client_key_file: Some(client.key),
        ..trusting.clone()
    };
    let (resource, name) = (opened(port, known), fresh_name());
    for _ in 0..3 {
        let answer = prepare(&resource, &name, shop.add(5)).await;
        assert!(matches!(answer, Answer::Yes(_)), "{answer:?}");
    }
    assert_eq!(finish(&resource, &name, Verb::Commit).await, done());
    assert_eq!(shop.counter(), 1_005);
    let findings = opened(port, trusting).examine(Duration::from_secs(10)).await;
    assert!(findings[0].detail.contains("client_cert_file"), "{findings:?}");
    let other = Authority::new();
    let stranger = TlsFiles { ca_file: Some(other.file()), ..TlsFiles::default() };
    let answer = prepare(&opened(port, stranger.clone()), &fresh_name(), shop.add(1)).await;
    let (kind, detail) = refusal(answer);
    assert!(kind == "configuration" && detail.contains("ca_file"), "{detail}");
    let plain = prepare(&opened(shop.server.port(), stranger), &fresh_name(), shop.add(1)).await;
    assert!(!matches!(plain, Answer::Yes(_)), "{plain:?}");
}

#[test]
fn files_that_nobody_would_read_are_refused() {
    let tls = TlsFiles { ca_file: Some("x".into()), ..TlsFiles::default() };
    let settings = Settings { tls, ..Settings::default() };
    let refused = open("shop", "redis://127.0.0.1", &settings, Arc::new(Unobserved)).err();
    assert!(refused.is_some_and(|it| it.problem.contains("write rediss://")));
}
