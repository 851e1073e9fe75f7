//! What Redis refuses, what its settings do not allow, and what a branch's vote says of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use unanimous_core::id::{BranchId, BranchName};
use unanimous_core::{Answer, Decision, HeuristicKind, Verb};
use unanimous_participants::testing::conformance::{Subject, call, fresh_name};
use unanimous_participants::{Call, Fitness, Password, Settings, Unobserved};

use crate::common::{ROOT, Shop, commands, done, finish, prepare, refusal, work};

#[tokio::test]
async fn every_error_that_can_be_provoked_is_a_no_of_its_kind_and_leaves_nothing() {
    let Some(shop) = Shop::start(&[]) else { return };
    shop.server.ask(&["SET", "word", "abc"]);
    shop.server.ask(&["SET", "most", "9223372036854775807"]);
    shop.server.ask(&["RPUSH", "list", "1"]);
    let resource = shop.resource();
    for (command, kind, named) in [
        (json!(["INCR", "list"]), "data", "command 2: WRONGTYPE"),
        (json!(["INCR", "word"]), "data", "not an integer"),
        (json!(["INCR", "most"]), "data", "overflow"),
        (json!(["HINCRBY", "hash", "field", "x"]), "data", "not an integer"),
        (json!(["ZADD", "sorted", "NX", 1, "a"]), "command", "pairs"),
        (json!(["HSET", "hash", "odd"]), "command", "number of arg"),
        (json!(["FLUSHALL"]), "command", "command 2: FLUSHALL is not for a branch"),
        (json!(["EVAL", "return 1", 0]), "command", "EVAL is not for a branch"),
        (json!(["SET", "k", "v", "NX"]), "command", "SET takes"),
        (json!(["SET", "unanimous:{una}:locks", "v"]), "command", "a key of Unanimous"),
        (json!(["GET"]), "command", "names no key"),
        (json!(["SET", "k", true]), "command", "command 2: true is neither"),
    ] {
        let name = fresh_name();
        let list = json!([["INCR", "counter"], command]);
        let (found, detail) = refusal(prepare(&resource, &name, commands(list)).await);
        assert_eq!(found, kind, "{command}: {detail}");
        assert!(detail.contains(named), "{command}: {detail}");
    }
    for (check, named) in [
        (json!({"key": "none", "exists": true}), "none is absent"),
        (json!({"key": "word", "exists": false}), "expected to be absent"),
        (json!({"key": "word", "type": "hash"}), "of type string, expected hash"),
        (json!({"key": "word", "equals": "x"}), "\"abc\", expected \"x\""),
        (json!({"key": "word", "at_least": 1}), "abc, expected at least 1"),
        (json!({"key": "none", "at_least": 1}), "absent, expected at least 1"),
        (json!({"key": "most", "at_most": 9_223_372_036_854_775_806_i64}), "expected at most"),
        (json!({"key": "hash", "field": "f", "exists": true}), "hash f is absent"),
    ] {
        let body = json!({"conditions": [check], "commands": [["INCR", "counter"]]});
        let (kind, detail) = refusal(prepare(&resource, &fresh_name(), work(&body)).await);
        assert_eq!(kind, "expectation", "{detail}");
        assert!(detail.starts_with("condition 1: ") && detail.contains(named), "{detail}");
    }
    assert!(shop.prepared().is_empty());
    let mut keys: Vec<String> =
        shop.server.ask(&["KEYS", "*"]).lines().map(str::to_owned).collect();
    keys.sort();
    assert_eq!(keys, ["counter", "list", "most", "word"]);
    assert_eq!(shop.counter(), 1_000);
}

#[tokio::test]
async fn settings_that_would_break_a_promise_are_named_by_vote_and_doctor_alike() {
    for (option, kind, subject, named) in [
        ("appendfsync everysec", "not_durable", "appendfsync", "set appendfsync always"),
        ("no-appendfsync-on-rewrite yes", "not_durable", "appendfsync", "on-rewrite no"),
        ("appendonly no", "not_durable", "appendonly", "set appendonly yes"),
        ("maxmemory-policy allkeys-lru", "not_durable", "maxmemory-policy", "noeviction"),
        ("cluster-enabled yes", "configuration", "cluster_enabled", "tag="),
    ] {
        let Some(shop) = Shop::start(&["maxmemory 100mb", option]) else { return };
        let resource = shop.resource();
        let (found, detail) = refusal(prepare(&resource, &fresh_name(), shop.add(1)).await);
        assert_eq!(found, kind, "{option}: {detail}");
        assert!(detail.contains(named), "{option}: {detail}");
        let findings = resource.examine(Duration::from_secs(10)).await;
        let unfit = findings.iter().find(|it| it.fitness == Fitness::Unfit).expect("the same");
        assert_eq!((unfit.subject, &*unfit.detail), (subject, &*detail));
    }
}

