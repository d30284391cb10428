//! The image map: which local binary runs for which image.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// The image references that an entry matches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Match {
    /// Only this reference, with its tag or digest.
    Exact(String),
    /// A repository with any tag or digest, and every repository below it.
    Repository(String),
}

/// A local binary that runs for images.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    matches: Match,
    binary: PathBuf,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    env: BTreeMap<String, String>,
}

impl Image {
    /// Every image of this repository, with any tag or digest.
    pub fn repository(repository: impl Into<String>, binary: impl Into<PathBuf>) -> Self {
        Self::new(Match::Repository(repository.into()), binary.into())
    }

    /// The image of exactly this reference. It has precedence over a repository's entry.
    pub fn exact(reference: impl Into<String>, binary: impl Into<PathBuf>) -> Self {
        Self::new(Match::Exact(reference.into()), binary.into())
    }

    fn new(matches: Match, binary: PathBuf) -> Self {
        Self { matches, binary, args: Vec::new(), env: BTreeMap::new() }
    }

    /// Arguments before the container's own: a subcommand, for a binary with several programs.
    #[must_use]
    pub fn args<S: Into<String>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// A variable of the image; a container's variable of that name has precedence.
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.insert(name.into(), value.into());
        self
    }

    pub(crate) fn binary(&self) -> &Path {
        &self.binary
    }

    pub(crate) fn first_args(&self) -> &[String] {
        &self.args
    }

    pub(crate) fn variables(&self) -> &BTreeMap<String, String> {
        &self.env
    }

    /// How well it matches: longer is better, exact is best.
    fn fit(&self, reference: &str) -> Option<usize> {
        match &self.matches {
            Match::Exact(exact) => (exact == reference).then_some(usize::MAX),
            Match::Repository(repository) => {
                let rest = reference.strip_prefix(repository.as_str())?;
                (rest.is_empty() || rest.starts_with([':', '@', '/'])).then_some(repository.len())
            }
        }
    }
}

/// The entry for a reference. Of equally good ones the last, so that a test can replace an entry by adding
/// one.
pub(crate) fn find<'a>(images: &'a [Image], reference: &str) -> Option<&'a Image> {
    images
        .iter()
        .filter_map(|image| Some((image.fit(reference)?, image)))
        .max_by_key(|(fit, _)| *fit)
        .map(|(_, image)| image)
}

/// Reads the map. Each start of a container reads it, so that a test can change it.
pub(crate) fn read(path: &Path) -> Result<Vec<Image>> {
    let bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    serde_json::from_slice(&bytes).with_context(|| format!("{} is not an image map", path.display()))
}

pub(crate) fn write(path: &Path, images: &[Image]) -> Result<()> {
    let bytes = serde_json::to_vec_pretty(images).context("images as JSON")?;
    crate::files::replace(path, &bytes, 0o644)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(images: &[Image], reference: &str) -> Option<String> {
        find(images, reference).map(|image| image.binary().display().to_string())
    }

    #[test]
    fn the_most_specific_entry_wins() {
        let images = [
            Image::exact("example.com/a/b@sha256:1", "/exact"),
            Image::repository("example.com/a", "/short"),
            Image::repository("example.com/a/b", "/long"),
        ];
        for (reference, expected) in [
            ("example.com/a/b@sha256:1", Some("/exact")),
            ("example.com/a/b@sha256:2", Some("/long")),
            ("example.com/a/b:v1", Some("/long")),
            ("example.com/a/bc", Some("/short")),
            ("example.com/a", Some("/short")),
            ("example.com/abc:v1", None),
        ] {
            assert_eq!(found(&images, reference).as_deref(), expected, "{reference}");
        }
    }

    #[test]
    fn a_later_entry_replaces_an_earlier_one() {
        let images = [Image::repository("example.com/a", "/old"), Image::repository("example.com/a", "/new")];
        assert_eq!(found(&images, "example.com/a:1").as_deref(), Some("/new"));
    }
}
