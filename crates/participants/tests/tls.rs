//! TLS to services and databases: who is believed, who is not, and what to do about it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{NoClientAuth, WebPkiClientVerifier};
use tokio_rustls::rustls::{RootCertStore, ServerConfig};
use unanimous_core::{Answer, Opaque, Verb};
use unanimous_participants::testing::conformance::{call, fresh_name};
use unanimous_participants::testing::{
    Authority, Certified, Kind, PrivatePostgres, Validity, until,
};
use unanimous_participants::tls::Connector;
use unanimous_participants::{Fitness, Password, Resource, Settings, TlsFiles, Unobserved, open};

fn trusting(authority: &Authority) -> TlsFiles {
    TlsFiles { ca_file: Some(authority.file()), ..TlsFiles::default() }
}

fn shown(files: TlsFiles, certified: Certified) -> TlsFiles {
    TlsFiles {
        client_cert_file: Some(certified.certificate),
        client_key_file: Some(certified.key),
        ..files
    }
}

fn opened(url: &str, tls: TlsFiles) -> Arc<dyn Resource> {
    let settings = Settings { tls, ..Settings::default() };
    open("bank", url, &settings, Arc::new(Unobserved)).expect("a good configuration")
}

/// Whom a service lets in.
#[derive(Clone, Copy)]
enum Clients<'a> {
    Anybody,
    CertifiedBy(&'a Authority),
}

fn acceptor(certified: &Certified, clients: Clients<'_>) -> TlsAcceptor {
    let provider = Arc::new(ring::default_provider());
    let verifier = match clients {
        Clients::Anybody => Arc::new(NoClientAuth) as _,
        Clients::CertifiedBy(authority) => {
            let mut trusted = RootCertStore::empty();
            let own = CertificateDer::from_pem_file(authority.file()).expect("PEM");
            trusted.add(own).expect("a certificate");
            WebPkiClientVerifier::builder_with_provider(Arc::new(trusted), Arc::clone(&provider))
                .build()
                .expect("an authority is trusted")
        }
    };
    let chain = vec![CertificateDer::from_pem_file(&certified.certificate).expect("PEM")];
    let key = PrivateKeyDer::from_pem_file(&certified.key).expect("PEM");
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider has them")
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .expect("they belong together");
    TlsAcceptor::from(Arc::new(config))
}

/// A service that answers 200 to everything, over TLS. Returns its port.
async fn service(certified: &Certified, clients: Clients<'_>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    let acceptor = acceptor(certified, clients);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut request = [0; 4096];
                while stream.read(&mut request).await.is_ok_and(|read| read > 0) {
                    let reply = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
                    if stream.write_all(reply).await.is_err() || stream.flush().await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    port
}

async fn prepare(resource: &Arc<dyn Resource>, work: &str) -> Answer {
    resource.call(call(&fresh_name(), Verb::Prepare, Opaque::new(work.as_bytes()))).await
}

/// What was seen by a call that brought no yes.
async fn trouble(resource: &Arc<dyn Resource>, work: &str) -> String {
    match prepare(resource, work).await {
        Answer::Silent(seen) => seen.to_string(),
        Answer::No(reason) => reason.detail.to_string(),
        answer @ (Answer::Yes(_)
        | Answer::ReadOnly(_)
        | Answer::Lost(_)
        | Answer::Done(_)
        | Answer::Heuristic(_)
        | Answer::Working) => panic!("not refused: {answer:?}"),
    }
}

#[tokio::test]
async fn a_service_is_called_over_tls_if_its_certificate_is_trusted() {
    let authority = Authority::new();
    let port = service(&authority.certify("localhost", Validity::Good), Clients::Anybody).await;
    let url = format!("https://localhost:{port}/bank");
    let bank = opened(&url, trusting(&authority));
    assert_eq!(bank.location(), url);
    for _ in 0..3 {
        assert!(matches!(prepare(&bank, "{}").await, Answer::Yes(_)));
    }
    let findings = bank.examine(Duration::from_secs(10)).await;
    assert!(findings.iter().all(|it| it.fitness == Fitness::Fit), "{findings:?}");
}

#[tokio::test]
async fn a_certificate_that_proves_nothing_is_refused_with_what_to_do() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    for (certified, host, named) in [
        (theirs.certify("localhost", Validity::Good), "localhost", "set ca_file"),
        (ours.certify("localhost", Validity::Expired), "localhost", "has expired: renew it"),
        (ours.certify("bank.example", Validity::Good), "localhost", "another name"),
        (ours.certify("localhost", Validity::Good), "127.0.0.1", "another name"),
    ] {
        let port = service(&certified, Clients::Anybody).await;
        let bank = opened(&format!("https://{host}:{port}"), trusting(&ours));
        let seen = trouble(&bank, "{}").await;
        assert!(seen.contains(named), "{named} in {seen}");
        let findings = bank.examine(Duration::from_secs(10)).await;
        assert_eq!(findings[0].fitness, Fitness::Unfit, "{findings:?}");
        assert!(findings[0].detail.contains(named), "{findings:?}");
    }
}