#[tokio::test]
async fn a_setting_that_is_corrected_is_seen_and_weak_durability_is_allowed_by_name() {
    let Some(shop) = Shop::start(&["appendfsync everysec"]) else { return };
    let (resource, name) = (shop.resource(), fresh_name());
    assert_eq!(refusal(prepare(&resource, &fresh_name(), shop.add(1)).await).0, "not_durable");
    let weak = shop.at(&format!("{}?durability=weak", shop.server.url()));
    assert!(matches!(prepare(&weak, &name, shop.add(1)).await, Answer::Yes(_)));
    assert_eq!(finish(&weak, &name, Verb::Commit).await, done());
    let findings = weak.examine(Duration::from_secs(10)).await;
    assert!(findings.iter().all(|it| it.fitness != Fitness::Unfit), "{findings:?}");
    shop.server.ask(&["CONFIG", "SET", "appendfsync", "always"]);
    assert!(matches!(prepare(&resource, &fresh_name(), shop.add(1)).await, Answer::Yes(_)));
}

#[tokio::test]
async fn a_good_server_is_found_fit_and_old_branches_are_named() {
    let Some(shop) = Shop::start(&[]) else { return };
    let resource = shop.resource();
    let findings = resource.examine(Duration::from_secs(10)).await;
    assert!(findings.iter().all(|it| it.fitness == Fitness::Fit), "{findings:?}");
    assert_eq!(shop.server.ask(&["FUNCTION", "LIST"]), "", "examining changes nothing");
    shop.server.ask(&["ZADD", &format!("{ROOT}:prepared"), "1000", "una:x"]);
    let findings = resource.examine(Duration::from_secs(10)).await;
    let old = findings.iter().find(|it| it.subject == "prepared").expect("it is looked at");
    assert_eq!(old.fitness, Fitness::Doubtful);
    assert!(old.detail.contains("una:x"), "{}", old.detail);
}

#[tokio::test]
async fn memory_that_is_full_refuses_votes_and_holds_up_no_commit() {
    let Some(shop) = Shop::start(&[]) else { return };
    let (resource, names) = (shop.resource(), [fresh_name(), fresh_name()]);
    let body = || commands(json!([["INCRBY", "counter", 5], ["SET", "new", "x".repeat(1_000)]]));
    assert!(matches!(prepare(&resource, &names[0], body()).await, Answer::Yes(_)));
    shop.server.ask(&["CONFIG", "SET", "maxmemory-policy", "noeviction", "maxmemory", "1"]);
    let (kind, detail) = refusal(prepare(&resource, &names[1], shop.add(1)).await);
    assert_eq!(kind, "resources");
    assert!(detail.contains("raise maxmemory"), "{detail}");
    assert_eq!(finish(&resource, &names[0], Verb::Commit).await, done());
    assert_eq!(shop.counter(), 1_005);
}

#[tokio::test]
async fn a_replica_neither_votes_nor_lists_and_loses_no_decision() {
    let Some(shop) = Shop::start(&[]) else { return };
    let (resource, name) = (shop.resource(), fresh_name());
    assert!(matches!(prepare(&resource, &name, shop.add(1)).await, Answer::Yes(_)));
    let Some(master) = Shop::start(&[]) else { return };
    shop.server.ask(&["CONFIG", "SET", "replica-serve-stale-data", "yes"]);
    // It does not find its master, so that it keeps its data.
    shop.server.ask(&["REPLICAOF", "127.0.0.1", "1"]);
    let answer = prepare(&resource, &fresh_name(), shop.add(1)).await;
    assert_eq!(refusal(answer).0, "read_only_resource");
    let answer = prepare(&shop.resource(), &fresh_name(), shop.add(1)).await;
    let (kind, detail) = refusal(answer);
    assert!(kind == "read_only_resource" && detail.contains("name the master"), "{detail}");
    assert!(matches!(finish(&resource, &name, Verb::Commit).await, Answer::Silent(_)));
    resource.in_doubt(Duration::from_secs(10)).await.expect_err("it may be behind");
    drop(master);
    shop.server.ask(&["REPLICAOF", "NO", "ONE"]);
    assert_eq!(finish(&resource, &name, Verb::Commit).await, done());
}

