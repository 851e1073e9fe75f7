//! The command line as scripts see it: exit codes and messages.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;
use unanimous_participants::testing::free_port;

fn unanimous(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_unanimous"));
    let inherited = std::env::vars().filter(|(name, _)| name.starts_with("UNANIMOUS_"));
    inherited.for_each(|(name, _)| {
        command.env_remove(name);
    });
    command.args(arguments).stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> Output {
    unanimous(arguments).output().expect("it starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("output is UTF-8")
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("it exits by itself")
}

/// An address that nobody listens on.
fn free_address() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, free_port()).into()
}

/// A coordinator that ends with the test.
struct Server {
    child: Child,
    address: SocketAddr,
}

impl Server {
    fn start(folder: &Path, config: &str) -> Self {
        let file = folder.join("unanimous.toml");
        fs::write(&file, config).expect("the folder can be written");
        let mut child = unanimous(&["serve", "--listen", "127.0.0.1:0", "--with-parent"])
            .args(["--config".as_ref(), file.as_os_str()])
            .args(["--data".as_ref(), folder.join("data").as_os_str()])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut log = BufReader::new(child.stderr.take().expect("it is piped")).lines();
        let address = log.by_ref().map_while(Result::ok).find_map(|line| {
            let (_, address) = line.split_once("listening address=")?;
            address.trim().parse().ok()
        });
        // A log that nobody reads would hold up the coordinator.
        std::thread::spawn(move || log.for_each(drop));
        Self { child, address: address.expect("it says where it listens") }
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let url = format!("http://{}", self.address);
        unanimous(arguments).args(["--server", &url]).output().expect("it starts")
    }

