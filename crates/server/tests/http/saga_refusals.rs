//! What makes no saga is refused with its code and its place, and begins nothing.

use serde_json::json;

use crate::common::two;

type Refusal = (String, u16, &'static str, &'static str);

fn saga(steps: &str) -> String {
    format!(r#"{{"kind":"saga","steps":{steps}}}"#)
}

/// A step by the members of its object besides the name.
fn step(name: &str, members: &str) -> String {
    format!(r#"{{"name":"{name}","action":{{"resource":"wallet","path":"/{name}"}}{members}}}"#)
}

fn saga_with(member: &str) -> String {
    saga(&format!("[{}]", step("a", ""))).replacen('{', &format!("{{{member},"), 1)
}

fn of_steps() -> Vec<Refusal> {
    let undo = r#","compensation":{"resource":"wallet","path":"/undo"}"#;
    let a = step("a", "");
    vec![
        (r#"{"kind":"saga"}"#.to_owned(), 422, "UNA0103", "/steps"),
        (saga("[]"), 422, "UNA0103", "/steps"),
        (saga(&format!("[{}]", vec![&*a; 65].join(","))), 422, "UNA0103", "/steps"),
        (saga(&format!("[{a},{a}]")), 422, "UNA0119", "/steps/1/name"),
        (saga(r#"[{"name":"a b","pause_ms":1}]"#), 422, "UNA0103", "/steps/0/name"),
        (saga(r#"[{"name":"a"}]"#), 422, "UNA0121", "/steps/0/action"),
        (saga(r#"[{"name":"a","pause_ms":1,"signal":{}}]"#), 422, "UNA0121", "/steps/0/action"),
        (saga(r#"[{"name":"a","pause_ms":0}]"#), 422, "UNA0103", "/steps/0/pause_ms"),
        (saga(r#"[{"name":"a","pause_ms":1,"pivot":true}]"#), 422, "UNA0121", "/steps/0/pivot"),
        (
            saga(&format!(r#"[{{"name":"a","signal":{{}}{undo}}}]"#)),
            422,
            "UNA0121",
            "/steps/0/compensation",
        ),
        (
            saga(&format!("[{}]", step("a", r#","after":["b"]"#))),
            422,
            "UNA0118",
            "/steps/0/after/0",
        ),
        (saga(&format!("[{}]", step("a", r#","after":["a"]"#))), 422, "UNA0117", "/steps/0/after"),
        (
            saga(&format!(
                "[{a},{},{}]",
                step("b", r#","after":["c"]"#),
                step("c", r#","after":["b"]"#)
            )),
            422,
            "UNA0117",
            "/steps/1/after",
        ),
    ]
}

fn of_pivots() -> Vec<Refusal> {
    let undo = r#","compensation":{"resource":"wallet","path":"/undo"}"#;
    vec![
        (
            saga(&format!("[{},{}]", step("a", r#","pivot":true"#), step("b", r#","pivot":true"#))),
            422,
            "UNA0121",
            "/steps/1/pivot",
        ),
        (
            saga(&format!("[{}]", step("a", &format!(r#","pivot":true{undo}"#)))),
            422,
            "UNA0121",
            "/steps/0/compensation",
        ),
        (
            saga(&format!(
                "[{},{}]",
                step("a", r#","pivot":true"#),
                step("b", r#","after":["a"]"#)
            )),
            422,
            "UNA0121",
            "/steps/1/retriable",
        ),
        (
            saga(&format!("[{}]", step("a", r#","pivot":true,"retriable":true"#))),
            422,
            "UNA0121",
            "/steps/0/retriable",
        ),
        (
            saga(&format!("[{}]", step("a", r#","retry":{"max_attempts":0}"#))),
            422,
            "UNA0103",
            "/steps/0/retry/max_attempts",
        ),
        (
            saga(&format!("[{}]", step("a", r#","retry":{"tries":1}"#))),
            400,
            "UNA0102",
            "/steps/0/retry/tries",
        ),
        (
            saga(&format!("[{}]", step("a", r#","timeout_ms":0"#))),
            422,
            "UNA0103",
            "/steps/0/timeout_ms",
        ),
        (saga(&format!("[{}]", step("a", r#","state":"a b""#))), 422, "UNA0103", "/steps/0/state"),
    ]
}

fn of_calls() -> Vec<Refusal> {
    let calls = |call: &str| saga(&format!(r#"[{{"name":"a","action":{call}}}]"#));
    vec![
        (calls(r#"{"resource":"bank","path":"/x"}"#), 422, "UNA0104", "/steps/0/action/resource"),
        (calls(r#"{"resource":"wallet"}"#), 422, "UNA0121", "/steps/0/action/path"),
        (calls(r#"{"resource":"wallet","path":"x"}"#), 422, "UNA0121", "/steps/0/action/path"),
        (calls(r#"{"resource":"wallet","path":"/../x"}"#), 422, "UNA0121", "/steps/0/action/path"),
        (
            calls(r#"{"resource":"wallet","path":"/x","method":"BREW"}"#),
            422,
            "UNA0121",
            "/steps/0/action/method",
        ),
        (
            calls(r#"{"resource":"wallet","path":"/x","headers":{"Unanimous-Branch":"x"}}"#),
            422,
            "UNA0121",
            "/steps/0/action/headers/Unanimous-Branch",
        ),
        (
            calls(r#"{"resource":"wallet","path":"/x","statements":[{"sql":"SELECT 1"}]}"#),
            400,
            "UNA0102",
            "/steps/0/action/statements",
        ),
        (
            calls(r#"{"resource":"wallet","path":"/x","body":{"x":["{{input.a"]}}"#),
            422,
            "UNA0120",
            "/steps/0/action/body/x/0",
        ),
        (
            calls(r#"{"resource":"wallet","path":"/{{steps.b.result}}"}"#),
            422,
            "UNA0120",
            "/steps/0/action/path",
        ),
        (
            calls(r#"{"resource":"wallet","path":"/x","body":"{{steps.a.result}}"}"#),
            422,
            "UNA0120",
            "/steps/0/action/body",
        ),
    ]
}

fn of_whole_requests() -> Vec<Refusal> {
    let a = step("a", "");
    vec![
        (saga_with(r#""branches":[{"resource":"wallet"}]"#), 400, "UNA0102", "/branches"),
        (saga_with(r#""delay_ms":0"#), 422, "UNA0103", "/delay_ms"),
        (saga_with(r#""timeout_ms":0"#), 422, "UNA0103", "/timeout_ms"),
        (format!(r#"{{"kind":"atomic","steps":[{a}]}}"#), 400, "UNA0102", "/steps"),
        (r#"{"kind":"tcc","input":1}"#.to_owned(), 400, "UNA0102", "/input"),
    ]
}

#[tokio::test]
async fn what_makes_no_saga_is_refused_with_its_code_and_place_and_begins_nothing() {
    let (coordinator, wallet, ledger) = two().await;
    let all = [of_steps(), of_pivots(), of_calls(), of_whole_requests()];
    for (body, status, code, pointer) in all.into_iter().flatten() {
        let reply = coordinator.post("/v1/transactions", &body).await;
        assert_eq!(reply.problem(), (status, code.to_owned()), "{body}: {}", reply.text);
        assert_eq!(reply.json()["pointer"], pointer, "{body}: {}", reply.text);
    }
    let listed = coordinator.get("/v1/transactions").await.json();
    assert_eq!(listed["transactions"], json!([]));
    assert!(wallet.calls().is_empty() && ledger.calls().is_empty());
}
