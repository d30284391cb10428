//! The keyed digest: entries are the same exactly if their digests are.

#![no_main]
#![allow(clippy::expect_used, clippy::indexing_slicing)] // a finding is a panic

use keyward_core::SecretBytes;
use keyward_core::formats::digest::digest;
use keyward_core::formats::revision::SecretData;
use keyward_fuzz::entries;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    // Two objects, one behind the other.
    let mut halves = bytes.splitn(2, |byte| *byte == 0x1d);
    let mut entries = || -> SecretData {
        let half = halves.next().unwrap_or_default();
        entries::read(half).into_iter().map(|(name, value)| (name, SecretBytes::new(value))).collect()
    };
    let (one, two) = (entries(), entries());
    let salt = SecretBytes::new(vec![7; 32]);
    assert_eq!(digest(&salt, &one) == digest(&salt, &two), one == two);
});
