//! Writes files that exist whole or not at all.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown, symlink};
use std::path::Path;
use std::thread::Builder;

use rustix::fs::{Mode, OFlags};

use crate::error::AgentError;
use crate::settings::Owner;

/// The suffix of files that are being written. Kubelets and API servers ignore them, because their names
/// begin with a dot.
const UNFINISHED: &str = ".keyward-new";

/// Writes a file that only its owner can read. `owner` is its owner; if absent, the agent's user.
pub(crate) fn write(path: &Path, bytes: &[u8], owner: Option<Owner>) -> Result<(), AgentError> {
    replace(path, "writing", |fresh| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(fresh)?;
        file.write_all(bytes)?;
        give(&file, owner)?;
        file.sync_all()
    })
}

/// Writes several files of one folder like [`write()`], but waits for the disk only once for all files and
/// once for the folder. After a crash only some of the files may exist, so the caller records them last.
pub(super) fn write_all<'a>(
    folder: &Path,
    files: impl Iterator<Item = (&'a String, &'a [u8])>,
    owner: Option<Owner>,
) -> Result<(), AgentError> {
    let attempt = || -> io::Result<()> {
        let mut written = Vec::new();
        for (name, bytes) in files {
            let fresh = folder.join(format!(".{name}{UNFINISHED}"));
            gone(fs::remove_file(&fresh))?;
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
            file.write_all(bytes)?;
            give(&file, owner)?;
            written.push((file, fresh, folder.join(name)));
        }
        // The folder itself may be new.
        let parent = File::open(folder.parent().unwrap_or(folder))?;
        sync_together(written.iter().map(|(file, ..)| file).chain([&parent]))?;
        for (_, fresh, path) in &written {
            fs::rename(fresh, path)?;
        }
        sync_folder(folder)
    };
    attempt().map_err(AgentError::io("writing to", folder))
}

/// Syncs all files at the same time, which takes little longer than one.
fn sync_together<'a>(files: impl Iterator<Item = &'a File>) -> io::Result<()> {
    std::thread::scope(|scope| {
        let sync = |file: &'a File| Builder::new().spawn_scoped(scope, move || file.sync_all());
        let syncs: Vec<_> = files.map(sync).collect::<io::Result<_>>()?;
        syncs.into_iter().try_for_each(|sync| {
            sync.join().unwrap_or_else(|_| Err(io::Error::other("waiting for the disk panicked")))
        })
    })
}

/// Creates a link, or replaces one by a rename, so that the link exists at every moment.
pub(super) fn link(path: &Path, target: &str) -> Result<(), AgentError> {
    replace(path, "creating the link", |fresh| symlink(target, fresh))
}

fn replace(
    path: &Path,
    doing: &'static str,
    make: impl FnOnce(&Path) -> io::Result<()>,
) -> Result<(), AgentError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let folder = path.parent().unwrap_or(path);
    let fresh = folder.join(format!(".{name}{UNFINISHED}"));
    let attempt = || {
        gone(fs::remove_file(&fresh))?;
        make(&fresh)?;
        fs::rename(&fresh, path)?;
        sync_folder(folder)
    };
    attempt().map_err(AgentError::io(doing, path))
}

/// Removes a file or link, if it exists.
pub(super) fn remove(path: &Path) -> Result<(), AgentError> {
    removed(path, fs::remove_file(path))
}

/// Removes a folder and everything in it, if it exists.
pub(super) fn remove_folder(path: &Path) -> Result<(), AgentError> {
    removed(path, fs::remove_dir_all(path))
}

fn removed(path: &Path, result: io::Result<()>) -> Result<(), AgentError> {
    gone(result)
        // If the parent folder does not exist either, there is nothing to sync.
        .and_then(|()| path.parent().map_or(Ok(()), |folder| gone(sync_folder(folder))))
        .map_err(AgentError::io("removing", path))
}

/// Removes a folder if it is empty.
pub(super) fn remove_empty_folder(path: &Path) -> Result<(), AgentError> {
    match fs::remove_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
        other => gone(other).map_err(AgentError::io("removing", path)),
    }
}

/// Creates a folder that only the agent can enter, and its parent folders.
pub(crate) fn private_folder(path: &Path) -> Result<(), AgentError> {
    folder(path, 0o700, Lasting::Yes)
}

/// Whether a new folder is synced before anything depends on it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Lasting {
    Yes,
    /// A reboot removes the folder anyway and it is created again, so the agent does not wait for the disk.
    No,
}

/// Creates a folder that other users can pass through: a plugin's user has its own folders below it.
pub(super) fn passage(path: &Path, lasting: Lasting) -> Result<(), AgentError> {
    folder(path, 0o711, lasting)
}

/// Creates a folder that belongs to a plugin's user alone.
pub(super) fn owned_folder(path: &Path, owner: Owner, lasting: Lasting) -> Result<(), AgentError> {
    folder(path, 0o700, lasting)?;
    // A link in place of the folder is not followed.
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
        .map_err(io::Error::from)
        .and_then(|folder| give(&folder, Some(owner)))
        .map_err(AgentError::io("changing the owner of", path))
}

/// An existing folder keeps its mode: it may be the admin's.
fn folder(path: &Path, mode: u32, lasting: Lasting) -> Result<(), AgentError> {
    let make = || -> io::Result<()> {
        match DirBuilder::new().mode(mode).create(path) {
            Ok(()) => {
                // Independent of the umask.
                fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
                let parent = path.parent().filter(|_| lasting == Lasting::Yes);
                parent.map_or(Ok(()), sync_folder)
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(error),
        }
    };
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty() && !parent.exists()) {
        folder(parent, mode.max(0o711), lasting)?;
    }
    make().map_err(AgentError::io("creating", path))
}

/// Changes the owner of an open file, never by its name: the plugin's user could have replaced a file in its
/// folder.
fn give(what: &impl AsFd, owner: Option<Owner>) -> io::Result<()> {
    let Some(Owner { uid, gid }) = owner else { return Ok(()) };
    let own = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    if (uid, gid) == own { Ok(()) } else { fchown(what, Some(uid), Some(gid)) }
}

/// Opens a lock file.
pub(super) fn open_private(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// A file's bytes. `None` if there is no file.
pub(crate) fn read(path: &Path) -> Result<Option<Vec<u8>>, AgentError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) => Err(AgentError::io("reading", path)(error)),
    }
}

/// The sorted names in a folder. Empty if there is no folder. Names that are not UTF-8 are ignored.
pub(super) fn entries(path: &Path) -> Result<Vec<String>, AgentError> {
    let list = || -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(path)? {
            names.extend(entry?.file_name().into_string().ok());
        }
        names.sort_unstable();
        Ok(names)
    };
    match list() {
        Err(error) if is_absent(&error) => Ok(Vec::new()),
        other => other.map_err(AgentError::io("listing", path)),
    }
}

/// Removes the files of unfinished writes.
pub(super) fn remove_leftovers(folder: &Path) -> Result<(), AgentError> {
    for name in entries(folder)? {
        if name.starts_with('.') && name.ends_with(UNFINISHED) {
            remove(&folder.join(name))?;
        }
    }
    Ok(())
}

fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if is_absent(&error) => Ok(()),
        other => other,
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}
