//! What a path and a query say, with a problem document for what they do not.

use axum::extract::{FromRequestParts, Path, Query};
use axum::http::request::Parts;
use unanimous_api::Code;
use unanimous_core::id::{NotAnId, TxnId};

use super::{App, Failure};

/// The transaction that a path names.
pub(super) struct Txn(pub(super) TxnId);

impl FromRequestParts<App> for Txn {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Failure> {
        let segment = Path::<String>::from_request_parts(parts, app).await;
        txn_id(segment.as_ref().map_or("", |segment| segment)).map(Self)
    }
}

pub(super) fn txn_id(text: &str) -> Result<TxnId, Failure> {
    text.parse().map_err(|error: NotAnId| Failure::new(Code::NotATransactionId, error.to_string()))
}

/// The transaction and the step that a path names.
pub(super) struct Signal(pub(super) TxnId, pub(super) String);

impl FromRequestParts<App> for Signal {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Failure> {
        match Path::<(String, String)>::from_request_parts(parts, app).await {
            Ok(Path((txn, step))) => Ok(Self(txn_id(&txn)?, step)),
            Err(_) => Err(Failure::new(Code::NoSuchPath, "the path is no text")),
        }
    }
}

/// A name in a path.
pub(super) struct Name(pub(super) String);

impl FromRequestParts<App> for Name {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Failure> {
        match Path::<String>::from_request_parts(parts, app).await {
            Ok(Path(name)) => Ok(Self(name)),
            Err(_) => Err(Failure::new(Code::NoSuchPath, "the path is no text")),
        }
    }
}

/// Parameters of a query: a few more than any path takes.
const PARAMETERS_MAX: usize = 16;

/// The parameters of a query, each given once.
pub(super) struct Parameters(pub(super) Vec<(String, String)>);

impl FromRequestParts<App> for Parameters {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Failure> {
        let query = Query::<Vec<(String, String)>>::from_request_parts(parts, app).await;
        let Query(parameters) = query.map_err(|error| bad(error.to_string()))?;
        if parameters.len() > PARAMETERS_MAX {
            return Err(bad(format!("more than {PARAMETERS_MAX} parameters")));
        }
        for (index, (name, _)) in parameters.iter().enumerate() {
            if parameters[..index].iter().any(|(earlier, _)| earlier == name) {
                return Err(bad(format!("parameter {name:?} is given twice")));
            }
        }
        Ok(Self(parameters))
    }
}

fn bad(detail: String) -> Failure {
    Failure::new(Code::BadQuery, detail)
}
