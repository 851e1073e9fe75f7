//! Every malformed, oversized or contradictory request gets its problem document, and nothing has
//! been begun, enlisted or decided.

use serde_json::json;

use crate::common::{Client, Coordinator, Service, TWO, raw, two, two_with};

/// A request that has to be refused.
struct Bad {
    method: &'static str,
    path: String,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    status: u16,
    code: &'static str,
    pointer: Option<String>,
}

impl Bad {
    fn new(method: &'static str, path: &str, status: u16, code: &'static str) -> Self {
        let (headers, body, pointer) = (Vec::new(), Vec::new(), None);
        Self { method, path: path.to_owned(), headers, body, status, code, pointer }
    }

    fn body(self, body: impl Into<Vec<u8>>) -> Self {
        Self { body: body.into(), ..self }
    }

    fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    fn at(self, pointer: impl Into<String>) -> Self {
        Self { pointer: Some(pointer.into()), ..self }
    }

    /// What is wrong with the answer; empty if nothing is.
    async fn complaint(self, client: &Client) -> String {
        let headers: Vec<_> = self.headers.iter().map(|(name, value)| (*name, &**value)).collect();
        let shown = String::from_utf8_lossy(&self.body[..self.body.len().min(200)]).into_owned();
        let shown_path = &self.path[..self.path.len().min(200)];
        let expected = (self.status, self.code.to_owned(), self.pointer);
        let reply = client.send(self.method, &self.path, &headers, self.body).await;
        let (status, code) = reply.problem();
        let got = (status, code, reply.json()["pointer"].as_str().map(str::to_owned));
        if got == expected && reply.text.len() < 4_096 {
            return String::new();
        }
        let method = self.method;
        let answer = &reply.text[..reply.text.floor_char_boundary(1_000)];
        format!("{method} {shown_path} {headers:?} {shown}\n expected {expected:?}: {answer}\n")
    }
}

async fn check(client: &Client, all: Vec<Bad>) {
    let mut complaints = String::new();
    for bad in all {
        complaints.push_str(&bad.complaint(client).await);
    }
    assert!(complaints.is_empty(), "{complaints}");
}

const BEGIN: &str = "/v1/transactions";

fn begin(body: impl Into<Vec<u8>>, status: u16, code: &'static str) -> Bad {
    Bad::new("POST", BEGIN, status, code).body(body)
}

