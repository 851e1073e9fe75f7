//! Work without a coordinator: the function for programs that write to keys of branches.

use std::sync::Arc;

use unanimous_core::{Opaque, Reason};

use super::resp::Refused;
use super::{Inner, RedisAdapter, library, work};
use crate::alone::{Alone, CommitAlone, Working, unsent};

impl CommitAlone for RedisAdapter {
    fn commit_alone(&self, work: Opaque) -> Working {
        let inner = Arc::clone(&self.inner);
        Box::pin(async move {
            match work::read(&work) {
                Ok(body) => commit(&inner, &body).await,
                Err(why) => Alone::Refused(Reason::new("command", &why)),
            }
        })
    }
}

async fn commit(inner: &Inner, body: &str) -> Alone {
    let mut lent = match inner.first_phase.lend().await {
        Ok(lent) => lent,
        Err(why) => return unsent(&why),
    };
    match library::call(&mut lent.connection, &inner.address.root(), "write", &[body]).await {
        Ok(answered) => {
            inner.first_phase.give_back(lent);
            answered.map_or_else(|refused| Alone::Refused(reason(&refused)), |_| Alone::Done)
        }
        Err(broken) => Alone::Unknown(broken.0),
    }
}

/// The function says the kind of its refusal first, in capitals.
fn reason(refused: &Refused) -> Reason {
    let code = refused.code();
    Reason::new(&code.to_ascii_lowercase(), refused.0[code.len()..].trim_start())
}
