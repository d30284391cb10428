//! Small components whose compilation would take gigabytes or minutes: they are refused before the compiler
//! gets them.

use keyward_engine::Parts;

use super::*;

/// The limit that this component exceeds, and how much it needs.
fn over(text: &str, parts: Parts) -> (&'static str, usize) {
    let limits = Limits { parts, ..Limits::default() };
    let start = Instant::now();
    let error = refusal(&wat::parse_str(text).unwrap(), Options { limits, cache: None });
    // Compilation of these components would take far longer.
    assert!(start.elapsed() < BOUND / 3, "took {:?}", start.elapsed());
    assert_eq!(error.category(), "size", "{error}");
    match error {
        EngineError::Resources { what, needed, .. } => (what, needed),
        other => panic!("{other}"),
    }
}

/// The same with the default limits.
fn refused(text: &str) -> (&'static str, usize) {
    over(text, Parts::default())
}

/// Checks that the component is within the limits: it is compiled, and is not a provider module.
fn passes(text: &str) {
    let error = refusal(&wat::parse_str(text).unwrap(), Options { limits: Limits::default(), cache: None });
    assert!(matches!(error, EngineError::AbiVersion { .. }), "{error}");
}

fn module(fields: &str) -> String {
    format!("(component (core module {fields}))")
}

/// A function with this number of locals, all assigned in this number of nested loops.
fn nest(locals: usize, loops: usize) -> String {
    let declared = "i32 ".repeat(locals);
    let assigned: String =
        (1..=locals).map(|i| format!("(local.set {i} (i32.add (local.get {i}) (local.get 0)))")).collect();
    let (open, close) = ("(loop ".repeat(loops), "(br_if 0 (local.get 0)))".repeat(loops));
    format!("(func (param i32) (local {declared}) {open} {assigned} {close})")
}

#[test]
fn functions_are_counted() {
    assert_eq!(refused(&module(&"(func)".repeat(40_001))), ("functions", 40_001));
    // The limit is for all modules together.
    let half = format!("(core module {})", "(func)".repeat(20_001));
    assert_eq!(refused(&format!("(component {half} {half})")), ("functions", 40_002));
}

#[test]
fn code_is_limited_for_each_function_and_in_total() {
    let (what, needed) = refused(&module(&format!("(func {})", "nop ".repeat(600_000))));
    assert_eq!(what, "bytes in one function");
    assert!(needed >= 600_000);
    let parts = Parts { code_bytes: 100_000, ..Parts::default() };
    let functions = format!("(func {})", "nop ".repeat(10_000)).repeat(11);
    assert_eq!(over(&module(&functions), parts).0, "bytes of code");
}

#[test]
fn locals_are_counted_as_declared() {
    // A few bytes declare any number of locals of one type.
    let locals = "i32 ".repeat(10_001);
    assert_eq!(refused(&module(&format!("(func (local {locals}))"))), ("locals in one function", 10_001));
}

#[test]
fn calls_and_instructions_compiled_to_calls_are_counted() {
    for call in ["(call 0)", "(memory.fill (i32.const 0) (i32.const 0) (i32.const 0))", "(loop)"] {
        let text = module(&format!("(memory 1) (func {})", call.repeat(10_001)));
        assert_eq!(refused(&text), ("calls in one function", 10_001), "{call}");
    }
    let parts = Parts { calls: 1000, ..Parts::default() };
    assert_eq!(
        over(&module(&format!("(func {})", "(call 0)".repeat(600)).repeat(2)), parts),
        ("calls", 1200)
    );
}

#[test]
fn nested_loops_are_counted() {
    // Two thousand nested loops, 14 KB of code, took half a minute.
    assert_eq!(refused(&module(&nest(0, 51))), ("levels of nested loops", 51));
    passes(&module(&nest(0, 50)));
    passes(&module(&format!("(func {})", "(loop)".repeat(500))));
    // Blocks are allowed to be as deep as in a large `switch`.
    passes(&module(&format!("(func {} {})", "(block ".repeat(2000), ")".repeat(2000))));
}

