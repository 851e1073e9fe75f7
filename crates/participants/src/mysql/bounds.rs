//! How long the locks and statements of a branch may take.
//!
//! Both end before the call does, so that the server says why. MariaDB bounds every statement by itself;
//! MySQL only those that read without locks, so there a statement that is overdue is ended over another
//! session.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use tokio::time::sleep;

use super::session::{Product, Session};
use super::{Inner, holders};
use crate::lookout::Lookout;

/// How long statements may take of what is left for all of them.
fn statement(left: Duration) -> Duration {
    (left * 7 / 8).max(Duration::from_millis(1))
}

/// What sets both: a part of a `SET`. The lock's has whole seconds: it is rounded up where it stays the first.
pub(super) fn bounds(product: Product, left: Duration) -> String {
    let (lock_ms, statement_ms) = (left.as_millis() * 3 / 4, statement(left).as_millis());
    let lock_s = match lock_ms.div_ceil(1_000) {
        up if up * 1_000 < statement_ms => up,
        _ => lock_ms / 1_000,
    };
    let lock_s = lock_s.max(1);
    let locks = format!("SET innodb_lock_wait_timeout = {lock_s}, lock_wait_timeout = {lock_s}");
    match product {
        Product::MariaDb => {
            let (s, ms) = (statement_ms / 1_000, statement_ms % 1_000);
            format!("{locks}, max_statement_time = {s}.{ms:03}")
        }
        Product::MySql => format!("{locks}, max_execution_time = {statement_ms}"),
    }
}

/// Whoever looks after the work of one session.
#[derive(Clone, Copy)]
pub(super) struct Watch<'a> {
    inner: &'a Inner,
    product: Product,
    session: i64,
}

impl<'a> Watch<'a> {
    pub(super) fn over(inner: &'a Inner, session: &Session) -> Self {
        Self { inner, product: session.product, session: session.number }
    }

    /// Carries out `work` in the session, looks meanwhile for whom it waits for, and has it ended when it is
    /// overdue.
    pub(super) async fn beside<T>(
        &self,
        lookout: &Lookout<'_>,
        work: impl Future<Output = T>,
    ) -> T {
        let bounded = async {
            match self.product {
                Product::MariaDb => work.await,
                Product::MySql => self.ended_by(lookout.left, work).await,
            }
        };
        lookout.beside(bounded, || holders::look(self.inner, self.session)).await
    }

    /// The session is not used for anything else before the server has said that it was told. What is not
    /// heard of, and comes later all the same, meets a commit at worst: that is asked again.
    async fn ended_by<T>(&self, left: Duration, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        tokio::select! {
            biased;
            done = &mut work => return done,
            () = sleep(statement(left)) => {}
        }
        if let Ok(mut lent) = self.inner.looking.lend().await {
            let end = format!("KILL QUERY {}", self.session);
            if let Ok(Ok(())) = lent.session.execute(&end).await {
                self.inner.looking.give_back(lent.into_session());
            }
        }
        work.await
    }
}
