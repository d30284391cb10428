//! Reads the end of a container's log, which the kubelet stores as lines of `{time} {stream} {F|P} {text}`.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use keyward_core::node::Scrubber;

const LINES: usize = 20;
/// This many of them are the first of the run: a program that is called with wrong flags reports the mistake
/// before it lists its flags, and Go prints a stack below a panic.
const FIRST: usize = 5;
const LONGEST_LINE: usize = 512;
/// Several times the space of [`LINES`] lines of [`LONGEST_LINE`].
const TAIL: u64 = 64 << 10;

/// The log lines of the newest run of a pod's container, without secrets. Empty if there is no log.
pub(crate) fn tail(logs: &Path, pod: &str, node: &str, container: &str, scrubber: &Scrubber) -> Vec<String> {
    let Some(file) = newest(logs, &format!("kube-system_{pod}-{node}_"), container) else {
        return Vec::new();
    };
    excerpt(&end(&file).unwrap_or_default(), scrubber)
}

/// The first few lines of a log and its last lines, without secrets.
pub(crate) fn excerpt(log: &str, scrubber: &Scrubber) -> Vec<String> {
    let lines = messages(log);
    let left_out = lines.len().saturating_sub(LINES);
    let shown = lines.iter().enumerate().filter(|(at, _)| *at < FIRST || *at >= FIRST + left_out);
    shown.map(|(_, line)| cut(&scrubber.clean(line))).collect()
}

/// The log of the newest run that is not empty.
fn newest(logs: &Path, prefix: &str, container: &str) -> Option<PathBuf> {
    let pods = fs::read_dir(logs).ok()?.flatten();
    let pods = pods.filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix));
    pods.filter_map(|entry| fs::read_dir(entry.path().join(container)).ok())
        .flat_map(Iterator::flatten)
        .filter(|entry| entry.path().extension().is_some_and(|extension| extension == "log"))
        .filter_map(|entry| {
            let metadata = fs::metadata(entry.path()).ok().filter(|metadata| metadata.len() > 0)?;
            Some((metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH), entry.path()))
        })
        .max()
        .map(|(_, path)| path)
}

/// The number of restarts of a pod's container, from the name of its newest log.
pub(crate) fn restarts(logs: &Path, pod: &str, node: &str, container: &str) -> u32 {
    let prefix = format!("kube-system_{pod}-{node}_");
    let pods = fs::read_dir(logs).into_iter().flatten().flatten();
    let pods = pods.filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix));
    pods.filter_map(|entry| fs::read_dir(entry.path().join(container)).ok())
        .flat_map(Iterator::flatten)
        .filter_map(|entry| entry.path().file_stem()?.to_str()?.parse().ok())
        .max()
        .unwrap_or_default()
}

fn end(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
    let mut bytes = Vec::new();
    file.take(TAIL).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    // The first line is incomplete if the file is longer.
    let whole =
        if length > TAIL { text.split_once('\n').map_or("", |(_, rest)| rest).to_owned() } else { text };
    Ok(whole)
}

/// The text of each line. Partial lines are joined.
fn messages(log: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut unfinished = String::new();
    for line in log.lines() {
        let mut fields = line.splitn(4, ' ');
        let (Some(_), Some(_), Some(tag), text) =
            (fields.next(), fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        unfinished.push_str(text.unwrap_or_default());
        if tag != "P" {
            lines.push(std::mem::take(&mut unfinished));
        }
    }
    lines.extend(Some(unfinished).filter(|rest| !rest.is_empty()));
    lines.retain(|line| !line.trim().is_empty());
    lines
}

fn cut(line: &str) -> String {
    let line: String = line.chars().filter(|c| !c.is_control() || *c == '\t').collect();
    line.get(..line.floor_char_boundary(LONGEST_LINE)).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use keyward_core::SecretBytes;
    use keyward_core::formats::revision::PluginRecord;
    use keyward_core::provider::{KeyRef, ReferenceKind};

    use super::*;

    #[test]
    fn partial_lines_are_joined_and_invalid_or_empty_lines_left_out() {
        let log = "2026-01-01T00:00:00Z stdout F one\n2026-01-01T00:00:00Z stderr P two \n2026-01-01T00:00:00Z stderr F halves\nnot a line\n2026-01-01T00:00:00Z stdout F \n";
        assert_eq!(messages(log), ["one", "two halves"]);
    }

    #[test]
    fn the_error_above_a_long_usage_is_shown() {
        let line = |text: &str| format!("2026-01-01T00:00:00Z stderr F {text}\n");
        let usage: String = (0..40).map(|n| line(&format!("  -flag-{n}"))).collect();
        let lines = excerpt(&(line("flag provided but not defined: -new") + &usage), &Scrubber::default());
        assert_eq!(lines.len(), LINES);
        assert_eq!(lines[0], "flag provided but not defined: -new");
        assert_eq!((lines[4].as_str(), lines[5].as_str()), ("  -flag-3", "  -flag-25"));
        assert_eq!(lines.last().map(String::as_str), Some("  -flag-39"));
    }

    #[test]
    fn the_log_of_the_newest_run_is_shown_without_secrets() {
        let folder = tempfile::tempdir().unwrap();
        let container = folder.path().join("kube-system_keyward-kms-1-01234567-cp-1_uid").join("kms-plugin");
        fs::create_dir_all(&container).unwrap();
        fs::write(container.join("0.log"), "2026-01-01T00:00:00Z stdout F older\n").unwrap();
        let mut log = "2026-01-01T00:00:00Z stdout F line\n".repeat(40);
        log.push_str("2026-01-01T00:00:00Z stderr F login with s3cr3t-id failed \u{1b}[0m\n");
        fs::write(container.join("1.log"), log).unwrap();
        let newer = SystemTime::now() + std::time::Duration::from_secs(5);
        File::options().write(true).open(container.join("1.log")).unwrap().set_modified(newer).unwrap();
        fs::write(container.join("2.log"), "").unwrap();

        let source = KeyRef { kind: ReferenceKind::Secret, name: "login".into(), key: "id".into() };
        let record = PluginRecord {
            kms: serde_json::json!({}),
            referenced: [(source, SecretBytes::new(b"s3cr3t-id".to_vec()))].into(),
            accepted: None,
            salt: None,
        };
        let scrubber = Scrubber::new([&record]);
        let lines = tail(folder.path(), "keyward-kms-1-01234567", "cp-1", "kms-plugin", &scrubber);
        assert_eq!(lines.len(), LINES);
        assert_eq!(lines.last().map(String::as_str), Some("login with *** failed [0m"));
        assert_eq!(tail(folder.path(), "keyward-kms-9-01234567", "cp-1", "kms-plugin", &scrubber), [""; 0]);
    }
}
