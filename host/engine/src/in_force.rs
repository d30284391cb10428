//! Decides which modules are in force. An invalid file affects only its own provider type, and the previous version
//! of the module stays in use (decision 0026).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use keyward_core::provider::{Evaluation, EvaluationRequest, ProviderError};
use serde_json::Value;

use crate::error::EngineError;
use crate::evaluate::{evaluate, union};
use crate::json;
use crate::module::Module;
use crate::text::printable;

/// How many refused modules the error about a type names: the text is shown in a condition, beside others.
const MOST_NAMED: usize = 4;
/// How many characters of each.
const LONGEST_REASON: usize = 240;

/// A file and the result of loading it.
pub(crate) struct Found {
    /// Its name, without the folder.
    pub(crate) file: String,
    pub(crate) module: Result<Arc<Module>, EngineError>,
}

/// A module in force.
#[derive(Clone)]
pub(crate) struct Loaded {
    pub(crate) file: String,
    pub(crate) module: Arc<Module>,
}

/// The modules in force, by provider type, and the errors of all others.
#[derive(Default)]
pub(crate) struct InForce {
    pub(crate) providers: BTreeMap<String, Loaded>,
    pub(crate) degraded: Vec<ProviderError>,
}

impl InForce {
    /// Decides which modules are in force after `before`, from the found files and the configurations in use.
    pub(crate) fn decide(found: Vec<Found>, before: &Self, in_use: &[EvaluationRequest]) -> Self {
        let mut decision = Decision { before, in_use, now: Self::default(), kept: BTreeSet::new() };
        let mut by_type: BTreeMap<String, Vec<Loaded>> = BTreeMap::new();
        for Found { file, module } in found {
            match module {
                Ok(module) => {
                    let same = by_type.entry(module.provider_type().to_owned()).or_default();
                    same.push(Loaded { file, module });
                }
                Err(error) => decision.failed(&file, &error),
            }
        }
        for (kind, modules) in single_fields(by_type, &mut decision) {
            decision.candidates(&kind, modules);
        }
        decision.missing();
        decision.now
    }

    /// Each loaded type and its config field.
    pub(crate) fn fields(&self) -> BTreeMap<&str, &str> {
        self.providers
            .iter()
            .map(|(kind, loaded)| (kind.as_str(), loaded.module.descriptor.config_field.as_str()))
            .collect()
    }

    /// Why `provider_type` is not in force: its module is refused; or there is none of that type, and then it may be
    /// in a refused file whose type is not known.
    pub(crate) fn not_loaded(&self, provider_type: String, loaded: Vec<String>) -> ProviderError {
        let of_it = |error: &&ProviderError| matches!(error, ProviderError::Degraded { provider_type: kind, .. } if *kind == provider_type);
        if let Some(refused) = self.degraded.iter().find(of_it) {
            return refused.clone();
        }
        let mut reasons = self.degraded.iter().filter_map(|error| match error {
            ProviderError::Degraded { message, .. } => Some(shortened(message)),
            _ => None,
        });
        let mut refused: Vec<String> = reasons.by_ref().take(MOST_NAMED).collect();
        match reasons.count() {
            0 => {}
            more => refused.push(format!("{more} more")),
        }
        ProviderError::NotLoaded { provider_type, loaded, refused }
    }
}

struct Decision<'a> {
    before: &'a InForce,
    in_use: &'a [EvaluationRequest],
    now: InForce,
    /// Types whose previous version stays in use.
    kept: BTreeSet<String>,
}

impl Decision<'_> {
    /// A file that is not a valid module.
    fn failed(&mut self, file: &str, error: &EngineError) {
        let served = self.before.providers.iter().find(|(_, loaded)| loaded.file == file);
        let name = served.map_or(file, |(kind, _)| kind).to_owned();
        self.refuse(&name, &format!("{file}: {error}"));
    }

    /// The modules found for one type.
    fn candidates(&mut self, kind: &str, mut modules: Vec<Loaded>) {
        let (Some(loaded), true) = (modules.pop(), modules.is_empty()) else {
            return;
        };
        let regression = self
            .before
            .providers
            .get(kind)
            .filter(|old| old.module.descriptor.module != loaded.module.descriptor.module)
            .and_then(|old| regression(&old.module, &loaded.module, self.in_use));
        if let Some(message) = regression {
            let error = EngineError::Regression { message };
            return self.refuse(kind, &format!("{}: {error}", loaded.file));
        }
        self.kept.remove(kind);
        self.now.providers.insert(kind.to_owned(), loaded);
    }

    /// Types that were in force before and were not found.
    fn missing(&mut self) {
        let before = self.before;
        for (kind, loaded) in &before.providers {
            if self.now.providers.contains_key(kind) {
                continue;
            }
            if !self.kept.contains(kind) {
                let in_use = self.in_use.iter().any(|request| kind_of(request).as_deref() == Some(kind));
                if !in_use {
                    continue;
                }
                self.refuse(kind, &format!("{}: {}", loaded.file, EngineError::FileGone));
            }
            self.now.providers.insert(kind.clone(), loaded.clone());
        }
    }

    /// Records why a module is not in force; its previous version, if any, stays in use.
    fn refuse(&mut self, name: &str, message: &str) {
        let message = if self.before.providers.contains_key(name) {
            self.kept.insert(name.to_owned());
            format!("{message}; the previous version stays in use")
        } else {
            message.to_owned()
        };
        let message = printable(message);
        self.now.degraded.push(ProviderError::Degraded { provider_type: name.to_owned(), message });
    }
}

