//! What the probes answer from.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A reconcile that takes longer than this hangs: every call in it has a time limit.
const STUCK: Duration = Duration::from_mins(5);

/// Shared by all tasks.
#[derive(Clone, Debug)]
pub(crate) struct Health {
    state: Arc<Mutex<State>>,
    /// An API server that was not reached for so long is away.
    away: Duration,
}

#[derive(Debug, Default)]
struct State {
    reached: Option<Instant>,
    problem: Option<String>,
    /// Since when the work at hand has been going on.
    busy: Option<Instant>,
}

impl Health {
    /// `away` must be longer than it may take from one successful look at the API server to the next, at rest.
    pub(crate) fn new(away: Duration) -> Self {
        Self { state: Arc::default(), away }
    }

    fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        // A panic while it was held left nothing half done: each field stands by itself.
        look(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The API server answered, and serves what is needed.
    pub(crate) fn reached(&self) {
        self.with(|state| {
            state.reached = Some(Instant::now());
            state.problem = None;
        });
    }

    /// Something that keeps the operator from working at all.
    pub(crate) fn hindered(&self, problem: String) {
        self.with(|state| state.problem = Some(problem));
    }

    /// Work begins, or has ended.
    pub(crate) fn busy(&self, busy: bool) {
        self.with(|state| state.busy = busy.then(Instant::now));
    }

    /// `/readyz`: leading or standing by, with an API server that serves our kinds.
    pub(crate) fn ready(&self, now: Instant) -> Result<(), String> {
        self.with(|state| match (&state.problem, state.reached) {
            (Some(problem), _) => Err(problem.clone()),
            (None, None) => Err("the API server was not reached yet".to_owned()),
            (None, Some(at)) if now.saturating_duration_since(at) > self.away => {
                Err(format!("the API server was not reached for {} s", (now - at).as_secs()))
            }
            (None, Some(_)) => Ok(()),
        })
    }

    /// `/livez`: nothing hangs.
    pub(crate) fn alive(&self, now: Instant) -> Result<(), String> {
        self.with(|state| match state.busy {
            Some(since) if now.saturating_duration_since(since) > STUCK => {
                Err(format!("a reconcile has been going on for {} s", (now - since).as_secs()))
            }
            _ => Ok(()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AWAY: Duration = Duration::from_secs(130);

    #[test]
    fn ready_means_reached_lately_and_nothing_in_the_way() {
        let health = Health::new(AWAY);
        assert!(health.ready(Instant::now()).is_err());
        health.reached();
        assert!(health.ready(Instant::now() + Duration::from_secs(129)).is_ok());
        assert!(health.ready(Instant::now() + AWAY + Duration::from_secs(1)).is_err());
        health.hindered("the CRDs are missing".into());
        assert_eq!(health.ready(Instant::now()).unwrap_err(), "the CRDs are missing");
    }

    #[test]
    fn work_that_does_not_end_is_not_alive() {
        let health = Health::new(AWAY);
        health.busy(true);
        let later = Instant::now() + STUCK + Duration::from_secs(1);
        assert!(health.alive(Instant::now()).is_ok() && health.alive(later).is_err());
        health.busy(false);
        assert!(health.alive(later).is_ok());
    }
}