#[test]
fn values_are_counted_at_each_branch() {
    // Thirty kilobytes of code that took half a gigabyte: a thousand locals on each of five thousand
    // branches.
    let locals = 1000;
    let assigned: String = (1..=locals).map(|i| format!("(local.set {i} (local.get 0))")).collect();
    let branches = |branch: &str, count: usize| {
        let declared = "i32 ".repeat(locals);
        let branches = branch.repeat(count);
        module(&format!("(func (param i32) (local {declared}) (loop $l {assigned} {branches}))"))
    };
    let (what, needed) = refused(&branches("(br_if $l (local.get 0))", 5000));
    assert_eq!(what, "values at branches of one function");
    assert!((5_000_000..5_100_000).contains(&needed), "{needed}");
    let table = format!("(block (br_table {} (local.get 0)))", "1 ".repeat(1000));
    assert_eq!(refused(&branches(&table, 5)).0, what);
    // The same with operands: they are alive until they are used.
    let (values, drops) = ("(local.get 0)".repeat(1000), "drop ".repeat(1000));
    let blocks = "(block (br_if 0 (local.get 0)))".repeat(1000);
    assert_eq!(refused(&module(&format!("(func (param i32) {values} {blocks} {drops})"))).0, what);
    // The same number of branches with few live values is accepted.
    passes(&module(&format!("(func (param i32) (loop $l {}))", "(br_if $l (local.get 0))".repeat(5000))));
    // The limit is for all functions together, too.
    let parts = Parts { live: 100_000, ..Parts::default() };
    let same = "(br_if 0 (local.get 0))".repeat(300);
    let function = format!("(func (param i32) (local {}) {same})", "i32 ".repeat(100));
    assert_eq!(over(&module(&function.repeat(5)), parts).0, "values at branches");
}

#[test]
fn values_are_counted_where_branches_join() {
    // Six kilobytes of code that took half a minute, and four times as long for twice as much.
    let (blocks, locals) = (400, 300);
    let declared = "i32 ".repeat(locals);
    let (open, close) = ("(block (br_if 0 (local.get 0))".repeat(blocks), ")".repeat(blocks));
    let assigned: String = (1..=locals).map(|i| format!("(local.set {i} (local.get 0))")).collect();
    let function = |inside: &str| format!("(func (param i32) (local {declared}) {open} {inside} {close})");
    let (what, needed) = refused(&module(&function(&assigned)));
    // For each block: its branch, its entry and its exit; and those of the function.
    assert_eq!((what, needed), ("values joined in one function", 300 * (400 * 3 + 2)));
    passes(&module(&function("")));
    let parts = Parts { joins: 100_000, ..Parts::default() };
    assert_eq!(over(&module(&nest(500, 20).repeat(5)), parts).0, "values joined at branches");
}

#[test]
fn types_tables_memories_and_data_are_counted() {
    assert_eq!(refused(&module(&"(type (func))".repeat(10_001))), ("types", 10_001));
    assert_eq!(refused(&format!("(component {})", "(type u8)".repeat(10_001))), ("types", 10_001));
    assert_eq!(refused(&format!("(component {})", "(core type (func))".repeat(10_001))), ("types", 10_001));
    assert_eq!(refused(&module(&"(table 1 funcref)".repeat(17))), ("tables", 17));
    let memories = "(core module (memory 1))".repeat(5);
    assert_eq!(refused(&format!("(component {memories})")), ("memories", 5));
    let data = r#"(data (i32.const 0) "a")"#.repeat(50_001);
    assert_eq!(refused(&module(&format!("(memory 1) {data}"))), ("data segments", 50_001));
    assert_eq!(refused(&format!("(component {})", "(core module)".repeat(65))), ("modules", 65));
}

