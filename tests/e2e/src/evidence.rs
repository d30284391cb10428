//! The stored values, read from etcd, and the objects, read through the API.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Result, bail};
use keyward_test_cluster::Cluster;

use crate::load::{Contents, Load};

/// How many values are stored with each prefix, by resource; and how many objects are unchanged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// Resource → prefix → number of values.
    pub stored: BTreeMap<String, BTreeMap<String, usize>>,
    /// The number of objects with unchanged content.
    pub unchanged: usize,
    /// The number of all objects.
    pub objects: usize,
}

impl Evidence {
    /// Fails unless every value of each resource has the prefix that `expected` returns for the resource, and
    /// every object is unchanged.
    pub fn expect(&self, expected: impl Fn(&str) -> String) -> Result<()> {
        for (resource, prefixes) in &self.stored {
            let expected = expected(resource);
            if prefixes.keys().any(|prefix| *prefix != expected) || prefixes.is_empty() {
                bail!("{resource}: expected every value under {expected}, found {prefixes:?}");
            }
        }
        if self.unchanged != self.objects {
            bail!("{} of {} objects have changed", self.objects - self.unchanged, self.objects);
        }
        Ok(())
    }
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (resource, prefixes) in &self.stored {
            let all: usize = prefixes.values().sum();
            for (prefix, count) in prefixes {
                writeln!(f, "  etcd: {resource}: {count} of {all} values {}", shown(prefix))?;
            }
        }
        write!(f, "  API:  {} of {} objects have unchanged content", self.unchanged, self.objects)
    }
}

fn shown(prefix: &str) -> String {
    if prefix == "plain" { "in plain text".to_owned() } else { format!("begin with {prefix}") }
}

/// Reads the evidence.
pub async fn evidence(cluster: &Cluster, load: &Load, before: &Contents) -> Result<Evidence> {
    let mut stored = BTreeMap::new();
    for resource in ["secrets", "configmaps"] {
        stored.insert(resource.to_owned(), cluster.etcd().count_by_prefix(resource).await?);
    }
    let now = load.contents().await?;
    let unchanged = before.iter().filter(|(name, hash)| now.get(*name) == Some(hash)).count();
    Ok(Evidence { stored, unchanged, objects: before.len() })
}
