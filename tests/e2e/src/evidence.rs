//! What is stored, read from etcd, and what the API makes of it.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Result, bail};
use keyward_test_cluster::Cluster;

use crate::load::{Contents, Load};

/// How many values are stored under which prefix, by resource; and how many objects say what they said before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// Resource → prefix → values.
    pub stored: BTreeMap<String, BTreeMap<String, usize>>,
    /// Objects whose content is as it was.
    pub unchanged: usize,
    /// Objects in all.
    pub objects: usize,
}

impl Evidence {
    /// Fails unless every value of each resource has the prefix that `expected` gives for it, and every object says
    /// what it said.
    pub fn expect(&self, expected: impl Fn(&str) -> String) -> Result<()> {
        for (resource, prefixes) in &self.stored {
            let expected = expected(resource);
            if prefixes.keys().any(|prefix| *prefix != expected) || prefixes.is_empty() {
                bail!("{resource}: expected every value under {expected}, found {prefixes:?}");
            }
        }
        if self.unchanged != self.objects {
            bail!(
                "{} of {} objects say something else than before",
                self.objects - self.unchanged,
                self.objects
            );
        }
        Ok(())
    }
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (resource, prefixes) in &self.stored {
            let all: usize = prefixes.values().sum();
            for (prefix, count) in prefixes {
                writeln!(f, "  etcd: {resource}: {count} of {all} values {}", told(prefix))?;
            }
        }
        write!(f, "  API:  {} of {} objects say what they said before", self.unchanged, self.objects)
    }
}

fn told(prefix: &str) -> String {
    if prefix == "plain" { "in plain text".to_owned() } else { format!("begin with {prefix}") }
}

/// Looks.
pub async fn evidence(cluster: &Cluster, load: &Load, before: &Contents) -> Result<Evidence> {
    let mut stored = BTreeMap::new();
    for resource in ["secrets", "configmaps"] {
        stored.insert(resource.to_owned(), cluster.etcd().count_by_prefix(resource).await?);
    }
    let now = load.contents().await?;
    let unchanged = before.iter().filter(|(name, hash)| now.get(*name) == Some(hash)).count();
    Ok(Evidence { stored, unchanged, objects: before.len() })
}
