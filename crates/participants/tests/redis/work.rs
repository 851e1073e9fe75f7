//! Every command of a branch: tried out without a trace, and carried out by the commit.

use serde_json::{Value, json};
use unanimous_core::{Answer, Verb};
use unanimous_participants::returned;
use unanimous_participants::testing::conformance::{Subject, fresh_name};

use crate::common::{ROOT, Shop, commands, done, finish, prepare, work};

/// Puts one key of each kind there, with and without a lifetime.
fn fill(shop: &Shop) {
    for line in [
        "SET text 10 PXAT 32503680000000",
        "SET other 10",
        "HSET hash a 1 b 2",
        "HSET one a 1",
        "PEXPIREAT one 32503680000001",
        "SADD set x y",
        "ZADD sorted 1 a 2.5 b",
        "RPUSH list 1 2 3",
        "PEXPIREAT list 32503680000002",
    ] {
        shop.server.ask(&line.split(' ').collect::<Vec<_>>());
    }
}

/// All keys but ours, with their values and lifetimes.
fn everything(shop: &Shop) -> Vec<String> {
    let keys = shop.server.ask(&["KEYS", "*"]);
    let mut keys: Vec<&str> = keys.lines().filter(|key| !key.starts_with("unanimous:")).collect();
    keys.sort_unstable();
    let mut all = Vec::new();
    for key in keys {
        let mut value = match &*shop.server.ask(&["TYPE", key]) {
            "string" => shop.server.ask(&["GET", key]),
            "hash" => shop.server.ask(&["HGETALL", key]),
            "set" => shop.server.ask(&["SORT", key, "ALPHA"]),
            "zset" => shop.server.ask(&["ZRANGE", key, "0", "-1", "WITHSCORES"]),
            "list" => shop.server.ask(&["LRANGE", key, "0", "-1"]),
            other => panic!("{other}"),
        };
        if key == "hash" {
            let mut fields: Vec<&str> = value.lines().collect();
            fields.sort_unstable();
            value = fields.join(" ");
        }
        let until = shop.server.ask(&["PEXPIRETIME", key]);
        all.push(format!("{key} until {until}: {}", value.replace('\n', " ")));
    }
    all
}

/// Each command with its result.
fn all_commands() -> Vec<(Value, Value)> {
    vec![
        (json!(["INCR", "text"]), json!(11)),
        (json!(["DECRBY", "text", 2]), json!(9)),
        (json!(["INCRBY", "fresh", 9_007_199_254_740_993_i64]), json!(9_007_199_254_740_993_i64)),
        (json!(["DECR", "fresh"]), json!(9_007_199_254_740_992_i64)),
        (json!(["SET", "text", "new \" \\ ü"]), json!("OK")),
        (json!(["GET", "text"]), json!("new \" \\ ü")),
        (json!(["SET", "list", "a text", "PXAT", 32_503_680_009_999_i64]), json!("OK")),
        (json!(["DEL", "list", "other", "nothing"]), json!(2)),
        (json!(["HSET", "hash", "a", 5, "c", 6]), json!(1)),
        (json!(["HINCRBY", "hash", "a", -7]), json!(-2)),
        (json!(["HDEL", "hash", "b", "z"]), json!(1)),
        (json!(["HDEL", "one", "a"]), json!(1)),
        (json!(["HSET", "one", "b", 2]), json!(1)),
        (json!(["SADD", "set", "x", "z"]), json!(1)),
        (json!(["SREM", "set", "x", "y", "z", "q"]), json!(3)),
        (json!(["ZADD", "sorted", 7, "a", "1e300", "c"]), json!(1)),
        (json!(["ZINCRBY", "sorted", 0.5, "b"]), json!("3")),
        (json!(["ZREM", "sorted", "a", "b", "c"]), json!(3)),
        (json!(["RPUSH", "list", "r"]), json!(1)),
        (json!(["LPUSH", "list", "l", "m"]), json!(3)),
        (json!(["RPOP", "list"]), json!("r")),
        (json!(["LPOP", "list", 5]), json!(["m", "l"])),
        (json!(["LPOP", "list"]), Value::Null),
        (json!(["PEXPIREAT", "hash", 32_503_680_005_000_i64]), json!(1)),
        (json!(["EXPIREAT", "text", 1]), json!(1)),
        (json!(["EXISTS", "text"]), json!(0)),
        (json!(["PERSIST", "hash"]), json!(1)),
        (json!(["HGET", "hash", "nothing"]), Value::Null),
    ]
}