#[tokio::test]
async fn a_private_authority_is_not_trusted_unless_it_is_named() {
    let authority = Authority::new();
    let port = service(&authority.certify("localhost", Validity::Good), Clients::Anybody).await;
    let settings = Settings::default();
    // A machine without any authority is refused when it opens.
    let opened =
        open("bank", &format!("https://localhost:{port}"), &settings, Arc::new(Unobserved));
    let seen = match opened {
        Ok(bank) => trouble(&bank, "{}").await,
        Err(error) => error.to_string(),
    };
    assert!(seen.contains("ca_file"), "{seen}");
}

#[tokio::test]
async fn a_certificate_that_signed_itself_is_trusted_if_it_is_named_and_no_authority() {
    let one = Authority::new();
    for (certified, trusted) in [
        (one.self_signed("localhost", Kind::Server), true),
        (one.self_signed("localhost", Kind::Authority), false),
    ] {
        let port = service(&certified, Clients::Anybody).await;
        let files =
            TlsFiles { ca_file: Some(certified.certificate.clone()), ..TlsFiles::default() };
        let bank = opened(&format!("https://localhost:{port}"), files);
        match trusted {
            true => assert!(matches!(prepare(&bank, "{}").await, Answer::Yes(_))),
            false => assert!(trouble(&bank, "{}").await.contains("not an authority's own")),
        }
    }
}

#[tokio::test]
async fn a_service_that_wants_to_know_us_is_shown_our_certificate() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let certified = ours.certify("localhost", Validity::Good);
    let port = service(&certified, Clients::CertifiedBy(&ours)).await;
    let url = format!("https://localhost:{port}");
    let known = shown(trusting(&ours), ours.certify("coordinator", Validity::Good));
    assert!(matches!(prepare(&opened(&url, known), "{}").await, Answer::Yes(_)));
    let unknown = shown(trusting(&ours), theirs.certify("coordinator", Validity::Good));
    for files in [trusting(&ours), unknown] {
        let seen = trouble(&opened(&url, files), "{}").await;
        assert!(seen.contains("set client_cert_file and client_key_file"), "{seen}");
    }
}

#[tokio::test]
async fn a_service_that_speaks_no_tls_is_named_as_such() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            drop(stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await);
        }
    });
    let authority = Authority::new();
    let bank = opened(&format!("https://127.0.0.1:{port}"), trusting(&authority));
    let seen = trouble(&bank, "{}").await;
    assert!(seen.contains("does not speak tls"), "{seen}");
}

#[tokio::test]
async fn a_handshake_that_stalls_ends_with_the_call() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    let bank = opened(&format!("https://127.0.0.1:{port}"), trusting(&Authority::new()));
    let mut hurried = call(&fresh_name(), Verb::Prepare, Opaque::default());
    hurried.patience = Duration::from_millis(50);
    let answer = bank.call(hurried).await;
    assert!(matches!(&answer, Answer::Silent(seen) if seen.contains("50 ms")), "{answer:?}");
}

#[test]
fn files_that_cannot_be_used_are_named_with_their_key() {
    let (one, other) = (Authority::new(), Authority::new());
    let (mine, another) = (one.certify("me", Validity::Good), other.certify("me", Validity::Good));
    let mixed = Certified { certificate: mine.certificate.clone(), key: another.key };
    let missing = Some("/nonexistent/x.pem".into());
    let half = TlsFiles { client_cert_file: Some(mine.certificate), ..trusting(&one) };
    let key_for_ca = TlsFiles { ca_file: Some(mine.key), ..TlsFiles::default() };
    let https = "https://bank.example";
    for (url, files, named) in [
        (https, TlsFiles { ca_file: missing, ..TlsFiles::default() }, "/nonexistent/x.pem"),
        (https, key_for_ca, "ca_file = "),
        (https, half, "client_key_file"),
        (https, shown(trusting(&one), mixed), "is not the key of client_cert_file"),
        ("http://bank.example", trusting(&one), "write https://"),
        ("postgres://u@h/d", trusting(&one), "write sslmode=verify-full"),
        ("postgres://u@h/d?sslmode=disable", trusting(&one), "write sslmode=verify-full"),
    ] {
        let settings = Settings { tls: files, ..Settings::default() };
        let error = open("bank", url, &settings, Arc::new(Unobserved)).err().expect(url);
        assert!(error.to_string().contains(named), "{named} in {error}");
    }
}