fn malformed_begins() -> Vec<Bad> {
    let (json, field) = ("UNA0101", "UNA0102");
    let nested = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    let mut not_utf8 = TWO.replace("wallet", "w?llet").into_bytes();
    let at = not_utf8.iter().position(|&byte| byte == b'?').expect("put there");
    not_utf8[at] = 0xFF;
    vec![
        begin("", 400, json),
        begin(" ", 400, json),
        begin("hello", 400, json),
        begin("{", 400, json),
        begin(&TWO[..TWO.len() / 2], 400, json),
        begin(&TWO[..TWO.len() - 1], 400, json),
        begin(format!("{TWO}x"), 400, json),
        begin(format!("{TWO}{TWO}"), 400, json),
        begin(TWO.replace(':', "="), 400, json),
        begin(TWO.replace("500", "0x1F4"), 400, json),
        begin(TWO.replace("500", "NaN"), 400, json),
        begin(TWO.replace("500", "05"), 400, json),
        begin(TWO.replace("wallet", "wal\u{0}let"), 400, json),
        begin(TWO.replace("wallet", "wal\nlet"), 400, json),
        begin(not_utf8, 400, json),
        begin([0xEF, 0xBB, 0xBF, b'{', b'}'], 400, json),
        begin("null", 400, field).at(""),
        begin("[]", 400, field).at(""),
        begin(r#"["atomic"]"#, 400, field).at(""),
        begin(r#"{"kind":"atomic","branches":[["wallet"]]}"#, 400, field).at("/branches/0"),
        begin("7", 400, field).at(""),
        begin(&*nested, 400, field).at(""),
        begin("{}", 400, field).at("/kind"),
        begin(r#"{"kind":null}"#, 400, field).at("/kind"),
        begin(r#"{"kind":7}"#, 400, field).at("/kind"),
        begin(r#"{"kind":"Atomic"}"#, 400, field).at("/kind"),
        begin(r#"{"kind":"atomic","kind":"atomic"}"#, 400, field).at("/kind"),
        begin(two_with(r#""timeout":5"#), 400, field).at("/timeout"),
        begin(two_with(r#""wait":"forever""#), 400, field).at("/wait"),
        begin(two_with(r#""wait":true"#), 400, field).at("/wait"),
        begin(two_with(r#""timeout_ms":-1"#), 400, field).at("/timeout_ms"),
        begin(two_with(r#""timeout_ms":1.5"#), 400, field).at("/timeout_ms"),
        begin(two_with(r#""timeout_ms":"1000""#), 400, field).at("/timeout_ms"),
        begin(two_with(r#""timeout_ms":18446744073709551616"#), 400, field).at("/timeout_ms"),
        begin(r#"{"kind":"atomic","branches":null}"#, 400, field).at("/branches"),
        begin(r#"{"kind":"atomic","branches":{}}"#, 400, field).at("/branches"),
        begin(r#"{"kind":"atomic","branches":[1]}"#, 400, field).at("/branches/0"),
        begin(r#"{"kind":"atomic","branches":[{}]}"#, 400, field).at("/branches/0/resource"),
        begin(TWO.replace("\"resource\":\"ledger\"", "\"resource\":5"), 400, field)
            .at("/branches/1/resource"),
        begin(TWO.replacen("\"body\"", "\"statements\"", 1), 400, field)
            .at("/branches/0/statements"),
        begin(
            TWO.replacen("{\"amount\":500}", "{},\"statements\":[{\"sql\":\"x\"}]", 1),
            400,
            field,
        )
        .at("/branches/0/statements"),
        begin(TWO.replacen("\"body\"", "\"work\"", 1), 400, field).at("/branches/0/work"),
        begin(TWO.replacen("\"body\"", "\"a/~b\"", 1), 400, field).at("/branches/0/a~1~0b"),
        begin(
            TWO.replacen("{\"resource\"", "{\"resource\":\"wallet\",\"resource\"", 1),
            400,
            field,
        )
        .at("/branches/0/resource"),
    ]
}

/// A good request of this many bytes.
fn padded(len: usize) -> String {
    format!("{TWO}{}", " ".repeat(len - TWO.len()))
}

fn begins_out_of_bounds() -> Vec<Bad> {
    let branches = |number: usize| {
        let branch = |index| format!(r#"{{"resource":"wallet","participant":"p{index}"}}"#);
        let branches: Vec<String> = (0..number).map(branch).collect();
        format!(r#"{{"kind":"atomic","branches":[{}]}}"#, branches.join(","))
    };
    let named = |name: &str| {
        let branch = json!({"resource": "wallet", "participant": name});
        json!({"kind": "atomic", "branches": [branch]}).to_string()
    };
    let deep = format!("{}{}", "[".repeat(65), "]".repeat(65));
    let large = padded(256 * 1024 + 1);
    vec![
        begin(two_with(r#""timeout_ms":0"#), 422, "UNA0103").at("/timeout_ms"),
        begin(two_with(r#""timeout_ms":86400001"#), 422, "UNA0103").at("/timeout_ms"),
        begin(two_with(r#""timeout_ms":18446744073709551615"#), 422, "UNA0103").at("/timeout_ms"),
        begin(TWO.replace("500", &deep), 422, "UNA0103").at("/branches/0/body"),
        begin(named(""), 422, "UNA0103").at("/branches/0/participant"),
        begin(named("wal let"), 422, "UNA0103").at("/branches/0/participant"),
        begin(named("wal\u{0}let"), 422, "UNA0103").at("/branches/0/participant"),
        begin(named("börse"), 422, "UNA0103").at("/branches/0/participant"),
        begin(named(&"n".repeat(49)), 422, "UNA0103").at("/branches/0/participant"),
        begin(TWO.replace("wallet", "wallt"), 422, "UNA0104").at("/branches/0/resource"),
        begin(TWO.replace("ledger", ""), 422, "UNA0104").at("/branches/1/resource"),
        begin(TWO.replace("ledger", "led\\u0000ger"), 422, "UNA0104").at("/branches/1/resource"),
        begin(TWO.replace("ledger", &"x".repeat(200_000)), 422, "UNA0104")
            .at("/branches/1/resource"),
        begin(large, 413, "UNA0105"),
        begin(branches(65), 422, "UNA0106").at("/branches"),
        begin(TWO.replace("ledger", "wallet"), 422, "UNA0107").at("/branches/1/participant"),
    ]
}

fn keys() -> Vec<Bad> {
    let key = |key: &str| begin(TWO, 400, "UNA0111").header("idempotency-key", key);
    vec![
        key(""),
        key("schlüssel"),
        key(&"k".repeat(256)),
        key("tab\tbed"),
        key("one").header("idempotency-key", "two"),
        Bad::new("POST", &format!("{BEGIN}/{NOBODY}/commit"), 400, "UNA0111")
            .header("idempotency-key", ""),
    ]
}

/// An identity that nobody has.
const NOBODY: &str = "01939f6e-7a30-7c41-9b1d-3f2a5c7e9d10";

fn paths_and_queries() -> Vec<Bad> {
    let get = |path: &str, status, code| Bad::new("GET", path, status, code);
    let mut all = vec![
        get("/", 404, "UNA0112"),
        get("/v1", 404, "UNA0112"),
        get("/v1/transaction", 404, "UNA0112"),
        get("/v1/transactions/", 404, "UNA0112"),
        get("/v2/transactions", 404, "UNA0112"),
        get("/v1/transactions/../../etc/passwd", 404, "UNA0112"),
        get(&format!("{BEGIN}/{NOBODY}/logs"), 404, "UNA0112"),
        get(&format!("/{}", "x".repeat(20_000)), 404, "UNA0112"),
        get("/v1/resources/nobody/in-doubt", 404, "UNA0112"),
        get("/v1/resources/%FF/in-doubt", 404, "UNA0112"),
        get("/errors/UNA9999", 404, "UNA0112"),
        get("/errors/%FF", 404, "UNA0112"),
        get("/v1/transactions?stat=ABORTED", 400, "UNA0109"),
        get("/v1/transactions?status=aborting%20", 400, "UNA0109"),
        get("/v1/transactions?status=", 400, "UNA0109"),
        get("/v1/transactions?status=ABORTED&status=COMMITTED", 400, "UNA0109"),
        get("/v1/transactions?kind=workflow", 400, "UNA0109"),
        get("/v1/transactions?older_than_ms=-1", 400, "UNA0109"),
        get("/v1/transactions?older_than_ms=soon", 400, "UNA0109"),
        get("/v1/transactions?limit=0", 400, "UNA0109"),
        get("/v1/transactions?limit=1001", 400, "UNA0109"),
        get("/v1/transactions?limit=18446744073709551616", 400, "UNA0109"),
        get("/v1/transactions?cursor=next", 400, "UNA0109"),
        get(&format!("/v1/transactions?{}", "a&".repeat(10_000)), 400, "UNA0109"),
        get("/v1/events?txn=1", 400, "UNA0109"),
        get("/v1/events?transaction=1", 400, "UNA0108"),
        get(&format!("/v1/events?transaction={NOBODY}&transaction={NOBODY}"), 400, "UNA0109"),
        get(&format!("/v1/events?transaction={NOBODY}"), 404, "UNA0206"),
        get(&format!("{BEGIN}/{NOBODY}"), 404, "UNA0206"),
        get(&format!("{BEGIN}/{NOBODY}"), 421, "UNA0212").header("unanimous-branch", "mine"),
        get(&format!("{BEGIN}/{NOBODY}/log"), 404, "UNA0206"),
    ];
    for id in ["1", "%FF", "%00", "order-42", &NOBODY[1..], &NOBODY.replace('-', ""), "null"] {
        all.push(get(&format!("{BEGIN}/{id}"), 400, "UNA0108"));
        all.push(get(&format!("{BEGIN}/{id}/log"), 400, "UNA0108"));
        for verb in ["participants", "commit", "abort", "retry", "resolve"] {
            all.push(Bad::new("POST", &format!("{BEGIN}/{id}/{verb}"), 400, "UNA0108"));
        }
    }
    for (verb, body) in [
        ("participants", r#"{"participant":"a","resource":"wallet"}"#),
        ("commit", ""),
        ("abort", ""),
        ("retry", ""),
        ("resolve", r#"{"outcome":"rollback","reason":"test"}"#),
    ] {
        let bad = Bad::new("POST", &format!("{BEGIN}/{NOBODY}/{verb}"), 404, "UNA0206");
        all.push(bad.body(body));
    }
    for (method, path) in [
        ("DELETE", BEGIN.to_owned()),
        ("PUT", BEGIN.to_owned()),
        ("PATCH", format!("{BEGIN}/{NOBODY}")),
        ("POST", format!("{BEGIN}/{NOBODY}")),
        ("DELETE", format!("{BEGIN}/{NOBODY}")),
        ("GET", format!("{BEGIN}/{NOBODY}/commit")),
        ("POST", format!("{BEGIN}/{NOBODY}/log")),
        ("POST", "/v1/resources".to_owned()),
        ("POST", "/v1/events".to_owned()),
        ("POST", "/metrics".to_owned()),
        ("POST", "/healthz".to_owned()),
        ("OPTIONS", BEGIN.to_owned()),
        ("BREW", BEGIN.to_owned()),
    ] {
        all.push(Bad::new(method, &path, 405, "UNA0113"));
    }
    all
}

/// Requests about a transaction that takes participants and has one, wallet.
fn about(path: &str) -> Vec<Bad> {
    let to = |verb: &str, status, code| Bad::new("POST", &format!("{path}/{verb}"), status, code);
    let (json, field, bounds) = ("UNA0101", "UNA0102", "UNA0103");
    let resolve = |reason: &str, by: &str| {
        json!({"outcome": "rollback", "reason": reason, "by": by}).to_string()
    };
    vec![
        to("participants", 400, json),
        to("participants", 400, field).body("{}").at("/participant"),
        to("participants", 400, field).body(r#"{"participant":"a"}"#).at("/resource"),
        to("participants", 400, field)
            .body(r#"{"participant":"a","resource":"wallet","vote":"YES"}"#)
            .at("/vote"),
        to("participants", 422, "UNA0104")
            .body(r#"{"participant":"a","resource":"b"}"#)
            .at("/resource"),
        to("participants", 422, bounds)
            .body(r#"{"participant":"a b","resource":"wallet"}"#)
            .at("/participant"),
        to("participants", 422, "UNA0107")
            .body(r#"{"participant":"wallet","resource":"ledger"}"#)
            .at("/participant"),
        to("commit", 400, json).body("{"),
        to("commit", 400, field).body(r#"{"votes":[]}"#).at("/votes"),
        to("commit", 400, field).body(r#"{"votes":{"wallet":"yes"}}"#).at("/votes/wallet"),
        to("commit", 400, field).body(r#"{"votes":{"wallet":null}}"#).at("/votes/wallet"),
        to("commit", 400, field).body(r#"{"votes":{"wallet":"NO","wallet":"YES"}}"#).at("/votes"),
        to("commit", 400, field).body(r#"{"wait":"acked"}"#).at("/wait"),
        to("commit", 422, "UNA0110").body(r#"{"votes":{"ledger":"YES"}}"#).at("/votes/ledger"),
        to("commit", 422, "UNA0110").body(r#"{"votes":{"a/b~c":"YES"}}"#).at("/votes/a~1b~0c"),
        to("commit", 413, "UNA0105").body(" ".repeat(256 * 1024 + 1)),
        to("abort", 400, json).body("because"),
        to("abort", 400, field).body(r#"{"reason":7}"#).at("/reason"),
        to("abort", 400, field).body(r#"{"why":"x"}"#).at("/why"),
        to("retry", 400, field).body(r#"{"branch":1}"#).at("/branch"),
        to("resolve", 400, json),
        to("resolve", 400, field).body(r#"{"outcome":"rollback"}"#).at("/reason"),
        to("resolve", 400, field).body(r#"{"reason":"x"}"#).at("/outcome"),
        to("resolve", 400, field).body(r#"{"outcome":"abort","reason":"x"}"#).at("/outcome"),
        to("resolve", 400, field)
            .body(r#"{"outcome":"commit","reason":"x","force":"yes"}"#)
            .at("/force"),
        to("resolve", 422, bounds).body(resolve("", "me")).at("/reason"),
        to("resolve", 422, bounds).body(resolve(" \n\t", "me")).at("/reason"),
        to("resolve", 422, bounds).body(resolve(&"x".repeat(513), "me")).at("/reason"),
        to("resolve", 422, bounds).body(resolve("x", "")).at("/by"),
        to("resolve", 422, bounds).body(resolve("x", &"x".repeat(129))).at("/by"),
        to("resolve", 409, "UNA0209").body(r#"{"outcome":"commit","reason":"x"}"#),
    ]
}

async fn has_begun_nothing(coordinator: &Coordinator, services: [&Service; 2]) {
    let list = coordinator.get(BEGIN).await.json();
    assert_eq!(list["transactions"], json!([]), "something was begun");
    for service in services {
        assert!(service.calls().is_empty(), "a service was called");
    }
}

#[tokio::test]
async fn bad_requests_get_their_problem_and_begin_nothing() {
    let (coordinator, wallet, ledger) = two().await;
    let all = [malformed_begins(), begins_out_of_bounds(), keys(), paths_and_queries()];
    check(&coordinator, all.into_iter().flatten().collect()).await;
    has_begun_nothing(&coordinator, [&wallet, &ledger]).await;
}

#[tokio::test]
async fn bad_requests_about_a_transaction_change_nothing_in_it() {
    let (coordinator, wallet, ledger) = two().await;
    let path = coordinator.begin().await;
    coordinator.enlist(&path, "wallet").await;
    let before = coordinator.get(&path).await.json();
    check(&coordinator, about(&path)).await;
    assert_eq!(coordinator.get(&path).await.json(), before);
    assert!(wallet.calls().is_empty() && ledger.calls().is_empty());
}

#[tokio::test]
async fn a_kind_that_does_not_exist_yet_is_told_which_kinds_exist() {
    let (coordinator, wallet, ledger) = two().await;
    for kind in ["xa", "TCC"] {
        let body = format!(r#"{{"kind":"{kind}"}}"#);
        let reply = coordinator.post(BEGIN, &body).await;
        assert_eq!(reply.problem(), (400, "UNA0102".into()));
        let detail = reply.json()["detail"].to_string();
        assert!(detail.contains(kind) && detail.contains("atomic"), "{detail}");
        assert_eq!(reply.json()["pointer"], "/kind");
    }
    has_begun_nothing(&coordinator, [&wallet, &ledger]).await;
}

#[tokio::test]
async fn what_is_just_within_its_bounds_is_taken() {
    let (coordinator, _, _) = two().await;
    let deep = format!("{}{}", "[".repeat(63), "]".repeat(63));
    let name = "n".repeat(48);
    for body in [
        two_with(r#""timeout_ms":86400000"#),
        TWO.replace("500", &deep),
        padded(256 * 1024),
        TWO.replacen("{\"resource\"", &format!("{{\"participant\":\"{name}\",\"resource\""), 1),
        TWO.replace(r#","body":{"amount":500}"#, r#","body":null"#),
    ] {
        let reply = coordinator.post(BEGIN, &body).await;
        assert_eq!(reply.status, 200, "{}", reply.text);
    }
    let key = "k".repeat(255);
    assert_eq!(coordinator.post_keyed(BEGIN, &key, TWO).await.status, 200);
}

#[tokio::test]
async fn a_405_says_what_the_path_takes() {
    let (coordinator, _, _) = two().await;
    let reply = coordinator.send("DELETE", BEGIN, &[], "").await;
    let allowed = reply.headers["allow"].to_str().expect("ASCII");
    assert!(allowed.contains("GET") && allowed.contains("POST"), "{allowed}");
}

#[tokio::test]
async fn bytes_that_are_no_http_close_only_their_own_connection() {
    let (coordinator, wallet, ledger) = two().await;
    let long = format!("GET / HTTP/1.1\r\nhost: x\r\nlong: {}\r\n\r\n", "x".repeat(100_000));
    let many = format!("GET / HTTP/1.1\r\nhost: x\r\n{}\r\n", "a: b\r\n".repeat(1_000));
    for (bytes, answer) in [
        (&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..], "400"),
        (b"hello\r\n\r\n", "400"),
        (b"POST /v1/transactions HTTP/1.1\r\nhost: x\r\nidempotency-key: a\0b\r\n\r\n", "400"),
        (b"POST /v1/transactions HTTP/1.1\r\nhost: x\r\ncontent-length: two\r\n\r\n{}", "400"),
        (
            b"POST /v1/transactions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nxyz",
            "400",
        ),
        (b"GET /v1/transactions HTTP/9.9\r\n\r\n", "400"),
        (long.as_bytes(), "431"),
        (many.as_bytes(), "431"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\ngarbage, not a frame", ""),
        (&[0; 4_096], "400"),
    ] {
        let reply = raw(coordinator.address, bytes).await;
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(60)]);
        assert!(reply.contains(answer), "{shown:?}: {reply:?}");
    }
    has_begun_nothing(&coordinator, [&wallet, &ledger]).await;
}
