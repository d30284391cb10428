//! Numbers, names, durations, field paths.

use std::time::Duration;

use keyward_core::duration;
use keyward_core::field::{FieldPath, Step};
use keyward_core::ids::{GroupResource, KeyId, Mode, Revision};
use keyward_core::names;
use proptest::collection::vec;
use proptest::prelude::*;

use crate::{any, go};

fn duration_text() -> impl Strategy<Value = String> {
    let number = prop_oneof![
        "[0-9]{1,4}",
        "[0-9]{0,20}\\.[0-9]{0,30}",
        "[0-9]{1,21}",
        Just("9223372036854775807".to_owned()),
        Just("9223372036854775808".to_owned()),
    ];
    let unit = proptest::sample::select(vec!["ns", "us", "µs", "μs", "ms", "s", "m", "h", "", "d", "S"]);
    let sign = proptest::sample::select(vec!["", "", "", "", "-", "+", "--"]);
    (sign, vec((number, unit), 0..4)).prop_map(|(sign, parts)| {
        let parts: String = parts.into_iter().map(|(n, u)| format!("{n}{u}")).collect();
        format!("{sign}{parts}")
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn durations_are_what_go_takes(text in prop_oneof![3 => duration_text(), 1 => "[0-9.nuµmsh]{0,12}"]) {
        let expected = go::parse_duration(text.as_bytes()).map(Duration::from_nanos);
        prop_assert_eq!(duration::go(&text).ok(), expected, "{}", text);
    }

    #[test]
    fn key_ids(id in any::<u64>(), component in "[a-z-]{1,20}") {
        prop_assert_eq!(id.to_string().parse::<KeyId>().unwrap(), KeyId(id));
        prop_assert_eq!(KeyId::from_name(&names::key_secret(&component, KeyId(id))), Some(KeyId(id)));
        prop_assert!(KeyId(id).next().is_none_or(|next| KeyId(id) < next && i64::try_from(next.0).is_ok()));
    }

    /// Go's `ParseUint`: digits alone, up to 64 bits.
    #[test]
    fn text_that_is_not_a_number_is_not_a_key_id(text in "[-+0-9 _a-f]{0,22}") {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let expected = if digits { text.parse::<u64>().ok() } else { None };
        prop_assert_eq!(text.parse::<KeyId>().ok(), expected.map(KeyId));
    }

    /// Exactly the names that are written: another name is another object.
    #[test]
    fn revisions_of_names(n in any::<u64>(), other in "encryption-config-([0-9]{0,4}|[0-9a-z+-]{0,21})") {
        prop_assert_eq!(names::parse_revision_secret(&names::revision_secret(Revision(n))), Some(Revision(n)));
        if let Some(revision) = names::parse_revision_secret(&other) {
            prop_assert_eq!(names::revision_secret(revision), other);
        }
    }

    #[test]
    fn resources(resource in any::resource()) {
        prop_assert_eq!(GroupResource::parse(&resource.to_string()), resource);
    }

    /// Resources are sorted by their string form (openshift: one-entry-per-resource).
    #[test]
    fn resources_are_sorted_as_text(a in any::resource(), b in any::resource()) {
        prop_assert_eq!(a.cmp(&b), a.to_string().cmp(&b.to_string()));
        prop_assert_eq!(a == b, a.to_string() == b.to_string());
    }

    /// The key number is the text before the first underscore (openshift: key-id-of-a-kms-provider).
    #[test]
    fn provider_names_contain_the_key_number(id in any::<u64>(), resource in any::resource()) {
        let name = names::kms_provider(KeyId(id), &resource);
        prop_assert_eq!(name.split_once('_').unwrap().0.parse::<KeyId>().unwrap(), KeyId(id));
    }

    #[test]
    fn modes(text in prop_oneof![any::mode().prop_map(|mode| mode.to_string()), "[a-zA-Z]{0,8}"]) {
        if let Some(mode) = Mode::parse(&text) {
            prop_assert_eq!(mode.as_str(), &text);
            let json = serde_json::to_value(mode).unwrap();
            prop_assert_eq!(json, serde_json::Value::String(text));
        }
    }

    #[test]
    fn field_paths(steps in vec(prop_oneof![
        "[a-zA-Z_$-]{1,6}".prop_map(Step::Key),
        Just(Step::AnyKey),
        any::<usize>().prop_map(Step::Item),
        Just(Step::AnyItem),
    ], 0..6)) {
        // A path begins with a field.
        let path = steps.into_iter().fold(FieldPath::default().then(Step::Key("a".to_owned())), |path, step| path.then(step));
        prop_assert_eq!(FieldPath::parse(&path.to_string()).unwrap(), path);
    }

    #[test]
    fn a_field_path_is_written_as_it_was_parsed(text in "[a-z.*\\[\\]0-9 ]{0,12}") {
        if let Ok(path) = FieldPath::parse(&text) {
            prop_assert_eq!(FieldPath::parse(&path.to_string()).unwrap(), path);
        }
    }
}
