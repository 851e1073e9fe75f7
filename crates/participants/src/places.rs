//! Places for calls that are under way, first come first served.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use crate::climb::{Climb, Crowd};

/// The places of one phase of one resource.
pub(crate) struct Places {
    free: Semaphore,
    limit: Mutex<Limit>,
    taken: AtomicUsize,
    waiting: AtomicUsize,
    waiting_max: usize,
}

/// How many places there are.
struct Limit {
    now: usize,
    /// Places that go when those who have them leave.
    surplus: usize,
    /// What looks for the best number, if anything does.
    climb: Option<Climb>,
}

/// A place, for as long as it lives.
pub(crate) struct Place<'a> {
    places: &'a Places,
    permit: Option<SemaphorePermit<'a>>,
}

/// Whether a place had to be waited for.
pub(crate) enum Waited {
    No,
    Yes,
}

/// Why there is no place.
pub(crate) enum Full {
    Queue(usize),
    Waited(Duration),
}

impl Places {
    /// As many places as this, always.
    pub(crate) fn fixed(count: usize, waiting_max: usize) -> Self {
        Self::new(count, waiting_max, None)
    }

    /// As many as get most done, at most `count_max`.
    pub(crate) fn climbing(count_max: usize, waiting_max: usize) -> Self {
        Self::new(count_max, waiting_max, Some(Climb::new(count_max)))
    }

    fn new(count: usize, waiting_max: usize, climb: Option<Climb>) -> Self {
        Self {
            free: Semaphore::new(count),
            limit: Mutex::new(Limit { now: count, surplus: 0, climb }),
            taken: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            waiting_max,
        }
    }

    pub(crate) async fn take(&self, patience: Duration) -> Result<(Place<'_>, Waited), Full> {
        if let Ok(permit) = self.free.try_acquire() {
            return Ok((self.place(permit), Waited::No));
        }
        let _waiting = Waiting::join(self)?;
        match timeout(patience, self.free.acquire()).await {
            Ok(permit) => Ok((self.place(permit.expect("it is never closed")), Waited::Yes)),
            Err(_) => Err(Full::Waited(patience)),
        }
    }

    fn place<'a>(&'a self, permit: SemaphorePermit<'a>) -> Place<'a> {
        self.taken.fetch_add(1, Ordering::Relaxed);
        Place { places: self, permit: Some(permit) }
    }

    /// A call was answered at `now`, by whatever clock is always the same.
    pub(crate) fn answered(&self, now: Duration) {
        let crowd = if self.waiting() > 0 { Crowd::Waiting } else { Crowd::None };
        let mut limit = self.limit.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(climb) = &mut limit.climb else { return };
        let wanted = climb.answered(now, crowd);
        if wanted > limit.now {
            let more = wanted - limit.now;
            let kept = more.min(limit.surplus);
            limit.surplus -= kept;
            self.free.add_permits(more - kept);
        } else {
            let fewer = limit.now - wanted;
            limit.surplus += fewer - self.free.forget_permits(fewer);
        }
        limit.now = wanted;
    }

    /// Places there are.
    pub(crate) fn count(&self) -> usize {
        self.limit.lock().unwrap_or_else(PoisonError::into_inner).now
    }

    pub(crate) fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.places.taken.fetch_sub(1, Ordering::Relaxed);
        let Some(permit) = self.permit.take() else { return };
        let mut limit = self.places.limit.lock().unwrap_or_else(PoisonError::into_inner);
        if limit.surplus > 0 {
            limit.surplus -= 1;
            permit.forget();
        }
    }
}

/// One in the queue, for as long as it lives.
struct Waiting<'a>(&'a Places);

impl<'a> Waiting<'a> {
    fn join(places: &'a Places) -> Result<Self, Full> {
        let before = places.waiting.fetch_add(1, Ordering::Relaxed);
        let waiting = Self(places);
        match before < places.waiting_max {
            true => Ok(waiting),
            false => Err(Full::Queue(places.waiting_max)),
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::WINDOW_CALLS;

    const SOON: Duration = Duration::from_millis(1);

    #[tokio::test(start_paused = true)]
    async fn a_place_that_is_too_many_goes_when_it_is_left_and_none_is_lost() {
        let places = Places::climbing(8, 100);
        let mut held = Vec::new();
        for _ in 0..8 {
            held.push(places.take(SOON).await.ok().expect("a place").0);
        }
        let mut waiting = Box::pin(places.take(Duration::from_secs(3_600)));
        assert!(futures_poll(&mut waiting).await.is_none());
        for call in 1..=u64::from(WINDOW_CALLS) {
            places.answered(Duration::from_millis(call));
        }
        assert_eq!(places.count(), 7);
        drop(held.pop());
        assert!(futures_poll(&mut waiting).await.is_none(), "that place is gone");
        drop(held.pop());
        assert!(futures_poll(&mut waiting).await.is_some());
        drop(held);
        assert_eq!((places.taken(), places.free.available_permits()), (0, 7));
    }

    /// The result of a future that is ready, after everything that could have made it so.
    async fn futures_poll<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
        tokio::task::yield_now().await;
        std::future::poll_fn(|context| {
            std::task::Poll::Ready(match std::pin::Pin::new(&mut *future).poll(context) {
                std::task::Poll::Ready(output) => Some(output),
                std::task::Poll::Pending => None,
            })
        })
        .await
    }
}
