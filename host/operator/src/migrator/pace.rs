//! The number of concurrent rewrites, over all resources. It is fixed. Runs report how long a response took and
//! whether the API server was busy, which an additive-increase, multiplicative-decrease rule would need.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The result of an attempt for the pace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Load {
    /// The API server answered.
    Fine,
    /// The API server is busy or cannot be reached.
    Busy,
}

/// The limit; shared by all runs.
#[derive(Clone, Debug)]
pub(super) struct Pace {
    ceiling: usize,
    permits: Arc<Semaphore>,
}

/// One attempt in progress.
pub(super) struct Slot {
    began: Instant,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Pace {
    pub(super) fn fixed(ceiling: usize) -> Self {
        let ceiling = ceiling.max(1);
        Self { ceiling, permits: Arc::new(Semaphore::new(ceiling)) }
    }

    /// The highest number of concurrent attempts.
    pub(super) fn ceiling(&self) -> usize {
        self.ceiling
    }

    pub(super) async fn slot(&self) -> Slot {
        // The semaphore is never closed; without a permit only the limit does not hold.
        let permit = Arc::clone(&self.permits).acquire_owned().await.ok();
        Slot { began: Instant::now(), _permit: permit }
    }

    /// The attempt is over.
    #[allow(clippy::unused_self)] // an adaptive pace would use it
    pub(super) fn observed(&self, slot: Slot, load: Load) {
        let Slot { began, _permit } = slot;
        tracing::trace!(?load, took = ?began.elapsed(), "rewrite");
    }
}
