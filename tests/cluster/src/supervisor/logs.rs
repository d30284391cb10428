//! Container logs in the CRI format, which kubelets and log collectors read:
//! `2026-01-02T03:04:05.000000000Z stdout F text`, with `P` for a part of a line.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use jiff::Timestamp;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};

/// Longer lines are written in parts.
const LONGEST: u64 = 16 * 1024;

/// One instance's log file: `FOLDER/CONTAINER/RESTARTS.log`.
#[derive(Clone)]
pub(crate) struct Log(Arc<Mutex<File>>);

impl Log {
    pub(crate) fn create(folder: &Path, container: &str, restarts: u32) -> Result<Self> {
        let folder = folder.join(container);
        fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
        let path = folder.join(format!("{restarts}.log"));
        let file = File::options().create(true).append(true).open(&path);
        Ok(Self(Arc::new(Mutex::new(file.with_context(|| format!("creating {}", path.display()))?))))
    }

    /// Copies a process's stream until it ends.
    pub(crate) async fn copy(self, name: &'static str, stream: impl AsyncRead + Unpin) {
        let mut stream = BufReader::new(stream);
        let mut line = Vec::new();
        loop {
            line.clear();
            match (&mut stream).take(LONGEST).read_until(b'\n', &mut line).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
            let mut file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            // A full disk must not stop the container.
            let _ = file.write_all(&formatted(Timestamp::now(), name, &line));
        }
    }
}

fn formatted(at: Timestamp, stream: &str, line: &[u8]) -> Vec<u8> {
    let (tag, text) = line.strip_suffix(b"\n").map_or(("P", line), |text| ("F", text));
    let mut out = format!("{at:.9} {stream} {tag} ").into_bytes();
    out.extend_from_slice(text);
    out.push(b'\n');
    out
}

/// The logs of all instances of a container in order, without the prefix.
pub(crate) fn read(folder: &Path, container: &str) -> Result<String> {
    let mut files: Vec<(u32, PathBuf)> = Vec::new();
    let folder = folder.join(container);
    for entry in fs::read_dir(&folder).with_context(|| format!("no logs in {}", folder.display()))? {
        let path = entry?.path();
        let number = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok());
        files.extend(number.map(|number| (number, path)));
    }
    files.sort();
    let mut text = String::new();
    for (_, path) in files {
        let log = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        for line in String::from_utf8_lossy(&log).lines() {
            let mut parts = line.splitn(4, ' ').skip(2);
            let (tag, line) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
            text.push_str(line);
            if tag != "P" {
                text.push('\n');
            }
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_time_stream_and_whether_it_is_complete() {
        let at: Timestamp = "2026-01-02T03:04:05.000000006Z".parse().unwrap();
        assert_eq!(formatted(at, "stderr", b"hello\n"), b"2026-01-02T03:04:05.000000006Z stderr F hello\n");
        assert_eq!(formatted(at, "stdout", b"no end"), b"2026-01-02T03:04:05.000000006Z stdout P no end\n");
    }

    #[tokio::test]
    async fn logs_are_read_instance_after_instance() {
        let folder = tempfile::tempdir().unwrap();
        let long = "x".repeat(20_000);
        let logs = [(0, "first\n".to_owned()), (10, format!("{long}\nlast")), (2, "second\n".to_owned())];
        for (restarts, text) in &logs {
            let file = Log::create(folder.path(), "main", *restarts).unwrap();
            file.copy("stdout", text.as_bytes()).await;
        }
        assert_eq!(read(folder.path(), "main").unwrap(), format!("first\nsecond\n{long}\nlast"));
        assert!(read(folder.path(), "other").unwrap_err().to_string().contains("no logs"));
    }
}
