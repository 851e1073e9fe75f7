//! Connections that break after every possible byte, in both directions.

use std::time::Duration;

use unanimous_core::{Answer, Verb};
use unanimous_participants::Call;
use unanimous_participants::testing::conformance::{Subject, call, fresh_name};
use unanimous_participants::testing::{Proxy, Toward};

use crate::common::{Shop, done, finish, prepare};

#[tokio::test]
async fn a_vote_that_is_cut_off_after_any_byte_is_asked_for_again_and_counts_once() {
    let Some(shop) = Shop::start(&[]) else { return };
    let proxy = Proxy::start(shop.server.port()).await;
    let direct = shop.resource();
    let mut count = 0;
    for toward in [Toward::Server, Toward::Client] {
        for bytes in 0.. {
            let through = shop.at(&format!("redis://127.0.0.1:{}", proxy.port()));
            // A connection is made before the cut counts.
            let warm = prepare(&through, &fresh_name(), shop.read()).await;
            assert!(matches!(warm, Answer::ReadOnly(_)), "{warm:?}");
            proxy.cut_after(bytes, toward);
            let name = fresh_name();
            let answer = prepare(&through, &name, shop.add(1)).await;
            let whole = !proxy.has_cut();
            proxy.mend();
            assert!(matches!(answer, Answer::Yes(_) | Answer::Silent(_)), "{bytes}: {answer:?}");
            let again = Call { attempt: 2, ..call(&name, Verb::Prepare, shop.add(1)) };
            let again = direct.call(again).await;
            assert!(matches!(again, Answer::Yes(_)), "{toward:?} {bytes}: {again:?}");
            assert_eq!(finish(&direct, &name, Verb::Commit).await, done(), "{toward:?} {bytes}");
            count += 1;
            if whole {
                break;
            }
        }
    }
    assert_eq!(shop.counter(), 1_000 + count);
    assert!(shop.prepared().is_empty());
}

#[tokio::test]
async fn a_decision_that_is_cut_off_after_any_byte_is_done_when_it_is_asked_again() {
    let Some(shop) = Shop::start(&[]) else { return };
    let proxy = Proxy::start(shop.server.port()).await;
    let direct = shop.resource();
    let mut count = 0;
    for (verb, added) in [(Verb::Commit, 1), (Verb::Rollback, 0)] {
        for toward in [Toward::Server, Toward::Client] {
            for bytes in 0.. {
                let through = shop.at(&format!("redis://127.0.0.1:{}", proxy.port()));
                through.in_doubt(Duration::from_secs(10)).await.expect("a connection is made");
                let name = fresh_name();
                let answer = prepare(&direct, &name, shop.add(1)).await;
                assert!(matches!(answer, Answer::Yes(_)), "{answer:?}");
                proxy.cut_after(bytes, toward);
                let first = finish(&through, &name, verb).await;
                let whole = !proxy.has_cut();
                proxy.mend();
                assert!(matches!(first, Answer::Done(_) | Answer::Silent(_)), "{bytes}: {first:?}");
                assert_eq!(finish(&direct, &name, verb).await, done(), "{toward:?} {bytes}");
                count += added;
                if whole {
                    break;
                }
            }
        }
    }
    assert_eq!(shop.counter(), 1_000 + count);
    assert!(shop.prepared().is_empty());
}
