//! How many objects are under way at once, over all resources. Fixed now; what a run tells it (how long an answer took,
//! whether the API server was busy) is what an additive-increase, multiplicative-decrease rule will need.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How an attempt went, as far as the pace cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Load {
    /// Answered.
    Fine,
    /// The API server is busy or away.
    Busy,
}

/// The ceiling; shared by all runs.
#[derive(Clone, Debug)]
pub(super) struct Pace {
    ceiling: usize,
    permits: Arc<Semaphore>,
}

/// One attempt under way.
pub(super) struct Slot {
    began: Instant,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Pace {
    pub(super) fn fixed(ceiling: usize) -> Self {
        let ceiling = ceiling.max(1);
        Self { ceiling, permits: Arc::new(Semaphore::new(ceiling)) }
    }

    /// How many attempts make sense at once.
    pub(super) fn ceiling(&self) -> usize {
        self.ceiling
    }

    pub(super) async fn slot(&self) -> Slot {
        // The semaphore is never closed; without a permit the pace is merely not kept.
        let permit = Arc::clone(&self.permits).acquire_owned().await.ok();
        Slot { began: Instant::now(), _permit: permit }
    }

    /// The attempt is over.
    #[allow(clippy::unused_self)] // what an adaptive pace will learn from
    pub(super) fn observed(&self, slot: Slot, load: Load) {
        let Slot { began, _permit } = slot;
        tracing::trace!(?load, took = ?began.elapsed(), "rewrite");
    }
}
