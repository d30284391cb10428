//! EncryptionConfigurations and their envelopes, in JSON and YAML, from any author.

#![no_main]
#![allow(clippy::expect_used, clippy::indexing_slicing)] // a finding is a panic

use keyward_core::formats::encryption_config::EncryptionConfiguration;
use keyward_core::formats::envelope;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(kms) = envelope::decode_kms(bytes) {
        assert_eq!(envelope::decode_kms(&envelope::encode_kms(&kms)), Ok(kms));
    }
    if let Ok(kms) = envelope::decode_plugin(bytes) {
        assert_eq!(envelope::decode_plugin(&envelope::encode_plugin(&kms)), Ok(kms));
    }
    let config = match EncryptionConfiguration::decode(bytes) {
        Ok(config) => config,
        Err(error) => {
            let _ = error.to_string();
            return;
        }
    };
    let _ = (config.lists(), config.hash(), format!("{config:?}"));
    assert_eq!(EncryptionConfiguration::decode(&config.encode()), Ok(config));
});
