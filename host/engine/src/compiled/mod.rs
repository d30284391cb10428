//! The cache of compiled modules: a folder of this process's user (decision 0027). Its content is code, so it never
//! comes from an image or a registry, and a folder that another user can write to is not used.

mod precompiled;

use std::hash::{Hash, Hasher};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use sha2::{Digest, Sha256};
use wasmtime::Engine;
use wasmtime::component::Component;

use crate::error::EngineError;
use crate::text::hex;

/// First bytes of a cached file, with the version of its layout.
const MAGIC: &[u8] = b"keyward compiled module 1\n";
/// Bytes of the SHA-256 after them.
const DIGEST: usize = 32;
/// Modules kept; a new one replaces the oldest. Enough for a few provider types in a few versions.
const KEPT: usize = 32;
const SUFFIX: &str = ".compiled";

/// A file whose content is trusted as code: see [`precompiled`].
struct Trusted {
    file: Vec<u8>,
}

impl Trusted {
    /// The code, which follows magic and checksum.
    fn code(&self) -> &[u8] {
        self.file.get(MAGIC.len() + DIGEST..).unwrap_or_default()
    }
}

/// The folder, open.
#[derive(Debug)]
pub(crate) struct Cache {
    folder: OwnedFd,
    path: PathBuf,
}

impl Cache {
    /// Opens the folder, and creates it (0700) if it does not exist. Refuses a folder to which other users have access.
    pub(crate) fn open(path: &Path) -> Result<Self, EngineError> {
        let failed = |message: String| EngineError::Cache { path: path.to_owned(), message };
        let system = |error: Errno| failed(std::io::Error::from(error).to_string());
        match fs::mkdir(path, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(system(error)),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder = fs::open(path, flags, Mode::empty()).map_err(system)?;
        let stat = fs::fstat(&folder).map_err(system)?;
        is_private(&stat).map_err(failed)?;
        Ok(Self { folder, path: path.to_owned() })
    }

    /// The compiled form of the component with this digest (hexadecimal), if the cache has it and it is valid.
    pub(crate) fn get(&self, engine: &Engine, digest: &str) -> Option<Component> {
        let name = name(engine, digest);
        let bytes = match self.read(&name) {
            Ok(bytes) => bytes?,
            Err(reason) => {
                tracing::warn!(folder = %self.path.display(), file = name, reason, "compiled module is not used; it is compiled again");
                return None;
            }
        };
        precompiled::deserialize(engine, &bytes)
            .inspect_err(|error| {
                tracing::warn!(
                    file = name,
                    error = format!("{error:#}"),
                    "compiled module is not used; it is compiled again"
                );
            })
            .ok()
    }

    /// Stores the compiled form. After a failure the next start takes some milliseconds longer, so it is only logged.
    pub(crate) fn put(&self, engine: &Engine, digest: &str, component: &Component) {
        let name = name(engine, digest);
        let written = component.serialize().map_err(|error| format!("{error:#}")).and_then(|code| {
            self.write(&name, &code).map_err(|error| std::io::Error::from(error).to_string())
        });
        if let Err(reason) = written {
            tracing::warn!(folder = %self.path.display(), file = name, reason, "compiled module was not stored in the cache");
        }
        self.prune();
    }

    fn read(&self, name: &str) -> Result<Option<Trusted>, String> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = match fs::openat(&self.folder, name, flags, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(std::io::Error::from(error).to_string()),
        };
        let stat = fs::fstat(&file).map_err(|error| std::io::Error::from(error).to_string())?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err("it is not a regular file".to_owned());
        }
        is_private(&stat)?;
        let mut file = std::fs::File::from(file);
        let mut bytes = Vec::with_capacity(usize::try_from(stat.st_size).unwrap_or(0).saturating_add(1));
        file.read_to_end(&mut bytes).map_err(|error| error.to_string())?;
        let sound = bytes
            .strip_prefix(MAGIC)
            .and_then(|rest| rest.split_at_checked(DIGEST))
            .is_some_and(|(digest, code)| Sha256::digest(code).as_slice() == digest);
        if sound {
            Ok(Some(Trusted { file: bytes }))
        } else {
            Err("its content does not match its checksum".to_owned())
        }
    }

    fn write(&self, name: &str, code: &[u8]) -> Result<(), Errno> {
        let temporary = format!(".{name}.{}", std::process::id());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // A leftover file is from an ended process with the same process id.
        let _ = fs::unlinkat(&self.folder, &temporary, AtFlags::empty());
        let file = fs::openat(&self.folder, &temporary, flags, Mode::RUSR | Mode::WUSR)?;
        let digest = Sha256::digest(code);
        let written = [MAGIC, digest.as_slice(), code].into_iter().try_for_each(|mut rest| {
            while !rest.is_empty() {
                let count = rustix::io::write(&file, rest)?;
                rest = rest.get(count..).unwrap_or_default();
            }
            Ok(())
        });
        // Not flushed to disk: a file that a crash leaves incomplete does not match its checksum.
        let result = written.and_then(|()| fs::renameat(&self.folder, &temporary, &self.folder, name));
        if result.is_err() {
            let _ = fs::unlinkat(&self.folder, &temporary, AtFlags::empty());
        }
        result
    }

    /// Deletes the oldest files beyond those kept.
    fn prune(&self) {
        let Ok(entries) = Dir::read_from(&self.folder) else { return };
        let mut files: Vec<(i64, std::ffi::CString)> = entries
            .filter_map(Result::ok)
            .filter(|entry| entry.file_name().to_bytes().ends_with(SUFFIX.as_bytes()))
            .filter_map(|entry| {
                let name = entry.file_name().to_owned();
                let stat = fs::statat(&self.folder, &name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
                Some((stat.st_mtime, name))
            })
            .collect();
        files.sort_by(|a, b| b.cmp(a));
        for (_, name) in files.into_iter().skip(KEPT) {
            let _ = fs::unlinkat(&self.folder, &name, AtFlags::empty());
        }
    }
}

/// Checks that only this process's user has access to a file or folder.
fn is_private(stat: &Stat) -> Result<(), String> {
    let user = rustix::process::geteuid().as_raw();
    if stat.st_uid != user {
        return Err(format!("it belongs to user {}, not to {user}", stat.st_uid));
    }
    let others = stat.st_mode & 0o077;
    if others != 0 {
        return Err(format!(
            "other users have access to it (mode {:o}); remove the permissions of group and others",
            stat.st_mode & 0o7777
        ));
    }
    Ok(())
}

/// A file's name: the component's digest, and a hash of the engine's settings.
fn name(engine: &Engine, digest: &str) -> String {
    let mut hasher = Compatibility(Sha256::new());
    engine.precompile_compatibility_hash().hash(&mut hasher);
    format!("{digest}-{:016x}{SUFFIX}", hasher.finish())
}

/// SHA-256 as a [`Hasher`]: the standard hasher can change with each release of Rust.
struct Compatibility(Sha256);

impl Hasher for Compatibility {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        self.0.clone().finalize().iter().take(8).fold(0, |sum, byte| (sum << 8) | u64::from(*byte))
    }
}

/// The digest of a component's bytes, as hexadecimal digits.
pub(crate) fn digest(bytes: &[u8]) -> String {
    hex(Sha256::digest(bytes).as_slice())
}
