//! When what runs for long is to end: operator and node agent alike.

use anyhow::{Context as _, Result};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Cancelled by the first SIGTERM or SIGINT. A second one ends the process at once, as without a handler: whatever was
/// under way, the next start goes on from what is.
pub(crate) fn until_asked() -> Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be handled")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be handled")?;
    let stop = CancellationToken::new();
    let asked = stop.clone();
    tokio::spawn(async move {
        for patient in [true, false] {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if patient {
                tracing::info!("asked to stop; ask again to stop at once");
                asked.cancel();
            } else {
                std::process::exit(130);
            }
        }
    });
    Ok(stop)
}
