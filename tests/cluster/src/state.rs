//! The folder of a cluster or a server. It is removed with its owner unless it was named with `keep`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

const PREFIX: &str = "keyward-test-";
/// Locked while the harness runs.
const LOCK: &str = "lock";
/// A folder younger than this may not be locked yet.
const YOUNG: Duration = Duration::from_mins(1);

/// A folder with a short name: a unix socket's path has at most 108 bytes.
#[derive(Debug)]
pub(crate) struct StateDir {
    path: PathBuf,
    _lock: File,
    // The temporary folder; it is removed when this is dropped, after the processes that use it.
    _folder: Option<TempDir>,
}

impl StateDir {
    /// A temporary folder, or `keep`, which must be new or empty.
    pub(crate) fn new(keep: Option<&Path>) -> Result<Self> {
        sweep(&std::env::temp_dir());
        let (path, folder) = if let Some(path) = keep {
            fs::create_dir_all(path).with_context(|| format!("creating {}", path.display()))?;
            let empty = fs::read_dir(path)?.next().is_none();
            ensure!(empty, "{} is not empty; remove it or choose another folder", path.display());
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

/// Removes folders of killed harnesses: no process has their lock any more.
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
    fn only_folders_without_a_lock_are_swept() {
        let parent = tempfile::tempdir().unwrap();
        let old = SystemTime::now() - Duration::from_hours(1);
        let make = |name: &str, made: SystemTime| {
            let folder = parent.path().join(name);
            fs::create_dir(&folder).unwrap();
            let lock = File::create(folder.join(LOCK)).unwrap();
            lock.set_modified(made).unwrap();
            lock
        };
        let locked = make("keyward-test-locked", old);
        locked.try_lock().unwrap();
        for (name, made) in
            [("keyward-test-left", old), ("keyward-test-young", SystemTime::now()), ("other", old)]
        {
            make(name, made);
        }
        sweep(parent.path());
        let mut left: Vec<_> =
            fs::read_dir(parent.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["keyward-test-locked", "keyward-test-young", "other"]);
    }

    #[test]
    fn a_named_folder_stays_and_must_be_empty() {
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
