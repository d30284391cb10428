//! Calls that fail: each error has its own category, determined by its type, and no failure affects another
//! module.

use keyward_test_hostile::Does;

use super::*;

/// Function, category and message of the error if `requirements` behaves like this. A good module beside it
/// must keep serving.
fn requirements(does: Does) -> (String, String, String) {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "bad.wasm", &Forge::sound("Acme", "acme").with("requirements", does));
    put(folder.path(), "good.wasm", &Forge::sound("Good", "good"));
    let engine = Engine::open(folder.path(), options()).unwrap();
    assert_eq!(engine.degraded(), []);
    let found = failure(&engine, &acme("a"));
    evaluate(&engine, &json!({"type": "Good", "good": {"image": image()}})).unwrap();
    assert_eq!(found.0, "requirements");
    found
}

fn code(text: &str) -> Does {
    Does::Wat(text.to_owned())
}

#[test]
fn a_loop_ends_with_its_fuel() {
    assert_eq!(requirements(code("(loop $l (br $l)) unreachable")).1, "fuel");
}

#[test]
fn bulk_memory_costs_fuel_for_each_byte() {
    // A dozen instructions that write four times as many bytes as the fuel allows.
    let once = "(memory.fill (i32.const 65536) (i32.const 0) (i32.const 3900000))";
    let grow = "(drop (memory.grow (i32.const 60)))";
    assert_eq!(requirements(code(&format!("{grow} {once} unreachable"))).1, "fuel");
    assert_eq!(requirements(code(&format!("{grow} unreachable"))).1, "trap");
}

#[test]
fn more_fuel_than_time_ends_at_the_deadline() {
    let folder = tempfile::tempdir().unwrap();
    let fill = "(drop (memory.grow (i32.const 60)))
        (loop $l (memory.fill (i32.const 0) (i32.const 0) (i32.const 3900000)) (br $l)) unreachable";
    put(folder.path(), "slow.wasm", &Forge::sound("Acme", "acme").with("requirements", code(fill)));
    let limits = Limits { fuel: u64::MAX / 2, deadline: Duration::from_millis(200), ..small() };
    let engine = Engine::open(folder.path(), Options { limits, cache: None }).unwrap();
    assert_eq!(failure(&engine, &acme("a")).1, "deadline");
}

#[test]
fn the_memory_limit_is_for_the_whole_store() {
    assert_eq!(
        requirements(code("(loop $l (drop (memory.grow (i32.const 1))) (br $l)) unreachable")).1,
        "memory"
    );
    assert_eq!(requirements(code("(drop (memory.grow (i32.const 65535))) unreachable")).1, "memory");
}

#[test]
fn a_memory_that_is_initially_too_large_is_refused_at_load() {
    let forge = Forge::sound("Acme", "acme").answering("requirements", json!([{"$repeat": ["x", 5 << 20]}]));
    let error = refusal(&built(&forge), options());
    assert_eq!(error.category(), "memory", "{error}");
}

#[test]
fn tables_are_limited() {
    let forge = Forge::sound("Acme", "acme").extra("(table $t 1 funcref)").with(
        "requirements",
        code("(loop $l (drop (table.grow $t (ref.null func) (i32.const 50000))) (br $l)) unreachable"),
    );
    assert_eq!(failure(&engine(&forge), &acme("a")).1, "memory");
}

#[test]
fn recursion_ends_at_the_stack() {
    let forge = Forge::sound("Acme", "acme")
        .extra(
            "(func $deeper (param i64 i64 i64 i64) (result i64)
            (i64.add (i64.const 1) (call $deeper (local.get 1) (local.get 2) (local.get 3) (local.get 0))))",
        )
        .with(
            "requirements",
            code("(drop (call $deeper (i64.const 0) (i64.const 0) (i64.const 0) (i64.const 0))) unreachable"),
        );
    let (_, category, message) = failure(&engine(&forge), &acme("a"));
    assert_eq!(category, "trap");
    assert!(message.contains("stack"), "{message}");
}

#[test]
fn a_trap_is_reported() {
    let (_, category, message) = requirements(code("unreachable"));
    assert_eq!(category, "trap");
    assert!(message.contains("crashed"), "{message}");
    assert_eq!(requirements(code("(i32.load (i32.const -8))")).1, "trap");
    assert_eq!(requirements(code("(i32.div_s (i32.const 1) (i32.const 0))")).1, "trap");
}

