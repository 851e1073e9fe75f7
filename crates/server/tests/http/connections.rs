//! Peers that are slow, silent or many, and both versions of the protocol.

use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use hyper_util::client::legacy;
use hyper_util::rt::TokioExecutor;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::common::{TWO, raw, two};

#[tokio::test]
async fn peers_that_are_slow_or_silent_hold_up_nobody_else() {
    let (coordinator, _, _) = two().await;
    let mut slow = Vec::new();
    for number in 0..300 {
        let mut stream = TcpStream::connect(coordinator.address).await.expect("it accepts");
        let begun: &[u8] = match number % 4 {
            0 => b"",
            1 => b"P",
            2 => b"POST /v1/transactions HTTP/1.1\r\nhost: x\r\ncontent-le",
            _ => b"POST /v1/transactions HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{\"kind\":",
        };
        stream.write_all(begun).await.expect("it reads");
        slow.push(stream);
    }
    let begun = Instant::now();
    for _ in 0..20 {
        let reply = coordinator.post("/v1/transactions", TWO).await;
        assert_eq!(reply.status, 200, "{}", reply.text);
    }
    assert!(begun.elapsed() < Duration::from_secs(5));
    let list = coordinator.get("/v1/transactions").await.json();
    assert_eq!(list["transactions"].as_array().expect("a list").len(), 20);
}

#[tokio::test]
async fn a_request_cut_at_any_byte_begins_nothing() {
    let (coordinator, wallet, _) = two().await;
    let request = format!(
        "POST /v1/transactions HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{TWO}",
        TWO.len()
    );
    for len in 0..request.len() {
        let mut stream = TcpStream::connect(coordinator.address).await.expect("it accepts");
        stream.write_all(&request.as_bytes()[..len]).await.expect("it reads");
    }
    let whole = raw(coordinator.address, request.as_bytes()).await;
    assert!(whole.starts_with("HTTP/1.1 200"), "{whole}");
    let list = coordinator.get("/v1/transactions").await.json();
    assert_eq!(list["transactions"].as_array().expect("a list").len(), 1);
    assert_eq!(wallet.count("prepare"), 1);
}

#[tokio::test]
async fn a_body_without_an_end_is_cut_off_at_its_bound() {
    let (coordinator, _, _) = two().await;
    let chunk = format!("8000\r\n{}\r\n", " ".repeat(0x8000));
    let head = "POST /v1/transactions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n";
    let reply = raw(coordinator.address, (head.to_owned() + &chunk.repeat(9)).as_bytes()).await;
    assert!(reply.starts_with("HTTP/1.1 413") && reply.contains("UNA0105"), "{reply}");
}

#[tokio::test]
async fn many_requests_share_one_connection_of_http_2() {
    let (coordinator, _, _) = two().await;
    let client: legacy::Client<_, axum::body::Body> =
        legacy::Client::builder(TokioExecutor::new()).http2_only(true).build_http();
    let requests = (0..100).map(|_| {
        let uri = format!("http://{}/v1/transactions", coordinator.address);
        let request = http::Request::post(uri).body(TWO.into()).expect("a request");
        let reply = client.request(request);
        tokio::spawn(async move {
            let reply = reply.await.expect("it answers");
            assert_eq!(
                (reply.status(), reply.version()),
                (http::StatusCode::OK, http::Version::HTTP_2)
            );
            reply.into_body().collect().await.expect("a body")
        })
    });
    let requests: Vec<_> = requests.collect();
    for request in requests {
        request.await.expect("no panic");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_that_sends_at_once_on_one_connection_of_http_2_is_answered_one_and_all() {
    let (coordinator, _, _) = two().await;
    let mut builder = legacy::Client::builder(TokioExecutor::new());
    let client: legacy::Client<_, axum::body::Body> = builder.http2_only(true).build_http();
    let uri = format!("http://{}/v1/transactions", coordinator.address);
    let crowd = (0..14_000).map(|_| {
        let (client, uri) = (client.clone(), uri.clone());
        tokio::spawn(async move {
            for _ in 0..3 {
                let body = "as long as most requests are ".repeat(20);
                let request = http::Request::post(&uri).body(body.into()).expect("a request");
                let reply = client.request(request).await.expect("the connection holds");
                assert_eq!(reply.status(), http::StatusCode::BAD_REQUEST);
                reply.into_body().collect().await.expect("a body");
            }
        })
    });
    let crowd: Vec<_> = crowd.collect();
    for one in crowd {
        one.await.expect("it is answered");
    }
}
