//! TLS to MariaDB: who is believed, who is let in, and what to do about it.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use unanimous_core::{Answer, Opaque, Verb};
use unanimous_participants::testing::conformance::{Subject, fresh_name};
use unanimous_participants::testing::{Authority, Certified, PrivateMariaDb, Validity};
use unanimous_participants::{
    Fitness, Password, Resource, Settings, TlsFiles, Unobserved, open, returned,
};

use crate::common::{Bank, either, finish, prepare, work};

const PASSWORD: &str = "s3cret";

/// A server that speaks TLS as `localhost` and knows clients of the same authority; its user is let
/// in as `rule` says, such as `REQUIRE SSL`.
fn encrypted(authority: &Authority, rule: &str) -> Option<Bank> {
    let mut bank = Bank::start(&[])?;
    bank.server.encrypt(&authority.certify("localhost", Validity::Good), &authority.file());
    let user = format!(
        "CREATE USER safe@'127.0.0.1' IDENTIFIED BY '{PASSWORD}' {rule}; \
         GRANT ALL ON bank.* TO safe@'127.0.0.1'"
    );
    bank.server.sql("bank", &user);
    bank.let_list("safe@'127.0.0.1'");
    Some(bank)
}

fn at(server: &PrivateMariaDb, host: &str, mode: &str, tls: TlsFiles) -> Arc<dyn Resource> {
    let url = format!("mysql://safe@{host}:{}/bank?sslmode={mode}", server.port());
    let password = Some(Password::new(PASSWORD.to_owned()));
    let settings = Settings { password, tls, ..Settings::default() };
    open("bank", &url, &settings, Arc::new(Unobserved)).expect("a good configuration")
}

fn trusting(authority: &Authority) -> TlsFiles {
    TlsFiles { ca_file: Some(authority.file()), ..TlsFiles::default() }
}

fn showing(authority: &Authority, certified: Certified) -> TlsFiles {
    TlsFiles {
        client_cert_file: Some(certified.certificate),
        client_key_file: Some(certified.key),
        ..trusting(authority)
    }
}

/// Why a first phase was refused for good.
async fn refusal(resource: &Arc<dyn Resource>, bank: &Bank) -> String {
    let answer = prepare(resource, &fresh_name(), bank.add(1)).await;
    let Answer::No(reason) = answer else { panic!("{answer:?} is no refusal") };
    assert_eq!(&*reason.kind, "configuration", "{}", reason.detail);
    reason.detail.to_string()
}

#[tokio::test]
async fn a_branch_commits_over_tls_and_not_without() {
    let authority = Authority::new();
    let Some(bank) = encrypted(&authority, "REQUIRE SSL") else { return };
    let cipher = format!(
        "SELECT variable_value <> '' FROM {}.session_status WHERE variable_name = 'Ssl_cipher'",
        either("information_schema", "performance_schema")
    );
    for mode in ["require", "verify-full"] {
        let resource = at(&bank.server, "localhost", mode, trusting(&authority));
        let name = fresh_name();
        let answer = prepare(&resource, &name, bank.add(5)).await;
        let Answer::Yes(came) = answer else { panic!("{mode}: {answer:?} is no yes") };
        let done = finish(&resource, &name, Verb::Commit, &came).await;
        assert_eq!(done, Answer::Done(Opaque::default()), "{mode}");
        let asked = prepare(&resource, &fresh_name(), work(json!([{"sql": cipher}]))).await;
        let Answer::ReadOnly(result) = asked else { panic!("{asked:?}") };
        let rows = &returned::results(result.bytes())[0]["rows"];
        assert_eq!(rows.as_array().map(Vec::len), Some(1), "{rows}");
        assert!(rows.to_string().contains('1'), "{rows}");
        let findings = resource.examine(Duration::from_secs(10)).await;
        assert!(findings.iter().all(|it| it.fitness != Fitness::Unfit), "{findings:?}");
    }
    assert_eq!(bank.counter(), 1_010);
    let plain = at(&bank.server, "localhost", "disable", TlsFiles::default());
    let seen = refusal(&plain, &bank).await;
    assert!(seen.contains("sslmode=verify-full if it is let in over tls only"), "{seen}");
}

#[tokio::test]
async fn a_server_that_proves_nothing_is_sent_no_password() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let Some(bank) = encrypted(&ours, "") else { return };
    for (host, files, named) in [
        ("localhost", trusting(&theirs), "set ca_file"),
        ("localhost", TlsFiles::default(), "set ca_file"),
        ("127.0.0.1", trusting(&ours), "another name"),
    ] {
        let resource = at(&bank.server, host, "verify-full", files);
        let seen = refusal(&resource, &bank).await;
        assert!(seen.contains(named), "{seen}");
        let findings = resource.examine(Duration::from_secs(10)).await;
        assert_eq!((findings.len(), findings[0].fitness), (1, Fitness::Unfit), "{findings:?}");
    }
}

#[tokio::test]
async fn a_server_knows_us_by_our_certificate() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let Some(bank) = encrypted(&ours, "REQUIRE X509") else { return };
    let resource = |files| at(&bank.server, "localhost", "verify-full", files);
    let known = resource(showing(&ours, ours.certify("app", Validity::Good)));
    let (name, add) = (fresh_name(), bank.add(5));
    let Answer::Yes(came) = prepare(&known, &name, add).await else { panic!("it is known") };
    let done = finish(&known, &name, Verb::Commit, &came).await;
    assert_eq!(done, Answer::Done(Opaque::default()));
    assert!(refusal(&resource(trusting(&ours)), &bank).await.contains("Access denied"));
    let stranger = resource(showing(&ours, theirs.certify("app", Validity::Good)));
    let answer = prepare(&stranger, &fresh_name(), bank.add(5)).await;
    assert!(matches!(answer, Answer::No(_) | Answer::Silent(_)), "{answer:?}");
    assert_eq!(bank.counter(), 1_005);
}

#[tokio::test]
async fn a_server_without_tls_is_told_to_switch_it_on() {
    let Some(bank) = Bank::start(&[either("--skip-ssl", "--tls-version=")]) else { return };
    let authority = Authority::new();
    let resource = at(&bank.server, "localhost", "verify-full", trusting(&authority));
    let seen = refusal(&resource, &bank).await;
    assert!(seen.contains("give it ssl_cert and ssl_key"), "{seen}");
}
