//! A coordinator of several nodes, some of which are gone, go, or come back.

mod common;

use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use common::coordinator::{Act, Coordinator, problem, view};
use serde_json::{Value, json};
use unanimous_client::api::Code;
use unanimous_client::{Client, ClientBuilder, Error, Run};

const ID: &str = "01939f6e-7a30-7c41-9b1d-3f2a5c7e9d10";

fn committed() -> Act {
    Act::Answer(200, view(ID, "COMMITTED", Some("committed")))
}

/// Nobody listens there.
fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("a free port")
}

/// With pauses that are longer than what a call may take.
fn client(nodes: &[SocketAddr]) -> ClientBuilder {
    let nodes: Vec<_> = nodes.iter().map(|node| format!("http://{node}")).collect();
    Client::builder(&nodes.join(",")).pauses_ms(60_000, 60_000).deadline_ms(10_000)
}

fn transfer(client: &Client) -> Run {
    client.transaction().branch("wallet", json!({"amount": 5}))
}

fn event(status: &str, version: u32) -> String {
    let event =
        json!({"id": ID, "kind": "atomic", "status": status, "at_ms": 1, "version": version});
    format!("event: state\ndata: {event}\n\n")
}

#[tokio::test]
async fn the_next_node_is_asked_at_once_if_one_cannot_be_reached_and_from_then_on() {
    let node = Coordinator::playing([committed()]).await;
    let client = client(&[nobody(), nobody(), node.address]).build().expect("addresses");
    for _ in 0..2 {
        transfer(&client).run().await.expect("committed");
    }
    assert_eq!(node.asked().len(), 2);
}

#[tokio::test]
async fn what_may_have_been_begun_at_one_node_is_begun_at_the_next_under_the_same_key() {
    for lost in [Act::Hang, Act::Stall, problem(Code::ShuttingDown)] {
        let nodes = [Coordinator::playing([lost]).await, Coordinator::playing([committed()]).await];
        let client = client(&[nodes[0].address, nodes[1].address]).reply_timeout_ms(200);
        let client = client.build().expect("addresses");
        transfer(&client).run().await.expect("committed");
        client.show(ID).await.expect("it sticks to the one that answered");
        let [first, second] = nodes.each_ref().map(Coordinator::asked);
        assert_eq!((first.len(), second.len()), (1, 2));
        let [first, second] = [&first[0], &second[0]];
        assert_eq!(first.header("idempotency-key"), second.header("idempotency-key"));
        assert_eq!((&first.path, &first.body), (&second.path, &second.body));
    }
}

#[tokio::test]
async fn requests_under_way_at_once_share_a_connection_where_that_is_wanted() {
    const AT_ONCE: usize = 100;
    for shares in [false, true] {
        let nodes =
            [Coordinator::playing([Act::Stall]).await, Coordinator::playing([committed()]).await];
        let client = client(&[nodes[0].address, nodes[1].address]).reply_timeout_ms(1_000);
        let client = if shares { client.http2_prior_knowledge() } else { client };
        let client = client.build().expect("addresses");
        let all = (0..AT_ONCE).map(|_| transfer(&client).run());
        let all = futures_util::future::join_all(all).await;
        assert!(all.iter().all(Result::is_ok), "{all:?}");
        assert_eq!(nodes.each_ref().map(|node| node.asked().len()), [AT_ONCE; 2]);
        let connections = if shares { 1 } else { AT_ONCE };
        assert_eq!(nodes[0].connections(), connections);
    }
}

#[tokio::test]
async fn a_node_that_has_too_much_to_do_is_not_left() {
    let busy = Coordinator::playing([problem(Code::Overloaded), committed()]).await;
    let other = Coordinator::playing([committed()]).await;
    let client = client(&[busy.address, other.address]).pauses_ms(1, 1).build().expect("addresses");
    transfer(&client).run().await.expect("committed");
    assert_eq!((busy.asked().len(), other.asked().len()), (2, 0));
}

#[tokio::test]
async fn nodes_that_are_all_gone_are_asked_in_turn_with_pauses_until_one_is_back() {
    let first = Coordinator::playing([problem(Code::ShuttingDown)]).await;
    let second = Coordinator::playing([problem(Code::ShuttingDown)]).await;
    let client = client(&[first.address, second.address, nobody()]).pauses_ms(20, 40);
    let client = client.deadline_ms(1_000).build().expect("addresses");
    let begun = Instant::now();
    let error = client
        .transaction()
        .deadline_ms(1_000)
        .branch("wallet", Value::Null)
        .run()
        .await
        .expect_err("nobody takes it on");
    assert!(matches!(error, Error::Unreachable { .. } | Error::Busy(_)), "{error:?}");
    assert!(begun.elapsed() < Duration::from_secs(5));
    let asked = first.asked().len();
    assert!((2..=100).contains(&asked) && second.asked().len().abs_diff(asked) <= 1, "{asked}");
    first.play([committed()]);
    transfer(&client).run().await.expect("committed");
}

#[tokio::test]
async fn nobody_at_any_address_is_told_with_all_of_them() {
    let nodes = [nobody(), nobody()];
    let client = client(&nodes).deadline_ms(1_000).build().expect("addresses");
    let error = client.health().await.expect_err("nobody is there").to_string();
    assert!(nodes.iter().all(|node| error.contains(&node.to_string())), "{error}");
}

#[tokio::test]
async fn events_go_on_at_another_node_with_nothing_shown_twice_and_gaps_counted() {
    let both = event("PREPARING", 1) + &event("COMMITTING", 2);
    let first = Coordinator::playing([Act::Events(both)]).await;
    let rest = event("COMMITTING", 2) + &event("COMMITTED", 3);
    let second = Coordinator::playing([Act::Events(rest)]).await;
    let client = client(&[nobody(), first.address, second.address]).pauses_ms(1, 1);
    let client = client.build().expect("addresses");
    let mut events = client.events(Some(ID)).await.expect("opened");
    for expected in ["PREPARING", "COMMITTING", "COMMITTED"] {
        assert_eq!(events.next().await.expect("an event").status.as_str(), expected);
    }
    assert_eq!((events.gaps(), events.missed()), (1, 0));
    assert_eq!((first.asked().len(), second.asked().len()), (1, 1));
}

#[tokio::test]
async fn a_stream_that_nobody_opens_again_fails_and_is_tried_again_when_it_is_asked_for() {
    let node = Coordinator::playing([
        Act::Events(event("PREPARING", 1)),
        Act::Answer(503, Value::Null),
        problem(Code::ShuttingDown),
        Act::Events(event("COMMITTED", 2)),
    ])
    .await;
    let client = client(&[node.address]).pauses_ms(1, 1).deadline_ms(0).build().expect("addresses");
    let mut events = client.events(None).await.expect("opened");
    assert_eq!(events.next().await.expect("an event").status.as_str(), "PREPARING");
    assert!(matches!(events.next().await, Err(Error::Unreachable { .. })));
    assert!(matches!(events.next().await, Err(Error::Busy(_))));
    assert_eq!(events.next().await.expect("an event").status.as_str(), "COMMITTED");
    assert_eq!(events.gaps(), 1);
}
