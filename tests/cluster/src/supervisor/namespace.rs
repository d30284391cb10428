//! Mounts the node's own folders at paths that are the same on every node.
//!
//! If such a path exists on the host, the node's folder is bind-mounted over it. If not, creating it would
//! change the host. Then a tmpfs covers the deepest folder that exists. Every entry of that folder is
//! bind-mounted into the tmpfs, and the path is created there. All of this is inside the node's mount
//! namespace.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use rustix::mount::{MountFlags, mount, mount_bind, mount_bind_recursive};

use super::NodeConfig;

/// Sets the node's hostname and mounts its folders. Must run in UTS and mount namespaces of its own.
pub(crate) fn enter(config: &NodeConfig) -> Result<()> {
    rustix::system::sethostname(config.name.as_bytes()).context("setting the node's hostname")?;
    let mut covered = Vec::new();
    for path in &config.mounts {
        let source = config.on_host(path);
        fs::create_dir_all(&source).with_context(|| format!("creating {}", source.display()))?;
        // Opened first: covering a folder may hide its path.
        let source = File::open(&source).with_context(|| format!("opening {}", source.display()))?;
        let target = mount_point(path, &mut covered)?;
        mount_bind(through(&source), &target)
            .with_context(|| format!("mounting the node's {}", path.display()))?;
    }
    Ok(())
}

/// An existing folder at `path`, made without a change on the host.
fn mount_point(path: &Path, covered: &mut Vec<PathBuf>) -> Result<PathBuf> {
    ensure!(path.is_absolute(), "{} is not absolute", path.display());
    let existing = path.ancestors().find(|ancestor| ancestor.is_dir()).context("no root folder")?;
    let rest = path.strip_prefix(existing)?.to_owned();
    // /var/run is a symbolic link to /run almost everywhere.
    let existing = fs::canonicalize(existing).with_context(|| format!("resolving {}", existing.display()))?;
    if rest.as_os_str().is_empty() {
        return Ok(existing);
    }
    let ours = covered.iter().any(|folder| existing.starts_with(folder));
    if !ours {
        ensure!(existing != Path::new("/"), "the host has no folder to create {} in", path.display());
        cover(&existing)?;
        covered.push(existing.clone());
    }
    let target = existing.join(rest);
    fs::create_dir_all(&target).with_context(|| format!("creating {}", target.display()))?;
    Ok(target)
}

/// Mounts a tmpfs over `folder` that shows the same entries.
fn cover(folder: &Path) -> Result<()> {
    let original = File::open(folder).with_context(|| format!("opening {}", folder.display()))?;
    let mode = original.metadata()?.mode() & 0o7777;
    let entries: Vec<_> = fs::read_dir(folder)
        .and_then(Iterator::collect)
        .with_context(|| format!("reading {}", folder.display()))?;
    let options = std::ffi::CString::new(format!("mode={mode:o}"))?;
    mount("tmpfs", folder, "tmpfs", MountFlags::empty(), options.as_c_str())
        .with_context(|| format!("covering {}", folder.display()))?;
    for entry in entries {
        let (name, kind) = (entry.file_name(), entry.file_type()?);
        let (from, to) = (through(&original).join(&name), folder.join(&name));
        let put = || -> Result<()> {
            if kind.is_symlink() {
                symlink(fs::read_link(&from)?, &to)?;
            } else if kind.is_dir() {
                fs::create_dir(&to)?;
                mount_bind_recursive(&from, &to)?;
            } else {
                File::create(&to)?;
                mount_bind(&from, &to)?;
            }
            Ok(())
        };
        put().with_context(|| format!("keeping {} in place", to.display()))?;
    }
    Ok(())
}

/// A path to an open folder that stays valid when something is mounted over its name.
fn through(folder: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd()))
}
