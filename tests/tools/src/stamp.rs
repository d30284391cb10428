//! Shows whether an earlier build still matches its inputs.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

/// A digest of inputs, stored in a file beside the product.
#[derive(Debug)]
pub(crate) struct Stamp {
    path: PathBuf,
    digest: Vec<u8>,
}

impl Stamp {
    /// The stamp of the content of `files` and of further `facts` (versions, flags), to be stored at `path`.
    pub(crate) fn of<F: AsRef<Path>>(path: PathBuf, files: &[F], facts: &[&str]) -> Result<Self> {
        let mut hasher = Sha256::new();
        let mut add = |bytes: &[u8]| {
            hasher.update(bytes.len().to_le_bytes());
            hasher.update(bytes);
        };
        for file in files {
            let file = file.as_ref();
            add(&fs::read(file).with_context(|| format!("reading {}", file.display()))?);
        }
        for fact in facts {
            add(fact.as_bytes());
        }
        Ok(Self { path, digest: hasher.finalize().to_vec() })
    }

    /// Whether the last product had these inputs.
    pub(crate) fn is_current(&self) -> bool {
        fs::read(&self.path).is_ok_and(|kept| kept == self.digest)
    }

    /// Records that the product was built. Call it last: a stamp without its product would hide a failure.
    pub(crate) fn keep(&self) -> Result<()> {
        fs::write(&self.path, &self.digest).with_context(|| format!("writing {}", self.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changed_input_makes_a_stamp_outdated() {
        let folder = tempfile::tempdir().unwrap();
        let (kept, input) = (folder.path().join("stamp"), folder.path().join("input"));
        fs::write(&input, "a").unwrap();
        let stamp = |fact: &str| Stamp::of(kept.clone(), &[&input], &[fact]).unwrap();
        assert!(!stamp("1").is_current());
        stamp("1").keep().unwrap();
        assert!(stamp("1").is_current());
        assert!(!stamp("2").is_current());
        fs::write(&input, "b").unwrap();
        assert!(!stamp("1").is_current());
    }
}
