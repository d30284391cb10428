//! The types of the fields of a configuration: how each is read, written, described and identified.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::object::{ObjectIdentity, ObjectReader, ObjectWriter, ProviderConfig};
use super::schema;
use super::spec::{Count, FieldSpec, Limit};
use crate::bindings::keyward::provider::types::{Effect, FieldRule, Kek, Setting};
use crate::report::{Path, Report};

/// A type that a field of a configuration can have.
pub trait ConfigValue: Sized {
    /// The type that a field's `check` gets.
    type Checked: ?Sized;

    /// Whether a field of this type is required.
    const REQUIRED: bool = true;

    /// Whether the type has its own limits and patterns, so that a field of this type cannot have others.
    const OWN_RULES: bool = false;

    /// Its structural schema, with the limits of the field.
    fn schema(spec: &FieldSpec) -> Value;

    /// The rules of its leaves.
    fn rules(spec: &FieldSpec, field: String, rules: &mut Vec<FieldRule>) {
        if let Some((effect, reason)) = spec.effect {
            rules.push(FieldRule { field, effect, reason: reason.to_owned() });
        }
    }

    /// Reads a value and reports all its violations. `None`: it has another type, which is reported.
    fn read(value: &Value, spec: &FieldSpec, at: &Path<'_>, report: &mut Report) -> Option<Self>;

    /// Replaces a value that is missing or unreadable, until all violations are known.
    fn placeholder() -> Self;

    /// The value to check, if there is one.
    fn checked(&self) -> Option<&Self::Checked>;

    /// The value as JSON; `None` if it is empty.
    fn write(&self) -> Option<Value>;

    /// Adds its leaves to the KEK identity.
    fn identify(&self, spec: &FieldSpec, at: &Path<'_>, kek: &mut Kek);
}

/// A value without fields of its own, which can have an effect.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot have an effect as a whole",
    label = "write #[keyward(nested)] here, and an effect on each field of that struct",
    note = "plain values are String, bool, integers, enums that derive ProviderConfig, and Option, Vec or BTreeMap<String, _> of them"
)]
pub trait Leaf: ConfigValue {}

/// A struct that derives `ProviderConfig`, or an `Option`, `Vec` or map of one: its fields have effects.
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no fields with effects",
    label = "write new_key, re_encrypt or in_place with a reason instead of `nested`, or derive ProviderConfig for that struct"
)]
pub trait Nested: ConfigValue {}

impl<T: ProviderConfig> Nested for T {}
impl<T: Nested> Nested for Option<T> {}
impl<T: Nested> Nested for Vec<T> {}
impl<T: Nested> Nested for BTreeMap<String, T> {}
impl<T: Leaf> Leaf for Option<T> {}
impl<T: Leaf> Leaf for Vec<T> {}
impl<T: Leaf> Leaf for BTreeMap<String, T> {}

/// Reports a value of another type.
pub(super) fn mistyped(value: &Value, wanted: &str, at: &Path<'_>, report: &mut Report) {
    let is = match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    };
    report.at(at).violation(format!("must be {wanted}, not {is}"));
}

/// The effect of a leaf decides its part of the identity. An empty leaf is in none: absent and empty are
/// equal.
pub(super) fn identify_leaf(text: String, spec: &FieldSpec, at: &Path<'_>, kek: &mut Kek) {
    let part = match spec.effect {
        Some((Effect::NewKey, _)) => &mut kek.key,
        Some((Effect::ReEncrypt, _)) => &mut kek.version,
        _ => return,
    };
    if !text.is_empty() {
        part.push(Setting { name: at.to_string(), value: text });
    }
}

impl Leaf for String {}
impl ConfigValue for String {
    type Checked = str;

    fn schema(spec: &FieldSpec) -> Value {
        schema::text(spec)
    }

    fn read(value: &Value, spec: &FieldSpec, at: &Path<'_>, report: &mut Report) -> Option<Self> {
        let Value::String(text) = value else {
            mistyped(value, "a string", at, report);
            return None;
        };
        if report.checking {
            spec.check_text(text, &mut report.at(at));
        }
        Some(text.clone())
    }

    fn placeholder() -> Self {
        Self::new()
    }

    fn checked(&self) -> Option<&str> {
        Some(self)
    }

    fn write(&self) -> Option<Value> {
        (!self.is_empty()).then(|| Value::String(self.clone()))
    }

