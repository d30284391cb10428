//! Watches the configuration file and the plugins' manifests through their folders. A manual edit is noticed
//! at once: by the agent's next pass the API server may have loaded it.

use std::ffi::OsStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;
use tokio::sync::Notify;

/// Pause before a missing folder is tried again.
const PERIOD: Duration = Duration::from_secs(5);

/// Notifies when a file whose name is `watched` changes in the folder, until `notify` is dropped.
/// The agent's own changes notify too, because a pass costs little. Temporary files do not: otherwise a write
/// that fails, for example on a full disk, would start the next pass at once. Runs on its own thread, which
/// sleeps until something changes and lives as long as the process.
pub(crate) fn watch(
    folder: PathBuf,
    watched: impl Fn(&OsStr) -> bool + Send + 'static,
    notify: &Arc<Notify>,
) -> io::Result<()> {
    let notify = Arc::downgrade(notify);
    let run = move || {
        while notify.strong_count() > 0 {
            if let Err(error) = listen(&folder, &watched, &notify) {
                tracing::debug!(folder = %folder.display(), %error, "the folder cannot be watched; the agent checks it periodically");
                std::thread::park_timeout(PERIOD);
            }
        }
    };
    std::thread::Builder::new().name("edits".to_owned()).spawn(run).map(drop)
}

/// Listens until the folder is removed or `notify` is dropped.
fn listen(folder: &Path, watched: &impl Fn(&OsStr) -> bool, notify: &Weak<Notify>) -> io::Result<()> {
    let fd = inotify::init(CreateFlags::CLOEXEC)?;
    // CREATE is for folders, pipes and links, which are never written and closed.
    let what = WatchFlags::CLOSE_WRITE
        | WatchFlags::CREATE
        | WatchFlags::MOVED_TO
        | WatchFlags::MOVED_FROM
        | WatchFlags::DELETE;
    let gone = WatchFlags::DELETE_SELF | WatchFlags::MOVE_SELF;
    inotify::add_watch(&fd, folder, what | gone | WatchFlags::ONLYDIR)?;
    // Something may have changed while there was no watch.
    if let Some(notify) = notify.upgrade() {
        notify.notify_one();
    }
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut changes = Reader::new(&fd, &mut buffer);
    loop {
        let (change, other) = match changes.next() {
            Ok(event) => {
                let name = event.file_name().map(|name| OsStr::from_bytes(name.to_bytes()));
                (event.events(), name.is_some_and(|name| !watched(name)))
            }
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        };
        let Some(notify) = notify.upgrade() else { return Ok(()) };
        if other {
            continue;
        }
        notify.notify_one();
        if change.intersects(ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF | ReadFlags::IGNORED) {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_edit_notifies_and_a_temporary_file_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str| std::fs::write(folder.path().join(name), b"{}").unwrap();
        let notify = Arc::new(Notify::new());
        watch(folder.path().to_owned(), |name| name == "config.json", &notify).unwrap();
        // The watch may start after the first writes.
        let notified = async {
            loop {
                write("config.json");
                if tokio::time::timeout(Duration::from_millis(50), notify.notified()).await.is_ok() {
                    return;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(20), notified).await.unwrap();
        // Changes arrive in order: when the last one has arrived, so have all earlier ones.
        while tokio::time::timeout(Duration::from_millis(50), notify.notified()).await.is_ok() {}
        write(".config.json.1");
        let early = tokio::time::timeout(Duration::from_millis(200), notify.notified()).await;
        assert!(early.is_err(), "it notified for a temporary file");
        write("config.json");
        tokio::time::timeout(Duration::from_secs(20), notify.notified()).await.unwrap();
    }
}
