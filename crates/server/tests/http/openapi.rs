//! The contract at `/openapi.json` is the contract that is served: every path, method, header, field,
//! word and error code, and nothing else.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use unanimous_api::{
    AbortRequest, AttentionView, BeginRequest, BranchInDoubt, BranchRequest, CallRequest,
    CheckAnswer, CheckFinding, ChildRequest, Code, CommitRequest, DefinitionView, DefinitionsView,
    Disagreement, EnlistRequest, EnlistedView, EventView, InvariantQuery, InvariantResult,
    InvariantView, InvariantsView, Kind, LogEvent, LogView, NodeView, NodeWord, NodesView,
    OutcomeWord, ParticipantView, Problem, ReasonView, ResolutionView, ResolveOutcome,
    ResolveRequest, ResourceCheck, ResourceView, ResourcesView, RetryRequest, SignalRequest,
    StatementRequest, StatusWord, StepRequest, StepView, StepWord, SummaryView, TccRequest,
    TransactionList, TransactionView, VoteWord, Wait, WebhookRequest,
};

use crate::common::two;

const DOCUMENT: &str = include_str!("../../src/http/openapi.json");
const ROUTER: &str = include_str!("../../src/http/mod.rs");

fn document() -> Value {
    serde_json::from_str(DOCUMENT).expect("the document is JSON")
}

fn members(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

/// What a `$ref` leads to; the value itself if it is none.
fn resolved<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    match value["$ref"].as_str() {
        Some(reference) => {
            let place = reference.strip_prefix('#').expect("references stay in the document");
            document.pointer(place).unwrap_or_else(|| panic!("{reference} leads nowhere"))
        }
        None => value,
    }
}

/// Paths with their methods, as the router has them.
fn routes() -> BTreeMap<String, BTreeSet<String>> {
    let routes = ROUTER.split(".route(\"").skip(1).map(|route| {
        let (path, rest) = route.split_once('"').expect("a path ends");
        let handlers = rest.split("\n").next().expect("a line");
        let methods = ["get", "post", "put", "delete", "patch"];
        let used = methods.iter().filter(|method| handlers.contains(&format!("{method}(")));
        (path.to_owned(), used.map(|&method| method.to_owned()).collect())
    });
    routes.collect()
}

#[test]
fn every_route_is_documented_and_every_documented_one_is_routed() {
    let document = document();
    let documented: BTreeMap<String, BTreeSet<String>> = members(&document["paths"])
        .map(|(path, item)| {
            let methods = members(item).map(|(method, _)| method.clone());
            (path.clone(), methods.filter(|method| method != "parameters").collect())
        })
        .collect();
    assert!(documented.len() > 10);
    assert_eq!(documented, routes());
}

#[tokio::test]
async fn the_document_is_served_and_every_route_of_it_answers() {
    let (coordinator, _, _) = two().await;
    let reply = coordinator.get("/openapi.json").await;
    assert_eq!((reply.status, &reply.text), (200, &DOCUMENT.to_owned()));
    assert_eq!(reply.headers["content-type"], "application/json");
    for (path, methods) in routes() {
        // A stream has no end to wait for; a bad parameter ends it.
        let path = path.replace("events", "events?transaction=1").replace("{code}", "UNA0101");
        let path = path.replace("{name}", "wallet").replace(['{', '}'], "");
        for method in methods {
            let reply = coordinator.send(&method.to_uppercase(), &path, &[], "").await;
            assert_ne!(reply.status, 405, "{method} {path}");
            let unknown = reply.status == 404 && reply.text.contains("nothing is at");
            assert!(!unknown, "{method} {path}: {}", reply.text);
        }
    }
}

