//! Counts the parts of a component before anything is compiled.
//!
//! Compiling runs in this process, and can neither be stopped nor have a memory limit. So its input has limits
//! ([`Parts`]): they bound the memory and the time that it can take, which the size of the file alone does not.

mod body;

use body::Body;
use wasmparser::{
    BinaryReaderError, ComponentAlias, ComponentExternalKind, ComponentInstance, ComponentTypeRef,
    FromReader, FuncValidatorAllocations, Instance, Parser, Payload, SectionLimited, ValidPayload, Validator,
    WasmFeatures,
};

use crate::error::EngineError;
use crate::limits::{Limits, Parts};
use crate::text::printable;

/// Refuses a component with more parts than the limits.
pub(crate) fn check(bytes: &[u8], limits: &Limits) -> Result<(), EngineError> {
    let mut count = Count::new(limits);
    // The validator accepts more features than the engine, which reports the others itself.
    let mut validator = Validator::new_with_features(WasmFeatures::all());
    let mut memory = FuncValidatorAllocations::default();
    for payload in Parser::new(0).parse_all(bytes) {
        let payload = payload?;
        count.payload(&payload, bytes)?;
        if let ValidPayload::Func(function, body) = validator.payload(&payload)? {
            count.function(&Body::count(function, &body, &mut memory)?)?;
        }
    }
    Ok(())
}

impl From<BinaryReaderError> for EngineError {
    fn from(error: BinaryReaderError) -> Self {
        Self::Malformed { message: printable(error.to_string()) }
    }
}

/// Sums over the whole component, with everything that is nested in it.
struct Count<'l> {
    limits: &'l Limits,
    parts: &'l Parts,
    functions: usize,
    code_bytes: usize,
    calls: usize,
    live: usize,
    joins: usize,
    types: usize,
    tables: usize,
    memories: usize,
    data_segments: usize,
    modules: usize,
    /// Instances of core modules in the file.
    instances: usize,
    /// The open components, outermost first: how many components each instantiates.
    open: Vec<usize>,
    /// Upper bound of the instances of components. A component can only instantiate components that precede it in the
    /// file, so a chain has each of them at most once, and creates at most the product.
    copies: usize,
}

impl<'l> Count<'l> {
    fn new(limits: &'l Limits) -> Self {
        Self {
            limits,
            parts: &limits.parts,
            functions: 0,
            code_bytes: 0,
            calls: 0,
            live: 0,
            joins: 0,
            types: 0,
            tables: 0,
            memories: 0,
            data_segments: 0,
            modules: 0,
            instances: 0,
            open: Vec::new(),
            copies: 1,
        }
    }

    fn payload(&mut self, payload: &Payload<'_>, bytes: &[u8]) -> Result<(), EngineError> {
        let (limits, parts) = (self.limits, self.parts);
        match payload {
            Payload::Version { .. } => {
                // The file itself is level zero.
                within("levels of nested components", self.open.len(), parts.nesting)?;
                self.open.push(0);
            }
            Payload::End(_) => {
                let own = self.open.pop().unwrap_or(0);
                self.copies = self.copies.saturating_mul(own.max(1));
                within("instances of components", self.copies, parts.component_instances)?;
            }
            Payload::ModuleSection { .. } => add("modules", &mut self.modules, 1, limits.instances)?,
            Payload::TypeSection(section) => {
                add("types", &mut self.types, section.count(), parts.types)?;
            }
            Payload::CoreTypeSection(section) => {
                add("types", &mut self.types, section.count(), parts.types)?;
            }
            Payload::ComponentTypeSection(section) => {
                add("types", &mut self.types, section.count(), parts.types)?;
                let text = bytes.get(section.range()).unwrap_or_default();
                within("levels of nested types", nested_types(text), parts.type_nesting)?;
            }
            Payload::FunctionSection(section) => {
                add("functions", &mut self.functions, section.count(), parts.functions)?;
            }
            Payload::TableSection(section) => {
                add("tables", &mut self.tables, section.count(), limits.tables)?;
            }
            Payload::MemorySection(section) => {
                add("memories", &mut self.memories, section.count(), limits.memories)?;
            }
            Payload::DataSection(section) => {
                add("data segments", &mut self.data_segments, section.count(), parts.data_segments)?;
            }
            Payload::CodeSectionEntry(body) => {
                // Before the body is read.
                within("bytes in one function", body.range().len(), parts.function_bytes)?;
                add("bytes of code", &mut self.code_bytes, body.range().len(), parts.code_bytes)?;
            }
            Payload::InstanceSection(section) => {
                let made = matching(section, |instance| matches!(instance, Instance::Instantiate { .. }))?;
                add("instances", &mut self.instances, made, limits.instances)?;
            }
            Payload::ComponentInstanceSection(section) => {
                let made =
                    matching(section, |instance| matches!(instance, ComponentInstance::Instantiate { .. }))?;
                if let Some(own) = self.open.last_mut() {
                    add("instances of components", own, made, parts.component_instances)?;
                }
            }
            Payload::ComponentImportSection(section) => {
                // The file's own imports are checked by name, later.
                let taken = matching(section, |import| matches!(import.ty, ComponentTypeRef::Component(_)))?;
                within("components passed to components", if self.open.len() > 1 { taken } else { 0 }, 0)?;
            }
            Payload::ComponentAliasSection(section) => {
                let taken = matching(section, |alias| {
                    matches!(
                        alias,
                        ComponentAlias::InstanceExport { kind: ComponentExternalKind::Component, .. }
                    )
                })?;
                within("components taken out of instances", taken, 0)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn function(&mut self, body: &Body) -> Result<(), EngineError> {
        let parts = self.parts;
        within("locals in one function", body.locals, parts.function_locals)?;
        within("calls in one function", body.calls, parts.function_calls)?;
        within("levels of nested loops", body.loops, parts.function_loops)?;
        within("values at branches of one function", body.live, parts.function_live)?;
        add("calls", &mut self.calls, body.calls, parts.calls)?;
        within("values joined in one function", body.joins, parts.function_joins)?;
        add("values at branches", &mut self.live, body.live, parts.live)?;
        add("values joined at branches", &mut self.joins, body.joins, parts.joins)
    }
}

/// An upper bound of the nesting of types of components and instances in a section. The parser reads them by
/// recursion, so a few kilobytes of them would overflow the stack, which ends the process; therefore this function
/// does not parse them. A nested type is the declaration `01` followed by `41` or `42`, so there are at most as many
/// levels as such pairs.
fn nested_types(section: &[u8]) -> usize {
    section.windows(2).filter(|pair| matches!(pair, [0x01, 0x41 | 0x42])).count()
}

fn within(what: &'static str, needed: usize, limit: usize) -> Result<(), EngineError> {
    if needed <= limit { Ok(()) } else { Err(EngineError::Resources { what, needed, limit }) }
}

fn add<N: TryInto<usize>>(
    what: &'static str,
    sum: &mut usize,
    more: N,
    limit: usize,
) -> Result<(), EngineError> {
    *sum = sum.saturating_add(more.try_into().unwrap_or(usize::MAX));
    within(what, *sum, limit)
}

/// How many items of a section match.
fn matching<'a, T: FromReader<'a>>(
    section: &SectionLimited<'a, T>,
    matches: impl Fn(&T) -> bool,
) -> Result<usize, EngineError> {
    let items = section.clone().into_iter();
    items
        .map(|item| Ok(usize::from(matches(&item?))))
        .sum::<Result<usize, BinaryReaderError>>()
        .map_err(Into::into)
}
