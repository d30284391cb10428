//! Waits for a plugin that is coming up.

use std::{path::Path, time::Duration};

use tokio::time::{Instant, sleep};

use crate::{
    error::KmsError,
    probe::{ProbeReport, ProbeSpec, probe},
};

/// Pause while there is no socket: looking costs one system call.
const UNREACHABLE_PAUSE: Duration = Duration::from_millis(25);
/// First pause after an answer; doubled each time, since each probe may be calls to a KMS in distress.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Probes the plugin at `socket` until it passes or `within` has gone by, and returns the last report.
///
/// Its error is always what was wrong with the plugin, never that time ran out: no probe begins after `within`, but one
/// that has begun is finished with its own deadlines. [`KmsError::KeyCheckMismatch`] ends the wait at once: the plugin
/// works, with another KEK, and waiting does not change that.
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