/// A component with one type: component types, or instance types, nested in this number of levels.
fn nested_types(kind: u8, levels: usize) -> Vec<u8> {
    let mut item = [kind, 1, 1].repeat(levels);
    item.extend([kind, 0]);
    let mut size = item.len() + 1;
    let mut bytes = b"\0asm\x0d\0\x01\0\x07".to_vec();
    while size >= 0x80 {
        bytes.push(u8::try_from(size & 0x7f).unwrap() | 0x80);
        size >>= 7;
    }
    bytes.extend([u8::try_from(size).unwrap(), 1]);
    bytes.extend(item);
    bytes
}

#[test]
fn nested_types_do_not_overflow_the_stack() {
    // Three kilobytes of nested types crashed the process.
    for kind in [0x41, 0x42] {
        for levels in [1000, 1_000_000] {
            let error = refusal(&nested_types(kind, levels), options());
            assert!(
                matches!(error, EngineError::Resources { what: "levels of nested types", .. }),
                "{error}"
            );
        }
        // No crash at the limit; the component has another error.
        let error = refusal(&nested_types(kind, 99), options());
        assert!(matches!(error, EngineError::AbiVersion { .. } | EngineError::Malformed { .. }), "{error}");
    }
}

#[test]
fn the_nesting_of_components_is_limited() {
    let nested = |levels: usize| format!("{}{}", "(component ".repeat(levels + 1), ")".repeat(levels + 1));
    assert_eq!(refused(&nested(9)), ("levels of nested components", 9));
    passes(&nested(8));
}

#[test]
fn instances_of_components_are_counted_as_often_as_they_are_instantiated() {
    // 800 bytes for which the compiler needed more memory than the machine had: thirty times thirty times
    // thirty …
    let chain = |length: usize, times: usize| {
        let links: String = (1..=length)
            .map(|i| {
                let instances = "(instance (instantiate $x))".repeat(times);
                format!("(component $c{i} (alias outer 1 $c{} (component $x)) {instances})", i - 1)
            })
            .collect();
        format!("(component (component $c0) {links} (instance (instantiate $c{length})))")
    };
    assert_eq!(refused(&chain(5, 30)), ("instances of components", 27_000));
    passes(&chain(2, 30));
    assert_eq!(
        refused(&format!("(component (component $c) {})", "(instance (instantiate $c))".repeat(10_001))).0,
        "instances of components"
    );
    let core = format!("(component (core module $m) {})", "(core instance (instantiate $m))".repeat(65));
    assert_eq!(refused(&core), ("instances", 65));
    // A component that is passed on could be instantiated by its receiver, which this count does not include.
    let given = r#"(component (component (import "c" (component $c)) (instance (instantiate $c))))"#;
    assert_eq!(refused(given).0, "components passed to components");
    let taken = r#"(component
        (component $a (component $b) (export "b" (component $b)))
        (instance $i (instantiate $a)) (alias export $i "b" (component $c)))"#;
    assert_eq!(refused(taken).0, "components taken out of instances");
}

#[test]
fn a_component_that_cannot_be_parsed_is_malformed() {
    // A count that is larger than the section.
    let mut bytes = wat::parse_str("(component (core module (func)))").unwrap();
    let at = bytes.len() - 4;
    bytes[at] = 0x7f;
    let error = refusal(&bytes, options());
    assert!(matches!(error, EngineError::Malformed { .. }), "{error}");
}

#[test]
fn a_sound_module_is_far_below_the_limits() {
    let tight = Parts {
        functions: 40,
        code_bytes: 24 << 10,
        function_bytes: 512,
        function_locals: 20,
        function_calls: 10,
        calls: 100,
        function_loops: 1,
        function_live: 500,
        live: 10_000,
        function_joins: 500,
        joins: 10_000,
        types: 100,
        type_nesting: 2,
        data_segments: 50,
        nesting: 1,
        component_instances: 10,
    };
    let limits = Limits { parts: tight, ..small() };
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "acme.wasm", &Forge::sound("Acme", "acme"));
    let engine = Engine::open(folder.path(), Options { limits, cache: None }).unwrap();
    evaluate(&engine, &acme("a")).unwrap();
}
