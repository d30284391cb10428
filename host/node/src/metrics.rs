//! Reads two of the API server's metrics (kubernetes: loaded-configuration-metric,
//! kubernetes: failed-reloads-metric).

use futures::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _};
use keyward_core::ids::ConfigHash;

/// Busy API servers have about ten megabytes of metrics.
const MOST_BYTES: u64 = 256 << 20;
const PREFIX: &str = "apiserver_encryption_config_controller_";
const LAST_CONFIG: &str = "last_config_info";
const RELOADS: &str = "automatic_reloads_total";

/// The API server's metrics of its encryption configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reading {
    /// The hash of the loaded file. `None` if the server runs without one.
    pub(crate) loaded: Option<ConfigHash>,
    /// `sha256:` and the hex digest of the name of the server's identity Lease.
    pub(crate) id_hash: Option<String>,
    /// Reloads that failed since the server started.
    pub(crate) failed_reloads: u64,
}

/// Reads the text line by line, so that it is never in memory as a whole.
pub(crate) async fn read(text: impl AsyncBufRead + Unpin) -> std::io::Result<Reading> {
    let mut lines = text.take(MOST_BYTES);
    let mut reading = Reading::default();
    let mut line = Vec::new();
    loop {
        line.clear();
        if lines.read_until(b'\n', &mut line).await? == 0 {
            return Ok(reading);
        }
        let Some(sample) = std::str::from_utf8(&line).ok().and_then(Sample::parse) else { continue };
        match sample.name {
            LAST_CONFIG => {
                reading.loaded = sample.label("hash").filter(|hash| !hash.is_empty()).map(ConfigHash);
                reading.id_hash = sample.label("apiserver_id_hash").filter(|hash| !hash.is_empty());
            }
            RELOADS if sample.label("status").as_deref() == Some("failure") => {
                reading.failed_reloads = reading.failed_reloads.saturating_add(sample.count());
            }
            _ => {}
        }
    }
}

/// One line `name{label="value",…} number`.
struct Sample<'a> {
    /// Without [`PREFIX`].
    name: &'a str,
    labels: &'a str,
    value: &'a str,
}

impl<'a> Sample<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let rest = line.strip_prefix(PREFIX)?;
        let (name, rest) = rest.split_once('{')?;
        let end = end_of_labels(rest)?;
        let (labels, rest) = rest.split_at_checked(end)?;
        let value = rest.strip_prefix('}')?.split_whitespace().next()?;
        Some(Self { name, labels, value })
    }

    fn label(&self, wanted: &str) -> Option<String> {
        let mut rest = self.labels;
        while let Some((name, after)) = rest.split_once("=\"") {
            let end = end_of_value(after)?;
            let (value, after) = after.split_at_checked(end)?;
            if name.trim_matches([',', ' ']) == wanted {
                return Some(unescape(value));
            }
            rest = after.strip_prefix('"')?;
        }
        None
    }

    /// Counters are written as floating-point numbers: `3`, `1e+06`.
    fn count(&self) -> u64 {
        match self.value.parse::<f64>() {
            // A count above the exact range of `f64` need not be exact.
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            Ok(value) if value > 0.0 => value as u64,
            _ => 0,
        }
    }
}

/// The position of the brace that ends the labels. A brace inside a value does not end them.
fn end_of_labels(text: &str) -> Option<usize> {
    let (mut quoted, mut escaped) = (false, false);
    text.char_indices().find_map(|(at, c)| {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => quoted = !quoted,
            '}' if !quoted => return Some(at),
            _ => {}
        }
        None
    })
}

fn end_of_value(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.char_indices().find_map(|(at, c)| {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return Some(at),
            _ => {}
        }
        None
    })
}

fn unescape(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('n') => text.push('\n'),
                Some(other) => text.push(other),
                None => {}
            },
            other => text.push(other),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn parsed(text: &str) -> Reading {
        futures::executor::block_on(read(futures::io::Cursor::new(text.as_bytes()))).unwrap()
    }

    #[test]
    fn the_two_metrics_are_found_among_others() {
        let text = r#"# HELP apiserver_encryption_config_controller_automatic_reloads_total [ALPHA] Total number of reloads.
# TYPE apiserver_encryption_config_controller_automatic_reloads_total counter
apiserver_encryption_config_controller_automatic_reload_last_timestamp_seconds{apiserver_id_hash="sha256:aa",status="failure"} 1.7e+09
apiserver_encryption_config_controller_automatic_reloads_total{apiserver_id_hash="sha256:aa",status="failure"} 3
apiserver_encryption_config_controller_automatic_reloads_total{apiserver_id_hash="sha256:aa",status="success"} 7
# TYPE apiserver_encryption_config_controller_last_config_info gauge
apiserver_encryption_config_controller_last_config_info{apiserver_id_hash="sha256:aa",hash="sha256:bb"} 1
apiserver_request_total{code="200"} 12
"#;
        let expected = Reading {
            loaded: Some(ConfigHash("sha256:bb".into())),
            id_hash: Some("sha256:aa".into()),
            failed_reloads: 3,
        };
        assert_eq!(parsed(text), expected);
        assert_eq!(parsed(text.trim_end()), expected, "without a newline at the end");
    }

    #[test]
    fn a_server_without_the_flag_has_loaded_nothing() {
        assert_eq!(parsed("apiserver_request_total{code=\"200\"} 12\n"), Reading::default());
        assert_eq!(parsed(""), Reading::default());
        let empty =
            "apiserver_encryption_config_controller_last_config_info{apiserver_id_hash=\"\",hash=\"\"} 1";
        assert_eq!(parsed(empty), Reading::default());
    }

    #[rstest]
    #[case::order(r#"{hash="h",apiserver_id_hash="i"} 1"#, Some("h"))]
    #[case::spaces(r#"{apiserver_id_hash="i", hash="h"}  1 1700000000"#, Some("h"))]
    #[case::like_names(r#"{other_hash="x",hash="h"} 1"#, Some("h"))]
    #[case::braces_and_quotes(r#"{apiserver_id_hash="}\"{",hash="a\\b\"}"} 1"#, Some(r#"a\b"}"#))]
    #[case::cut_short(r#"{apiserver_id_hash="i",hash="h"#, None)]
    #[case::no_value(r#"{hash="h"}"#, None)]
    #[case::no_labels(" 1", None)]
    fn labels_are_read_as_prometheus_writes_them(#[case] rest: &str, #[case] hash: Option<&str>) {
        let line = format!("apiserver_encryption_config_controller_last_config_info{rest}\n");
        assert_eq!(parsed(&line).loaded.map(|hash| hash.0).as_deref(), hash);
    }

    #[rstest]
    #[case("3", 3)]
    #[case("1e+06", 1_000_000)]
    #[case("NaN", 0)]
    #[case("-1", 0)]
    fn counters_are_numbers(#[case] value: &str, #[case] expected: u64) {
        let line = format!(
            "apiserver_encryption_config_controller_automatic_reloads_total{{status=\"failure\"}} {value}\n"
        );
        assert_eq!(parsed(&line).failed_reloads, expected);
    }
}
