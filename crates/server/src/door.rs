//! The way in for programs of this process: the same requests and answers as over HTTP, without a
//! socket.
//!
//! What runs behind it decides when it is shut. From then on every request is answered with the code
//! for a coordinator that shuts down, and nothing of it is held on to by those who still have the door.

use std::sync::{Arc, PoisonError, RwLock};

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderValue, Request, header};
use axum::response::{IntoResponse, Response};
use tokio::sync::watch;
use tower::Service;
use unanimous_api::Code;

use crate::config::Secret;
use crate::http::Failure;
use crate::metrics::Metrics;

/// The way in for programs of this process. Cheap to clone.
#[derive(Clone)]
pub struct Door {
    inside: Arc<RwLock<Option<Inside>>>,
    /// How many have come in and not gone out.
    guests: Arc<watch::Sender<usize>>,
}

/// Somebody who has come in.
struct Guest(Arc<watch::Sender<usize>>);

impl Guest {
    fn of(door: &Door) -> Self {
        door.guests.send_modify(|guests| *guests += 1);
        Self(Arc::clone(&door.guests))
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.0.send_modify(|guests| *guests -= 1);
    }
}

#[derive(Clone)]
struct Inside {
    face: Router,
    authorization: Option<HeaderValue>,
    metrics: Arc<Metrics>,
}

impl Door {
    /// To what `face` serves. Whoever is in this process needs no token.
    pub(crate) fn new(face: Router, token: Option<&Secret>, metrics: Arc<Metrics>) -> Self {
        let authorization = token.map(Secret::bearer);
        let inside = Inside { face, authorization, metrics };
        Self { inside: Arc::new(RwLock::new(Some(inside))), guests: Arc::default() }
    }

    /// Answers a request: its path, headers and body are those of the HTTP interface.
    pub async fn ask(self, mut request: Request<Body>) -> Response {
        let inside = self.inside.read().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(Inside { mut face, authorization, metrics }) = inside else {
            return Failure::new(Code::ShuttingDown, "the coordinator is closed").into_response();
        };
        let _guest = Guest::of(&self);
        if let Some(authorization) = authorization {
            request.headers_mut().insert(header::AUTHORIZATION, authorization);
        }
        let answer = face.call(request).await.unwrap_or_else(|never| match never {});
        if let Some(&code) = answer.extensions().get::<Code>() {
            metrics.problem(code);
        }
        answer
    }

    /// Returns when everybody who has come in has an answer.
    pub(crate) async fn is_left(&self) {
        // The sender is this door's.
        drop(self.guests.subscribe().wait_for(|&guests| guests == 0).await);
    }

    pub(crate) fn shut(&self) {
        self.inside.write().unwrap_or_else(PoisonError::into_inner).take();
    }
}
