//! A watch of the folder that holds the configuration file: somebody who edits it by hand is noticed at once, and not only
//! when the agent looks again, by when the API server may have loaded it.

use std::io;
use std::mem::MaybeUninit;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;
use tokio::sync::Notify;

/// Until a folder that is not there is looked for again.
const PERIOD: Duration = Duration::from_secs(5);

/// Rings whenever a file in the folder changes, as long as the bell is there. The agent's own changes ring too: a look
/// costs little. On a thread of its own, which sleeps until something changes, for as long as the process lives.
pub(crate) fn watch(folder: PathBuf, bell: &Arc<Notify>) -> io::Result<()> {
    let bell = Arc::downgrade(bell);
    let run = move || {
        while bell.strong_count() > 0 {
            if let Err(error) = listen(&folder, &bell) {
                tracing::debug!(folder = %folder.display(), %error, "the folder cannot be watched; it is looked at all the same");
                std::thread::park_timeout(PERIOD);
            }
        }
    };
    std::thread::Builder::new().name("edits".to_owned()).spawn(run).map(drop)
}

/// Until the folder goes, or the bell.
fn listen(folder: &Path, bell: &Weak<Notify>) -> io::Result<()> {
    let fd = inotify::init(CreateFlags::CLOEXEC)?;
    let what = WatchFlags::CLOSE_WRITE | WatchFlags::MOVED_TO | WatchFlags::MOVED_FROM | WatchFlags::DELETE;
    inotify::add_watch(&fd, folder, what | WatchFlags::DELETE_SELF | WatchFlags::ONLYDIR)?;
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut changes = Reader::new(&fd, &mut buffer);
    loop {
        let change = match changes.next() {
            Ok(event) => event.events(),
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        };
        let Some(bell) = bell.upgrade() else { return Ok(()) };
        bell.notify_one();
        if change.intersects(ReadFlags::DELETE_SELF | ReadFlags::IGNORED) {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_edit_rings() {
        let folder = tempfile::tempdir().unwrap();
        let bell = Arc::new(Notify::new());
        watch(folder.path().to_owned(), &bell).unwrap();
        // The watch may begin after the first of them.
        let rung = async {
            loop {
                std::fs::write(folder.path().join("config.json"), b"{}").unwrap();
                if tokio::time::timeout(Duration::from_millis(50), bell.notified()).await.is_ok() {
                    return;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(20), rung).await.unwrap();
    }
}
