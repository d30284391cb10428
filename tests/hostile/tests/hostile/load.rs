//! Files that are not provider modules.

use super::*;

/// A component with these imports and nothing else.
fn importing(imports: &str) -> Vec<u8> {
    wat::parse_str(format!("(component {imports})")).unwrap()
}

fn refused(bytes: &[u8]) -> EngineError {
    refusal(bytes, options())
}

#[test]
fn an_imported_function_is_named() {
    let clock = r#"(import "wasi:clocks/wall-clock@0.2.0" (instance (export "now" (func (result u64)))))"#;
    let error = refused(&importing(clock));
    assert!(
        matches!(&error, EngineError::Import { import } if import == "wasi:clocks/wall-clock@0.2.0#now"),
        "{error}"
    );
    assert_eq!(error.category(), "import");

    let error = refused(&importing(r#"(import "phone-home" (func (param "what" string)))"#));
    assert!(matches!(&error, EngineError::Import { import } if import == "phone-home"), "{error}");
}

#[test]
fn foreign_types_resources_and_modules_are_imports_too() {
    for (import, name) in [
        (
            r#"(import "wasi:clocks/types@0.2.0" (instance (type $t u64) (export "seconds" (type (eq $t)))))"#,
            "wasi:clocks/types@0.2.0",
        ),
        (
            r#"(import "keyward:provider/types@0.1.0" (instance (export "file" (type (sub resource)))))"#,
            "keyward:provider/types@0.1.0#file",
        ),
        (r#"(import "code" (core module))"#, "code"),
    ] {
        let error = refused(&importing(import));
        assert!(matches!(&error, EngineError::Import { import } if import == name), "{error}");
    }
}

#[test]
fn files_that_are_not_components_have_different_errors() {
    assert!(matches!(refused(b"#!/bin/sh\n"), EngineError::NotWasm));
    assert!(matches!(refused(b""), EngineError::NotWasm));
    assert!(matches!(refused(b"(component)"), EngineError::NotWasm), "WAT is not accepted");
    assert!(matches!(refused(&wat::parse_str("(module)").unwrap()), EngineError::NotComponent));
    assert!(matches!(refused(b"\0asm"), EngineError::Malformed { .. }));
}

#[test]
fn a_module_that_is_truncated_anywhere_is_malformed() {
    let whole = built(&Forge::sound("Acme", "acme"));
    let mut at = 9;
    while at < whole.len() {
        match refused(&whole[..at]) {
            EngineError::Malformed { .. } | EngineError::AbiVersion { .. } => {}
            other => panic!("cut at {at}: {other:?}"),
        }
        at += whole.len() / 20;
    }
}

#[test]
fn a_flipped_byte_causes_at_most_an_error() {
    let whole = built(&Forge::sound("Acme", "acme"));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("module.wasm");
    for at in (8..whole.len()).step_by(whole.len() / 150) {
        let mut flipped = whole.clone();
        flipped[at] ^= 0x11;
        std::fs::write(&file, &flipped).unwrap();
        if let Ok(engine) = Engine::open_file(&file, options()) {
            // Refused or not: the call returns.
            let _ = evaluate(&engine, &acme("a"));
        }
    }
}

#[test]
fn the_error_for_a_module_without_the_abi_names_the_expected_interface() {
    let error = refused(&wat::parse_str("(component)").unwrap());
    let EngineError::AbiVersion { expected, found: None } = &error else { panic!("{error}") };
    assert_eq!(expected, "keyward:provider/policy@0.1.0");

    let later = r#"(component (instance $i) (export "keyward:provider/policy@7.0.0" (instance $i)))"#;
    let error = refused(&wat::parse_str(later).unwrap());
    assert!(error.to_string().contains("but keyward:provider/policy@7.0.0"), "{error}");
}

#[test]
fn an_export_of_another_type_is_named() {
    let functions = |normalize: &str| {
        format!(
            r#"(component
              (core module $m (memory (export "memory") 1)
                (func (export "f") (result i32) (i32.const 0))
                (func (export "g") (param i32 i32) (result i32) (i32.const 0))
                (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 0)))
              (core instance $c (instantiate $m))
              (func $string (param "config" string) (result string) (canon lift (core func $c "g")
                (memory $c "memory") (realloc (func $c "realloc"))))
              (func $none (result string) (canon lift (core func $c "f") (memory $c "memory")))
              (instance $policy (export "describe" (func $none)) {normalize}
                (export "upgrade" (func $string)) (export "kek-identity" (func $string)) (export "references" (func $string)))
              (instance $plugins (export "render" (func $string)))
              (instance $diagnostics (export "diagnose" (func $string)) (export "requirements" (func $string)))
              (export "keyward:provider/policy@0.1.0" (instance $policy))
              (export "keyward:provider/plugins@0.1.0" (instance $plugins))
              (export "keyward:provider/diagnostics@0.1.0" (instance $diagnostics)))"#
        )
    };
    let error = refused(&wat::parse_str(functions(r#"(export "normalize" (func $string))"#)).unwrap());
    assert!(matches!(&error, EngineError::Export { export, .. } if export == "describe"), "{error}");
    let error = refused(&wat::parse_str(functions("")).unwrap());
    let EngineError::Export { export, message } = &error else { panic!("{error}") };
    assert_eq!((export.as_str(), message.as_str()), ("normalize", "it is missing"));
}

#[test]
fn sizes_are_limited_before_anything_is_compiled() {
    let whole = built(&Forge::sound("Acme", "acme"));
    let limits = Limits { component_bytes: whole.len() - 1, ..small() };
    let error = refusal(&whole, Options { limits, cache: None });
    assert!(matches!(error, EngineError::ComponentTooLarge { .. }), "{error}");
}

#[test]
fn compilation_has_a_time_limit() {
    let limits = Limits { compile_time: Duration::ZERO, ..small() };
    let error = refusal(&built(&Forge::sound("Acme", "acme")), Options { limits, cache: None });
    assert!(matches!(error, EngineError::CompileTime { .. }), "{error}");
}

#[test]
fn a_component_with_too_many_parts_is_refused() {
    let cores = |what: &str, count: usize| {
        let module = format!("(core module $m {what})");
        let instances = "(core instance (instantiate $m))".repeat(count);
        wat::parse_str(format!("(component {module} {instances})")).unwrap()
    };
    let error = refused(&cores("(memory 1)", 5));
    assert!(matches!(error, EngineError::Resources { what: "memories", needed: 5, limit: 4 }), "{error}");
    let error = refused(&cores("(table 1 funcref)", 17));
    assert!(matches!(error, EngineError::Resources { what: "tables", needed: 17, .. }), "{error}");
}

#[test]
fn a_bad_file_does_not_affect_other_modules() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "good.wasm", &Forge::sound("Acme", "acme"));
    std::fs::write(folder.path().join("bad.wasm"), b"nothing").unwrap();
    std::fs::write(folder.path().join("greedy.wasm"), importing(r#"(import "all" (func))"#)).unwrap();
    std::fs::write(folder.path().join("README.md"), b"not read").unwrap();
    std::fs::create_dir(folder.path().join("folder.wasm")).unwrap();
    put(folder.path(), "loops.wasm", &Forge::sound("Loop", "loops").with("describe", forever()));
    let engine = Engine::open(folder.path(), options()).unwrap();

    evaluate(&engine, &acme("a")).unwrap();
    let errors: Vec<String> = engine.degraded().iter().map(ToString::to_string).collect();
    assert_eq!(errors.len(), 4, "{errors:#?}");
    assert!(errors[0].contains("bad.wasm") && errors[0].contains("not WebAssembly"), "{errors:#?}");
    assert!(errors[1].contains("folder.wasm"), "{errors:#?}");
    assert!(errors[2].contains("greedy.wasm") && errors[2].contains("imports all"), "{errors:#?}");
    assert!(errors[3].contains("loops.wasm") && errors[3].contains("fuel"), "{errors:#?}");
}

#[test]
fn the_error_for_a_missing_type_lists_the_rejected_modules() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("acme.wasm"), b"half a fi").unwrap();
    let engine = Engine::open(folder.path(), options()).unwrap();
    let error = evaluate(&engine, &acme("a")).unwrap_err().to_string();
    let expected = "unsupported KMS provider type \"Acme\"; loaded providers: none; rejected modules: (acme.wasm: \
                    it is not WebAssembly; build the provider module as guest-sdk/README.md describes)";
    assert_eq!(error, expected);

    // The error is bounded, with any number of files and with long texts in them.
    for i in 0..20 {
        std::fs::write(folder.path().join(format!("more{i:02}.wasm")), b"").unwrap();
    }
    let word = "talk".repeat(20) + "-";
    let long = Forge::sound("Acme", "acme").changing("describe", "/provider-type", json!(word.repeat(100)));
    put(folder.path(), "a.wasm", &long);
    engine.reload(&[]).unwrap();
    let error = evaluate(&engine, &acme("a")).unwrap_err().to_string();
    assert!(
        error.contains("(a.wasm: it breaks the provider contract: ") && error.contains("…), (acme.wasm"),
        "{error}"
    );
    assert!(error.ends_with("(18 more)"), "{error}");
    assert!(error.chars().count() < 1500, "{error}");
}

#[test]
fn fifos_devices_and_sockets_are_refused_at_once() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "good.wasm", &Forge::sound("Acme", "acme"));
    let fifo = folder.path().join("fifo.wasm");
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    std::os::unix::fs::symlink("/dev/zero", folder.path().join("zero.wasm")).unwrap();
    std::os::unix::net::UnixListener::bind(folder.path().join("socket.wasm")).unwrap();
    // In a thread of its own: a read of the FIFO would block for ever.
    let (sender, receiver) = std::sync::mpsc::channel();
    let path = folder.path().to_owned();
    std::thread::spawn(move || drop(sender.send(Engine::open(&path, options()).unwrap())));
    let engine = receiver.recv_timeout(BOUND).expect("the folder is loaded");
    evaluate(&engine, &acme("a")).unwrap();
    let errors: Vec<String> = engine.degraded().iter().map(ToString::to_string).collect();
    assert_eq!(errors.len(), 3, "{errors:#?}");
    assert!(errors.iter().all(|text| text.contains("not a regular file")), "{errors:#?}");
}