#[tokio::test]
async fn a_password_is_proven_and_never_shown() {
    let Some(shop) = Shop::start(&[]) else { return };
    let at = |url: &str, password: Option<&str>| {
        let password = password.map(|it| Password::new(it.to_owned()));
        let settings = Settings { password, ..Settings::default() };
        unanimous_participants::open("shop", url, &settings, Arc::new(Unobserved)).expect("good")
    };
    let named = format!("redis://app@127.0.0.1:{}", shop.server.port());
    shop.server.ask(&["ACL", "SETUSER", "app", "on", ">s3cret", "~*", "+@all"]);
    shop.server.ask(&["ACL", "SETUSER", "default", ">s3cret", "resetkeys", "~*"]);
    shop.server.ask(&["CONFIG", "SET", "requirepass", "s3cret"]);
    for url in [&named, &shop.server.url()] {
        let answer = prepare(&at(url, Some("s3cret")), &fresh_name(), shop.read()).await;
        assert!(matches!(answer, Answer::ReadOnly(_)), "{url}: {answer:?}");
        for password in [Some("wrong"), None] {
            let resource = at(url, password);
            let (kind, detail) = refusal(prepare(&resource, &fresh_name(), shop.read()).await);
            assert_eq!(kind, "configuration", "{detail}");
            assert!(detail.contains("password_env") && !detail.contains("wrong"), "{detail}");
            let findings = resource.examine(Duration::from_secs(10)).await;
            assert_eq!(findings[0].fitness, Fitness::Unfit, "{findings:?}");
        }
    }
}

#[tokio::test]
async fn a_user_without_the_rights_to_take_changes_back_changes_nothing() {
    let Some(shop) = Shop::start(&[]) else { return };
    let foreign = shop.prepare_foreign();
    shop.server.ask(&["ACL", "SETUSER", "app", "on", "nopass", "~*", "+@all", "-del", "-function"]);
    let resource = shop.at(&format!("redis://app@127.0.0.1:{}", shop.server.port()));
    let (kind, detail) = refusal(prepare(&resource, &fresh_name(), shop.add(1)).await);
    assert_eq!(kind, "permission", "{detail}");
    assert!(detail.contains("DEL") && shop.prepared() == [foreign], "{detail}");
    assert_eq!(shop.counter(), 1_000);
    shop.server.ask(&["FUNCTION", "FLUSH"]);
    let (kind, detail) = refusal(prepare(&resource, &fresh_name(), shop.add(1)).await);
    assert_eq!(kind, "permission", "{detail}");
    let findings = resource.examine(Duration::from_secs(10)).await;
    let functions = findings.iter().find(|it| it.subject == "functions").expect("looked at");
    assert!(functions.fitness == Fitness::Unfit && functions.detail.contains("+function|load"));
}

#[tokio::test]
async fn the_rights_that_the_documentation_lists_are_enough() {
    let Some(shop) = Shop::start(&[]) else { return };
    let rights = "on nopass ~* nocommands +@read +@write +fcall +function|load +config|get +info \
                  +select +time";
    let words: Vec<&str> = ["ACL", "SETUSER", "app"].into_iter().chain(rights.split(' ')).collect();
    assert_eq!(shop.server.ask(&words), "OK");
    let resource = shop.at(&format!("redis://app@127.0.0.1:{}/3", shop.server.port()));
    let findings = resource.examine(Duration::from_secs(10)).await;
    assert!(findings.iter().all(|it| it.fitness == Fitness::Fit), "{findings:?}");
    let name = fresh_name();
    assert!(matches!(prepare(&resource, &name, shop.add(1)).await, Answer::Yes(_)));
    assert_eq!(
        resource.in_doubt(Duration::from_secs(10)).await.map(|it| it.map(|it| it.len())),
        Ok(Some(1))
    );
    assert_eq!(finish(&resource, &name, Verb::Commit).await, done());
}

