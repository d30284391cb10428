//! New versions of modules that are in use.

use keyward_test_hostile::Does;

use super::*;

fn request(kms: &Value) -> EvaluationRequest {
    EvaluationRequest::new(Origin::Stored, kms)
}

/// The digest of the module that serves a type.
fn digest(engine: &Engine, kind: &str) -> Option<String> {
    engine.descriptors().into_iter().find(|d| d.provider_type == kind).map(|d| d.module.0)
}

/// A folder with a sound module, its engine, and the digest.
fn serving() -> (tempfile::TempDir, Engine, String) {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "acme.wasm", &Forge::sound("Acme", "acme"));
    let engine = Engine::open(folder.path(), options()).unwrap();
    let first = digest(&engine, "Acme").unwrap();
    (folder, engine, first)
}

/// A new version that differs only in a text.
fn reworded() -> Forge {
    Forge::sound("Acme", "acme").answering("requirements", json!(["other words"]))
}

#[test]
fn a_new_version_that_changes_nothing_in_use_is_accepted() {
    let (folder, engine, first) = serving();
    put(folder.path(), "acme.wasm", &reworded());
    engine.reload(&[request(&acme("a")), request(&acme("b"))]).unwrap();
    assert_ne!(digest(&engine, "Acme"), Some(first));
    assert_eq!(engine.degraded(), []);
    assert_eq!(evaluate(&engine, &acme("a")).unwrap().requirements, ["other words"]);
}

#[test]
fn the_last_good_version_keeps_serving() {
    let (folder, engine, first) = serving();
    std::fs::write(folder.path().join("acme.wasm"), b"half a fi").unwrap();
    engine.reload(&[]).unwrap();
    assert_eq!(digest(&engine, "Acme"), Some(first));
    evaluate(&engine, &acme("a")).unwrap();
    let [error] = engine.degraded().try_into().unwrap();
    assert!(error.to_string().contains("stays in use"), "{error}");

    // It is replaced when the file is complete.
    put(folder.path(), "acme.wasm", &reworded());
    engine.reload(&[]).unwrap();
    assert_eq!(engine.degraded(), []);
    assert_eq!(evaluate(&engine, &acme("a")).unwrap().requirements, ["other words"]);
}

#[test]
fn a_second_module_of_a_loaded_type_changes_nothing() {
    let (folder, engine, first) = serving();
    put(folder.path(), "copy.wasm", &reworded());
    engine.reload(&[]).unwrap();
    assert_eq!(digest(&engine, "Acme"), Some(first));
    assert!(engine.degraded()[0].to_string().contains("acme.wasm, copy.wasm"));
}

#[test]
fn a_version_that_names_two_keks_for_one_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (acme("a"), acme("A"));
    // The first version returns the same KEK identity for both.
    let one = json!({"key": [{"name": "key", "value": "a"}], "version": []});
    put(folder.path(), "acme.wasm", &Forge::sound("Acme", "acme").answering("kek-identity", one));
    let engine = Engine::open(folder.path(), options()).unwrap();
    let first = digest(&engine, "Acme");
    put(folder.path(), "acme.wasm", &Forge::sound("Acme", "acme"));
    engine.reload(&[request(&a), request(&b)]).unwrap();
    assert_eq!(digest(&engine, "Acme"), first);
    let error = engine.degraded()[0].to_string();
    assert!(error.contains("would name different KEKs"), "{error}");

    // If only one of them is in use, the version is accepted.
    engine.reload(&[request(&a)]).unwrap();
    assert_ne!(digest(&engine, "Acme"), first);
}

#[test]
fn a_version_that_names_one_kek_for_two_is_refused() {
    let (folder, engine, first) = serving();
    let one = json!({"key": [{"name": "key", "value": "a"}], "version": []});
    put(folder.path(), "acme.wasm", &Forge::sound("Acme", "acme").answering("kek-identity", one));
    engine.reload(&[request(&acme("a")), request(&acme("b"))]).unwrap();
    assert_eq!(digest(&engine, "Acme"), Some(first));
    assert!(engine.degraded()[0].to_string().contains("would name the same KEK"));
}

#[test]
fn a_version_that_distinguishes_kek_versions_differently_is_refused() {
    let (folder, engine, _) = serving();
    let of = |version: Value| {
        Forge::sound("Acme", "acme").answering(
            "kek-identity",
            json!({"key": [{"name": "key", "value": "a"}], "version": [{"name": "v", "value": version}]}),
        )
    };
    put(folder.path(), "acme.wasm", &of(json!("1")));
    engine.reload(&[]).unwrap();
    let first = digest(&engine, "Acme");
    put(folder.path(), "acme.wasm", &of(json!({"$input": null})));
    engine.reload(&[request(&acme("a")), request(&acme("b"))]).unwrap();
    assert_eq!(digest(&engine, "Acme"), first);
    assert!(engine.degraded()[0].to_string().contains("versions"), "{:?}", engine.degraded());
}

#[test]
fn a_version_that_cannot_upgrade_a_configuration_in_use_is_refused() {
    let (folder, engine, first) = serving();
    let refuses = Does::Cases(
        vec![(acme("a")["acme"].clone(), json!({"err": [{"field": "key", "message": "no longer"}]}))],
        json!({"ok": {"$input": null}}),
    );
    put(folder.path(), "acme.wasm", &Forge::sound("Acme", "acme").with("upgrade", refuses));
    engine.reload(&[request(&acme("a"))]).unwrap();
    assert_eq!(digest(&engine, "Acme"), Some(first));
    assert!(engine.degraded()[0].to_string().contains("no longer"));
}

#[test]
fn a_module_in_use_stays_when_its_file_is_removed() {
    let (folder, engine, first) = serving();
    std::fs::remove_file(folder.path().join("acme.wasm")).unwrap();
    engine.reload(&[request(&acme("a"))]).unwrap();
    assert_eq!(digest(&engine, "Acme"), Some(first));
    assert!(engine.degraded()[0].to_string().contains("its file is gone"));

    engine.reload(&[]).unwrap();
    assert_eq!(digest(&engine, "Acme"), None);
    assert_eq!(engine.degraded(), []);
    let error = evaluate(&engine, &acme("a")).unwrap_err();
    assert_eq!(error.to_string(), "unsupported KMS provider type \"Acme\"; loaded providers: none");
}

#[test]
fn a_file_can_be_replaced_by_a_module_of_another_type() {
    let (folder, engine, first) = serving();
    put(folder.path(), "acme.wasm", &Forge::sound("Other", "other"));
    engine.reload(&[request(&acme("a"))]).unwrap();
    assert_eq!(digest(&engine, "Acme"), Some(first), "in use");
    assert!(digest(&engine, "Other").is_some());
}

#[test]
fn a_removed_folder_changes_nothing() {
    let (folder, engine, first) = serving();
    drop(folder);
    assert!(engine.reload(&[]).is_err());
    assert_eq!(digest(&engine, "Acme"), Some(first));
}
