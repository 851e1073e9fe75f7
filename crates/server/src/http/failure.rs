//! A problem on its way out.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use unanimous_api::{Code, Problem, Repeat};
use unanimous_journal::JournalError;

/// Bytes of a detail. What a client sent is quoted in it, so it is cut.
const DETAIL_LEN_MAX: usize = 1_024;

/// A problem on its way out.
pub(crate) struct Failure(Box<Problem>);

impl Failure {
    pub(crate) fn new(code: Code, detail: impl Into<String>) -> Self {
        Self::of(Problem::new(code, detail))
    }

    pub(super) fn of(mut problem: Problem) -> Self {
        problem.detail.truncate(problem.detail.floor_char_boundary(DETAIL_LEN_MAX));
        Self(Box::new(problem))
    }

    /// What is wrong and where, for a log or a terminal.
    pub(super) fn line(&self) -> String {
        match &self.0.pointer {
            Some(pointer) => format!("{pointer}: {}", self.0.detail),
            None => self.0.detail.clone(),
        }
    }

    pub(super) fn code(&self) -> Code {
        Code::parse(&self.0.code).unwrap_or(Code::Internal)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let code = self.code();
        let status = StatusCode::from_u16(code.info().http).expect("codes have valid statuses");
        let body = serde_json::to_vec(&self.0).expect("a problem is always JSON");
        let mut response = (status, body).into_response();
        // Whoever counts replies reads it back.
        response.extensions_mut().insert(code);
        let headers = response.headers_mut();
        let kind = HeaderValue::from_static("application/problem+json");
        headers.insert(header::CONTENT_TYPE, kind);
        if code.info().repeat == Repeat::Later {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if code == Code::Unauthorized {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<JournalError> for Failure {
    fn from(error: JournalError) -> Self {
        let code = match error {
            JournalError::Unreachable(_) | JournalError::Full(_) => Code::JournalFull,
            JournalError::Conflict { .. } | JournalError::Fenced { .. } => Code::NoOwner,
            JournalError::Locked { .. }
            | JournalError::Damaged { .. }
            | JournalError::Unusable(_)
            | JournalError::Failed(_) => Code::Internal,
        };
        Self::new(code, error.to_string())
    }
}
