//! One list of what a resource holds prepared, for everybody who asks for it meanwhile.
//!
//! A coordinator that takes over rolls back thousands of branches at once, of which few were ever
//! prepared, and one may hold the lock that all others wait for: asking for each by itself would leave
//! it to the end of a long line.
//!
//! # Invariant
//!
//! Nobody is given a list that was begun before he asked.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use crate::Listing;

/// The identifiers that were listed; none if there was no list.
pub(crate) type Listed = Option<Arc<HashSet<String>>>;

/// Lists that are asked for.
#[derive(Default)]
pub(crate) struct Lists {
    /// The one that is asked for next, and is not begun yet.
    next: Arc<Mutex<Option<watch::Receiver<Option<Listed>>>>>,
    /// Held by the one that is being made.
    making: Arc<tokio::sync::Mutex<()>>,
}

impl Lists {
    /// The next list, which `list` asks for if nobody else does.
    pub(crate) async fn next(&self, list: impl FnOnce() -> Listing + Send + 'static) -> Listed {
        let mut told = self.join(list);
        let told = told.wait_for(Option::is_some).await.ok()?;
        told.clone().flatten()
    }

    fn join(
        &self,
        list: impl FnOnce() -> Listing + Send + 'static,
    ) -> watch::Receiver<Option<Listed>> {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(told) = &*next {
            return told.clone();
        }
        let (tell, told) = watch::channel(None);
        *next = Some(told.clone());
        let (next, making) = (Arc::clone(&self.next), Arc::clone(&self.making));
        tokio::spawn(async move {
            let _making = making.lock().await;
            next.lock().unwrap_or_else(PoisonError::into_inner).take();
            let held = list().await.ok().flatten();
            let names = |held: Vec<crate::Held>| held.into_iter().map(|it| it.name).collect();
            tell.send_replace(Some(held.map(names).map(Arc::new)));
        });
        told
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::Held;

    #[tokio::test]
    async fn whoever_asks_while_a_list_is_made_gets_the_next_and_all_of_them_the_same() {
        let (lists, made) = (Arc::new(Lists::default()), Arc::new(AtomicUsize::new(0)));
        let (open, gate) = watch::channel(false);
        let ask = || {
            let (lists, made, mut gate) = (Arc::clone(&lists), Arc::clone(&made), gate.clone());
            tokio::spawn(async move {
                let list = move || -> Listing {
                    let number = made.fetch_add(1, Ordering::Relaxed);
                    Box::pin(async move {
                        gate.wait_for(|open| *open).await.expect("it is opened");
                        Ok(Some(vec![Held { name: number.to_string(), since: None }]))
                    })
                };
                let listed = lists.next(list).await.expect("there is one");
                listed.iter().next().expect("one name").clone()
            })
        };
        let first = ask();
        while made.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
        let later: Vec<_> = (0..100).map(|_| ask()).collect();
        tokio::task::yield_now().await;
        open.send_replace(true);
        assert_eq!(first.await.expect("told"), "0");
        for asked in later {
            assert_eq!(asked.await.expect("told"), "1");
        }
        assert_eq!(made.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn no_list_is_told_as_none() {
        let fails = || -> Listing { Box::pin(async { Err("away".to_owned()) }) };
        let cannot = || -> Listing { Box::pin(async { Ok(None) }) };
        let lists = Lists::default();
        assert_eq!((lists.next(fails).await, lists.next(cannot).await), (None, None));
    }
}
