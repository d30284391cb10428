//! Config secrets: a Secret that can be read is written, and then read the same. The state machine loses nothing of it.

#![no_main]
#![allow(clippy::expect_used, clippy::indexing_slicing)] // a finding is a panic

use keyward_core::SecretBytes;
use keyward_core::formats::revision::{RevisionContent, SecretData, decode_plugins, encode_plugins};
use keyward_core::{machine, node};
use keyward_fuzz::entries;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let data: SecretData =
        entries::read(bytes).into_iter().map(|(name, value)| (name, SecretBytes::new(value))).collect();
    if let Ok(plugins) = decode_plugins("candidate", &data) {
        let again =
            decode_plugins("candidate", &encode_plugins(&plugins)).expect("what was written can be read");
        assert_eq!(again, plugins);
        for (id, plugin) in &plugins {
            let digest = plugin.digest(*id);
            assert_eq!(digest.is_some(), plugin.salt.is_some());
            if let Some(digest) = digest {
                let _ = node::pod::check(&node::Instance::new(*id, &digest), plugin);
            }
        }
    }
    let content = match RevisionContent::decode("encryption-config-1", &data) {
        Ok(Some(content)) => content,
        Ok(None) => return,
        Err(error) => {
            let _ = (error.to_string(), format!("{error:?}"));
            return;
        }
    };
    let again = RevisionContent::decode("encryption-config-1", &content.encode());
    assert_eq!(again.as_ref(), Ok(&Some(content.clone())));
    let _ = (content.kms_keys(), content.key_ids(), content.resources(), content.digests());
    let state = machine::decode(&content, &[]).expect("what is stored is understood as a whole");
    let next = machine::encode(&state, Some(&content));
    assert_eq!(machine::decode(&next, &[]), Ok(state), "nothing is lost");
    // From then on it has our form, and does not change.
    let settled = machine::encode(&machine::decode(&next, &[]).expect("ours"), Some(&next));
    assert_eq!(settled.config, next.config);
});