#[test]
fn text_that_is_not_utf8_is_reported() {
    let (_, category, message) = requirements(Does::Answer(json!([{"$bytes": [255, 254]}])));
    assert_eq!(category, "output");
    assert!(message.contains("UTF-8"), "{message}");
}

#[test]
fn output_is_limited_in_every_form() {
    // One long text; one text that is returned many times; a list with a huge length.
    let long = json!([{"$repeat": ["x", 1_100_000]}]);
    let shared = json!(vec![json!({"$raw": [1024, 60_000]}); 20]);
    let endless = json!({"$raw": [1024, 0x0fff_ffff]});
    for answer in [long, shared, endless] {
        assert_eq!(requirements(Does::Answer(answer)).1, "output");
    }
}

#[test]
fn pointers_out_of_memory_are_reported() {
    for raw in
        [json!({"$raw": [u32::MAX, 8]}), json!([{"$raw": [u32::MAX - 7, 1000]}]), json!({"$raw": [1025, 1]})]
    {
        assert_eq!(requirements(Does::Answer(raw)).1, "output");
    }
    assert_eq!(requirements(code("(i32.const -4)")).1, "output", "the answer itself is not in memory");
}

#[test]
fn an_unknown_case_of_a_variant_is_reported() {
    let reference = json!([{
        "source": {"kind": 9, "name": "a", "key": "b"}, "exposure": "file", "required": true, "field": "key"}]);
    let engine = engine(&Forge::sound("Acme", "acme").answering("references", reference));
    let (function, category, _) = failure(&engine, &acme("a"));
    assert_eq!((function.as_str(), category.as_str()), ("references", "output"));
}

#[test]
fn a_wrong_result_of_the_allocator_is_reported() {
    // The engine stores the configuration at the address that the module's allocator returns.
    let forge = Forge::sound("Acme", "acme")
        .extra("(func $start (global.set $heap (i32.const -65536))) (start $start)");
    let engine = engine(&forge);
    let (function, category, _) = failure(&engine, &acme("a"));
    assert_eq!(function, "normalize");
    assert!(["output", "trap", "memory"].contains(&category.as_str()), "{category}");
}

#[test]
fn a_start_function_that_loops_is_stopped_at_load() {
    let forge = Forge::sound("Acme", "acme").extra("(func $start (loop $l (br $l))) (start $start)");
    let error = refusal(&built(&forge), options());
    assert!(matches!(error, EngineError::Fuel { .. }), "{error}");
}

#[test]
fn input_is_limited() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "a.wasm", &Forge::sound("Acme", "acme"));
    let limits = Limits { input_bytes: 1000, ..small() };
    let engine = Engine::open(folder.path(), Options { limits, cache: None }).unwrap();
    evaluate(&engine, &acme("a")).unwrap();
    assert_eq!(failure(&engine, &acme(&"a".repeat(1000))).1, "input");
}

#[test]
fn input_nested_too_deeply_is_a_violation() {
    let engine = engine(&Forge::sound("Acme", "acme"));
    let deep = (0..100).fold(json!(1), |value, _| json!([value]));
    let error = evaluate(&engine, &json!({"type": "Acme", "acme": deep})).unwrap_err();
    assert!(matches!(&error, ProviderError::Invalid { .. }), "{error:?}");
    assert!(error.to_string().contains("deeper than 64"), "{error}");
}

#[test]
fn a_verdict_by_fuel_is_the_same_each_time() {
    // The work is proportional to the length of the text: with this fuel, the same lengths pass in every run.
    let folder = tempfile::tempdir().unwrap();
    let work = "(local $i i32) (loop $l (local.set $i (i32.add (local.get $i) (i32.const 1)))
        (br_if $l (i32.lt_u (local.get $i) (i32.mul (local.get 1) (i32.const 100))))) (i32.const 0)";
    put(folder.path(), "a.wasm", &Forge::sound("Acme", "acme").with("requirements", code(work)));
    let verdicts = || {
        let limits = Limits { fuel: 150_000, ..small() };
        let engine = Engine::open(folder.path(), Options { limits, cache: None }).unwrap();
        (0..100).map(|n| evaluate(&engine, &acme(&"k".repeat(n))).is_ok()).collect::<Vec<_>>()
    };
    let first = verdicts();
    assert!(first.contains(&true) && first.contains(&false));
    assert_eq!(first, verdicts());
}
