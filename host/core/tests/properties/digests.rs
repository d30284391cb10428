//! Two digests are equal for the same bytes and for nothing else (objects: digest).

use std::collections::{BTreeMap, BTreeSet};

use keyward_core::SecretBytes;
use keyward_core::formats::digest::digest;
use keyward_core::ids::KeyId;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use crate::any;

type Entries = BTreeMap<String, SecretBytes>;

fn entries() -> impl Strategy<Value = Entries> {
    // Few letters, so that neighbours come close to each other.
    btree_map(
        "[ab]{0,4}",
        vec(prop_oneof![Just(b'a'), Just(b'b'), Just(0)], 0..4).prop_map(SecretBytes::new),
        0..4,
    )
}

/// The entries without anything that separates one from the next.
fn joined(entries: &Entries) -> Vec<u8> {
    entries.iter().flat_map(|(name, value)| [name.as_bytes(), value.expose()].concat()).collect()
}

/// Every way to cut these bytes into one entry or two.
fn cuts(bytes: &[u8]) -> Vec<Entries> {
    let mut found = Vec::new();
    let mut push = |parts: &[(&[u8], &[u8])]| {
        let named =
            parts.iter().map(|(name, value)| Some((String::from_utf8(name.to_vec()).ok()?, (*value).into())));
        let entries = named.collect::<Option<Entries>>();
        let whole = |entries: &Entries| entries.len() == parts.len() && joined(entries) == bytes;
        found.extend(entries.filter(|entries| whole(entries) && !found.contains(entries)));
    };
    for a in 0..=bytes.len() {
        push(&[(&bytes[..a], &bytes[a..])]);
        for b in a..=bytes.len() {
            for c in b..=bytes.len() {
                push(&[(&bytes[..a], &bytes[a..b]), (&bytes[b..c], &bytes[c..])]);
            }
        }
    }
    found
}

#[test]
fn the_same_bytes_cut_in_another_way_have_another_digest() {
    let salt = SecretBytes::new(vec![7; 32]);
    let found = cuts(b"abab\0b");
    assert!(found.len() > 20, "{}", found.len());
    let digests: BTreeSet<_> = found.iter().map(|entries| digest(&salt, entries)).collect();
    assert_eq!(digests.len(), found.len());
}

proptest! {
    #[test]
    fn different_entries_have_different_digests(a in entries(), b in entries(), salt in any::secret(1..33)) {
        prop_assert_eq!(digest(&salt, &a) == digest(&salt, &b), a == b);
    }

    /// Entries are sorted: the order of insertion does not matter.
    #[test]
    fn the_order_of_insertion_is_not_in_it(a in vec(("[ab]{0,4}", any::secret(0..4)), 0..5), salt in any::secret(1..33)) {
        let forth: Entries = a.iter().cloned().collect();
        let back: Entries = forth.clone().into_iter().rev().collect();
        prop_assert_eq!(digest(&salt, &forth), digest(&salt, &back));
    }

    #[test]
    fn another_salt_gives_another_digest(entries in entries(), a in vec(any::<u8>(), 32), b in vec(any::<u8>(), 32)) {
        let (one, two) = (SecretBytes::new(a), SecretBytes::new(b));
        prop_assert_eq!(digest(&one, &entries) == digest(&two, &entries), one == two);
    }

    /// Two records have one digest exactly if the same would run, for the same key and under the same salt.
    #[test]
    fn a_record_has_the_digest_of_what_runs(a in any::record(), b in any::record(), id in any::<u64>()) {
        let (mut a, mut b) = (a, b);
        a.salt = Some(SecretBytes::new(vec![1; 32]));
        b.salt = a.salt.clone();
        let digest = |record: &keyward_core::formats::revision::PluginRecord, id| record.digest(KeyId(id)).unwrap();
        prop_assert_eq!(digest(&a, id) == digest(&b, id), a.runs_the_same(&b));
        prop_assert_ne!(digest(&a, id), digest(&a, id ^ 1), "it is that key's");
        let mut other = a.clone();
        if let Some(accepted) = &mut other.accepted {
            accepted.module_digest = None;
        }
        prop_assert_eq!(digest(&a, id), digest(&other, id), "the module is beside it");
    }
}
