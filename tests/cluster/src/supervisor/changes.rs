//! Wakes when a folder's files change, as a kubelet does that watches its manifests.

use std::path::Path;
use std::sync::Arc;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;
use tokio::sync::Notify;

/// Longer than any one event: a name has at most 255 bytes.
const BUFFER: usize = 4096;

/// Rung when something in the folder has changed. Where it cannot be watched it never is. The thread that waits ends
/// with the process.
pub(super) fn of(folder: &Path) -> Arc<Notify> {
    let bell = Arc::new(Notify::new());
    match watch(folder) {
        Ok(watched) => {
            let bell = Arc::clone(&bell);
            std::thread::spawn(move || {
                while happened(&watched) {
                    bell.notify_one();
                }
            });
        }
        Err(error) => {
            eprintln!("{} cannot be watched, and is looked at now and then: {error}", folder.display());
        }
    }
    bell
}

fn watch(folder: &Path) -> rustix::io::Result<std::os::fd::OwnedFd> {
    let fd = inotify::init(CreateFlags::CLOEXEC)?;
    // Whole files only: those that were renamed into it, or closed by whoever wrote them.
    let whole = WatchFlags::MOVED_TO | WatchFlags::MOVED_FROM | WatchFlags::CLOSE_WRITE | WatchFlags::DELETE;
    inotify::add_watch(&fd, folder, whole)?;
    Ok(fd)
}

/// Waits. What it was does not matter, since the folder is looked at anew.
fn happened(fd: &std::os::fd::OwnedFd) -> bool {
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
    async fn a_file_wakes_and_one_of_another_folder_does_not() {
        let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let changes = of(folder.path());
        let woken = || tokio::time::timeout(Duration::from_millis(500), changes.notified());
        std::fs::write(other.path().join("a"), "a").unwrap();
        assert!(woken().await.is_err());
        std::fs::rename(other.path().join("a"), folder.path().join("a")).unwrap();
        assert!(woken().await.is_ok());
        std::fs::remove_file(folder.path().join("a")).unwrap();
        assert!(woken().await.is_ok());
    }
}
