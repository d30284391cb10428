//! Waiting for a condition, instead of sleeping.

use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::Instant;

/// The time between two checks.
const PERIOD: Duration = Duration::from_millis(100);

/// The result of a check.
#[derive(Debug)]
pub enum Seen<T> {
    /// The condition is met.
    Yes(T),
    /// The condition is not met. The text shows the current state; a failed wait prints it.
    NotYet(String),
}

impl Seen<()> {
    /// `Yes` if `condition` is true; `otherwise` shows the current state.
    pub fn when(condition: bool, otherwise: impl Into<String>) -> Self {
        if condition { Self::Yes(()) } else { Self::NotYet(otherwise.into()) }
    }
}

/// Repeats `check` until it returns [`Seen::Yes`]. An error of `check` counts as [`Seen::NotYet`], because a
/// starting server refuses connections.
///
/// # Errors
/// After `deadline`; the error contains `what` and the result of the last check.
pub async fn wait_until<T>(
    what: &str,
    deadline: Duration,
    mut check: impl AsyncFnMut() -> Result<Seen<T>>,
) -> Result<T> {
    let started = Instant::now();
    let end = started + deadline;
    let mut last = "nothing".to_owned();
    loop {
        match tokio::time::timeout_at(end, check()).await {
            Ok(Ok(Seen::Yes(found))) => return Ok(found),
            Ok(Ok(Seen::NotYet(instead))) => last = instead,
            Ok(Err(error)) => last = format!("error: {error:#}"),
            // The check itself hangs; the result of the check before it is more useful.
            Err(_) => {}
        }
        if Instant::now() + PERIOD > end {
            bail!("waited {:?} for {what}; last seen: {last}", started.elapsed());
        }
        tokio::time::sleep(PERIOD).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_wait_returns_the_result_of_the_check() {
        let mut checks = 0;
        let found = wait_until("three checks", Duration::from_secs(10), async || {
            checks += 1;
            Ok(if checks == 3 { Seen::Yes(checks) } else { Seen::NotYet(format!("{checks} checks")) })
        });
        assert_eq!(found.await.unwrap(), 3);
    }

    #[tokio::test]
    async fn a_failed_wait_reports_its_condition_and_the_last_check() {
        let wait = |hangs: bool| async move {
            let mut checks = 0;
            let check = async || {
                checks += 1;
                if hangs && checks > 1 {
                    std::future::pending::<()>().await;
                }
                Ok(Seen::<()>::NotYet("only a pear".to_owned()))
            };
            wait_until("an apple", Duration::from_millis(250), check).await.unwrap_err().to_string()
        };
        for hangs in [false, true] {
            let error = wait(hangs).await;
            assert!(error.contains("for an apple; last seen: only a pear"), "{error}");
        }
    }
}