#[tokio::test]
async fn what_is_prepared_and_rolled_back_leaves_no_trace() {
    let Some(shop) = Shop::start(&[]) else { return };
    fill(&shop);
    let (before, resource) = (everything(&shop), shop.resource());
    for count in 1..=all_commands().len() {
        let some: Vec<Value> = all_commands().into_iter().take(count).map(|it| it.0).collect();
        let name = fresh_name();
        let answer = prepare(&resource, &name, commands(json!(some))).await;
        assert!(matches!(answer, Answer::Yes(_)), "{some:?}: {answer:?}");
        assert_eq!(everything(&shop), before, "tried out: {:?}", some.last());
        assert_eq!(finish(&resource, &name, Verb::Rollback).await, done());
        assert_eq!(everything(&shop), before);
        let failing = json!({"commands": some, "expect": [{"key": "nowhere", "exists": true}]});
        let answer = prepare(&resource, &fresh_name(), work(&failing)).await;
        assert!(matches!(answer, Answer::No(_)), "{answer:?}");
        assert_eq!(everything(&shop), before, "refused: {:?}", some.last());
    }
    let locks = shop.server.ask(&["EXISTS", &format!("{ROOT}:locks")]);
    assert_eq!(locks, "0");
}

#[tokio::test]
async fn a_commit_does_exactly_what_redis_does_and_the_vote_has_said_so() {
    let Some(shop) = Shop::start(&[]) else { return };
    let Some(plain) = Shop::start(&[]) else { return };
    fill(&shop);
    fill(&plain);
    let (resource, name) = (shop.resource(), fresh_name());
    let list: Vec<Value> = all_commands().into_iter().map(|it| it.0).collect();
    let Answer::Yes(came) = prepare(&resource, &name, commands(json!(list))).await else {
        panic!("nothing is wrong with it")
    };
    let expected: Vec<Value> = all_commands().into_iter().map(|it| it.1).collect();
    assert_eq!(returned::results(came.bytes()), expected);
    assert_eq!(finish(&resource, &name, Verb::Commit).await, done());
    for command in &list {
        let words = command.as_array().expect("a list").iter();
        let words: Vec<String> =
            words.map(|it| it.as_str().map_or_else(|| it.to_string(), str::to_owned)).collect();
        plain.server.ask(&words.iter().map(String::as_str).collect::<Vec<_>>());
    }
    assert_eq!(everything(&shop), everything(&plain));
    let ours = shop.server.ask(&["KEYS", "unanimous:*"]);
    assert_eq!(ours, format!("{ROOT}:branch:{name}"), "only that it was committed is kept");
}

#[tokio::test]
async fn conditions_lock_their_keys_although_nothing_is_written() {
    let Some(shop) = Shop::start(&[]) else { return };
    let (resource, name) = (shop.resource(), fresh_name());
    let body = json!({"conditions": [{"key": "counter", "at_least": 1_000, "type": "string"}]});
    assert!(matches!(prepare(&resource, &name, work(&body)).await, Answer::Yes(_)));
    let other = json!({"commands": [["INCR", "counter"]]}).to_string();
    assert!(shop.function("write", &[&other]).contains("LOCKED"));
    assert_eq!(finish(&resource, &name, Verb::Commit).await, done());
    assert_eq!(shop.function("write", &[&other]), "[1001]");
}

#[tokio::test]
async fn results_are_bounded_and_bytes_that_are_no_text_do_no_harm() {
    let Some(shop) = Shop::start(&[]) else { return };
    let long = "x".repeat(50_000);
    shop.server.ask(&["SET", "long", &long]);
    shop.server.ask(&["EVAL", "redis.call('SET', 'bytes', string.char(255, 0, 34))", "0"]);
    let list = json!([["GET", "bytes"], ["GET", "long"], ["GET", "long"], ["INCR", "counter"]]);
    let (resource, name) = (shop.resource(), fresh_name());
    let Answer::Yes(came) = prepare(&resource, &name, commands(list)).await else { panic!("good") };
    let results = returned::results(came.bytes());
    assert_eq!(results[0], json!("\u{fffd}\u{0}\""));
    assert_eq!(results[1], json!(long));
    assert_eq!(results[2], json!({"truncated": true}));
    assert!(came.bytes().len() < 66_000);
    assert_eq!(finish(&resource, &name, Verb::Commit).await, done());
}