#[tokio::test]
async fn only_what_was_committed_is_forgotten() {
    let Some(shop) = Shop::start(&[]) else { return };
    let (resource, names) = (shop.resource(), [fresh_name(), fresh_name(), fresh_name()]);
    for (name, verb) in
        [(&names[0], Some(Verb::Commit)), (&names[1], Some(Verb::Rollback)), (&names[2], None)]
    {
        let body = commands(json!([["SET", name.to_string(), 1]]));
        assert!(matches!(prepare(&resource, name, body).await, Answer::Yes(_)));
        if let Some(verb) = verb {
            assert_eq!(finish(&resource, name, verb).await, done());
        }
    }
    let texts = names.each_ref().map(ToString::to_string);
    assert_eq!(shop.function("forget", &texts.each_ref().map(String::as_str)), "OK");
    let states = texts
        .each_ref()
        .map(|name| shop.server.ask(&["HGET", &format!("{ROOT}:branch:{name}"), "state"]));
    assert_eq!(states, ["", "rolled_back", "prepared"]);
}

#[tokio::test]
async fn a_prepare_that_comes_after_its_rollback_is_refused() {
    let Some(shop) = Shop::start(&[]) else { return };
    let (resource, name) = (shop.resource(), fresh_name());
    assert_eq!(finish(&resource, &name, Verb::Rollback).await, done());
    assert!(matches!(prepare(&resource, &name, shop.add(1)).await, Answer::Lost(_)));
    assert!(shop.prepared().is_empty());
    assert_eq!(shop.counter(), 1_000);
}

#[tokio::test]
async fn a_refusal_after_a_lost_answer_also_refuses_the_attempt_that_still_comes() {
    let Some(shop) = Shop::start(&[]) else { return };
    let (resource, name) = (shop.resource(), fresh_name());
    let again = Call { attempt: 2, ..call(&name, Verb::Prepare, shop.refused()) };
    assert_eq!(refusal(resource.call(again).await).0, "expectation");
    // The first attempt, with which nothing was wrong when it was sent.
    assert!(matches!(prepare(&resource, &name, shop.add(1)).await, Answer::Lost(_)));
    assert!(shop.prepared().is_empty());
}

#[tokio::test]
async fn a_commit_that_nobody_remembers_is_a_hazard_and_never_done() {
    let Some(shop) = Shop::start(&[]) else { return };
    let (resource, name) = (shop.resource(), fresh_name());
    assert!(matches!(prepare(&resource, &name, shop.add(1)).await, Answer::Yes(_)));
    shop.server.ask(&["FLUSHALL"]);
    let hazard = Answer::Heuristic(HeuristicKind::Hazard);
    assert_eq!(finish(&resource, &name, Verb::Commit).await, hazard);
}

#[tokio::test]
async fn who_writes_past_the_locks_so_that_a_commit_cannot_be_done_makes_it_heuristic() {
    let Some(shop) = Shop::start(&[]) else { return };
    let (resource, name) = (shop.resource(), fresh_name());
    let body = commands(json!([["SET", "other", 1], ["INCRBY", "counter", 5]]));
    assert!(matches!(prepare(&resource, &name, body).await, Answer::Yes(_)));
    shop.server.ask(&["SET", "counter", "no number"]);
    let rolled_back = Answer::Heuristic(HeuristicKind::Rollback);
    for _ in 0..2 {
        assert_eq!(finish(&resource, &name, Verb::Commit).await, rolled_back);
    }
    assert_eq!(shop.server.ask(&["EXISTS", "other"]), "0", "all or nothing");
    assert!(shop.prepared().is_empty());
    shop.server.ask(&["SET", "counter", "1000"]);
    assert!(matches!(prepare(&resource, &fresh_name(), shop.add(1)).await, Answer::Yes(_)));
}

#[tokio::test]
async fn a_lock_is_named_with_its_holder_and_honoured_by_the_function_for_everybody() {
    let Some(shop) = Shop::start(&[]) else { return };
    let (resource, holder) = (shop.resource(), fresh_name());
    assert!(matches!(prepare(&resource, &holder, shop.add(1)).await, Answer::Yes(_)));
    let patience = Duration::from_millis(300);
    let waits = Call { patience, ..call(&fresh_name(), Verb::Prepare, shop.add(1)) };
    let (kind, detail) = refusal(resource.call(waits).await);
    assert_eq!(kind, "lock_timeout");
    assert_eq!(detail, format!("counter is locked by {holder}"));
    let body = json!({"commands": [["INCRBY", "counter", "7"]]}).to_string();
    let said = shop.function("write", &[&body]);
    assert!(said.contains(&format!("LOCKED counter is locked by {holder}")), "{said}");
    assert_eq!(shop.counter(), 1_000);
    shop.end_by_hand(&holder, Decision::Abort);
    assert_eq!(shop.function("write", &[&body]), "[1007]");
    assert_eq!(shop.counter(), 1_007);
}

