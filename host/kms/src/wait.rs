//! Waits for a plugin that is starting.

use std::{path::Path, time::Duration};

use tokio::time::{Instant, sleep};

use crate::{
    error::KmsError,
    probe::{ProbeReport, ProbeSpec, probe},
};

/// Pause while there is no socket. The check costs one system call.
const UNREACHABLE_PAUSE: Duration = Duration::from_millis(25);
/// First pause after an answer. It doubles each time, because each probe may cause calls to an overloaded
/// KMS.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Probes the plugin at `socket` until it passes or `within` has passed, and returns the last report.
///
/// The error in the report is always the plugin's failure, never an expired wait. No probe starts after
/// `within`, but a started probe ends by its own deadlines. [`KmsError::KeyCheckMismatch`] ends the wait at
/// once: the plugin works with another KEK, and waiting does not change that.
pub async fn wait_ready(socket: &Path, spec: &ProbeSpec<'_>, within: Duration) -> ProbeReport {
    let end = Instant::now() + within;
    let mut pause = FIRST_PAUSE;
    loop {
        let report = probe(socket, spec).await;
        let wait = match &report.result {
            Ok(()) | Err(KmsError::KeyCheckMismatch) => return report,
            Err(KmsError::Unreachable { .. }) => UNREACHABLE_PAUSE,
            Err(_) => {
                let now = pause;
                pause = (pause * 2).min(LONGEST_PAUSE);
                now
            }
        };
        if Instant::now() + wait >= end {
            return report;
        }
        sleep(wait).await;
    }
}