    fn identify(&self, spec: &FieldSpec, at: &Path<'_>, kek: &mut Kek) {
        identify_leaf(self.clone(), spec, at, kek);
    }
}

impl Leaf for bool {}
impl ConfigValue for bool {
    type Checked = Self;

    fn schema(_: &FieldSpec) -> Value {
        json!({"type": "boolean"})
    }

    fn read(value: &Value, _: &FieldSpec, at: &Path<'_>, report: &mut Report) -> Option<Self> {
        let Value::Bool(value) = value else {
            mistyped(value, "a boolean", at, report);
            return None;
        };
        Some(*value)
    }

    fn placeholder() -> Self {
        false
    }

    fn checked(&self) -> Option<&Self> {
        Some(self)
    }

    fn write(&self) -> Option<Value> {
        Some(Value::Bool(*self))
    }

    fn identify(&self, spec: &FieldSpec, at: &Path<'_>, kek: &mut Kek) {
        identify_leaf(self.to_string(), spec, at, kek);
    }
}

macro_rules! integers {
    ($($integer:ty: $format:literal, $natural_bounds:expr;)*) => {$(
        impl Leaf for $integer {}
        impl ConfigValue for $integer {
            type Checked = Self;

            fn schema(spec: &FieldSpec) -> Value {
                schema::integer(spec, $format, $natural_bounds)
            }

            fn read(value: &Value, spec: &FieldSpec, at: &Path<'_>, report: &mut Report) -> Option<Self> {
                let Value::Number(number) = value else {
                    mistyped(value, "a whole number", at, report);
                    return None;
                };
                let Some(wide) = number.as_i64() else {
                    report.at(at).violation("must be a whole number that fits in 64 bits");
                    return None;
                };
                let before = report.violations.len();
                if report.checking {
                    spec.limits.min.at_least(wide, Count::Value, &mut report.at(at));
                    spec.limits.max.at_most(wide, Count::Value, &mut report.at(at));
                }
                let read = Self::try_from(wide).ok();
                if read.is_none() && report.violations.len() == before {
                    report.at(at).violation(format!("must be from {} to {}", Self::MIN, Self::MAX));
                }
                read
            }

            fn placeholder() -> Self {
                0
            }

            fn checked(&self) -> Option<&Self> {
                Some(self)
            }

            fn write(&self) -> Option<Value> {
                Some(Value::from(*self))
            }

            fn identify(&self, spec: &FieldSpec, at: &Path<'_>, kek: &mut Kek) {
                identify_leaf(self.to_string(), spec, at, kek);
            }
        }
    )*};
}
integers! {
    i64: "int64", (None, None);
    i32: "int32", (None, None);
    u32: "int64", (Some(0), Some(i64::from(u32::MAX)));
    u16: "int32", (Some(0), Some(i64::from(u16::MAX)));
}

impl<T: ConfigValue> ConfigValue for Option<T> {
    type Checked = T::Checked;
    const REQUIRED: bool = false;
    const OWN_RULES: bool = T::OWN_RULES;

    fn schema(spec: &FieldSpec) -> Value {
        T::schema(spec)
    }

    fn rules(spec: &FieldSpec, field: String, rules: &mut Vec<FieldRule>) {
        T::rules(spec, field, rules);
    }

    fn read(value: &Value, spec: &FieldSpec, at: &Path<'_>, report: &mut Report) -> Option<Self> {
        T::read(value, spec, at, report).map(Some)
    }

    fn placeholder() -> Self {
        None
    }

    fn checked(&self) -> Option<&T::Checked> {
        self.as_ref().and_then(T::checked)
    }

    fn write(&self) -> Option<Value> {
        self.as_ref().and_then(T::write)
    }

    fn identify(&self, spec: &FieldSpec, at: &Path<'_>, kek: &mut Kek) {
        if let Some(value) = self {
            value.identify(spec, at, kek);
        }
    }
}

/// A list: limits and patterns apply to each entry.
impl<T: ConfigValue> ConfigValue for Vec<T> {
    type Checked = [T];
    const REQUIRED: bool = false;
    const OWN_RULES: bool = T::OWN_RULES;

    fn schema(spec: &FieldSpec) -> Value {
        schema::list(spec, T::schema(spec))
    }

    fn rules(spec: &FieldSpec, field: String, rules: &mut Vec<FieldRule>) {
        T::rules(spec, field + "[]", rules);
    }

