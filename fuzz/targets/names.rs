//! Small texts: numbers, names of objects, resources, paths of fields, durations.

#![no_main]
#![allow(clippy::expect_used, clippy::indexing_slicing)] // a finding is a panic

use std::time::Duration;

use keyward_core::field::FieldPath;
use keyward_core::ids::{GroupResource, KeyId, Mode};
use keyward_core::{duration, names};
use libfuzzer_sys::fuzz_target;

#[allow(unreachable_pub)] // a test shares it
#[path = "../../host/core/tests/properties/go.rs"]
mod go;

fuzz_target!(|bytes: &[u8]| {
    let expected = go::parse_duration(bytes).map(Duration::from_nanos);
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    assert_eq!(duration::go(text).ok(), expected);
    if let Ok(id) = text.parse::<KeyId>() {
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(KeyId::from_name(text), Some(id));
    }
    if let Some(id) = KeyId::from_name(text) {
        assert_eq!(KeyId::from_name(&names::key_secret("kube-apiserver", id)), Some(id));
    }
    if let Some(revision) = names::parse_revision_secret(text) {
        assert_eq!(names::revision_secret(revision), text);
    }
    if let Some(mode) = Mode::parse(text) {
        assert_eq!(mode.as_str(), text);
    }
    let resource = GroupResource::parse(text);
    assert_eq!(GroupResource::parse(&resource.to_string()), resource);
    if let Ok(path) = FieldPath::parse(text) {
        assert_eq!(FieldPath::parse(&path.to_string()), Ok(path.clone()));
        assert!(path.covers(&path));
    }
});