/// A server that speaks TLS as `localhost` and knows clients of the same authority.
async fn database(authority: &Authority, certified: &Certified) -> Option<PrivatePostgres> {
    let mut server = PrivatePostgres::start(&[])?;
    server.sql("postgres", "CREATE ROLE app LOGIN PASSWORD 's3cret'");
    server.sql("postgres", "CREATE TABLE note (text text); GRANT ALL ON note TO app");
    server.encrypt(certified, Path::new(&authority.file()));
    until("it speaks tls", async || server.sql("postgres", "SHOW ssl") == "on").await;
    Some(server)
}

fn with_password(url: &str, tls: TlsFiles) -> Arc<dyn Resource> {
    let password = Some(Password::new("s3cret".to_owned()));
    let settings = Settings { password, tls, ..Settings::default() };
    open("bank", url, &settings, Arc::new(Unobserved)).expect("a good configuration")
}

fn url(server: &PrivatePostgres, host: &str, mode: &str) -> String {
    format!("postgres://app@{host}:{}/postgres?sslmode={mode}", server.port())
}

const WRITE: &str = r#"[{"sql": "INSERT INTO note VALUES ('x')"}]"#;
/// More than a socket and TLS take at once, both ways.
const LARGE: &str = r#"[{"sql": "INSERT INTO note SELECT $1", "params": ["TEXT"]},
                        {"sql": "SELECT repeat('y', 50000) FROM generate_series(1, 300)"}]"#;

#[tokio::test]
async fn a_branch_is_prepared_and_committed_in_a_database_over_tls() {
    let authority = Authority::new();
    let certified = authority.certify("localhost", Validity::Good);
    let Some(mut server) = database(&authority, &certified).await else { return };
    server.require_tls("scram-sha-256", "app");
    let encrypted = "SELECT count(*) FILTER (WHERE ssl) || ' of ' || count(*) FROM pg_stat_ssl \
                     JOIN pg_stat_activity USING (pid) WHERE application_name = 'unanimous'";
    for mode in ["require", "verify-full"] {
        let bank = with_password(&url(&server, "localhost", mode), trusting(&authority));
        let large = LARGE.replace("TEXT", &"a long text ".repeat(20_000));
        for work in [WRITE, &large, WRITE] {
            let name = fresh_name();
            let opaque = Opaque::new(work.as_bytes());
            let voted = bank.call(call(&name, Verb::Prepare, opaque)).await;
            assert!(matches!(voted, Answer::Yes(_)), "{mode}: {voted:?}");
            let done = bank.call(call(&name, Verb::Commit, Opaque::default())).await;
            assert!(matches!(done, Answer::Done(_)), "{mode}: {done:?}");
        }
        let findings = bank.examine(Duration::from_secs(10)).await;
        assert!(findings.iter().all(|it| it.fitness == Fitness::Fit), "{findings:?}");
        // One connection of each phase has served all; those of the mode before may be going still.
        let both = async || server.sql("postgres", encrypted) == "2 of 2";
        until("both connections are encrypted and no other is there", both).await;
    }
    assert_eq!(server.sql("postgres", "SELECT count(*) FROM note"), "6");
    let plain = with_password(&url(&server, "localhost", "disable"), TlsFiles::default());
    let seen = trouble(&plain, WRITE).await;
    assert!(seen.contains("no encryption"), "{seen}");
}

// Somebody has to hear of the cut while this one waits for the server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_was_cut_while_it_rested_is_not_used_again() {
    let authority = Authority::new();
    let certified = authority.certify("localhost", Validity::Good);
    let Some(mut server) = database(&authority, &certified).await else { return };
    let bank = with_password(&url(&server, "localhost", "verify-full"), trusting(&authority));
    for life in 0..3 {
        let answer = prepare(&bank, WRITE).await;
        assert!(matches!(answer, Answer::Yes(_)), "in life {life}: {answer:?}");
        server.kill();
        server.up();
    }
}

