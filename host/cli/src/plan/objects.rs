//! `plan --objects`: the whole decision on a dump of objects. This file reads files and prints results. Core
//! decides what the objects mean and what follows.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use jiff::Timestamp;
use keyward_core::SecretBytes;
use keyward_core::api::ConditionStatus;
use keyward_core::names;
use keyward_core::outcome::{Action, Outcome};
use keyward_core::platform::dump::Dump;
use keyward_core::platform::openshift::{COMPONENTS, Component};
use keyward_core::platform::{self, FreshBytes, Given, Needed, Results, kubernetes, openshift};
use keyward_core::provider::Evaluator;
use keyward_core::snapshot::Snapshot;
use keyward_operator::expiry;
use serde_json::{Value, json};

use super::Output;
use crate::input;
use crate::output::{print, print_json, print_yaml};
use crate::providers::Providers;

/// The maximum number of rounds. Each one resolves what the previous one found: the configuration, its
/// references, diagnoses of its failures.
const ROUNDS: usize = 16;
/// Takes the place of random bytes. Nothing that is derived from them is printed.
const PLACEHOLDER: [u8; 32] = [0x6b; 32];
/// Takes the place of a digest with a random salt as its key. A digest with a known salt would reveal
/// credentials.
const SALTED_LATER: &str = "pending";

/// The platform that the objects are from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Platform {
    /// Keyward's own objects
    Kubernetes,
    /// OpenShift's objects
    #[value(name = "openshift")]
    OpenShift,
}

/// Flags of `plan --objects`.
#[derive(Debug, Args)]
pub(super) struct DumpArgs {
    /// Dumps of a cluster's objects: Lists, or YAML or JSON documents; - for standard input
    #[arg(long, value_name = "FILE", num_args = 1.., requires = "platform", conflicts_with_all = ["current", "file"])]
    pub(super) objects: Vec<String>,
    /// Platform that the objects are from
    #[arg(long, value_enum, requires = "objects")]
    platform: Option<Platform>,
    /// Decide only for this operand [default: every operand in the objects]
    #[arg(long, value_name = "NAME", requires = "objects")]
    operand: Option<String>,
    /// Current time, RFC 3339 [default: the newest time in the objects, or now]
    #[arg(long, value_name = "TIME", requires = "objects")]
    now: Option<Timestamp>,
}

