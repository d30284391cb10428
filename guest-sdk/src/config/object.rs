//! Structs: fields by name. Unknown fields are reported, and a violation never hides another one.

use serde_json::{Map, Value};

use super::spec::{Count, FieldSpec, Limit, ObjectSpec};
use super::suggest::closest;
use super::value::ConfigValue;
use crate::bindings::keyward::provider::types::Kek;
use crate::report::{Findings, Path, Report};

/// A module's configuration, or a nested part of it. Derive it; see [`crate::config`] for the attributes.
pub trait ProviderConfig: Sized {
    /// The attributes of the struct and its fields.
    const OBJECT: &'static ObjectSpec;

    /// Reads each field.
    fn read_fields(object: &mut ObjectReader<'_, '_>) -> Self;

    /// Writes each field.
    fn write_fields(&self, object: &mut ObjectWriter);

    /// Adds each field to the KEK identity.
    fn identify_fields(&self, object: &mut ObjectIdentity<'_, '_>);
}

/// Reads the members of one object.
#[derive(Debug)]
pub struct ObjectReader<'v, 'r> {
    spec: &'static ObjectSpec,
    members: &'v Map<String, Value>,
    at: &'r Path<'r>,
    report: &'r mut Report,
}

impl<'v, 'r> ObjectReader<'v, 'r> {
    pub(crate) fn read<T: ProviderConfig>(
        members: &'v Map<String, Value>,
        at: &'r Path<'r>,
        report: &'r mut Report,
    ) -> T {
        let mut reader = Self { spec: T::OBJECT, members, at, report };
        reader.check_members();
        T::read_fields(&mut reader)
    }

    /// Refuses unknown members by name: a typing error of an admin must not silently change the meaning.
    fn check_members(&mut self) {
        if !self.report.checking {
            return;
        }
        let known = || self.spec.fields.iter().map(|field| field.name);
        for name in self.members.keys().filter(|name| known().all(|field| field != name.as_str())) {
            let hint =
                closest(name, known()).map(|meant| format!("; did you mean {meant}?")).unwrap_or_default();
            self.report.at(&Path::Field(self.at, name)).violation(format!("unknown field{hint}"));
        }
        let set = self.members.values().filter(|value| !value.is_null()).count();
        let set = i64::try_from(set).unwrap_or(i64::MAX);
        self.spec.min_properties.at_least(set, Count::Fields, &mut self.report.at(self.at));
    }

    /// Reads the field at `index` of the struct. `null` means absent, as in the API server.
    pub fn field<T: ConfigValue>(
        &mut self,
        index: usize,
        check: impl FnOnce(&T::Checked, &mut Findings<'_>),
    ) -> T {
        let Some(spec) = self.spec.fields.get(index) else { return T::placeholder() };
        let at = Path::Field(self.at, spec.name);
        let Some(value) = self.members.get(spec.name).filter(|value| !value.is_null()) else {
            if let Some(message) = spec.required {
                self.report.at(&at).violation(message);
            }
            return T::placeholder();
        };
        let Some(read) = T::read(value, spec, &at, self.report) else { return T::placeholder() };
        if let Some(value) = read.checked().filter(|_| self.report.checking) {
            check(value, &mut self.report.at(&at));
        }
        read
    }

    /// Runs a check of the whole struct.
    pub fn check(&mut self, check: impl FnOnce(&mut Findings<'_>)) {
        if self.report.checking {
            check(&mut self.report.at(self.at));
        }
    }
}

/// Collects the members of one object that are not empty.
#[derive(Debug, Default)]
pub struct ObjectWriter {
    members: Map<String, Value>,
}

impl ObjectWriter {
    pub(crate) fn write<T: ProviderConfig>(config: &T) -> Option<Value> {
        let mut writer = Self::default();
        config.write_fields(&mut writer);
        (!writer.members.is_empty()).then_some(Value::Object(writer.members))
    }

    /// Writes a field unless it is empty.
    pub fn field<T: ConfigValue>(&mut self, name: &str, value: &T) {
        if let Some(value) = value.write() {
            self.members.insert(name.to_owned(), value);
        }
    }
}

/// Collects the parts of the KEK identity that the fields of one object add.
#[derive(Debug)]
pub struct ObjectIdentity<'k, 'p> {
    spec: &'static ObjectSpec,
    at: &'p Path<'p>,
    kek: &'k mut Kek,
}

impl<'k, 'p> ObjectIdentity<'k, 'p> {
    pub(crate) fn new(spec: &'static ObjectSpec, at: &'p Path<'p>, kek: &'k mut Kek) -> Self {
        Self { spec, at, kek }
    }

    /// Adds the field at `index` of the struct.
    pub fn field<T: ConfigValue>(&mut self, index: usize, value: &T) {
        if let Some(spec) = self.spec.fields.get(index) {
            let spec: &FieldSpec = spec;
            value.identify(spec, &Path::Field(self.at, spec.name), self.kek);
        }
    }
}