/// The beginning of a text that is too long.
fn shortened(text: &str) -> String {
    match text.char_indices().nth(LONGEST_REASON) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

/// Refuses types with several modules, and types that share a config field: it is not known which module is intended.
fn single_fields(
    by_type: BTreeMap<String, Vec<Loaded>>,
    decision: &mut Decision<'_>,
) -> BTreeMap<String, Vec<Loaded>> {
    let mut by_field: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (kind, modules) in &by_type {
        for loaded in modules {
            by_field.entry(&loaded.module.descriptor.config_field).or_default().insert(kind);
        }
    }
    let mut refused = BTreeSet::new();
    for (kind, modules) in &by_type {
        let files = |modules: &[Loaded]| modules.iter().map(|l| l.file.clone()).collect::<Vec<_>>();
        let shared = modules.iter().find_map(|loaded| {
            let field = loaded.module.descriptor.config_field.as_str();
            by_field.get(field).filter(|kinds| kinds.len() > 1).map(|kinds| (field, kinds))
        });
        let error = match shared {
            _ if modules.len() > 1 => {
                EngineError::Duplicate { what: format!("type {kind}"), files: files(modules) }
            }
            Some((field, kinds)) => EngineError::Duplicate {
                what: format!("config field {field}"),
                files: kinds.iter().filter_map(|k| by_type.get(*k)).flat_map(|m| files(m)).collect(),
            },
            None => continue,
        };
        refused.insert(kind.clone());
        decision.refuse(kind, &error.to_string());
    }
    by_type.into_iter().filter(|(kind, _)| !refused.contains(kind)).collect()
}

fn parse(request: &EvaluationRequest) -> Option<Value> {
    // The deepest nesting of any limit; the evaluation itself applies the configured limit.
    json::parse(&request.kms, 128).ok()
}

fn kind_of(request: &EvaluationRequest) -> Option<String> {
    parse(request)?.get("type")?.as_str().map(str::to_owned)
}

/// How a new version would change configurations in use: it refuses one, or two that named the same KEK would name
/// different KEKs, or the reverse. That would re-encrypt everything, or lose a key, without a change by an admin.
fn regression(old: &Module, new: &Module, in_use: &[EvaluationRequest]) -> Option<String> {
    let eval = |module: &Module, request: &EvaluationRequest| -> Option<Result<Evaluation, ProviderError>> {
        let kms = parse(request)?;
        let fields = [(module.provider_type(), module.descriptor.config_field.as_str())].into();
        match union(&kms, &fields) {
            Ok((_, config)) => {
                Some(evaluate(module, request.origin, config).map_err(|refusal| refusal.into_error(module)))
            }
            Err(ProviderError::NotLoaded { .. }) => None,
            Err(error) => Some(Err(error)),
        }
    };
    let mut both = Vec::new();
    for request in in_use {
        // A configuration that the old version refuses does not become worse.
        let Some(Ok(before)) = eval(old, request) else { continue };
        match eval(new, request) {
            Some(Ok(after)) => both.push((before, after)),
            Some(Err(error)) => return Some(format!("it refuses a configuration in use: {error}")),
            None => return Some("it is of another provider type".to_owned()),
        }
    }
    let mut rest = both.as_slice();
    while let Some(((before, after), others)) = rest.split_first() {
        for (other_before, other_after) in others {
            let same_key =
                [(before, other_before), (after, other_after)].map(|(a, b)| a.kek.key == b.kek.key);
            let same = [(before, other_before), (after, other_after)].map(|(a, b)| a.kek == b.kek);
            match (same_key, same) {
                ([true, false], _) => {
                    return Some(
                        "two configurations in use that name the same KEK would name different KEKs"
                            .to_owned(),
                    );
                }
                ([false, true], _) => {
                    return Some(
                        "two configurations in use that name different KEKs would name the same KEK"
                            .to_owned(),
                    );
                }
                (_, [a, b]) if a != b => {
                    return Some("it distinguishes the versions of a KEK in use differently".to_owned());
                }
                _ => {}
            }
        }
        rest = others;
    }
    None
}