#[test]
fn every_reference_leads_somewhere_and_everything_is_referred_to() {
    let document = document();
    let mut used = BTreeSet::new();
    let mut todo = vec![&document];
    while let Some(value) = todo.pop() {
        match value {
            Value::Object(members) => {
                resolved(&document, value);
                used.extend(value["$ref"].as_str().map(str::to_owned));
                todo.extend(members.values());
            }
            Value::Array(items) => todo.extend(items),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    for kind in ["schemas", "responses", "parameters"] {
        for (name, _) in members(&document["components"][kind]) {
            let reference = format!("#/components/{kind}/{name}");
            assert!(used.contains(&reference), "{reference} is used nowhere");
        }
    }
}

#[test]
fn every_error_code_is_documented_with_its_status() {
    let document = document();
    let codes = Code::ALL.map(|code| code.info().code);
    assert_eq!(document["components"]["schemas"]["Code"]["enum"], json!(codes.as_slice()));
    for info in Code::ALL.map(Code::info) {
        let mut responses = members(&document["components"]["responses"]);
        let (name, _) = responses
            .find(|(_, response)| response["description"].to_string().contains(info.code))
            .unwrap_or_else(|| panic!("{} is among no response", info.code));
        let reference = json!({"$ref": format!("#/components/responses/{name}")});
        let operations = members(&document["paths"]).flat_map(|(_, item)| members(item));
        let mut responses = operations.flat_map(|(_, operation)| members(&operation["responses"]));
        let status = info.http.to_string();
        assert!(
            responses.any(|(at, response)| *at == status && *response == reference),
            "{} is answered with {status} nowhere",
            info.code
        );
    }
}

/// Everything about a sample that its schema does not say, and the other way round.
fn differences(document: &Value, schema: &Value, sample: &Value, at: &str) -> Vec<String> {
    let schema = resolved(document, schema);
    if let Some(choices) = schema["oneOf"].as_array() {
        let fits = choices.iter().any(|it| differences(document, it, sample, at).is_empty());
        return if fits { vec![] } else { vec![format!("{at}: {sample} fits no choice")] };
    }
    let mut wrong = Vec::new();
    let kind = match sample {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    if schema["type"].as_str().is_some_and(|wanted| wanted != kind) {
        wrong.push(format!("{at}: {sample} is no {}", schema["type"]));
    }
    if let Some(words) = schema["enum"].as_array()
        && !words.contains(sample)
    {
        wrong.push(format!("{at}: {sample} is not among {words:?}"));
    }
    for (index, item) in sample.as_array().into_iter().flatten().enumerate() {
        wrong.extend(differences(document, &schema["items"], item, &format!("{at}/{index}")));
    }
    if let Some(properties) = schema["properties"].as_object() {
        let sample = sample.as_object().expect("an object has properties");
        for (name, value) in sample {
            match properties.get(name) {
                Some(schema) => {
                    wrong.extend(differences(document, schema, value, &format!("{at}/{name}")));
                }
                None => wrong.push(format!("{at}: {name} is not documented")),
            }
        }
        let missing = properties.keys().filter(|name| !sample.contains_key(*name));
        wrong.extend(missing.map(|name| format!("{at}: {name} is documented, and not there")));
    }
    wrong
}

const ID: &str = "01939f6e-7a30-7c41-9b1d-3f2a5c7e9d10";

fn some_text() -> Option<String> {
    Some("text".to_owned())
}

fn step() -> StepView {
    StepView {
        name: "text".into(),
        after: vec!["text".into()],
        resource: some_text(),
        branch: "text".into(),
        status: StepWord::Acting,
        state: some_text(),
        attempts: 1,
        last_error: some_text(),
        reason: some_text(),
        result: Some(json!({"id": 7})),
        statement: some_text(),
        waits_until_ms: Some(1),
    }
}

fn transaction() -> TransactionView {
    let text = || "text".to_owned();
    let participant = ParticipantView {
        name: text(),
        resource: text(),
        resource_type: text(),
        branch: text(),
        vote: Some(VoteWord::Yes),
        ack: true,
        heuristic: Some("commit".into()),
        attempts: 1,
        last_error: some_text(),
        results: vec![json!({"balance": 7})],
    };
    let outcome = ResolveOutcome::Commit;
    TransactionView {
        id: ID.into(),
        kind: Kind::Atomic,
        status: StatusWord::Aborting,
        outcome: Some(OutcomeWord::Aborted),
        reason: Some(ReasonView {
            participant: some_text(),
            step: some_text(),
            kind: text(),
            detail: text(),
        }),
        needs_attention: true,
        version: 1,
        state: some_text(),
        participants: vec![ParticipantView { vote: None, ..participant.clone() }, participant],
        steps: vec![step()],
        webhook: some_text(),
        attention_webhook: some_text(),
        saga: some_text(),
        attention: vec![AttentionView { step: text(), error: text(), actions: vec![text()] }],
        resolution: Some(ResolutionView { outcome, by: text(), reason: text() }),
        idempotency_key: some_text(),
        timeout_ms: 1,
        initiated_at_ms: 1,
        updated_at_ms: 1,
        coordinator: text(),
    }
}

fn list() -> TransactionList {
    let summary = SummaryView {
        id: ID.into(),
        kind: Kind::Atomic,
        status: StatusWord::Aborting,
        outcome: Some(OutcomeWord::Aborted),
        resources: vec!["text".into()],
        idempotency_key: some_text(),
        initiated_at_ms: 1,
        updated_at_ms: 1,
    };
    TransactionList { transactions: vec![summary], next_cursor: some_text() }
}

fn log() -> LogView {
    let line = |event: &str| LogEvent {
        at_ms: 1,
        event: event.to_owned(),
        detail: "text".into(),
        participant: some_text(),
    };
    let words = [
        "begun",
        "enlisted",
        "preparing",
        "delegated",
        "decided",
        "finished",
        "resolved",
        "started",
        "waiting",
        "acted",
        "announced",
        "refused",
        "compensating",
        "compensated",
        "kept",
        "stuck",
        "retried",
    ];
    LogView { id: ID.into(), events: words.map(line).into() }
}

fn invariants() -> InvariantsView {
    let text = || "text".to_owned();
    let query = InvariantQuery { resource: text(), sql: text(), value: some_text() };
    let invariant = InvariantView {
        name: text(),
        relation: "equal".into(),
        every_ms: 1,
        result: InvariantResult::Busy,
        queries: vec![query],
        difference: some_text(),
        quiet: Some(false),
        readings: Some(3),
        detail: some_text(),
        checked_at_ms: Some(1),
    };
    InvariantsView { invariants: vec![invariant] }
}

/// One of each wire type, with every field.
fn samples() -> Vec<(&'static str, Value)> {
    let text = || "text".to_owned();
    let (kind, status, outcome) = (Kind::Atomic, StatusWord::Aborting, Some(OutcomeWord::Aborted));
    let resource = ResourceView {
        name: text(),
        resource_type: text(),
        url: text(),
        circuit: "probing".into(),
        calls: 1,
        waiting: 1,
        places: 256,
        last_error: some_text(),
    };
    let in_doubt = BranchInDoubt {
        branch: text(),
        transaction: ID.into(),
        status,
        attempts: 1,
        last_error: some_text(),
        since_ms: 1,
    };
    let finding = CheckFinding {
        branch: text(),
        transaction: ID.into(),
        finding: Disagreement::Missing,
        detail: text(),
    };
    let check = ResourceCheck {
        name: text(),
        answer: CheckAnswer::Compared,
        held: 1,
        findings: vec![finding],
        error: some_text(),
    };
    let (participant, branch) = (text(), text());
    let enlisted = EnlistedView { id: ID.into(), participant, resource: text(), branch };
    let steps = [(text(), StepWord::Acted)].into();
    let event = EventView {
        id: ID.into(),
        kind,
        status,
        outcome,
        at_ms: 1,
        version: 1,
        state: some_text(),
        steps,
    };
    let problem = Problem::new(Code::BadField, "text").at("/kind");
    vec![
        ("Transaction", json!(transaction())),
        ("TransactionList", json!(list())),
        ("Log", json!(log())),
        ("Resources", json!(ResourcesView { resources: vec![resource] })),
        ("BranchInDoubt", json!(in_doubt)),
        ("ResourceCheck", json!(check)),
        ("Invariants", json!(invariants())),
        ("Nodes", json!(nodes())),
        ("Sagas", json!(sagas())),
        ("SagaDefinition", json!({"saga": "text", "steps": []})),
        ("Enlisted", json!(enlisted)),
        ("Event", json!(event)),
        ("Problem", json!(problem)),
        ("Ready", json!({"ready": false, "reason": "text"})),
    ]
}

fn nodes() -> NodesView {
    let (name, address) = ("text".into(), "text".into());
    let (state, partitions, heard_ms_ago) = (NodeWord::Active, vec![1], Some(1));
    let node = NodeView { name, address, state, partitions, heard_ms_ago };
    NodesView { nodes: vec![node] }
}

fn sagas() -> DefinitionsView {
    let saga = DefinitionView { name: "text".into(), version: 1, steps: vec!["text".into()] };
    DefinitionsView { sagas: vec![saga] }
}

fn webhook() -> WebhookRequest {
    WebhookRequest { resource: "text".into(), path: "text".into() }
}

fn retry() -> RetryRequest {
    RetryRequest { max_attempts: Some(5), backoff_ms: Some(1), backoff_max_ms: Some(2) }
}

fn requests() -> Vec<(&'static str, Value)> {
    let text = || "text".to_owned();
    let body = || Some(json!({"amount": 500}));
    let statement =
        StatementRequest { sql: text(), params: vec![json!(500)], expect_rows: Some(1) };
    let branch = BranchRequest {
        resource: text(),
        participant: Some(text()),
        body: body(),
        statements: Some(vec![statement.clone()]),
    };
    let retry = retry();
    let call = CallRequest {
        resource: text(),
        path: Some(text()),
        method: Some("POST".into()),
        headers: [(text(), text())].into(),
        body: body(),
        status: Some(text()),
        statements: Some(vec![statement.clone()]),
        retry: Some(retry),
        timeout_ms: Some(1),
    };
    let signal = SignalRequest { timeout_ms: Some(1) };
    let tcc = TccRequest { resource: text(), body: body() };
    let child = ChildRequest { input: body(), saga: some_text(), steps: Vec::new() };
    let step = StepRequest {
        name: text(),
        after: vec![text()],
        action: Some(call.clone()),
        tcc: Some(tcc.clone()),
        message: Some(call.clone()),
        saga: Some(child.clone()),
        compensation: Some(call.clone()),
        signal: Some(signal),
        pause_ms: Some(1),
        pivot: true,
        retriable: true,
        retry: Some(retry),
        timeout_ms: Some(1),
        state: Some(text()),
    };
    let begin = BeginRequest {
        kind: Kind::Atomic,
        domain: Some(text()),
        timeout_ms: Some(1),
        wait: Some(Wait::Decided),
        branches: vec![branch.clone()],
        input: body(),
        steps: vec![step.clone()],
        source: Some(text()),
        saga: Some(text()),
        webhook: Some(webhook()),
        delay_ms: Some(1),
    };
    let enlist = EnlistRequest { participant: text(), resource: text(), body: body() };
    let commit =
        CommitRequest { votes: [(text(), VoteWord::ReadOnly)].into(), wait: Some(Wait::Finished) };
    let abort = AbortRequest { reason: Some(text()), if_version: Some(1), wait: Some(Wait::None) };
    let outcome = ResolveOutcome::Rollback;
    let resolve = ResolveRequest { outcome, reason: text(), force: true, by: Some(text()) };
    vec![
        ("BeginRequest", json!(begin)),
        ("BranchRequest", json!(branch)),
        ("StatementRequest", json!(statement)),
        ("StepRequest", json!(step)),
        ("CallRequest", json!(call)),
        ("RetryRequest", json!(retry)),
        ("SignalRequest", json!(signal)),
        ("TccRequest", json!(tcc)),
        ("WebhookRequest", json!(webhook())),
        ("ChildRequest", json!(child)),
        ("EnlistRequest", json!(enlist)),
        ("CommitRequest", json!(commit)),
        ("AbortRequest", json!(abort)),
        ("ResolveRequest", json!(resolve)),
    ]
}

#[test]
fn every_field_is_documented_and_every_documented_one_is_there() {
    let document = document();
    let mut wrong = Vec::new();
    for (name, sample) in samples().into_iter().chain(requests()) {
        let schema = &document["components"]["schemas"][name];
        assert!(schema.is_object(), "no schema {name}");
        wrong.extend(differences(&document, schema, &sample, name));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn requests_are_documented_as_closed_and_with_the_fields_they_need() {
    let document = document();
    for (name, sample) in requests() {
        let schema = &document["components"]["schemas"][name];
        assert_eq!(schema["additionalProperties"], false, "{name}");
        let readable = |sample: &Value| {
            let text = sample.to_string();
            match name {
                "BeginRequest" => serde_json::from_str::<BeginRequest>(&text).is_ok(),
                "BranchRequest" => serde_json::from_str::<BranchRequest>(&text).is_ok(),
                "StepRequest" => serde_json::from_str::<StepRequest>(&text).is_ok(),
                "CallRequest" => serde_json::from_str::<CallRequest>(&text).is_ok(),
                "RetryRequest" => serde_json::from_str::<RetryRequest>(&text).is_ok(),
                "SignalRequest" => serde_json::from_str::<SignalRequest>(&text).is_ok(),
                "WebhookRequest" => serde_json::from_str::<WebhookRequest>(&text).is_ok(),
                "TccRequest" => serde_json::from_str::<TccRequest>(&text).is_ok(),
                "ChildRequest" => serde_json::from_str::<ChildRequest>(&text).is_ok(),
                "StatementRequest" => serde_json::from_str::<StatementRequest>(&text).is_ok(),
                "EnlistRequest" => serde_json::from_str::<EnlistRequest>(&text).is_ok(),
                "CommitRequest" => serde_json::from_str::<CommitRequest>(&text).is_ok(),
                "AbortRequest" => serde_json::from_str::<AbortRequest>(&text).is_ok(),
                "ResolveRequest" => serde_json::from_str::<ResolveRequest>(&text).is_ok(),
                other => panic!("{other} is no request"),
            }
        };
        let required: Vec<&str> =
            schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        for (field, _) in members(&sample) {
            let mut without = sample.clone();
            without.as_object_mut().expect("an object").remove(field);
            assert_eq!(readable(&without), !required.contains(&&**field), "{name} without {field}");
        }
    }
}

#[test]
fn every_word_is_documented() {
    let document = document();
    let words = [
        ("Kind", json!(Kind::ALL)),
        ("Wait", json!([Wait::Finished, Wait::Decided, Wait::None])),
        (
            "Status",
            json!([
                StatusWord::Initiated,
                StatusWord::Preparing,
                StatusWord::Prepared,
                StatusWord::Committing,
                StatusWord::Committed,
                StatusWord::Aborting,
                StatusWord::Aborted,
                StatusWord::Running,
                StatusWord::Compensating,
                StatusWord::Completed,
                StatusWord::Compensated,
                StatusWord::NeedsAttention,
            ]),
        ),
        (
            "Outcome",
            json!([
                OutcomeWord::Committed,
                OutcomeWord::Aborted,
                OutcomeWord::Mixed,
                OutcomeWord::Completed,
                OutcomeWord::Compensated,
                OutcomeWord::NeedsAttention,
            ]),
        ),
        (
            "StepWord",
            json!([
                StepWord::Waiting,
                StepWord::Acting,
                StepWord::Announced,
                StepWord::Acted,
                StepWord::Refused,
                StepWord::Unreached,
                StepWord::Compensating,
                StepWord::Compensated,
                StepWord::Kept,
                StepWord::Stuck,
                StepWord::Skipped,
            ]),
        ),
        (
            "NodeWord",
            json!([NodeWord::Active, NodeWord::Draining, NodeWord::CutOff, NodeWord::Silent]),
        ),
        ("Vote", json!([VoteWord::Yes, VoteWord::No, VoteWord::ReadOnly])),
        ("ResolveOutcome", json!([ResolveOutcome::Commit, ResolveOutcome::Rollback])),
    ];
    for (name, words) in words {
        assert_eq!(document["components"]["schemas"][name]["enum"], words, "{name}");
    }
}

#[test]
fn examples_are_of_their_schemas() {
    let document = document();
    let mut todo = vec![(String::new(), &document)];
    let mut seen = 0;
    while let Some((at, value)) = todo.pop() {
        if let (Some(schema), Some(example)) = (value.get("schema"), value.get("example"))
            && example.is_object()
        {
            seen += 1;
            let mut wrong = differences(&document, schema, example, &at);
            // An example need not have everything, and a problem has the fields of its transaction.
            wrong.retain(|it| !it.ends_with("is documented, and not there"));
            wrong.retain(|it| !(at.contains("problem+json") && it.contains("is not documented")));
            assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        }
        todo.extend(members(value).map(|(name, inner)| (format!("{at}/{name}"), inner)));
    }
    assert!(seen > 15, "{seen}");
}
