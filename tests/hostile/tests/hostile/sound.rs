//! The sound module itself, from which the hostile ones are derived.

use keyward_core::provider::{Diagnosis, Failure, Part, Plugin};
use keyward_test_hostile::Does;

use super::*;

#[test]
fn a_sound_module_is_evaluated() {
    let engine = engine(&Forge::sound("Acme", "acme"));
    let found = evaluate(&engine, &acme("a")).unwrap();
    assert_eq!(found.provider_type, "Acme");
    assert_eq!(found.normalized, acme("a")["acme"]);
    assert_eq!(found.kek.key["config"], acme("a")["acme"].to_string());
    assert_eq!(found.image, Some(image()));
    assert_eq!(found.requirements, ["permission to use the key"]);
    assert_eq!(found.facts["status"], "constant");
    assert!(found.module.0.starts_with("sha256:"));
    let Plugin::Managed(container) = &found.rendered else { panic!("{found:?}") };
    assert_eq!(container.args, [[Part::Text("--listen=".to_owned()), Part::Host("socket-uri".to_owned())]]);

    let [info] = engine.modules().try_into().unwrap();
    assert_eq!((info.abi, info.descriptor.provider_type.as_str()), ("0.1.0", "Acme"));
    assert_eq!(info.imports, ["keyward:provider/types@0.1.0"]);
}

#[test]
fn an_unpinned_image_is_a_violation_at_its_field() {
    let engine = engine(&Forge::sound("Acme", "acme"));
    let kms = json!({"type": "Acme", "acme": {"image": "example.com/kms:latest"}});
    let ProviderError::Invalid { violations } = evaluate(&engine, &kms).unwrap_err() else { panic!() };
    assert_eq!(violations[0].field, "acme.image");
}

#[test]
fn violations_have_paths_below_the_kms_object_and_no_control_characters() {
    let refuse = json!({"err": [
        {"field": "key", "message": "no \u{1b}[31mgood\nat all"},
        {"field": "", "message": "as a whole"},
    ]});
    let engine = engine(&Forge::sound("Acme", "acme").answering("normalize", refuse));
    let error = evaluate(&engine, &acme("a")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the KMS configuration is invalid: acme.key: no \u{fffd}[31mgood at all; acme: as a whole"
    );
}

#[test]
fn warnings_have_paths_below_the_configuration_like_rules() {
    let warns = json!({"ok": {"config": {"$input": null}, "warnings": [{"field": "key", "message": "old"}]}});
    let engine = engine(&Forge::sound("Acme", "acme").answering("normalize", warns));
    let found = evaluate(&engine, &acme("a")).unwrap();
    assert_eq!((found.warnings[0].field.as_str(), found.warnings[0].message.as_str()), ("key", "old"));
}

#[test]
fn a_stored_configuration_is_upgraded_first() {
    let stored = json!({"old": 1});
    let today = acme("a")["acme"].clone();
    let forge = Forge::sound("Acme", "acme").with(
        "upgrade",
        Does::Cases(
            vec![(stored.clone(), json!({"ok": today.to_string()}))],
            json!({"err": [{"field": "", "message": "never stored"}]}),
        ),
    );
    let engine = engine(&forge);
    let kms = json!({"type": "Acme", "acme": stored});
    let found = engine.evaluate(&EvaluationRequest::new(Origin::Stored, &kms)).unwrap();
    assert_eq!(found.normalized, today);
    assert_eq!(engine.upgraded(&kms).unwrap(), today);
    let error = engine.upgraded(&acme("b")).unwrap_err();
    assert!(error.to_string().contains("acme: never stored"), "{error}");
}

#[test]
fn a_failure_is_diagnosed() {
    // Each text of a diagnosis is one line.
    let answer = json!({"cause": "login", "summary": "refused", "remedy": "renew\nit", "retryable": true});
    let engine = engine(&Forge::sound("Acme", "acme").answering("diagnose", answer));
    let request = EvaluationRequest::new(Origin::Desired, &acme("a"));
    let failure = Failure {
        phase: "login".to_owned(),
        grpc_code: Some(16),
        exit_code: Some(-1),
        message: "no".to_owned(),
        log_tail: vec!["a line".to_owned()],
    };
    let known = engine.diagnose(&request, &failure).unwrap();
    let expected = Diagnosis {
        cause: "login".to_owned(),
        summary: "refused".to_owned(),
        remedy: "renew it".to_owned(),
        retryable: true,
    };
    assert_eq!(known, Some(expected));
}

#[test]
fn many_threads_share_few_concurrent_calls() {
    let engine = engine(&Forge::sound("Acme", "acme"));
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let engine = &engine;
            scope.spawn(move || {
                for i in 0..25 {
                    evaluate(engine, &acme(&format!("{thread}-{i}"))).unwrap();
                }
            });
        }
    });
}

#[test]
fn each_call_has_a_fresh_instance() {
    // A module whose second call in the same instance would trap.
    let forge = Forge::sound("Acme", "acme").extra("(global $calls (mut i32) (i32.const 0))").with(
        "requirements",
        Does::Wat(
            "(if (global.get $calls) (then unreachable)) (global.set $calls (i32.const 1)) (i32.const 0)"
                .to_owned(),
        ),
    );
    let engine = engine(&forge);
    for key in ["a", "b", "c"] {
        assert!(evaluate(&engine, &acme(key)).unwrap().requirements.is_empty());
    }
}

#[test]
fn costs_are_measured() {
    let engine = engine(&Forge::sound("Acme", "acme"));
    let costs = keyward_engine::measure::calls(&engine, &acme("a"), 3).unwrap();
    assert_eq!(costs.len(), 6);
    assert!(costs.iter().all(|cost| cost.fuel > 0 && cost.memory_bytes >= 65_536), "{costs:?}");
}
