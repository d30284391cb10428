//! Files that are there whole or not at all.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown, symlink};
use std::path::Path;
use std::thread::Builder;

use rustix::fs::{Mode, OFlags};

use crate::error::AgentError;
use crate::settings::Owner;

/// Ends the names of files that are being written; the dot before them keeps kubelets and API servers away.
const UNFINISHED: &str = ".keyward-new";

/// Writes a file that its owner alone may read. `owner` is who it is given to; the agent keeps it where that is absent.
pub(crate) fn write(path: &Path, bytes: &[u8], owner: Option<Owner>) -> Result<(), AgentError> {
    replace(path, "writing", |fresh| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(fresh)?;
        file.write_all(bytes)?;
        give(&file, owner)?;
        file.sync_all()
    })
}

/// Writes files of one folder, as [`write()`] does each: what is slow about it, waiting for the disk, is done for all of
/// them at a time, and once for the folder. A crash leaves some and not others; whoever calls records last what is there.
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

/// The disk is told of all at once, and so takes little longer than for one.
fn sync_together<'a>(files: impl Iterator<Item = &'a File>) -> io::Result<()> {
    std::thread::scope(|scope| {
        let sync = |file: &'a File| Builder::new().spawn_scoped(scope, move || file.sync_all());
        let syncs: Vec<_> = files.map(sync).collect::<io::Result<_>>()?;
        syncs.into_iter().try_for_each(|sync| {
            sync.join().unwrap_or_else(|_| Err(io::Error::other("waiting for the disk panicked")))
        })
    })
}

/// Makes a link, or renames a new one over an old one: nobody ever finds none.
pub(super) fn link(path: &Path, target: &str) -> Result<(), AgentError> {
    replace(path, "linking", |fresh| symlink(target, fresh))
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

/// Removes a file or link. That there is none is fine.
pub(super) fn remove(path: &Path) -> Result<(), AgentError> {
    removed(path, fs::remove_file(path))
}

/// Removes a folder and all in it. That there is none is fine.
pub(super) fn remove_folder(path: &Path) -> Result<(), AgentError> {
    removed(path, fs::remove_dir_all(path))
}

fn removed(path: &Path, result: io::Result<()>) -> Result<(), AgentError> {
    gone(result)
        // The folder above may be gone too; then so is what was in it.
        .and_then(|()| path.parent().map_or(Ok(()), |folder| gone(sync_folder(folder))))
        .map_err(AgentError::io("removing", path))
}

/// Removes a folder that holds nothing; one that holds something stays.
pub(super) fn remove_empty_folder(path: &Path) -> Result<(), AgentError> {
    match fs::remove_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
        other => gone(other).map_err(AgentError::io("removing", path)),
    }
}

/// A folder that the agent alone may enter, and the folders above it.
pub(crate) fn private_folder(path: &Path) -> Result<(), AgentError> {
    folder(path, 0o700, Lasting::Yes)
}

/// Whether a new folder is on disk before anything is built on it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Lasting {
    Yes,
    /// What a reboot takes away anyway is made anew where it is missing, and not worth waiting for the disk.
    No,
}

/// A folder that others may pass through, for a plugin's user has folders of its own below it.
pub(super) fn passage(path: &Path, lasting: Lasting) -> Result<(), AgentError> {
    folder(path, 0o711, lasting)
}

/// A folder that belongs to a plugin's user alone.
pub(super) fn owned_folder(path: &Path, owner: Owner, lasting: Lasting) -> Result<(), AgentError> {
    folder(path, 0o700, lasting)?;
    // A link that somebody put there instead is not followed.
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
        .map_err(io::Error::from)
        .and_then(|folder| give(&folder, Some(owner)))
        .map_err(AgentError::io("giving away", path))
}

/// An existing folder keeps its mode: it may be the admin's.
fn folder(path: &Path, mode: u32, lasting: Lasting) -> Result<(), AgentError> {
    let make = || -> io::Result<()> {
        match DirBuilder::new().mode(mode).create(path) {
            Ok(()) => {
                // Whatever the umask is.
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
    make().map_err(AgentError::io("making", path))
}

/// By what is open, never by name: what lies in a folder of the plugin's user may be another file by now.
fn give(what: &impl AsFd, owner: Option<Owner>) -> io::Result<()> {
    let Some(Owner { uid, gid }) = owner else { return Ok(()) };
    let own = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    if (uid, gid) == own { Ok(()) } else { fchown(what, Some(uid), Some(gid)) }
}

/// A file for a lock.
pub(super) fn open_private(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// A file's bytes; `None` where there is none.
pub(crate) fn read(path: &Path) -> Result<Option<Vec<u8>>, AgentError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) => Err(AgentError::io("reading", path)(error)),
    }
}

/// The names in a folder, sorted; none where there is no folder. Names that are no UTF-8 are nobody's here.
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

/// Removes what a write left that was never finished.
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
