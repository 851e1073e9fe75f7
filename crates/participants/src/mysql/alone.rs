//! Work without a coordinator: one ordinary transaction.

use std::sync::Arc;

use unanimous_core::{Opaque, Reason};

use super::prepare::Work;
use super::session::{Broken, Ran, Session, Sql};
use super::{Inner, MysqlAdapter, errno};
use crate::alone::{Alone, CommitAlone, Working, unsent};
use crate::statement;

impl CommitAlone for MysqlAdapter {
    fn commit_alone(&self, work: Opaque) -> Working {
        let inner = Arc::clone(&self.inner);
        Box::pin(async move {
            let statements = match statement::read(&work) {
                Ok(statements) => statements,
                Err(why) => return Alone::Refused(Reason::new("statement", &why)),
            };
            match Work::new(&statements) {
                Ok(work) => commit(&inner, &work).await,
                Err(reason) => Alone::Refused(reason),
            }
        })
    }
}

async fn commit(inner: &Inner, work: &Work<'_>) -> Alone {
    let mut lent = match inner.first_phase.lend().await {
        Ok(lent) => lent,
        Err(why) => return unsent(&why),
    };
    match transaction(&mut lent.session, work).await {
        Ok(alone) => {
            inner.first_phase.give_back(lent.into_session());
            alone
        }
        Err(Broken(seen)) => {
            inner.first_phase.distrust();
            Alone::Unknown(seen)
        }
    }
}

async fn transaction(session: &mut Session, work: &Work<'_>) -> Result<Alone, Broken> {
    let mut ran = Ran::default();
    let all: Vec<_> = [Sql::new("BEGIN")].into_iter().chain(work.texts.iter().cloned()).collect();
    session.run(&all, &mut ran).await?;
    let refusal = match ran.refused {
        Some(refused) => {
            Some(errno::reason(&refused, &format!("statement {}", ran.results.len().max(1))))
        }
        None => work.unexpected(&ran.results[1..]),
    };
    let end = if refusal.is_some() { "ROLLBACK" } else { "COMMIT" };
    Ok(match (session.execute(end).await?, refusal) {
        (_, Some(reason)) => Alone::Refused(reason),
        (Ok(()), None) => Alone::Done,
        (Err(refused), None) => Alone::Refused(errno::reason(&refused, "COMMIT")),
    })
}
