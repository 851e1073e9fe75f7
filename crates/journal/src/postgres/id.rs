//! Identities of transactions as PostgreSQL's `uuid`.

use std::error::Error;

use bytes::BytesMut;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};
use unanimous_core::id::TxnId;

/// An identity on its way to or from the database.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Id(pub(super) TxnId);

impl ToSql for Id {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.extend_from_slice(&self.0.0.to_be_bytes());
        Ok(IsNull::No)
    }

    fn accepts(kind: &Type) -> bool {
        *kind == Type::UUID
    }

    to_sql_checked!();
}

impl FromSql<'_> for Id {
    fn from_sql(_: &Type, raw: &[u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self(TxnId(u128::from_be_bytes(raw.try_into()?))))
    }

    fn accepts(kind: &Type) -> bool {
        *kind == Type::UUID
    }
}