    /// Begins a transaction without branches, and returns its identity.
    fn begin(&self) -> String {
        let body = r#"{"kind":"atomic"}"#;
        let mut stream = TcpStream::connect(self.address).expect("it listens");
        let length = body.len();
        write!(
            stream,
            "POST /v1/transactions HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\
             content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        )
        .expect("it reads");
        let mut reply = String::new();
        stream.read_to_string(&mut reply).expect("it answers");
        let (_, body) = reply.split_once("\r\n\r\n").expect("a whole reply");
        let view: Value = serde_json::from_str(body).expect(&reply);
        view["id"].as_str().expect("it has an id").to_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().expect("it can be killed");
        self.child.wait().expect("it can be waited for");
    }
}

#[test]
fn wrong_flags_exit_with_2_and_say_what_is_wrong() {
    for (arguments, said) in [
        (&[][..], "Usage: unanimous"),
        (&["frobnicate"], "unrecognized subcommand 'frobnicate'"),
        (&["demo", "--transfers", "0"], "0 is not in 1..=1000000"),
        (&["demo", "--seed", "x"], "invalid value 'x' for '--seed <S>'"),
        (&["demo", "--resources", "oracle"], "[possible values: postgres, mariadb, redis]"),
        (&["demo", "--resources", ""], "[possible values: postgres, mariadb, redis]"),
        (&["demo", "--resources", "redis,redis"], "--resources names Redis twice"),
        (&["sim"], "--seeds <A..B>"),
        (&["sim", "--seeds", "5..5"], "the range holds no seed"),
        (&["sim", "--seeds", "5"], "write it as A..B"),
        (&["sim", "--trace"], "--seed <S>"),
        (&["txn"], "Usage: unanimous txn"),
        (&["txn", "list", "--status", "GONE"], "one of INITIATED, PREPARING"),
        (&["txn", "list", "--limit", "0"], "0 is not in 1..=1000"),
        (&["txn", "resolve", "x", "--outcome", "maybe", "--reason", "r"], "commit or rollback"),
        (&["txn", "resolve", "x", "--outcome", "commit"], "--reason <TEXT>"),
        (&["serve", "--data", "a", "--journal", "file:b"], "cannot be used with"),
        (&["txn", "list", "--server", "https://127.0.0.1"], "https"),
    ] {
        let output = run(arguments);
        let stderr = text(&output.stderr);
        assert_eq!(code(&output), 2, "{arguments:?}: {stderr}");
        assert!(stderr.contains(said), "{arguments:?}: {stderr}");
    }
}

#[test]
fn every_command_explains_itself_with_an_example() {
    for command in [
        &["--help"][..],
        &["serve", "--help"],
        &["demo", "--help"],
        &["demo", "booking", "--help"],
        &["demo", "order", "--help"],
        &["demo", "seats", "--help"],
        &["txn", "--help"],
        &["resource", "--help"],
        &["invariant", "--help"],
        &["doctor", "--help"],
        &["sim", "--help"],
        &["completions", "--help"],
    ] {
        let output = run(command);
        let stdout = text(&output.stdout);
        assert_eq!(code(&output), 0, "{command:?}");
        assert!(stdout.contains("Example"), "{command:?}: {stdout}");
        assert!(!stdout.contains("__bank"), "{stdout}");
    }
}

#[test]
fn a_configuration_that_cannot_be_followed_exits_with_2_and_one_line_that_names_the_key() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("unanimous.toml");
    for (config, named) in [
        ("lissten = 'x'", "lissten"),
        ("[limits]\nopen_max = 'many'", "line 2"),
        ("token_env = 'NOT_SET_ANYWHERE'", "NOT_SET_ANYWHERE"),
        ("listen = '0.0.0.0:0'", "token_env"),
        ("[resources.ledger]\nurl = 'ftp://h'", "resource ledger: unknown scheme \"ftp\""),
        ("[resources.ledger]\nurl = 'http://u:hunter2@h'", "resource ledger"),
    ] {
        fs::write(&file, config).expect("the folder can be written");
        let output = unanimous(&["serve", "--data"])
            .arg(folder.path().join("data"))
            .args(["--config".as_ref(), file.as_os_str()])
            .output()
            .expect("it starts");
        let stderr = text(&output.stderr);
        assert_eq!(code(&output), 2, "{config}: {stderr}");
        assert!(stderr.starts_with("error: ") && stderr.contains(named), "{config}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert!(!stderr.contains("hunter2"), "{stderr}");
    }
    let output = run(&["serve", "--config", "no-such-file.toml"]);
    assert_eq!(code(&output), 2);
    assert!(text(&output.stderr).contains("no-such-file.toml"));
}

#[test]
fn a_port_that_is_taken_and_a_data_folder_that_is_held_exit_with_2_and_are_named() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let server = Server::start(folder.path(), "");
    let address = server.address.to_string();
    let elsewhere = folder.path().join("elsewhere");
    let same_port = unanimous(&["serve", "--listen", &address, "--data"])
        .arg(&elsewhere)
        .output()
        .expect("it starts");
    assert_eq!(code(&same_port), 2);
    assert!(text(&same_port.stderr).contains(&address), "{}", text(&same_port.stderr));

    let data = folder.path().join("data");
    let same_folder = unanimous(&["serve", "--listen", "127.0.0.1:0", "--data"])
        .arg(&data)
        .output()
        .expect("it starts");
    let stderr = text(&same_folder.stderr);
    assert_eq!(code(&same_folder), 2, "{stderr}");
    assert!(stderr.contains(&data.display().to_string()), "{stderr}");
}

#[test]
fn a_server_that_is_not_there_exits_with_3_and_is_named() {
    let url = format!("http://{}", free_address());
    let id = "01939f6e-7a30-7c41-9b1d-3f2a5c7e9d10";
    for arguments in
        [&["txn", "list"][..], &["txn", "watch", id], &["txn", "abort", id], &["resource", "check"]]
    {
        let output = unanimous(arguments).env("UNANIMOUS_SERVER", &url).output().expect("starts");
        let stderr = text(&output.stderr);
        assert_eq!(code(&output), 3, "{arguments:?}: {stderr}");
        assert!(stderr.contains(&url), "{arguments:?}: {stderr}");
    }
    let output = run(&["--json", "txn", "list", "--server", &url]);
    let document: Value = serde_json::from_slice(&output.stdout).expect("one JSON document");
    assert!(document["error"].as_str().is_some_and(|error| error.contains(&url)), "{document}");
}

