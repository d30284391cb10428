//! Key secrets: a Secret that can be read is written, and then read the same.

#![no_main]
#![allow(clippy::expect_used, clippy::indexing_slicing)] // a finding is a panic
#![allow(clippy::redundant_closure_for_method_calls)] // the method's type is of a crate that is not asked for here

use keyward_core::formats::key_secret::KeySecret;
use keyward_core::names::{KUBE_APISERVER, NAMESPACE};
use keyward_core::node::{Instance, pod};
use keyward_fuzz::entries;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let key = match KeySecret::decode(&entries::read_secret(bytes)) {
        Ok(key) => key,
        Err(error) => {
            let _ = (error.to_string(), format!("{error:?}"));
            return;
        }
    };
    let _ = format!("{key:?}");
    if let Some(kms) = &key.kms
        && let Some(digest) = kms.plugin.digest(key.id)
    {
        let _ = pod::check(&Instance::new(key.id, &digest), &kms.plugin);
    }
    let written = key.encode(NAMESPACE, KUBE_APISERVER).expect("what was read can be written");
    let mut again = KeySecret::decode(&written).expect("what was written can be read");
    // Written in whole seconds.
    assert_eq!(again.migrated_at.map(|at| at.as_second()), key.migrated_at.map(|at| at.as_second()));
    again.migrated_at = key.migrated_at;
    assert_eq!(again, key);
    assert_eq!(again.encode(NAMESPACE, KUBE_APISERVER).expect("as before"), written);
});