    fn read(value: &Value, spec: &FieldSpec, at: &Path<'_>, report: &mut Report) -> Option<Self> {
        let Value::Array(entries) = value else {
            mistyped(value, "a list", at, report);
            return None;
        };
        check_number(entries.len(), spec, at, report);
        let entries = entries.iter().enumerate();
        Some(
            entries
                .filter_map(|(index, entry)| T::read(entry, spec, &Path::Index(at, index), report))
                .collect(),
        )
    }

    fn placeholder() -> Self {
        Self::new()
    }

    fn checked(&self) -> Option<&[T]> {
        Some(self)
    }

    fn write(&self) -> Option<Value> {
        (!self.is_empty())
            .then(|| Value::Array(self.iter().map(|e| e.write().unwrap_or(Value::Null)).collect()))
    }

    fn identify(&self, spec: &FieldSpec, at: &Path<'_>, kek: &mut Kek) {
        for (index, entry) in self.iter().enumerate() {
            entry.identify(spec, &Path::Index(at, index), kek);
        }
    }
}

/// A map: limits and patterns apply to each value. Its keys have no rules.
impl<T: ConfigValue> ConfigValue for BTreeMap<String, T> {
    type Checked = Self;
    const REQUIRED: bool = false;
    const OWN_RULES: bool = T::OWN_RULES;

    fn schema(spec: &FieldSpec) -> Value {
        schema::map(spec, T::schema(spec))
    }

    fn rules(spec: &FieldSpec, field: String, rules: &mut Vec<FieldRule>) {
        T::rules(spec, field + ".*", rules);
    }

    fn read(value: &Value, spec: &FieldSpec, at: &Path<'_>, report: &mut Report) -> Option<Self> {
        let Value::Object(entries) = value else {
            mistyped(value, "an object", at, report);
            return None;
        };
        check_number(entries.len(), spec, at, report);
        let mut read = Self::new();
        for (key, entry) in entries {
            if let Some(entry) = T::read(entry, spec, &Path::Field(at, key), report) {
                read.insert(key.clone(), entry);
            }
        }
        Some(read)
    }

    fn placeholder() -> Self {
        Self::new()
    }

    fn checked(&self) -> Option<&Self> {
        Some(self)
    }

    fn write(&self) -> Option<Value> {
        let written: Map<String, Value> =
            self.iter().map(|(key, entry)| (key.clone(), entry.write().unwrap_or(Value::Null))).collect();
        (!written.is_empty()).then_some(Value::Object(written))
    }

    fn identify(&self, spec: &FieldSpec, at: &Path<'_>, kek: &mut Kek) {
        for (key, entry) in self {
            entry.identify(spec, &Path::Field(at, key), kek);
        }
    }
}

fn check_number(entries: usize, spec: &FieldSpec, at: &Path<'_>, report: &mut Report) {
    if report.checking {
        let number = i64::try_from(entries).unwrap_or(i64::MAX);
        spec.limits.min_items.at_least(number, Count::Items, &mut report.at(at));
        spec.limits.max_items.at_most(number, Count::Items, &mut report.at(at));
    }
}

impl<T: ProviderConfig> ConfigValue for T {
    type Checked = Self;

    fn schema(spec: &FieldSpec) -> Value {
        schema::object(T::OBJECT, spec)
    }

    fn rules(_: &FieldSpec, field: String, rules: &mut Vec<FieldRule>) {
        for spec in T::OBJECT.fields {
            let path = if field.is_empty() { spec.name.to_owned() } else { format!("{field}.{}", spec.name) };
            (spec.rules)(spec, path, rules);
        }
    }

    fn read(value: &Value, _: &FieldSpec, at: &Path<'_>, report: &mut Report) -> Option<Self> {
        let Value::Object(members) = value else {
            mistyped(value, "an object", at, report);
            return None;
        };
        Some(ObjectReader::read(members, at, report))
    }

    fn placeholder() -> Self {
        ObjectReader::read(&Map::new(), &Path::Root, &mut Report::default())
    }

    fn checked(&self) -> Option<&Self> {
        Some(self)
    }

    fn write(&self) -> Option<Value> {
        ObjectWriter::write(self)
    }

    fn identify(&self, _: &FieldSpec, at: &Path<'_>, kek: &mut Kek) {
        self.identify_fields(&mut ObjectIdentity::new(T::OBJECT, at, kek));
    }
}
