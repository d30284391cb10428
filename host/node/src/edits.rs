//! A watch of the configuration file, and of plugins' manifests, by their folders: somebody who edits one by hand is noticed
//! at once, and not only when the agent looks again, by when the API server may have loaded it.

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

/// Until a folder that is not there is looked for again.
const PERIOD: Duration = Duration::from_secs(5);

/// Rings whenever a file of the folder changes by whose name it is `watched`, as long as the bell is there. The agent's own
/// changes ring too: a look costs little. What is written beside it does not, or a write that fails, on a full disk say, would
/// call for the next at once. On a thread of its own, which sleeps until something changes, for as long as the process lives.
pub(crate) fn watch(
    folder: PathBuf,
    watched: impl Fn(&OsStr) -> bool + Send + 'static,
    bell: &Arc<Notify>,
) -> io::Result<()> {
    let bell = Arc::downgrade(bell);
    let run = move || {
        while bell.strong_count() > 0 {
            if let Err(error) = listen(&folder, &watched, &bell) {
                tracing::debug!(folder = %folder.display(), %error, "the folder cannot be watched; it is looked at all the same");
                std::thread::park_timeout(PERIOD);
            }
        }
    };
    std::thread::Builder::new().name("edits".to_owned()).spawn(run).map(drop)
}

/// Until the folder goes, or the bell.
fn listen(folder: &Path, watched: &impl Fn(&OsStr) -> bool, bell: &Weak<Notify>) -> io::Result<()> {
    let fd = inotify::init(CreateFlags::CLOEXEC)?;
    // A folder, a pipe or a link is created, and never written and closed.
    let what = WatchFlags::CLOSE_WRITE
        | WatchFlags::CREATE
        | WatchFlags::MOVED_TO
        | WatchFlags::MOVED_FROM
        | WatchFlags::DELETE;
    let gone = WatchFlags::DELETE_SELF | WatchFlags::MOVE_SELF;
    inotify::add_watch(&fd, folder, what | gone | WatchFlags::ONLYDIR)?;
    // What changed while there was no watch.
    if let Some(bell) = bell.upgrade() {
        bell.notify_one();
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
        let Some(bell) = bell.upgrade() else { return Ok(()) };
        if other {
            continue;
        }
        bell.notify_one();
        if change.intersects(ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF | ReadFlags::IGNORED) {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_edit_rings_and_what_is_written_beside_it_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str| std::fs::write(folder.path().join(name), b"{}").unwrap();
        let bell = Arc::new(Notify::new());
        watch(folder.path().to_owned(), |name| name == "config.json", &bell).unwrap();
        // The watch may begin after the first of them.
        let rung = async {
            loop {
                write("config.json");
                if tokio::time::timeout(Duration::from_millis(50), bell.notified()).await.is_ok() {
                    return;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(20), rung).await.unwrap();
        // Changes come in their order: once the last is known, so are those before it.
        while tokio::time::timeout(Duration::from_millis(50), bell.notified()).await.is_ok() {}
        write(".config.json.1");
        let early = tokio::time::timeout(Duration::from_millis(200), bell.notified()).await;
        assert!(early.is_err(), "it rang for a temporary file");
        write("config.json");
        tokio::time::timeout(Duration::from_secs(20), bell.notified()).await.unwrap();
    }
}
