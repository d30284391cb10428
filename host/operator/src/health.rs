//! The state that the probes report.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A reconcile pass that takes longer than this hangs: every call in it has a time limit.
const STUCK: Duration = Duration::from_mins(5);

/// Shared by all tasks.
#[derive(Clone, Debug)]
pub(crate) struct Health {
    state: Arc<Mutex<State>>,
    /// After so long without an answer the API server counts as unreachable.
    unreachable_after: Duration,
}

#[derive(Debug, Default)]
struct State {
    reached: Option<Instant>,
    problem: Option<String>,
    /// When the current work began.
    busy: Option<Instant>,
}

impl Health {
    /// `unreachable_after` must be longer than the time between two successful reads from the API server in an idle
    /// operator.
    pub(crate) fn new(unreachable_after: Duration) -> Self {
        Self { state: Arc::default(), unreachable_after }
    }

    fn with<T>(&self, use_state: impl FnOnce(&mut State) -> T) -> T {
        // A panic under the lock leaves no invalid state: the fields are independent.
        use_state(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The API server answered, and serves Keyward's kinds.
    pub(crate) fn reached(&self) {
        self.with(|state| {
            state.reached = Some(Instant::now());
            state.problem = None;
        });
    }

    /// Records a problem that keeps the operator from working at all.
    pub(crate) fn hindered(&self, problem: String) {
        self.with(|state| state.problem = Some(problem));
    }

    /// Work begins, or ended.
    pub(crate) fn busy(&self, busy: bool) {
        self.with(|state| state.busy = busy.then(Instant::now));
    }

    /// `/readyz`: leader or standby, with an API server that serves Keyward's kinds.
    pub(crate) fn ready(&self, now: Instant) -> Result<(), String> {
        self.with(|state| match (&state.problem, state.reached) {
            (Some(problem), _) => Err(problem.clone()),
            (None, None) => Err("the API server has not answered yet".to_owned()),
            (None, Some(at)) if now.saturating_duration_since(at) > self.unreachable_after => {
                Err(format!("the API server has not answered for {} s", (now - at).as_secs()))
            }
            (None, Some(_)) => Ok(()),
        })
    }

    /// `/livez`: nothing hangs.
    pub(crate) fn alive(&self, now: Instant) -> Result<(), String> {
        self.with(|state| match state.busy {
            Some(since) if now.saturating_duration_since(since) > STUCK => {
                Err(format!("the current reconcile pass has been running for {} s", (now - since).as_secs()))
            }
            _ => Ok(()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNREACHABLE_AFTER: Duration = Duration::from_secs(130);

    #[test]
    fn operator_is_ready_while_the_api_server_answers_and_there_is_no_problem() {
        let health = Health::new(UNREACHABLE_AFTER);
        assert!(health.ready(Instant::now()).is_err());
        health.reached();
        assert!(health.ready(Instant::now() + Duration::from_secs(129)).is_ok());
        assert!(health.ready(Instant::now() + UNREACHABLE_AFTER + Duration::from_secs(1)).is_err());
        health.hindered("the CRDs are missing".into());
        assert_eq!(health.ready(Instant::now()).unwrap_err(), "the CRDs are missing");
    }

    #[test]
    fn operator_with_work_that_does_not_end_is_not_alive() {
        let health = Health::new(UNREACHABLE_AFTER);
        health.busy(true);
        let later = Instant::now() + STUCK + Duration::from_secs(1);
        assert!(health.alive(Instant::now()).is_ok() && health.alive(later).is_err());
        health.busy(false);
        assert!(health.alive(later).is_ok());
    }
}