#[tokio::test]
async fn two_transactions_that_wait_for_each_other_in_two_servers_are_told_at_once() {
    let Some(left) = Shop::start(&[]) else { return };
    let Some(right) = Shop::start(&[]) else { return };
    let resources = [left.resource(), right.resource()];
    let holders = [fresh_name(), fresh_name()];
    for (name, resource) in holders.iter().zip(&resources) {
        assert!(matches!(prepare(resource, name, left.add(1)).await, Answer::Yes(_)));
    }
    let others = holders.each_ref().map(|it| BranchName { branch: BranchId(1), ..it.clone() });
    let start = Instant::now();
    let (one, two) = tokio::join!(
        async {
            let answer = prepare(&resources[1], &others[0], left.add(1)).await;
            // Whoever is told rolls back, which sets the other free.
            if matches!(answer, Answer::No(_)) {
                finish(&resources[0], &holders[0], Verb::Rollback).await;
            }
            answer
        },
        async {
            let answer = prepare(&resources[0], &others[1], left.add(1)).await;
            if matches!(answer, Answer::No(_)) {
                finish(&resources[1], &holders[1], Verb::Rollback).await;
            }
            answer
        }
    );
    assert!(start.elapsed() < Duration::from_secs(5), "nobody has waited for a timeout");
    let (told, free) = if matches!(one, Answer::No(_)) { (one, two) } else { (two, one) };
    assert!(matches!(free, Answer::Yes(_)), "{free:?}");
    let (kind, detail) = refusal(told);
    assert!(kind == "deadlock" && detail.contains("counter is locked by una:test:"), "{detail}");
}

#[tokio::test]
async fn a_branch_that_waits_goes_on_when_the_lock_is_free() {
    let Some(shop) = Shop::start(&[]) else { return };
    let (resource, holder, waiter) = (shop.resource(), fresh_name(), fresh_name());
    assert!(matches!(prepare(&resource, &holder, shop.add(1)).await, Answer::Yes(_)));
    let waits = prepare(&resource, &waiter, shop.add(1));
    let frees = async {
        while resource.state().calls == 0 {
            tokio::task::yield_now().await;
        }
        finish(&resource, &holder, Verb::Commit).await
    };
    let (waited, freed) = tokio::join!(waits, frees);
    assert_eq!(freed, done());
    assert!(matches!(waited, Answer::Yes(_)), "{waited:?}");
    assert_eq!(finish(&resource, &waiter, Verb::Commit).await, done());
    assert_eq!(shop.counter(), 1_002);
}

#[tokio::test]
async fn the_library_is_loaded_again_when_it_has_gone() {
    let Some(shop) = Shop::start(&[]) else { return };
    let (resource, name) = (shop.resource(), fresh_name());
    assert!(matches!(prepare(&resource, &name, shop.add(1)).await, Answer::Yes(_)));
    shop.server.ask(&["FUNCTION", "FLUSH"]);
    assert_eq!(finish(&resource, &name, Verb::Commit).await, done());
    assert_eq!(shop.counter(), 1_001);
}

#[tokio::test]
async fn on_a_cluster_a_tag_holds_all_keys_of_a_branch_in_one_slot() {
    let Some(shop) = Shop::start(&["cluster-enabled yes"]) else { return };
    let tagged = format!("{}?tag=shop", shop.server.url());
    // No slot is served yet: that may change by itself.
    let body = || commands(json!([["SET", "{shop}:1", 1]]));
    assert!(matches!(prepare(&shop.at(&tagged), &fresh_name(), body()).await, Answer::Silent(_)));
    shop.server.ask(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]);
    let resource = shop.at(&tagged);
    unanimous_participants::testing::until("the cluster is up", async || {
        shop.server.ask(&["CLUSTER", "INFO"]).contains("cluster_state:ok")
    })
    .await;
    let name = fresh_name();
    let answer = prepare(&resource, &name, body()).await;
    assert!(matches!(answer, Answer::Yes(_)), "{answer:?}");
    assert_eq!(finish(&resource, &name, Verb::Commit).await, done());
    assert_eq!(shop.server.ask(&["GET", "{shop}:1"]), "1");
    let astray = commands(json!([["SET", "{shop}:1", 2], ["SET", "{other}:1", 2]]));
    let (kind, detail) = refusal(prepare(&resource, &fresh_name(), astray).await);
    assert_eq!(kind, "configuration", "{detail}");
    assert_eq!(shop.server.ask(&["GET", "{shop}:1"]), "1");
}