#[test]
fn the_next_node_is_asked_if_one_does_not_answer() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let server = Server::start(folder.path(), "");
    let nodes = format!("http://{},http://{}", free_address(), server.address);
    let output = unanimous(&["txn", "list"]).env("UNANIMOUS_SERVER", &nodes).output();
    let output = output.expect("it starts");
    assert_eq!(code(&output), 0, "{}", text(&output.stderr));
}

#[test]
fn a_transaction_is_listed_shown_aborted_and_watched() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let server = Server::start(folder.path(), "");
    let empty = server.run(&["txn", "list"]);
    assert_eq!((code(&empty), &*text(&empty.stdout)), (0, "no transactions\n"));

    let id = server.begin();
    let shown = server.run(&["txn", "show", &id]);
    let stdout = text(&shown.stdout);
    assert_eq!(code(&shown), 0, "{stdout}");
    assert!(stdout.contains(&id) && stdout.contains("INITIATED"), "{stdout}");
    let listed = server.run(&["txn", "list", "--status", "initiated", "--json"]);
    let list: Value = serde_json::from_slice(&listed.stdout).expect("one JSON document");
    assert_eq!(list["transactions"][0]["id"], *id, "{list}");

    let resolved =
        server.run(&["txn", "resolve", &id, "--outcome", "commit", "--reason", "I say so"]);
    assert_eq!(code(&resolved), 1, "nobody has voted");
    assert!(text(&resolved.stderr).contains("UNA0209"), "{}", text(&resolved.stderr));

    let aborted = server.run(&["txn", "abort", &id, "--reason", "not needed"]);
    assert_eq!(code(&aborted), 0, "{}", text(&aborted.stderr));
    let stdout = text(&aborted.stdout);
    assert!(stdout.contains("not needed") && stdout.contains("aborted"), "{stdout}");
    let watched = server.run(&["txn", "watch", &id]);
    assert_eq!(code(&watched), 1, "it did not commit");
    assert!(text(&watched.stdout).starts_with("ABORTED"), "{}", text(&watched.stdout));
}

#[test]
fn what_is_not_there_exits_with_1_and_what_cannot_be_with_2() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let server = Server::start(folder.path(), "");
    for (arguments, exit, named) in [
        (&["txn", "show", "01939f6e-7a30-7c41-9b1d-3f2a5c7e9d10"][..], 1, "UNA0206"),
        (&["txn", "retry", "01939f6e-7a30-7c41-9b1d-3f2a5c7e9d10"], 1, "UNA0206"),
        (&["txn", "show", "order-42"], 2, "UNA0108"),
        (&["resource", "in-doubt", "wallet"], 2, "no resource \"wallet\""),
        (&["invariant", "check", "books"], 2, "no invariant \"books\""),
    ] {
        let output = server.run(arguments);
        let stderr = text(&output.stderr);
        assert_eq!(code(&output), exit, "{arguments:?}: {stderr}");
        assert!(stderr.contains(named), "{arguments:?}: {stderr}");
    }
}

#[test]
fn resources_are_listed_with_how_they_answer() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = format!("[resources.wallet]\nurl = 'http://{}/participant'", free_address());
    let server = Server::start(folder.path(), &config);
    let listed = server.run(&["resource", "list"]);
    let stdout = text(&listed.stdout);
    assert_eq!(code(&listed), 0);
    assert!(stdout.contains("wallet  http  closed"), "{stdout}");
    assert_eq!(code(&server.run(&["resource", "check"])), 0);
    let in_doubt = server.run(&["resource", "in-doubt"]);
    assert_eq!((code(&in_doubt), &*text(&in_doubt.stdout)), (0, "no branch is in doubt\n"));
}

