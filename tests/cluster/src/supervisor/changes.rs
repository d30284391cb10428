//! Wakes when a folder's files change, as a kubelet does that watches its manifests.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;

/// Longer than any one event: a name has at most 255 bytes.
const BUFFER: usize = 4096;

/// What happens in one folder. Where it cannot be watched, nobody is ever woken.
pub(super) struct Changes(Option<AsyncFd<OwnedFd>>);

impl Changes {
    pub(super) fn of(folder: &Path) -> Self {
        Self(match watch(folder) {
            Ok(watched) => Some(watched),
            Err(error) => {
                eprintln!("{} cannot be watched, and is looked at now and then: {error}", folder.display());
                None
            }
        })
    }

    /// Returns when something has changed since the last time. May be dropped at any time.
    pub(super) async fn next(&self) {
        let Some(watched) = &self.0 else { return std::future::pending().await };
        loop {
            match watched.readable().await {
                Ok(mut ready) => match ready.try_io(|fd| Ok(drain(fd.get_ref())?)) {
                    Ok(Ok(())) => return,
                    Ok(Err(_)) => return std::future::pending().await,
                    // It was not readable after all.
                    Err(_) => {}
                },
                Err(_) => return std::future::pending().await,
            }
        }
    }
}

fn watch(folder: &Path) -> std::io::Result<AsyncFd<OwnedFd>> {
    let fd = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
    // Whole files only: those that were renamed into it, or closed by whoever wrote them.
    let whole = WatchFlags::MOVED_TO | WatchFlags::MOVED_FROM | WatchFlags::CLOSE_WRITE | WatchFlags::DELETE;
    inotify::add_watch(&fd, folder, whole)?;
    AsyncFd::new(fd)
}

/// Takes what is there; what it was does not matter, since the folder is looked at anew.
fn drain(fd: &OwnedFd) -> rustix::io::Result<()> {
    let mut buffer = [0; BUFFER];
    let mut seen = false;
    loop {
        match rustix::io::read(fd, &mut buffer) {
            Ok(_) => seen = true,
            Err(Errno::WOULDBLOCK) if seen => return Ok(()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_file_wakes_once_and_its_temporary_form_of_another_folder_does_not() {
        let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let changes = Changes::of(folder.path());
        let woken = || tokio::time::timeout(Duration::from_millis(200), changes.next());
        std::fs::write(other.path().join("a"), "a").unwrap();
        assert!(woken().await.is_err());
        std::fs::rename(other.path().join("a"), folder.path().join("a")).unwrap();
        assert!(woken().await.is_ok());
        assert!(woken().await.is_err(), "once");
        std::fs::remove_file(folder.path().join("a")).unwrap();
        assert!(woken().await.is_ok());
    }
}
