//! Who may ask: programs that have the token, and no web page of another site.
//!
//! Without a token the coordinator listens on loopback only, where every browser of the machine
//! reaches it too. A page of another site may send a `POST` there without asking first, but its
//! browser says where the page came from.

use std::net::IpAddr;

use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use unanimous_api::Code;

use super::Failure;
use crate::config::Secret;

/// Lets through whoever has the token; who is of this machine, if there is none.
pub(crate) async fn guard(
    State(token): State<Option<Secret>>,
    request: Request,
    next: Next,
) -> Response {
    match admits(token.as_ref(), &request) {
        Ok(()) => next.run(request).await,
        Err(failure) => failure.into_response(),
    }
}

fn admits(token: Option<&Secret>, request: &Request) -> Result<(), Failure> {
    match token {
        Some(token) => has_token(token, request.headers()),
        None if changes_something(request.method()) => is_local(request),
        None => Ok(()),
    }
}

fn has_token(token: &Secret, headers: &HeaderMap) -> Result<(), Failure> {
    let Some(offered) = headers.get(header::AUTHORIZATION) else {
        return Err(Failure::new(Code::Unauthorized, "the request has no token"));
    };
    let offered = offered.to_str().ok().and_then(|value| value.split_once(' '));
    match offered {
        Some((scheme, offered))
            if scheme.eq_ignore_ascii_case("bearer") && token.is(offered.trim()) =>
        {
            Ok(())
        }
        Some(_) | None => Err(Failure::new(Code::Unauthorized, "the token is wrong")),
    }
}

fn changes_something(method: &Method) -> bool {
    !method.is_safe()
}

/// Programs send no `Origin`; browsers do, and pages cannot take it away.
fn is_local(request: &Request) -> Result<(), Failure> {
    let Some(origin) = request.headers().get(header::ORIGIN) else { return Ok(()) };
    let host = request.headers().get(header::HOST);
    let host = host.and_then(|host| host.to_str().ok());
    let host = host.or_else(|| request.uri().authority().map(Authority::as_str));
    match origin_authority(origin) {
        Some(authority) if Some(authority.as_str()) == host && names_this_machine(&authority) => {
            Ok(())
        }
        Some(_) | None => {
            let detail = format!("the request comes from a page of {origin:?}, not of this server");
            Err(Failure::new(Code::ForeignOrigin, detail))
        }
    }
}

fn origin_authority(origin: &HeaderValue) -> Option<Authority> {
    origin.to_str().ok()?.strip_prefix("http://")?.parse().ok()
}

/// A page whose site's name was made to lead here names that site, not this machine.
fn names_this_machine(authority: &Authority) -> bool {
    let host = authority.host();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent_from(origin: &str, host: &str) -> bool {
        let request = Request::builder().header("origin", origin).header("host", host);
        is_local(&request.body(axum::body::Body::empty()).expect("a request")).is_ok()
    }

    #[test]
    fn only_pages_of_this_server_may_send_requests() {
        assert!(sent_from("http://127.0.0.1:7070", "127.0.0.1:7070"));
        assert!(sent_from("http://localhost:7070", "localhost:7070"));
        assert!(sent_from("http://[::1]:7070", "[::1]:7070"));
        for (origin, host) in [
            ("https://shop.example", "127.0.0.1:7070"),
            ("http://shop.example:7070", "shop.example:7070"),
            ("http://127.0.0.1:8080", "127.0.0.1:7070"),
            ("null", "127.0.0.1:7070"),
            ("", "127.0.0.1:7070"),
        ] {
            assert!(!sent_from(origin, host), "{origin} to {host}");
        }
    }
}
