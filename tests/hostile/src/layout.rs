//! Lays values out in memory according to the canonical ABI.

use std::fmt::Write;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use wit_parser::{Int, Resolve, SizeAlign, Type, TypeDefKind};

/// The address of the first data. Nothing below it is valid, so that a null pointer is an error.
const BASE: usize = 1024;

/// The content of a memory under construction.
pub(crate) struct Memory<'r> {
    resolve: &'r Resolve,
    sizes: SizeAlign,
    /// The bytes from [`BASE`] on.
    data: Vec<u8>,
    /// Addresses at which a call must store the pointer and length of the function's input.
    pub(crate) inputs: Vec<usize>,
}

impl<'r> Memory<'r> {
    pub(crate) fn new(resolve: &'r Resolve) -> Self {
        let mut sizes = SizeAlign::default();
        sizes.fill(resolve);
        Self { resolve, sizes, data: Vec::new(), inputs: Vec::new() }
    }

    /// The first address after the data.
    pub(crate) fn end(&self) -> usize {
        BASE + self.data.len()
    }

    /// The address of the data, and the data as a WAT string.
    pub(crate) fn segment(&self) -> (usize, String) {
        let text = self.data.iter().fold(String::new(), |mut text, byte| {
            // Writing to a String cannot fail.
            let _ = write!(text, "\\{byte:02x}");
            text
        });
        (BASE, text)
    }

