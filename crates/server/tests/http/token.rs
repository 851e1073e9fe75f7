//! With a token, nothing is said or done for those who do not have it.

use unanimous_server::config::{Config, Secret};

use crate::common::{TWO, two, two_and};

const TOKEN: &str = "s3cret-of-the-house";

fn closed(config: Config) -> Config {
    Config { token: Some(Secret::new(TOKEN.to_owned())), ..config }
}

#[tokio::test]
async fn without_the_token_nothing_is_said_and_nothing_is_begun() {
    let (coordinator, wallet, _) = two_and(closed).await;
    let id = "01939f6e-7a30-7c41-9b1d-3f2a5c7e9d10";
    let wrong = [
        vec![],
        vec![("authorization", "Bearer wrong")],
        vec![("authorization", "Bearer s3cret-of-the-hous")],
        vec![("authorization", "Bearer s3cret-of-the-house!")],
        vec![("authorization", "Bearer")],
        vec![("authorization", "Bearer ")],
        vec![("authorization", TOKEN)],
        vec![("authorization", "Basic s3cret-of-the-house")],
        vec![("authorization", "Bearer b\u{e4}d")],
    ];
    for headers in &wrong {
        for (method, path) in [
            ("GET", "/v1/transactions".to_owned()),
            ("POST", "/v1/transactions".to_owned()),
            ("GET", format!("/v1/transactions/{id}")),
            ("GET", format!("/v1/transactions/{id}/log")),
            ("POST", format!("/v1/transactions/{id}/participants")),
            ("POST", format!("/v1/transactions/{id}/commit")),
            ("POST", format!("/v1/transactions/{id}/abort")),
            ("POST", format!("/v1/transactions/{id}/retry")),
            ("POST", format!("/v1/transactions/{id}/resolve")),
            ("GET", "/v1/resources".to_owned()),
            ("GET", "/v1/resources/wallet/in-doubt".to_owned()),
            ("GET", "/v1/events".to_owned()),
            ("GET", "/metrics".to_owned()),
        ] {
            let reply = coordinator.send(method, &path, headers, TWO).await;
            let what = format!("{method} {path} {headers:?}");
            assert_eq!(reply.problem(), (401, "UNA0401".into()), "{what}");
            assert_eq!(reply.headers["www-authenticate"], "Bearer", "{what}");
            assert!(!reply.text.contains(TOKEN), "{what}");
        }
    }
    assert!(wallet.calls().is_empty());
}

#[tokio::test]
async fn with_the_token_everything_works_and_it_is_shown_nowhere() {
    let (coordinator, _, _) = two_and(closed).await;
    for scheme in ["Bearer", "bearer"] {
        let token = format!("{scheme} {TOKEN}");
        let headers = [("authorization", &*token)];
        let begun = coordinator.send("POST", "/v1/transactions", &headers, TWO).await;
        assert_eq!(begun.status, 200, "{}", begun.text);
        for path in [&begun.path(), "/metrics", "/v1/resources", "/v1/transactions"] {
            let reply = coordinator.send("GET", path, &headers, "").await;
            assert_eq!(reply.status, 200, "{}", reply.text);
            assert!(!reply.text.contains(TOKEN), "{path}");
        }
    }
}

#[tokio::test]
async fn health_and_the_contract_are_open_to_everybody() {
    let (coordinator, _, _) = two_and(closed).await;
    for path in ["/healthz", "/readyz", "/openapi.json", "/errors/UNA0401"] {
        assert_eq!(coordinator.get(path).await.status, 200, "{path}");
    }
    assert_eq!(coordinator.get("/healthz").await.text, "ok\n");
    assert_eq!(coordinator.get("/readyz").await.json()["ready"], true);
    let explained = coordinator.get("/errors/una0401").await.text;
    assert!(explained.starts_with("UNA0401 (HTTP 401)\n"), "{explained}");
}

#[tokio::test]
async fn a_page_of_another_site_cannot_send_requests() {
    let (coordinator, wallet, _) = two().await;
    let own = format!("http://{}", coordinator.address);
    for (origin, status) in
        [("https://shop.example", 403), ("http://127.0.0.1:1", 403), ("null", 403), (&*own, 200)]
    {
        let headers = [("origin", origin), ("content-type", "text/plain")];
        let reply = coordinator.send("POST", "/v1/transactions", &headers, TWO).await;
        assert_eq!(reply.status, status, "{origin}: {}", reply.text);
        if status == 403 {
            assert_eq!(reply.problem().1, "UNA0402");
            assert!(wallet.calls().is_empty());
        }
    }
}
