//! Waiting for something to be seen, instead of sleeping.

use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::Instant;

/// Time between two looks.
const PERIOD: Duration = Duration::from_millis(100);

/// What a look showed.
#[derive(Debug)]
pub enum Seen<T> {
    /// What was waited for.
    Yes(T),
    /// Something else, in words that a failed wait can repeat.
    NotYet(String),
}

impl Seen<()> {
    /// Seen when `condition` holds; `otherwise` says what was there instead.
    pub fn when(condition: bool, otherwise: impl Into<String>) -> Self {
        if condition { Self::Yes(()) } else { Self::NotYet(otherwise.into()) }
    }
}

/// Looks until `look` sees what is waited for. An error of `look` counts as something else that was seen, since
/// servers that start refuse connections.
///
/// # Errors
/// After `deadline`, naming `what` was waited for and what was seen last.
pub async fn wait_until<T>(
    what: &str,
    deadline: Duration,
    mut look: impl AsyncFnMut() -> Result<Seen<T>>,
) -> Result<T> {
    let started = Instant::now();
    let end = started + deadline;
    let mut last = "nothing".to_owned();
    loop {
        match tokio::time::timeout_at(end, look()).await {
            Ok(Ok(Seen::Yes(found))) => return Ok(found),
            Ok(Ok(Seen::NotYet(instead))) => last = instead,
            Ok(Err(error)) => last = format!("error: {error:#}"),
            // The look itself hangs; what was seen before it says more.
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
    async fn a_wait_ends_with_what_was_seen() {
        let mut looks = 0;
        let found = wait_until("three looks", Duration::from_secs(10), async || {
            looks += 1;
            Ok(if looks == 3 { Seen::Yes(looks) } else { Seen::NotYet(format!("{looks} looks")) })
        });
        assert_eq!(found.await.unwrap(), 3);
    }

    #[tokio::test]
    async fn a_wait_in_vain_tells_for_what_and_what_there_was() {
        let wait = |hangs: bool| async move {
            let mut looks = 0;
            let look = async || {
                looks += 1;
                if hangs && looks > 1 {
                    std::future::pending::<()>().await;
                }
                Ok(Seen::<()>::NotYet("only a pear".to_owned()))
            };
            wait_until("an apple", Duration::from_millis(250), look).await.unwrap_err().to_string()
        };
        for hangs in [false, true] {
            let error = wait(hangs).await;
            assert!(error.contains("for an apple; last seen: only a pear"), "{error}");
        }
    }
}
