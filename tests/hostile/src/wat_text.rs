//! The text of the core module: memory, allocator, and one function for each function of the ABI.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::{Context, Result};
use serde_json::Value;
use wit_parser::abi::{AbiVariant, WasmType};
use wit_parser::{Function, Resolve, WorldId, WorldItem};

use crate::Does;
use crate::layout::Memory;

/// The size of a page in bytes.
const PAGE: usize = 65_536;

pub(crate) fn core_module(
    resolve: &Resolve,
    world: WorldId,
    functions: &BTreeMap<String, Does>,
    extra: &str,
) -> Result<String> {
    let mut memory = Memory::new(resolve);
    let mut bodies = String::new();
    let world = resolve.worlds.get(world).context("the world")?;
    for (key, item) in &world.exports {
        let WorldItem::Interface { id, .. } = item else { continue };
        let interface = resolve.interfaces.get(*id).context("an interface")?;
        for function in interface.functions.values() {
            let does =
                functions.get(&function.name).with_context(|| format!("no answer for {}", function.name))?;
            let name = format!("{}#{}", resolve.name_world_key(key), function.name);
            let body = body(&mut memory, function, does).with_context(|| function.name.clone())?;
            writeln!(bodies, "(func (export {name:?}) {} {body})", signature(resolve, function))?;
        }
    }
    let heap = memory.end().next_multiple_of(16);
    let pages = heap / PAGE + 2;
    let (base, data) = memory.segment();
    Ok(format!(
        r#"(module
            (memory $memory (export "memory") {pages})
            (global $heap (mut i32) (i32.const {heap}))
            (data (i32.const {base}) "{data}")
            {ALLOCATOR}
            {EQUAL}
            {extra}
            {bodies})"#
    ))
}

/// Allocates memory upwards, and grows the memory if none is left.
const ALLOCATOR: &str = r#"
    (func $cabi_realloc (export "cabi_realloc") (param $old i32) (param $oldSize i32) (param $align i32) (param $size i32)
        (result i32) (local $at i32)
        (local.set $at (i32.and
            (i32.add (global.get $heap) (i32.sub (local.get $align) (i32.const 1)))
            (i32.sub (i32.const 0) (local.get $align))))
        (global.set $heap (i32.add (local.get $at) (local.get $size)))
        (if (i32.gt_u (global.get $heap) (i32.mul (memory.size) (i32.const 65536)))
            (then (if (i32.eq (i32.const -1) (memory.grow
                    (i32.add (i32.const 1) (i32.shr_u (local.get $size) (i32.const 16)))))
                (then unreachable))))
        (local.get $at))"#;

/// Whether the bytes at `$a` and `$b` are the same.
const EQUAL: &str = r"
    (func $equal (param $a i32) (param $aSize i32) (param $b i32) (param $bSize i32) (result i32) (local $i i32)
        (if (i32.ne (local.get $aSize) (local.get $bSize)) (then (return (i32.const 0))))
        (block $same (loop $next
            (br_if $same (i32.ge_u (local.get $i) (local.get $aSize)))
            (if (i32.ne
                    (i32.load8_u (i32.add (local.get $a) (local.get $i)))
                    (i32.load8_u (i32.add (local.get $b) (local.get $i))))
                (then (return (i32.const 0))))
            (local.set $i (i32.add (local.get $i) (i32.const 1)))
            (br $next)))
        (i32.const 1))";

fn signature(resolve: &Resolve, function: &Function) -> String {
    let lowered = resolve.wasm_signature(AbiVariant::GuestExport, function);
    let list = |what: &str, types: &[WasmType]| match types {
        [] => String::new(),
        types => format!("({what}{})", " i32".repeat(types.len())),
    };
    format!("{} {}", list("param", &lowered.params), list("result", &lowered.results))
}

fn body(memory: &mut Memory<'_>, function: &Function, does: &Does) -> Result<String> {
    let (cases, last): (&[(Value, Value)], &Value) = match does {
        Does::Wat(text) => return Ok(text.clone()),
        Does::Answer(answer) => (&[], answer),
        Does::Cases(cases, last) => (cases, last),
    };
    let mut text = String::new();
    for (input, output) in cases {
        let input = input.to_string();
        let at = memory.bytes(input.as_bytes());
        let answer = answer(memory, function, output)?;
        let size = input.len();
        write!(
            text,
            "(if (call $equal (local.get 0) (local.get 1) (i32.const {at}) (i32.const {size})) (then {answer} (return)))"
        )?;
    }
    text.push_str(&answer(memory, function, last)?);
    Ok(text)
}

/// Code that returns the address of an answer.
fn answer(memory: &mut Memory<'_>, function: &Function, value: &Value) -> Result<String> {
    let kind = function.result.context("a function without a result")?;
    memory.inputs.clear();
    let at = memory.value(&kind, value)?;
    let mut text = String::new();
    for place in std::mem::take(&mut memory.inputs) {
        write!(
            text,
            "(i32.store (i32.const {place}) (local.get 0)) (i32.store (i32.const {}) (local.get 1))",
            place + 4
        )?;
    }
    write!(text, "(i32.const {at})")?;
    Ok(text)
}
