//! `keyward provider test`: runs fixtures against a module. Each case prints one line, and a failed case its
//! difference.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use serde_json::Value;
use similar::{ChangeTag, TextDiff};

use super::fixtures::{File, Outcome, Runner};
use crate::output::print;

/// Arguments of `keyward provider test`.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Example:\n  keyward provider test target/providers/acme.wasm --fixtures providers/acme/fixtures"
)]
pub(super) struct Args {
    /// Path of the module
    module: PathBuf,
    /// Folder of the fixtures (*.yaml)
    #[arg(long, value_name = "DIR", default_value = "fixtures")]
    fixtures: PathBuf,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let engine = super::load(&args.module)?;
    // All files are read first: a fixture that cannot be parsed must fail the run.
    let files = read(&args.fixtures)?;
    let runner = Runner::new(&engine)?;
    let (mut passed, mut failed) = (0_usize, 0_usize);
    for file in &files {
        for case in &file.cases {
            match runner.run(case).with_context(|| format!("{}: {}", file.name, case.name))? {
                Outcome::AsExpected => {
                    passed += 1;
                    print(&format!("ok    {}: {}\n", file.name, case.name))?;
                }
                Outcome::Differs { expected, found } => {
                    failed += 1;
                    print(&format!("FAIL  {}: {}\n", file.name, case.name))?;
                    print(&difference(&expected, &found))?;
                }
            }
        }
    }
    print(&format!("{passed} passed, {failed} failed\n"))?;
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn read(folder: &std::path::Path) -> anyhow::Result<Vec<File>> {
    let entries = std::fs::read_dir(folder)
        .with_context(|| format!("cannot read the fixtures in {}", folder.display()))?;
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<PathBuf>>>()?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    paths.sort();
    if paths.is_empty() {
        bail!("there are no fixtures (*.yaml) in {}; give their folder with --fixtures", folder.display());
    }
    paths
        .iter()
        .map(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let text =
                std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
            File::read(name, &text).with_context(|| path.display().to_string())
        })
        .collect()
}

/// The expected value (-) and the found value (+), line by line.
fn difference(expected: &Value, found: &Value) -> String {
    let (expected, found) = (format!("{expected:#}\n"), format!("{found:#}\n"));
    let diff = TextDiff::from_lines(&expected, &found);
    let groups = diff.grouped_ops(3);
    let changes = groups.iter().flatten().flat_map(|op| diff.iter_changes(op)).map(|change| {
        let sign = match change.tag() {
            ChangeTag::Delete => '-',
            ChangeTag::Insert => '+',
            ChangeTag::Equal => ' ',
        };
        format!("      {sign} {}", change.value())
    });
    std::iter::once("      - expected, + found\n".to_owned()).chain(changes).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn difference_is_shown_line_by_line() {
        let text = difference(
            &json!({"effect": "in-place", "fields": []}),
            &json!({"effect": "new-key", "fields": []}),
        );
        assert_eq!(
            text,
            "      - expected, + found
        {
      -   \"effect\": \"in-place\",
      +   \"effect\": \"new-key\",
          \"fields\": []
        }
"
        );
    }
}
