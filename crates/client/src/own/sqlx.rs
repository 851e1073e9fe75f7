//! What errors of `sqlx` mean, from whichever database.

use sqlx_core::error::Error;

use super::Fault;

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::from(&error)
    }
}

impl From<&Error> for Fault {
    fn from(error: &Error) -> Self {
        let text = error.to_string();
        let Error::Database(refused) = error else { return Self::silent(text) };
        #[cfg(feature = "sqlx-postgres")]
        if let Some(refused) = refused.try_downcast_ref::<sqlx_postgres::PgDatabaseError>() {
            return super::postgres::refusal(refused.code(), refused.message(), text);
        }
        #[cfg(feature = "sqlx-mysql")]
        if let Some(refused) = refused.try_downcast_ref::<sqlx_mysql::MySqlDatabaseError>() {
            let state = refused.code().unwrap_or_default();
            return super::mysql::refusal(refused.number(), state, text);
        }
        Self { code: refused.code().map(Into::into), kind: "refused", text }
    }
}
