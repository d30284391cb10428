//! The unix socket: only the same user can connect to it, a stale socket is replaced, a socket in use is not.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use futures::{Stream, stream};
use tokio::net::{UnixListener, UnixStream};

/// A bound socket. Its file is removed when this is dropped, if it is still the same file.
pub(crate) struct Socket {
    path: PathBuf,
    /// Device and inode of the file: another instance may have replaced it.
    identity: (u64, u64),
}

impl Socket {
    /// Binds `path`. The process's umask makes the file's mode 0600 from its creation on.
    pub(crate) async fn bind(path: &Path) -> Result<(Self, UnixListener)> {
        match fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => {
                bail!("{} exists and is not a socket", path.display());
            }
            Ok(_) if UnixStream::connect(path).await.is_ok() => {
                bail!("listen unix {}: bind: address already in use", path.display());
            }
            Ok(_) => fs::remove_file(path).with_context(|| format!("removing stale {}", path.display()))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
        }
        let listener = UnixListener::bind(path).with_context(|| format!("listen unix {}", path.display()))?;
        let identity = identity(path).with_context(|| format!("reading {}", path.display()))?;
        Ok((Self { path: path.to_owned(), identity }, listener))
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|now| now == self.identity) {
            // Best effort; the next instance removes a stale socket.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let found = fs::symlink_metadata(path)?;
    Ok((found.dev(), found.ino()))
}

/// A stream of accepted connections.
pub(crate) fn connections(listener: UnixListener) -> impl Stream<Item = io::Result<UnixStream>> {
    stream::unfold(listener, |listener| async {
        let accepted = listener.accept().await.map(|(stream, _)| stream);
        Some((accepted, listener))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_the_own_socket_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kms.sock");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let (socket, _listener) = Socket::bind(&path).await.unwrap();
        UnixStream::connect(&path).await.unwrap();
        drop(socket);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_socket_in_use_or_another_file_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kms.sock");
        let _alive = UnixListener::bind(&path).unwrap();
        let error = Socket::bind(&path).await.err().unwrap();
        assert!(error.to_string().contains("address already in use"), "{error}");

        let file = folder.path().join("file");
        fs::write(&file, "precious").unwrap();
        assert!(Socket::bind(&file).await.is_err());
        assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
    }

    #[tokio::test]
    async fn a_successors_socket_is_not_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kms.sock");
        let (ours, _listener) = Socket::bind(&path).await.unwrap();
        // The successor's inode is created before the first one is freed, because numbers of freed inodes are
        // reused.
        let next = folder.path().join("next");
        let _theirs = UnixListener::bind(&next).unwrap();
        fs::rename(&next, &path).unwrap();
        drop(ours);
        assert!(path.exists());
    }
}
