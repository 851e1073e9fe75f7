//! `unanimous doctor` on real resources: what it says, and what it exits with.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use unanimous_participants::testing::{PrivatePostgres, free_port};

fn doctor(folder: &Path, config: &str, arguments: &[&str]) -> Output {
    let file = folder.join("unanimous.toml");
    fs::write(&file, config).expect("the folder can be written");
    let mut command = Command::new(env!("CARGO_BIN_EXE_unanimous"));
    let inherited = std::env::vars().filter(|(name, _)| name.starts_with("UNANIMOUS_"));
    inherited.for_each(|(name, _)| {
        command.env_remove(name);
    });
    command.arg("doctor").arg("--config").arg(file).args(arguments).stdin(Stdio::null());
    command.output().expect("it starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("output is UTF-8")
}

#[track_caller]
fn exits(output: &Output, code: i32) -> String {
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{stdout}{stderr}");
    stdout
}

fn postgres(server: &PrivatePostgres, user: &str) -> String {
    format!("[resources.bank]\nurl = '{}'\n", server.url(user, "postgres"))
}

/// A service that answers whatever it is asked with one status.
fn service(status: &'static str) -> String {
    use std::io::{Read, Write};
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let mut request = [0; 4096];
            drop(stream.read(&mut request));
            drop(write!(stream, "HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n"));
        }
    });
    format!("url = 'http://{address}/participant'\n")
}

#[test]
fn a_fresh_postgresql_is_told_exactly_what_to_change() {
    // As PostgreSQL comes: nothing can be prepared.
    let Some(server) = PrivatePostgres::start(&["max_prepared_transactions=0"]) else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let stdout = exits(&doctor(folder.path(), &postgres(&server, "postgres"), &[]), 1);
    let expected = "bank      postgres  unfit  max_prepared_transactions: it is 0, so nothing can be \
                    prepared: set max_prepared_transactions = 197 in postgresql.conf and restart \
                    PostgreSQL";
    assert_eq!(stdout.lines().nth(1), Some(expected), "{stdout}");
    assert_eq!(stdout.lines().count(), 2, "{stdout}");
}

#[test]
fn a_database_and_a_service_that_are_well_take_one_line_each() {
    let Some(server) = PrivatePostgres::start(&[]) else { return };
    server.sql("postgres", "CREATE ROLE app LOGIN");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = format!("{}[resources.wallet]\n{}", postgres(&server, "app"), service("404 Gone"));
    let stdout = exits(&doctor(folder.path(), &config, &[]), 0);
    let lines: Vec<_> = stdout.lines().collect();
    assert_eq!(lines[0], "RESOURCE  TYPE      STATE  FOUND");
    assert!(lines[1].starts_with("bank      postgres  ok     PostgreSQL 1"), "{stdout}");
    assert!(lines[1].contains("0 of 200 places taken"), "{stdout}");
    assert_eq!(lines[2..], ["wallet    http      ok     it answers"], "{stdout}");

    let output = doctor(folder.path(), &config, &["--json"]);
    let document: Value = serde_json::from_str(&exits(&output, 0)).expect("one JSON document");
    let bank = &document["resources"][0];
    assert_eq!((&bank["name"], &bank["fitness"]), (&"bank".into(), &"ok".into()));
    assert_eq!(bank["findings"][0]["subject"], "version", "{document}");
}

#[test]
fn settings_of_a_database_that_only_cost_are_warnings() {
    let settings = ["max_prepared_transactions=3", "idle_in_transaction_session_timeout=200"];
    let Some(server) = PrivatePostgres::start(&settings) else { return };
    server.sql("postgres", "CREATE ROLE app LOGIN; CREATE ROLE former LOGIN SUPERUSER");
    server.sql(
        "postgres",
        "SET SESSION AUTHORIZATION former; BEGIN; PREPARE TRANSACTION 'una:x:1:1'; COMMIT",
    );
    let folder = tempfile::tempdir().expect("a temporary folder");
    let stdout = exits(&doctor(folder.path(), &postgres(&server, "app"), &[]), 0);
    for named in [
        "warning  max_prepared_transactions: 3 places for 16 connections",
        "warning  privileges: branches were prepared by role former, and app may not finish them",
        "warning  idle_in_transaction_session_timeout: 200 ms",
    ] {
        assert!(stdout.contains(named), "{named} in {stdout}");
    }
    assert_eq!(stdout.lines().count(), 4, "{stdout}");
}

