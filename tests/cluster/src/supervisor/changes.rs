//! Notifies when a folder's files change, as a kubelet watches its manifests.

use std::path::Path;
use std::sync::Arc;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;
use tokio::sync::Notify;

/// Longer than any one event: a name has at most 255 bytes.
const BUFFER: usize = 4096;

/// Notifies when something in the folder has changed; never, if the folder cannot be watched. The thread that
/// waits ends with the process.
pub(super) fn of(folder: &Path) -> Arc<Notify> {
    let changes = Arc::new(Notify::new());
    match watch(folder) {
        Ok(watched) => {
            let changes = Arc::clone(&changes);
            std::thread::spawn(move || {
                while wait_for_event(&watched) {
                    changes.notify_one();
                }
            });
        }
        Err(error) => {
            eprintln!("{} cannot be watched, and is only polled: {error}", folder.display());
        }
    }
    changes
}

fn watch(folder: &Path) -> rustix::io::Result<std::os::fd::OwnedFd> {
    let fd = inotify::init(CreateFlags::CLOEXEC)?;
    // Complete files only: those that were renamed into the folder, or that their writer closed.
    let whole = WatchFlags::MOVED_TO | WatchFlags::MOVED_FROM | WatchFlags::CLOSE_WRITE | WatchFlags::DELETE;
    inotify::add_watch(&fd, folder, whole)?;
    Ok(fd)
}

/// Waits for an event. Its content does not matter, because the caller reads the whole folder again.
fn wait_for_event(fd: &std::os::fd::OwnedFd) -> bool {
    let mut buffer = [0; BUFFER];
    loop {
        match rustix::io::read(fd, &mut buffer) {
            Ok(_) => return true,
            Err(Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn only_changes_in_the_watched_folder_notify() {
        let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let changes = of(folder.path());
        let notified = || tokio::time::timeout(Duration::from_millis(500), changes.notified());
        std::fs::write(other.path().join("a"), "a").unwrap();
        assert!(notified().await.is_err());
        std::fs::rename(other.path().join("a"), folder.path().join("a")).unwrap();
        assert!(notified().await.is_ok());
        std::fs::remove_file(folder.path().join("a")).unwrap();
        assert!(notified().await.is_ok());
    }
}