#[test]
fn invariants_are_listed_and_one_that_cannot_be_checked_exits_with_1() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = format!(
        "[resources.wallet]\nurl = 'postgres://app@{}/wallet'\n\
         [invariants.books]\nrelation = 'zero'\nevery_ms = 0\n\
         queries = [{{resource = 'wallet', sql = 'SELECT 0'}}]",
        free_address()
    );
    let server = Server::start(folder.path(), &config);
    let listed = server.run(&["invariant", "list"]);
    let stdout = text(&listed.stdout);
    assert_eq!(code(&listed), 0);
    assert!(stdout.contains("books      zero      unchecked"), "{stdout}");
    let checked = server.run(&["invariant", "check", "--json"]);
    assert_eq!(code(&checked), 1);
    let found: Value = serde_json::from_slice(&checked.stdout).expect("one JSON document");
    assert_eq!(found["invariants"][0]["result"], "unknown", "{found}");
    let detail = found["invariants"][0]["detail"].as_str().expect("it says why");
    assert!(detail.starts_with("wallet: no connection: "), "{detail}");
    let checked = server.run(&["resource", "check", "wallet"]);
    assert_eq!(code(&checked), 1);
    assert!(text(&checked.stdout).contains("\nbooks "), "{}", text(&checked.stdout));

    fs::write(folder.path().join("wrong.toml"), config.replace("zero", "equal")).expect("written");
    for command in ["serve", "doctor"] {
        let file = folder.path().join("wrong.toml");
        let output = unanimous(&[command, "--config"]).arg(file).output().expect("it starts");
        let stderr = text(&output.stderr);
        assert_eq!(code(&output), 2, "{stderr}");
        assert!(stderr.contains("invariants.books.queries has 1"), "{stderr}");
    }
}

#[test]
fn a_wrong_token_exits_with_2() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let token = folder.path().join("token");
    fs::write(&token, "s3cret\n").expect("the folder can be written");
    let server = Server::start(folder.path(), &format!("token_file = {:?}", token.display()));
    let url = format!("http://{}", server.address);
    for (offered, exit) in [(None, 2), (Some("guess"), 2), (Some("s3cret"), 0)] {
        let mut command = unanimous(&["txn", "list", "--server", &url]);
        command.envs(offered.map(|offered| ("UNANIMOUS_TOKEN", offered)));
        let output = command.output().expect("it starts");
        assert_eq!(code(&output), exit, "{offered:?}: {}", text(&output.stderr));
    }
}

#[test]
fn a_simulation_prints_one_line_of_totals() {
    let output = run(&["sim", "--seeds", "0..50"]);
    let stdout = text(&output.stdout);
    assert_eq!(code(&output), 0, "{stdout}");
    assert!(stdout.starts_with("seeds=50 ") && stdout.contains(" violations=0 "), "{stdout}");
    let traced = run(&["sim", "--seed", "7", "--trace"]);
    assert_eq!(code(&traced), 0);
    assert!(text(&traced.stdout).ends_with("no rule was broken\n"));
}

#[test]
fn a_peer_that_is_not_there_exits_with_2_and_says_how_to_get_it() {
    for (peer, how) in [("dtmrs", "cargo install dtmrs"), ("restate", "npm install")] {
        let output = run(&["bench", "saga", "--against", peer]);
        let said = text(&output.stderr);
        assert_eq!(code(&output), 2, "{said}");
        assert!(said.contains(how), "{said}");
    }
}

#[test]
fn completions_are_printed_for_a_shell() {
    let output = run(&["completions", "bash"]);
    assert_eq!(code(&output), 0);
    assert!(text(&output.stdout).contains("_unanimous"));
}
