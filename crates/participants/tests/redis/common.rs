//! A server with a counter, and short ways to ask it.

use std::sync::Arc;

use serde_json::{Value, json};
use unanimous_core::id::BranchName;
use unanimous_core::{Answer, Decision, Opaque, Verb};
use unanimous_participants::testing::PrivateRedis;
use unanimous_participants::testing::conformance::{Subject, call};
use unanimous_participants::{Resource, Settings, Unobserved, open};

pub(crate) const ROOT: &str = "unanimous:{una}";

/// A server where `counter` is 1000.
pub(crate) struct Shop {
    pub(crate) server: PrivateRedis,
}

impl Shop {
    pub(crate) fn start(options: &[&str]) -> Option<Self> {
        let server = PrivateRedis::start(options)?;
        server.ask(&["SET", "counter", "1000"]);
        Some(Self { server })
    }

    pub(crate) fn at(&self, url: &str) -> Arc<dyn Resource> {
        open("shop", url, &Settings::default(), Arc::new(Unobserved)).expect("a good url")
    }

    /// A function of the library, called as an operator does.
    pub(crate) fn function(&self, name: &str, words: &[&str]) -> String {
        let name = format!("unanimous_v1_{name}");
        let all = [&["FCALL", &name, "1", ROOT], words].concat();
        self.server.ask(&all)
    }
}

/// The body of a branch.
pub(crate) fn work(body: &Value) -> Opaque {
    Opaque::new(body.to_string().as_bytes())
}

/// A body with these commands and nothing else.
pub(crate) fn commands(list: Value) -> Opaque {
    work(&json!({ "commands": list }))
}

pub(crate) async fn prepare(
    resource: &Arc<dyn Resource>,
    name: &BranchName,
    work: Opaque,
) -> Answer {
    resource.call(call(name, Verb::Prepare, work)).await
}

pub(crate) async fn finish(resource: &Arc<dyn Resource>, name: &BranchName, verb: Verb) -> Answer {
    resource.call(call(name, verb, Opaque::default())).await
}

/// The kind and the detail of a refusal.
pub(crate) fn refusal(answer: Answer) -> (String, String) {
    let Answer::No(reason) = answer else { panic!("{answer:?} is no refusal") };
    (reason.kind.to_string(), reason.detail.to_string())
}

pub(crate) fn done() -> Answer {
    Answer::Done(Opaque::default())
}

impl Subject for Shop {
    fn resource(&self) -> Arc<dyn Resource> {
        self.at(&self.server.url())
    }

    fn add(&self, amount: i64) -> Opaque {
        commands(json!([["INCRBY", "counter", amount]]))
    }

    fn read(&self) -> Opaque {
        commands(json!([["GET", "counter"]]))
    }

    fn refused(&self) -> Opaque {
        let expect = json!([{"key": "counter", "at_least": 0}, {"key": "nothing", "exists": true}]);
        work(&json!({"commands": [["INCRBY", "counter", 5]], "expect": expect}))
    }

    fn counter(&self) -> i64 {
        self.server.ask(&["GET", "counter"]).parse().expect("a number")
    }

    fn end_by_hand(&self, name: &BranchName, decision: Decision) {
        let name = name.to_string();
        let said = match decision {
            Decision::Commit => self.function("commit", &[&name]),
            Decision::Abort => self.function("rollback", &[&name, "by_hand"]),
        };
        assert_eq!(said, "DONE");
    }

    fn prepare_foreign(&self) -> String {
        // It has to be there first.
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/src/redis/functions.lua");
        let source = std::fs::read_to_string(source).expect("it is part of the crate");
        self.server.ask(&["FUNCTION", "LOAD", &source]);
        let foreign = "somebody else".to_owned();
        let body = json!({"commands": [["SET", "foreign", "1"]]}).to_string();
        let said = self.function("prepare", &[&foreign, &body, "first"]);
        assert!(said.starts_with("YES"), "{said}");
        foreign
    }

    fn prepared(&self) -> Vec<String> {
        let list = self.server.ask(&["ZRANGE", &format!("{ROOT}:prepared"), "0", "-1"]);
        list.lines().map(str::to_owned).collect()
    }
}
