//! Domains of the business with a journal of their own.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;
use tokio::task::block_in_place;
use unanimous_client::Filter;
use unanimous_client::api::{Code, StatusWord};
use unanimous_core::id::TxnId;
use unanimous_participants::testing::PrivatePostgres;

use crate::chance::Chance;
use crate::coordinator::{Coordinator, Setup};
use crate::crowd::{Crowd, patient};
use crate::deed::{Deed, request};
use crate::fleet::Fleet;
use crate::http::Http;
use crate::nodes::{batter, blows};
use crate::place::eventually;
use crate::service::Work;
use crate::shared;
use crate::world::World;

/// The first shard of the partitions that the domain has.
const FIRST: u64 = 48;

fn journals() -> Option<PrivatePostgres> {
    let server = shared::journal()?;
    for name in ["payments", "other"] {
        server.sql("postgres", &format!("CREATE DATABASE {name} OWNER coordinator"));
    }
    Some(server)
}

fn with_domain(setup: Setup, server: &PrivatePostgres) -> Setup {
    let [main, payments] = ["journal", "payments"].map(|it| server.url("coordinator", it));
    setup.on_journal(&main).with_domain(&payments)
}

fn count(server: &PrivatePostgres, database: &str, condition: &str) -> u64 {
    let count = format!("SELECT count(*) FROM unanimous.distributed_txn WHERE {condition}");
    server.sql(database, &count).parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes up to a minute: many kills of nodes"]
async fn no_outcome_is_lost_by_kills_where_a_domain_has_a_journal_of_its_own() {
    let blows = blows(12);
    let Some(mut server) = journals() else { return };
    let mut chance = Chance::new();
    let world = Arc::new(World::and(|setup| with_domain(setup, &server)).await);
    let mut fleet = Fleet::start(&world, 3).await;
    let crowd = Crowd::start(&world, &mut chance);
    batter(&mut fleet, &mut server, &mut chance, blows).await;
    fleet.settled().await;
    crowd.finish().await;
    world.verdict().await;
    fleet.stop().await;
    world.told_at_least(20 * blows).expect("there was load all the time");
    for (database, elsewhere) in
        [("journal", format!("shard >= {FIRST}")), ("payments", format!("shard < {FIRST}"))]
    {
        assert_eq!(count(&server, database, &elsewhere), 0, "{database}");
        assert_eq!(count(&server, database, "ended_at IS NULL"), 0, "{database}");
        assert!(count(&server, database, "ended_at IS NOT NULL") > 0, "{database}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_domain_is_asked_for_by_name_and_listed_with_the_rest() {
    let Some(server) = journals() else { return };
    let world = Arc::new(World::and(|setup| with_domain(setup, &server)).await);
    let mut fleet = Fleet::start(&world, 2).await;
    for number in 0..10 {
        world.perform(Deed::Run, &format!("work-{number}")).await.expect("nobody is killed here");
    }
    let of = |database| count(&server, database, "true");
    assert_eq!((of("journal"), of("payments")), (5, 5));
    let client = patient(&world.setup.server());
    let (mut seen, mut cursor) = (Vec::new(), None);
    loop {
        let filter = Filter { limit: Some(3), cursor, ..Default::default() };
        let page = client.list(&filter).await.expect("every journal answers");
        assert!(page.transactions.len() <= 3);
        seen.extend(page.transactions.into_iter().map(|row| row.id));
        cursor = page.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    let mut newest_first = seen.clone();
    newest_first.sort_unstable_by(|a, b| b.cmp(a));
    newest_first.dedup();
    assert_eq!((seen.len(), &seen), (10, &newest_first));

    let body = json!({"kind": "atomic", "domain": "nobody"});
    let refused = world.http.post("/v1/transactions", None, &body).await.expect("a reply");
    assert_eq!((refused.status, refused.code()), (422, Some(Code::UnknownDomain)), "{refused:?}");
    let text = String::from_utf8_lossy(&refused.body).into_owned();
    assert!(text.contains("configured: payments") && text.contains("/domain"), "{text}");
    world.verdict().await;
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_database_of_a_domain_is_away_the_others_go_on() {
    let (Some(server), Some(mut apart)) = (journals(), journals()) else { return };
    let url = apart.url("coordinator", "payments");
    let main = server.url("coordinator", "journal");
    let world = Arc::new(World::and(|setup| setup.on_journal(&main).with_domain(&url)).await);
    let mut fleet = Fleet::start(&world, 2).await;
    let number = AtomicUsize::new(0);
    let of = |domain: Option<&str>| {
        let label = format!("work-{}", number.fetch_add(1, Ordering::Relaxed));
        let work = Work { label, ..Work::default() };
        let mut body = request(&work, "finished");
        if let Some(domain) = domain {
            body["domain"] = json!(domain);
        }
        body
    };
    let run = async |domain| {
        let reply = world.http.post("/v1/transactions", None, &of(domain)).await?;
        Ok::<_, String>(reply.status)
    };
    assert_eq!((run(None).await, run(Some("payments")).await), (Ok(200), Ok(200)));
    block_in_place(|| apart.kill());
    // What was begun before anybody noticed is waited for: it may be in the journal.
    eventually("noticed", async || match run(Some("payments")).await {
        Ok(503) => Ok(()),
        reply => Err(format!("{reply:?}")),
    })
    .await;
    for setup in &fleet.setups {
        let node = Http::new(&setup.server());
        for _ in 0..8 {
            let reply = node.post("/v1/transactions", None, &of(None)).await.expect("a reply");
            assert_eq!(reply.status, 200, "{reply:?}");
        }
        assert_eq!(node.get("/readyz").await.expect("a reply").status, 200);
    }
    block_in_place(|| apart.up());
    eventually("back", async || match run(Some("payments")).await {
        Ok(200) => Ok(()),
        reply => Err(format!("{reply:?}")),
    })
    .await;
    world.verdict().await;
    fleet.stop().await;
}

/// Who would not find what others began could tell a branch that it is aborted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_domains_are_not_those_of_the_others_or_of_before_does_not_start() {
    let Some(server) = journals() else { return };
    let [main, payments, other] =
        ["journal", "payments", "other"].map(|it| server.url("coordinator", it));
    let world = World::and(|setup| setup.on_journal(&main)).await;
    let plain = &world.setup;
    let apart = plain.clone().with_domain(&payments);
    let refused = async |setup: &Setup, said: &str| {
        let ended = Coordinator::spawn(&setup.as_node("stray"), None).ended().await;
        let line = ended.refusal(2);
        assert!(line.contains(said), "{said}: {line}");
        println!("{line}");
    };

    let mut first = Coordinator::start(plain).await;
    refused(&apart, "has other [domains]").await;
    let open = loop {
        let begun = world.http.post("/v1/transactions", None, &json!({"kind": "atomic"})).await;
        let txn = begun.expect("a reply").view().expect("a transaction").id;
        let shard = txn.parse::<TxnId>().expect("it is one").shard().index();
        if shard as u64 >= FIRST {
            break txn;
        }
    };
    first.kill().await;
    refused(&apart, "transactions in the main journal that have not ended (1)").await;

    let mut second = Coordinator::start(plain).await;
    let path = format!("/v1/transactions/{open}");
    let aborted = world.http.post(&format!("{path}/abort"), None, &json!({})).await;
    assert_eq!(aborted.expect("a reply").status, 200);
    assert_eq!(second.stop().await.status.code(), Some(0));

    let mut third = Coordinator::start(&apart).await;
    let shown = world.http.get(&path).await.expect("a reply").view().expect("it is history");
    assert_eq!(shown.status, StatusWord::Aborted);
    assert_eq!(third.stop().await.status.code(), Some(0));
    refused(plain, "was given for a domain: name partition and journal in [domains] again").await;
    refused(&plain.clone().with_domain(&other), "name the one that has them").await;
    refused(&plain.clone().with_domain(&main), "is the main journal").await;
    let mut fourth = Coordinator::start(&apart).await;
    assert_eq!(fourth.stop().await.status.code(), Some(0));
}