#[tokio::test]
async fn a_database_that_proves_nothing_is_sent_no_password() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let certified = ours.certify("localhost", Validity::Good);
    let Some(server) = database(&ours, &certified).await else { return };
    for (host, files, named) in [
        ("localhost", trusting(&theirs), "set ca_file"),
        ("127.0.0.1", trusting(&ours), "another name"),
    ] {
        let bank = with_password(&url(&server, host, "verify-full"), files);
        let Answer::No(reason) = prepare(&bank, WRITE).await else { panic!("it voted") };
        assert_eq!(&*reason.kind, "configuration");
        assert!(reason.detail.contains(named), "{}", reason.detail);
        let findings = bank.examine(Duration::from_secs(10)).await;
        assert_eq!((findings.len(), findings[0].fitness), (1, Fitness::Unfit));
        assert!(findings[0].detail.contains(named), "{findings:?}");
    }
}

/// Stands between us and a database with a certificate that we trust, too, and passes all on. Returns
/// its port.
async fn between(server: &PrivatePostgres, certified: &Certified, trusted: TlsFiles) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    let (acceptor, behind) = (acceptor(certified, Clients::Anybody), server.port());
    let connector = Connector::new(&trusted).expect("good files");
    tokio::spawn(async move {
        while let Ok((mut front, _)) = listener.accept().await {
            let (acceptor, connector) = (acceptor.clone(), connector.clone());
            tokio::spawn(async move {
                let mut question = [0; 8];
                front.read_exact(&mut question).await.expect("tls is asked for");
                front.write_all(b"S").await.expect("it is heard");
                let mut front = acceptor.accept(front).await.expect("we are believed");
                let mut back = TcpStream::connect(("127.0.0.1", behind)).await.expect("it listens");
                back.write_all(&question).await.expect("it is heard");
                assert_eq!(back.read_u8().await.expect("it answers"), b'S');
                let mut back = connector.connect("localhost", back).await.expect("it is trusted");
                drop(tokio::io::copy_bidirectional(&mut front, &mut back).await);
            });
        }
    });
    port
}

#[tokio::test]
async fn a_password_is_proven_to_the_owner_of_the_certificate_only() {
    let authority = Authority::new();
    let certified = authority.certify("localhost", Validity::Good);
    let Some(mut server) = database(&authority, &certified).await else { return };
    server.require_tls("scram-sha-256", "app");
    let relayed = async |certified: &Certified| {
        let port = between(&server, certified, trusting(&authority)).await;
        let url = format!("postgres://app@localhost:{port}/postgres?sslmode=verify-full");
        prepare(&with_password(&url, trusting(&authority)), WRITE).await
    };
    assert!(
        matches!(relayed(&certified).await, Answer::Yes(_)),
        "whoever has its key is the server"
    );
    let answer = relayed(&authority.certify("127.0.0.1", Validity::Good)).await;
    assert!(matches!(&answer, Answer::No(_)), "another name: {answer:?}");
    // The name is the same; only the key, and so the certificate, is another.
    let other = authority.certify("localhost", Validity::Good);
    let Answer::No(reason) = relayed(&other).await else { panic!("it was let in") };
    assert!(reason.detail.contains("channel binding"), "{}", reason.detail);
}

#[tokio::test]
async fn a_database_knows_us_by_our_certificate() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let certified = ours.certify("localhost", Validity::Good);
    let Some(mut server) = database(&ours, &certified).await else { return };
    server.require_tls("cert", "app");
    let url = url(&server, "localhost", "verify-full");
    let known = shown(trusting(&ours), ours.certify("app", Validity::Good));
    assert!(matches!(prepare(&opened(&url, known), WRITE).await, Answer::Yes(_)));
    let somebody = shown(trusting(&ours), ours.certify("somebody", Validity::Good));
    let stranger = shown(trusting(&ours), theirs.certify("app", Validity::Good));
    for files in [trusting(&ours), somebody, stranger] {
        let seen = trouble(&opened(&url, files), WRITE).await;
        assert!(seen.contains("certificate"), "{seen}");
    }
}

#[tokio::test]
async fn a_database_without_tls_is_told_to_switch_it_on() {
    let Some(server) = PrivatePostgres::start(&[]) else { return };
    let url = url(&server, "localhost", "require");
    let seen = trouble(&opened(&url, trusting(&Authority::new())), WRITE).await;
    assert!(seen.contains("set ssl = on"), "{seen}");
}