pub(super) fn run(args: &DumpArgs, output: Output, providers: &Providers) -> Result<ExitCode> {
    let Some(platform) = args.platform else {
        bail!("the platform of the objects is not known; give --platform")
    };
    let mut dump = Dump::default();
    for file in &args.objects {
        let name = if file == "-" { "standard input" } else { file.as_str() };
        dump.read(name, &input::read(file)?)?;
    }
    print_notes(&dump, platform);
    let now = args.now.or(dump.newest()).unwrap_or_else(Timestamp::now);
    let engine = providers.load()?;
    let outcomes = match platform {
        Platform::Kubernetes => vec![on_kubernetes(&dump, args.operand.as_deref(), now, engine.as_ref())?],
        Platform::OpenShift => on_openshift(&dump, args.operand.as_deref(), now, engine.as_ref())?,
    };
    match output {
        Output::Table => print(&table(&outcomes))?,
        Output::Json => print_json(&described(&outcomes))?,
        Output::Yaml => print_yaml(&described(&outcomes))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints notes on standard error: kinds that the decision ignores, and kinds that the dump does not contain.
fn print_notes(dump: &Dump, platform: Platform) {
    for (kind, count) in dump.ignored() {
        let objects = if *count == 1 { "object" } else { "objects" };
        eprintln!("note: ignored {count} {objects} of kind {kind}");
    }
    let needed: &[&str] = match platform {
        Platform::Kubernetes => &["Secret", "Node", "Lease", "EncryptionNode"],
        Platform::OpenShift => &["Secret", "Pod"],
    };
    for kind in dump.lacks(needed) {
        eprintln!("note: the dump contains no {kind}; the decision assumes that the cluster has none");
    }
}

fn on_kubernetes(
    dump: &Dump,
    operand: Option<&str>,
    now: Timestamp,
    evaluator: &dyn Evaluator,
) -> Result<Outcome> {
    if let Some(other) = operand.filter(|operand| *operand != names::KUBE_APISERVER) {
        bail!("operand {other} does not exist on kubernetes; use {}", names::KUBE_APISERVER);
    }
    let objects = dump.kubernetes();
    let results =
        resolved(dump, names::NAMESPACE, evaluator, |results| kubernetes::needed(&objects, results))?;
    let status = objects.cluster_encryption.as_ref().and_then(|cluster| cluster.status.as_ref());
    let ages = platform::ages(status.map_or(&[][..], |status| &status.since), now);
    match kubernetes::snapshot(&objects, &results, Given { now, ages, fresh: fresh() }) {
        Some(snapshot) => Ok(decided(&snapshot)),
        None => {
            bail!("the dump contains no ClusterEncryption/cluster; without it Keyward does nothing")
        }
    }
}

fn on_openshift(
    dump: &Dump,
    operand: Option<&str>,
    now: Timestamp,
    evaluator: &dyn Evaluator,
) -> Result<Vec<Outcome>> {
    let objects = dump.openshift();
    let all = || COMPONENTS.map(|component| component.name).join(", ");
    let components: Vec<&Component> = match operand {
        Some(name) => match Component::named(name) {
            Some(component) => vec![component],
            None => bail!("operand {name} does not exist on openshift; use one of {}", all()),
        },
        None => COMPONENTS.iter().filter(|component| component.is_in(&objects)).collect(),
    };
    if components.is_empty() {
        bail!("the dump contains no operand; expected one of {}, or give --operand", all());
    }
    components.into_iter().map(|component| on_component(dump, &objects, component, now, evaluator)).collect()
}

fn on_component(
    dump: &Dump,
    objects: &openshift::Objects,
    component: &Component,
    now: Timestamp,
    evaluator: &dyn Evaluator,
) -> Result<Outcome> {
    let results = resolved(dump, names::CONFIG_NAMESPACE, evaluator, |results| {
        openshift::needed(objects, component, results)
    })?;
    // OpenShift has no `since[]`: a fact either carries its own time or was just seen.
    let given = Given { now, ages: platform::ages(&[], now), fresh: fresh() };
    match openshift::snapshot(objects, component, &results, given) {
        Some(snapshot) => Ok(decided(&snapshot)),
        None => bail!("the dump contains no APIServer/cluster; without it Keyward does nothing"),
    }
}

/// Resolves everything that the decision needs: answers of provider modules, and referenced objects.
fn resolved(
    dump: &Dump,
    namespace: &str,
    evaluator: &dyn Evaluator,
    needed: impl Fn(&Results) -> Needed,
) -> Result<Results> {
    let mut results = Results::default();
    for _ in 0..ROUNDS {
        let wanted = needed(&results);
        if wanted.is_empty() {
            return Ok(results);
        }
        for request in wanted.evaluations {
            let answer = evaluator.evaluate(&request);
            results.evaluations.insert(request, answer);
        }
        for object in wanted.objects {
            let found = dump.referenced(namespace, &object);
            if let Ok(Some(data)) = &found {
                let annotated = expiry::annotation(dump.annotations(namespace, &object));
                results.expiries.insert(object.clone(), expiry::of(data, annotated));
            }
            results.objects.insert(object, found);
        }
        for (request, failure) in wanted.diagnoses {
            let answer = evaluator.diagnose(&request, &failure);
            results.diagnoses.insert((request, failure), answer);
        }
    }
    bail!("internal error: no decision after {ROUNDS} rounds; please report this bug")
}

fn fresh() -> FreshBytes {
    FreshBytes { key: SecretBytes::new(PLACEHOLDER.to_vec()), salt: SecretBytes::new(PLACEHOLDER.to_vec()) }
}

fn decided(snapshot: &Snapshot) -> Outcome {
    keyward_core::reconcile(snapshot)
}

/// The document of `-o json` and `-o yaml` (docs/reference/cli.md).
fn described(outcomes: &[Outcome]) -> Value {
    let operands: Vec<Value> = outcomes
        .iter()
        .map(|outcome| {
            let waiting = outcome.waiting.as_ref().map(|w| format!("{}: {}", w.reason, w.message));
            let conditions: Vec<Value> = outcome
                .conditions
                .iter()
                .map(|c| {
                    json!({"type": c.type_, "status": c.status, "reason": c.reason, "message": c.message})
                })
                .collect();
            let mut decided = json!({
                "operand": outcome.operand,
                "converged": outcome.converged,
                "waiting": waiting,
                "actions": outcome.actions.iter().map(action).collect::<Vec<_>>(),
                "conditions": conditions,
                "explanation": outcome.explanation,
            });
            if let Some(fields) = decided.as_object_mut().filter(|_| !outcome.withheld.is_empty()) {
                let withheld = outcome.withheld.iter().map(action).collect::<Vec<_>>();
                fields.insert("withheld".to_owned(), json!(withheld));
            }
            decided
        })
        .collect();
    json!({ "operands": operands })
}

fn action(action: &Action) -> Value {
    let mut described = action.describe();
    if let (Action::RequirePreflight { .. }, Some(hash)) = (action, described.get_mut("hash")) {
        *hash = json!(SALTED_LATER);
    }
    described
}

/// Text for people.
fn table(outcomes: &[Outcome]) -> String {
    let mut text = String::new();
    for outcome in outcomes {
        let separator = if text.is_empty() { "" } else { "\n" };
        let _ = writeln!(text, "{separator}{}", outcome.operand);
        let converged = if outcome.converged { "yes" } else { "no" };
        let _ = writeln!(text, "  converged   {converged}");
        if let Some(waiting) = &outcome.waiting {
            let _ = writeln!(text, "  waits for   {}: {}", waiting.reason, waiting.message);
        }
        if outcome.actions.is_empty() {
            let _ = writeln!(text, "⇒ no action");
        }
        for (index, decided) in outcome.actions.iter().enumerate() {
            let _ = writeln!(text, "⇒ {}. {}", index.saturating_add(1), in_words(&action(decided)));
        }
        for (index, decided) in outcome.withheld.iter().enumerate() {
            let _ = writeln!(text, "  paused: {}. {}", index.saturating_add(1), in_words(&action(decided)));
        }
        for why in &outcome.explanation {
            let _ = writeln!(text, "  because {why}");
        }
        for condition in &outcome.conditions {
            // Conditions that are as expected are left out.
            if condition.status == ConditionStatus::True || condition.type_ == "Encrypted" {
                let (type_, reason) = (&condition.type_, &condition.reason);
                let _ = writeln!(text, "  {type_} {:?} {reason}: {}", condition.status, condition.message);
            }
        }
    }
    text
}

/// `CreateKey keyID 6, mode aescbc, …`.
fn in_words(action: &Value) -> String {
    let kind = action.get("kind").and_then(Value::as_str).unwrap_or_default();
    let fields: Vec<String> = action
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(name, value)| *name != "kind" && !value.is_null())
        .map(|(name, value)| format!("{name} {}", shown(value)))
        .collect();
    format!("{kind} {}", fields.join(", ")).trim_end().to_owned()
}

/// A value as text; configurations as `secrets=kms:2,kms:1,identity` (openshift: provider-list-notation).
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(shown).collect::<Vec<_>>().join(","),
        Value::Object(fields) => {
            let each: Vec<String> = fields.iter().map(|(name, v)| format!("{name}={}", shown(v))).collect();
            each.join(";")
        }
        other => other.to_string(),
    }
}