#[test]
fn what_does_not_let_us_in_or_does_not_answer_is_unfit_and_says_why() {
    let Some(mut server) = PrivatePostgres::start(&["fsync=off"]) else { return };
    server.sql("postgres", "CREATE ROLE app LOGIN PASSWORD 'hunter2'");
    server.require("scram-sha-256", "app");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let password = folder.path().join("password");
    fs::write(&password, "hunter3").expect("the folder can be written");
    let no_service = format!("[resources.gone]\nurl = 'http://127.0.0.1:{}'", free_port());
    let no_server = format!("[resources.gone]\nurl = 'postgres://app@127.0.0.1:{}'", free_port());
    let no_password = postgres(&server, "app");
    let wrong_password = format!("{no_password}password_file = '{}'", password.display());
    let no_database =
        format!("[resources.bank]\nurl = '{}'", server.url("postgres", "no_such_database"));
    let ill = format!("[resources.wallet]\n{}", service("503 Service Unavailable"));
    for (config, code, named) in [
        (&*no_service, 1, "connection: Connection refused"),
        (&no_server, 1, "start PostgreSQL, or correct host and port in the url"),
        (&no_password, 1, "set password_env or password_file"),
        (&wrong_password, 1, "correct the user in the url, or password_env"),
        (&no_database, 1, "create the database"),
        (&postgres(&server, "postgres"), 1, "fsync: fsync is off"),
        (&ill, 0, "warning  connection: it answers 503"),
    ] {
        let stdout = exits(&doctor(folder.path(), config, &[]), code);
        assert!(stdout.contains(named), "{named} in {stdout}");
        assert!(!stdout.contains("hunter"), "{stdout}");
    }
}

#[test]
fn it_looks_only_at_what_is_named_and_knows_what_is_configured() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = format!(
        "[resources.wallet]\n{}[resources.gone]\nurl = 'http://127.0.0.1:{}'",
        service("200 OK"),
        free_port()
    );
    let stdout = exits(&doctor(folder.path(), &config, &["wallet"]), 0);
    assert!(!stdout.contains("gone"), "{stdout}");
    exits(&doctor(folder.path(), &config, &[]), 1);
    let unknown = doctor(folder.path(), &config, &["bank"]);
    exits(&unknown, 2);
    let said = "no resource \"bank\" is configured; known: gone, wallet";
    assert!(text(&unknown.stderr).contains(said), "{}", text(&unknown.stderr));
    let stdout = exits(&doctor(folder.path(), "", &[]), 0);
    assert!(stdout.starts_with("no resources are configured"), "{stdout}");
}

#[test]
fn it_follows_the_configuration_as_the_coordinator_does() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (config, named) in [
        ("lissten = 'x'", "lissten"),
        ("listen = '0.0.0.0:0'", "token_env"),
        ("[resources.a]\nurl = 'ftp://h'", "resource a: unknown scheme"),
        ("[resources.a]\nurl = 'https://h'\nca_file = '/nonexistent/ca.pem'", "ca_file = \"/nonex"),
        ("[resources.a]\nurl = 'postgres://u@h'\nca_file = 'x'", "write sslmode=verify-full"),
        ("[resources.a]\nurl = 'postgres://u@h'\npassword_env = 'NOT_SET_ANYWHERE'", "NOT_SET"),
    ] {
        let output = doctor(folder.path(), config, &[]);
        exits(&output, 2);
        let stderr = text(&output.stderr);
        assert!(stderr.starts_with("error: ") && stderr.contains(named), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
    }
}
