//! The folder in which a cluster or a server keeps everything, gone with it unless it is to be kept.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

const PREFIX: &str = "keyward-test-";
/// Locked as long as the harness lives.
const LOCK: &str = "lock";
/// A folder younger than this may not be locked yet.
const YOUNG: Duration = Duration::from_mins(1);

/// A folder of its own, named shortly: paths of unix sockets end at 108 bytes.
#[derive(Debug)]
pub(crate) struct StateDir {
    path: PathBuf,
    _lock: File,
    // Removed when this is dropped, after all that runs in it.
    _folder: Option<TempDir>,
}

impl StateDir {
    /// A temporary folder, or `keep`, which must be new or empty.
    pub(crate) fn new(keep: Option<&Path>) -> Result<Self> {
        sweep(&std::env::temp_dir());
        let (path, folder) = if let Some(path) = keep {
            fs::create_dir_all(path).with_context(|| format!("creating {}", path.display()))?;
            let empty = fs::read_dir(path)?.next().is_none();
            ensure!(empty, "{} is not empty; remove it or name another folder", path.display());
            (std::path::absolute(path)?, None)
        } else {
            let folder =
                tempfile::Builder::new().prefix(PREFIX).tempdir().context("making a temporary folder")?;
            (folder.path().to_owned(), Some(folder))
        };
        let lock = File::create(path.join(LOCK)).context("making the lock of a state folder")?;
        lock.try_lock().context("locking a state folder")?;
        Ok(Self { path, _lock: lock, _folder: folder })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A file for a process's output.
    pub(crate) fn output(&self, name: &str) -> Result<(PathBuf, File)> {
        let path = self.path.join(name);
        let file = File::options().create(true).append(true).open(&path);
        Ok((path.clone(), file.with_context(|| format!("creating {}", path.display()))?))
    }
}

/// Removes folders of harnesses that were killed: nobody holds their lock any more.
fn sweep(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        let Ok(lock) = File::open(entry.path().join(LOCK)) else { continue };
        let made = lock.metadata().and_then(|metadata| metadata.modified());
        let age = made.ok().and_then(|made| SystemTime::now().duration_since(made).ok());
        if age.is_some_and(|age| age > YOUNG) && lock.try_lock().is_ok() {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_folders_that_nobody_holds_are_swept() {
        let parent = tempfile::tempdir().unwrap();
        let old = SystemTime::now() - Duration::from_hours(1);
        let make = |name: &str, made: SystemTime| {
            let folder = parent.path().join(name);
            fs::create_dir(&folder).unwrap();
            let lock = File::create(folder.join(LOCK)).unwrap();
            lock.set_modified(made).unwrap();
            lock
        };
        let held = make("keyward-test-held", old);
        held.try_lock().unwrap();
        for (name, made) in
            [("keyward-test-left", old), ("keyward-test-young", SystemTime::now()), ("other", old)]
        {
            make(name, made);
        }
        sweep(parent.path());
        let mut left: Vec<_> =
            fs::read_dir(parent.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["keyward-test-held", "keyward-test-young", "other"]);
    }

    #[test]
    fn a_folder_to_keep_stays_and_must_be_empty() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("kept");
        drop(StateDir::new(Some(&path)).unwrap());
        assert!(path.is_dir());
        assert!(StateDir::new(Some(&path)).unwrap_err().to_string().contains("not empty"));
        let temporary = StateDir::new(None).unwrap();
        let path = temporary.path().to_owned();
        drop(temporary);
        assert!(!path.exists());
    }
}