    /// Stores bytes. Returns their address.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> usize {
        let at = self.allocate(bytes.len(), 1);
        self.write(at, bytes);
        at
    }

    /// Stores a value of a type. Returns its address.
    pub(crate) fn value(&mut self, kind: &Type, value: &Value) -> Result<usize> {
        let at = self.allocate(self.sizes.size(kind).size_wasm32(), self.sizes.align(kind).align_wasm32());
        self.store(kind, value, at)?;
        Ok(at)
    }

    fn allocate(&mut self, size: usize, align: usize) -> usize {
        let at = self.end().next_multiple_of(align);
        self.data.resize(at - BASE + size, 0);
        at
    }

    fn write(&mut self, at: usize, bytes: &[u8]) {
        if let Some(place) = self.data.get_mut(at - BASE..at - BASE + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    }

    fn word(&mut self, at: usize, value: usize) -> Result<()> {
        self.write(at, &u32::try_from(value)?.to_le_bytes());
        Ok(())
    }

    fn tag(&mut self, at: usize, tag: Int, case: usize) -> Result<()> {
        match tag {
            Int::U8 => self.write(at, &[u8::try_from(case)?]),
            _ => bail!("variants of more than 256 cases"),
        }
        Ok(())
    }

    fn store(&mut self, kind: &Type, value: &Value, at: usize) -> Result<()> {
        match kind {
            Type::Bool => self.write(at, &[u8::from(value.as_bool().context("a bool")?)]),
            Type::U32 => self.word(at, usize::try_from(value.as_u64().context("a u32")?)?)?,
            Type::S32 => self.write(at, &i32::try_from(value.as_i64().context("an s32")?)?.to_le_bytes()),
            Type::String => self.string(value, at)?,
            Type::Id(id) => {
                let kind = self.resolve.types.get(*id).context("a type")?.kind.clone();
                self.defined(&kind, value, at).with_context(|| format!("in {value}"))?;
            }
            other => bail!("{other:?} is not in the ABI"),
        }
        Ok(())
    }

    fn string(&mut self, value: &Value, at: usize) -> Result<()> {
        if value.get("$input").is_some() {
            self.inputs.push(at);
            return Ok(());
        }
        if self.raw(value, at)? {
            return Ok(());
        }
        let bytes: Vec<u8> = if let Some(bytes) = value.get("$bytes") {
            serde_json::from_value(bytes.clone())?
        } else if let Some(repeat) = value.get("$repeat") {
            let (text, times): (String, usize) = serde_json::from_value(repeat.clone())?;
            text.repeat(times).into_bytes()
        } else {
            value.as_str().context("a string")?.as_bytes().to_vec()
        };
        let place = self.bytes(&bytes);
        self.word(at, place)?;
        self.word(at + 4, bytes.len())
    }

    fn raw(&mut self, value: &Value, at: usize) -> Result<bool> {
        let Some(raw) = value.get("$raw") else { return Ok(false) };
        let (pointer, length): (usize, usize) = serde_json::from_value(raw.clone())?;
        self.word(at, pointer)?;
        self.word(at + 4, length)?;
        Ok(true)
    }

    fn defined(&mut self, kind: &TypeDefKind, value: &Value, at: usize) -> Result<()> {
        match kind {
            TypeDefKind::Type(alias) => self.store(alias, value, at),
            TypeDefKind::Record(record) => {
                let offsets = self.sizes.field_offsets(record.fields.iter().map(|field| &field.ty));
                for (field, (offset, kind)) in record.fields.iter().zip(offsets) {
                    let value = value.get(&field.name).with_context(|| format!("no field {}", field.name))?;
                    self.store(kind, value, at + offset.size_wasm32())?;
                }
                Ok(())
            }
            TypeDefKind::List(item) => self.list(item, value, at),
            TypeDefKind::Option(some) => {
                let some = (!value.is_null()).then_some((1, Some(some)));
                self.variant(Int::U8, &[None, kind_of_option(kind)], some, value, at)
            }
            TypeDefKind::Result(result) => {
                let (case, kind, value) = match (value.get("ok"), value.get("err")) {
                    (Some(value), None) => (0, result.ok.as_ref(), value),
                    (None, Some(value)) => (1, result.err.as_ref(), value),
                    _ => bail!("a result is {{\"ok\": …}} or {{\"err\": …}}"),
                };
                self.variant(
                    Int::U8,
                    &[result.ok.as_ref(), result.err.as_ref()],
                    Some((case, kind)),
                    value,
                    at,
                )
            }
            TypeDefKind::Variant(variant) => {
                let (name, value) = match value.as_object().and_then(|object| object.iter().next()) {
                    Some((name, value)) => (name.as_str(), value),
                    None => (value.as_str().context("a case")?, &Value::Null),
                };
                let case = variant.cases.iter().position(|case| case.name == name).context("no such case")?;
                let kinds: Vec<_> = variant.cases.iter().map(|case| case.ty.as_ref()).collect();
                let kind = kinds.get(case).copied().flatten();
                self.variant(variant.tag(), &kinds, Some((case, kind)), value, at)
            }
            // A number selects a case that does not exist.
            TypeDefKind::Enum(cases) => {
                let named = || cases.cases.iter().position(|case| value == case.name.as_str());
                let case = match value.as_u64() {
                    Some(number) => usize::try_from(number)?,
                    None => named().context("no such case")?,
                };
                self.tag(at, cases.tag(), case)
            }
            other => bail!("{} is not in the ABI", other.as_str()),
        }
    }

    fn variant(
        &mut self,
        tag: Int,
        kinds: &[Option<&Type>],
        case: Option<(usize, Option<&Type>)>,
        value: &Value,
        at: usize,
    ) -> Result<()> {
        let Some((case, kind)) = case else { return self.tag(at, tag, 0) };
        self.tag(at, tag, case)?;
        let offset = self.sizes.payload_offset(tag, kinds.iter().copied());
        kind.map_or(Ok(()), |kind| self.store(kind, value, at + offset.size_wasm32()))
    }

    fn list(&mut self, item: &Type, value: &Value, at: usize) -> Result<()> {
        if self.raw(value, at)? {
            return Ok(());
        }
        let items = value.as_array().context("a list")?;
        let size = self.sizes.size(item).size_wasm32();
        let first = self.allocate(size * items.len(), self.sizes.align(item).align_wasm32());
        for (i, value) in items.iter().enumerate() {
            self.store(item, value, first + i * size)?;
        }
        self.word(at, first)?;
        self.word(at + 4, items.len())
    }
}

fn kind_of_option(kind: &TypeDefKind) -> Option<&Type> {
    match kind {
        TypeDefKind::Option(some) => Some(some),
        _ => None,
    }
}
