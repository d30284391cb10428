//! Types that an author declares for values: closed sets (enums), and types with their own rules (structs
//! around one value). The derive implements the traits of this file. Macros implement the rest, because a
//! blanket implementation would overlap with the one for structs.

use serde_json::{Value, json};

use super::schema;
use super::spec::FieldSpec;
use super::suggest::closest;
use super::value::{ConfigValue, Leaf, identify_leaf, mistyped};
use crate::bindings::keyward::provider::types::Kek;
use crate::report::{Findings, Path, Report};

/// A closed set of values: `#[derive(ProviderConfig)]` on an enum without fields.
pub trait ConfigEnum: Copy + PartialEq + 'static {
    /// The values and their names in JSON.
    const VARIANTS: &'static [(&'static str, Self)];
    /// The first value.
    const FIRST: Self;

    /// Its name in JSON.
    fn name(self) -> &'static str {
        Self::VARIANTS.iter().find(|(_, variant)| *variant == self).map_or("", |(name, _)| name)
    }

    /// Reads a name, and reports one that is not in the set.
    fn read_name(value: &Value, at: &Path<'_>, report: &mut Report) -> Option<Self> {
        let Value::String(name) = value else {
            mistyped(value, "a string", at, report);
            return None;
        };
        let found = Self::VARIANTS.iter().find(|(known, _)| known == name).map(|(_, variant)| *variant);
        if found.is_none() {
            let known: Vec<&str> = Self::VARIANTS.iter().map(|(name, _)| *name).collect();
            let hint = closest(name, known.iter().copied())
                .map(|meant| format!("; did you mean {meant}?"))
                .unwrap_or_default();
            report.at(at).violation(format!("must be one of: {}{hint}", known.join(", ")));
        }
        found
    }

    /// Its schema.
    fn schema_of_names() -> Value {
        json!({"type": "string", "enum": Self::VARIANTS.iter().map(|(name, _)| *name).collect::<Vec<_>>()})
    }

    /// Adds it to the KEK identity.
    fn identify_name(self, spec: &FieldSpec, at: &Path<'_>, kek: &mut Kek) {
        identify_leaf(self.name().to_owned(), spec, at, kek);
    }
}

/// The glue of the derive for an enum: a blanket implementation would overlap with the one for structs.
#[doc(hidden)]
#[macro_export]
macro_rules! __config_enum {
    ($kind:ty) => {
        impl $crate::config::Leaf for $kind {}
        impl $crate::config::ConfigValue for $kind {
            type Checked = Self;
            fn schema(_: &$crate::config::FieldSpec) -> $crate::json::Value {
                <Self as $crate::config::ConfigEnum>::schema_of_names()
            }
            fn read(
                value: &$crate::json::Value,
                _: &$crate::config::FieldSpec,
                at: &$crate::Path<'_>,
                report: &mut $crate::Report,
            ) -> Option<Self> {
                <Self as $crate::config::ConfigEnum>::read_name(value, at, report)
            }
            fn placeholder() -> Self {
                <Self as $crate::config::ConfigEnum>::FIRST
            }
            fn checked(&self) -> Option<&Self> {
                Some(self)
            }
            fn write(&self) -> Option<$crate::json::Value> {
                Some($crate::json::Value::from(<Self as $crate::config::ConfigEnum>::name(*self)))
            }
            fn identify(
                &self,
                spec: &$crate::config::FieldSpec,
                at: &$crate::Path<'_>,
                kek: &mut $crate::Kek,
            ) {
                <Self as $crate::config::ConfigEnum>::identify_name(*self, spec, at, kek);
            }
        }
    };
}

/// A type with its own rules, for fields that share them: `#[derive(ProviderConfig)]` on a struct around one
/// value.
pub trait ConfigNewtype: Sized {
    /// The value inside.
    type Inner: Leaf;
    /// Its rules.
    const SPEC: &'static FieldSpec;
    /// Puts a value inside.
    fn wrap(inner: Self::Inner) -> Self;
    /// The value inside.
    fn inner(&self) -> &Self::Inner;
    /// The author's own check.
    fn check(value: &<Self::Inner as ConfigValue>::Checked, findings: &mut Findings<'_>);

    /// Its schema, with its own rules.
    fn schema_of_value() -> Value {
        schema::with_cel((Self::SPEC.schema)(Self::SPEC), Self::SPEC.cel)
    }

    /// Reads and checks a value.
    fn read_value(value: &Value, at: &Path<'_>, report: &mut Report) -> Option<Self> {
        let inner = Self::Inner::read(value, Self::SPEC, at, report)?;
        if let Some(checked) = inner.checked().filter(|_| report.checking) {
            Self::check(checked, &mut report.at(at));
        }
        Some(Self::wrap(inner))
    }
}

/// The glue of the derive for a struct around one value, for the same reason.
#[doc(hidden)]
#[macro_export]
macro_rules! __config_newtype {
    ($kind:ty) => {
        impl $crate::config::Leaf for $kind {}
        impl $crate::config::ConfigValue for $kind {
            type Checked =
                <<Self as $crate::config::ConfigNewtype>::Inner as $crate::config::ConfigValue>::Checked;
            const OWN_RULES: bool = true;
            fn schema(_: &$crate::config::FieldSpec) -> $crate::json::Value {
                <Self as $crate::config::ConfigNewtype>::schema_of_value()
            }
            fn read(
                value: &$crate::json::Value,
                _: &$crate::config::FieldSpec,
                at: &$crate::Path<'_>,
                report: &mut $crate::Report,
            ) -> Option<Self> {
                <Self as $crate::config::ConfigNewtype>::read_value(value, at, report)
            }
            fn placeholder() -> Self {
                <Self as $crate::config::ConfigNewtype>::wrap($crate::config::ConfigValue::placeholder())
            }
            fn checked(&self) -> Option<&Self::Checked> {
                $crate::config::ConfigValue::checked($crate::config::ConfigNewtype::inner(self))
            }
            fn write(&self) -> Option<$crate::json::Value> {
                $crate::config::ConfigValue::write($crate::config::ConfigNewtype::inner(self))
            }
            fn identify(
                &self,
                spec: &$crate::config::FieldSpec,
                at: &$crate::Path<'_>,
                kek: &mut $crate::Kek,
            ) {
                $crate::config::ConfigValue::identify(
                    $crate::config::ConfigNewtype::inner(self),
                    spec,
                    at,
                    kek,
                );
            }
        }
    };
}