#[test]
fn a_link_to_a_module_is_followed() {
    // Volumes of ConfigMaps and images have such links.
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "data", &Forge::sound("Acme", "acme"));
    std::os::unix::fs::symlink("data", folder.path().join("acme.wasm")).unwrap();
    evaluate(&Engine::open(folder.path(), options()).unwrap(), &acme("a")).unwrap();
}

#[test]
fn two_modules_with_the_same_type_or_field_are_both_refused() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "a.wasm", &Forge::sound("Acme", "acme"));
    put(folder.path(), "b.wasm", &Forge::sound("Acme", "acme2"));
    put(folder.path(), "c.wasm", &Forge::sound("Third", "shared"));
    put(folder.path(), "d.wasm", &Forge::sound("Fourth", "shared"));
    put(folder.path(), "e.wasm", &Forge::sound("Good", "good"));
    let engine = Engine::open(folder.path(), options()).unwrap();
    assert_eq!(engine.modules().len(), 1);
    let error = evaluate(&engine, &acme("a")).unwrap_err();
    let ProviderError::Degraded { provider_type, message } = &error else { panic!("{error:?}") };
    assert_eq!(provider_type, "Acme");
    assert!(message.contains("a.wasm, b.wasm"), "{message}");
    let error = evaluate(&engine, &json!({"type": "Third", "shared": {}})).unwrap_err();
    assert!(error.to_string().contains("config field shared"), "{error}");
}

#[test]
fn a_folder_that_does_not_exist_is_an_error() {
    let error = Engine::open(Path::new("/nowhere/at/all"), options()).err().unwrap();
    assert!(matches!(error, EngineError::Directory { .. }), "{error}");
}

fn forever() -> keyward_test_hostile::Does {
    keyward_test_hostile::Does::Wat("(loop $l (br $l)) unreachable".to_owned())
}
