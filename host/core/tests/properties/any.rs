//! Generators: any valid value of a stored format.

use std::collections::BTreeMap;
use std::ops::Range;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use keyward_core::SecretBytes;
use keyward_core::api::{HostAlias, KeyCheck, PluginResources, PluginSettings, ProxySettings};
use keyward_core::formats::encryption_config::{
    EncryptionConfiguration, Identity, KeysConfiguration, KmsConfiguration, NamedKey, ProviderConfiguration,
    ResourceConfiguration,
};
use keyward_core::formats::key_secret::{KeySecret, KmsKey, NULL_KEY};
use keyward_core::formats::revision::{AcceptedPlugin, PluginRecord, RevisionContent};
use keyward_core::ids::{GroupResource, KeyId, Mode, RemoteKeyId, Revision};
use keyward_core::names;
use keyward_core::provider::{
    Container, EnvVar, HttpProbe, KeyRef, ModuleDigest, Part, Plugin, ReferenceKind, RenderedFile,
};
use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::Value;

/// What an object can be called: no underscore.
pub const OBJECT_NAME: &str = "[a-z0-9]([a-z0-9.-]{0,20}[a-z0-9])?";
/// What a data key can be called.
pub const DATA_KEY: &str = "[a-zA-Z0-9._-]{1,30}";

pub fn secret(length: Range<usize>) -> impl Strategy<Value = SecretBytes> {
    vec(any::<u8>(), length).prop_map(SecretBytes::new)
}

pub fn resource() -> impl Strategy<Value = GroupResource> {
    prop_oneof![
        select(vec!["secrets", "configmaps", "routes.route.openshift.io"]).prop_map(GroupResource::parse),
        "[a-z]{1,12}(\\.[a-z]{1,8}){0,3}".prop_map(|text| GroupResource::parse(&text)),
    ]
}

pub fn reference_kind() -> impl Strategy<Value = ReferenceKind> {
    select(vec![ReferenceKind::Secret, ReferenceKind::ConfigMap])
}

pub fn key_ref() -> impl Strategy<Value = KeyRef> {
    (reference_kind(), OBJECT_NAME, DATA_KEY).prop_map(|(kind, name, key)| KeyRef { kind, name, key })
}

/// Any JSON, numbers of every size among it: the `kms` object is stored as the admin wrote it.
pub fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_filter("JSON has no such number", |f| f.is_finite()).prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 5, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..5).prop_map(Value::from),
            vec((any::<String>(), inner), 0..5)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

pub fn kms_object() -> impl Strategy<Value = Value> {
    ("[A-Z][a-z]{0,8}", vec((any::<String>(), json()), 0..5)).prop_map(|(kind, fields)| {
        let own = [("type".to_owned(), Value::String(kind))];
        Value::Object(own.into_iter().chain(fields).collect())
    })
}

fn part() -> impl Strategy<Value = Part> {
    prop_oneof![
        any::<String>().prop_map(Part::Text),
        "[a-z:-]{1,12}".prop_map(Part::Host),
        key_ref().prop_map(Part::Path),
        key_ref().prop_map(Part::Value),
        DATA_KEY.prop_map(Part::Rendered),
    ]
}

pub fn plugin() -> impl Strategy<Value = Plugin> {
    let parts = || vec(part(), 0..4);
    let named = || vec((DATA_KEY, parts()), 0..3);
    let container = (
        (vec(any::<String>(), 0..3), vec(parts(), 0..4), named(), named()),
        (vec("[a-z]{1,15}", 0..3), option::of(("[a-z]{1,15}", "/[a-z]{0,9}")), any::<u32>(), any::<u32>()),
        btree_map("[a-z-]{1,9}", any::<String>(), 0..3),
    );
    let managed =
        container.prop_map(|((command, args, env, files), (ports, health, cpu, memory), settings)| {
            Plugin::Managed(Container {
                command,
                args,
                env: env.into_iter().map(|(name, value)| EnvVar { name, value }).collect(),
                files: files.into_iter().map(|(name, content)| RenderedFile { name, content }).collect(),
                ports,
                health: health.map(|(port, path)| HttpProbe { port, path }),
                cpu_request_millis: cpu,
                memory_request_mib: memory,
                settings,
            })
        });
    prop_oneof![4 => managed, 1 => "unix:///[a-z/.]{1,30}".prop_map(Plugin::External)]
}

fn settings() -> impl Strategy<Value = PluginSettings> {
    let text = || option::of(any::<String>());
    let quantities = || btree_map(any::<String>(), any::<String>(), 0..3);
    (
        text(),
        option::of((text(), text(), text())),
        vec((any::<String>(), vec(any::<String>(), 0..3)), 0..3),
        option::of((quantities(), quantities())),
    )
        .prop_map(|(timeout, proxy, aliases, resources)| PluginSettings {
            timeout,
            proxy: proxy.map(|(http, https, no_proxy)| ProxySettings { http, https, no_proxy }),
            host_aliases: aliases.into_iter().map(|(ip, hostnames)| HostAlias { ip, hostnames }).collect(),
            resources: resources.map(|(requests, limits)| PluginResources { requests, limits }),
        })
}

pub fn accepted() -> impl Strategy<Value = AcceptedPlugin> {
    (option::of(any::<String>()), plugin(), settings(), option::of("sha256:[0-9a-f]{64}")).prop_map(
        |(image, template, settings, module)| AcceptedPlugin {
            image,
            template,
            settings,
            module_digest: module.map(ModuleDigest),
        },
    )
}

/// Valid referenced values: none is empty (openshift: referenced-data-keys).
pub fn record() -> impl Strategy<Value = PluginRecord> {
    (
        kms_object(),
        btree_map(key_ref(), secret(1..40), 0..4),
        option::of(accepted()),
        option::of(secret(0..40)),
    )
        .prop_map(|(kms, referenced, accepted, salt)| PluginRecord { kms, referenced, accepted, salt })
}

pub fn kms_configuration(name: String) -> impl Strategy<Value = KmsConfiguration> {
    (select(vec!["v1", "v2"]), option::of(any::<i32>()), "unix:///[a-z0-9/.-]{1,30}", "[0-9]{1,3}(ms|s|m)")
        .prop_map(move |(version, cachesize, endpoint, timeout)| KmsConfiguration {
            api_version: version.to_owned(),
            name: name.clone(),
            cachesize,
            endpoint,
            timeout,
        })
}

pub fn key_check() -> impl Strategy<Value = KeyCheck> {
    (
        vec(any::<u8>(), 0..40),
        any::<String>(),
        btree_map(any::<String>(), any::<String>(), 0..3),
        "[0-9a-f]{64}",
    )
        .prop_map(|(ciphertext, remote, annotations, plaintext_sha256)| KeyCheck {
            ciphertext: STANDARD.encode(ciphertext),
            remote_key_id: RemoteKeyId(remote),
            annotations,
            plaintext_sha256,
        })
}

pub fn mode() -> impl Strategy<Value = Mode> {
    select(vec![Mode::Identity, Mode::Aescbc, Mode::Aesgcm, Mode::Secretbox, Mode::Kms])
}

pub fn material(mode: Mode) -> BoxedStrategy<SecretBytes> {
    if mode.is_local() {
        // All zeros is the null key, which means identity.
        vec(any::<u8>(), 32)
            .prop_filter("the null key", |key| key.iter().any(|b| *b != 0))
            .prop_map(SecretBytes::new)
            .boxed()
    } else {
        Just(SecretBytes::new(NULL_KEY.to_vec())).boxed()
    }
}

pub fn kms_key(id: KeyId) -> impl Strategy<Value = KmsKey> {
    (kms_configuration(id.to_string()), record(), option::of(key_check())).prop_map(
        |(provider, plugin, key_check)| {
            let provider = KmsConfiguration { api_version: "v2".to_owned(), ..provider };
            KmsKey { provider, plugin, key_check }
        },
    )
}

pub fn key_secret() -> impl Strategy<Value = KeySecret> {
    (any::<u64>(), mode()).prop_flat_map(|(id, mode)| {
        let id = KeyId(id);
        let kms = if mode == Mode::Kms { kms_key(id).prop_map(Some).boxed() } else { Just(None).boxed() };
        (
            (material(mode), kms),
            (any::<String>(), any::<String>(), vec(resource(), 0..4), option::of(0..253_402_300_800_i64)),
            (option::of(any::<u64>()), option::of(any::<String>()), option::of(any::<String>())),
            ("[0-9a-f-]{0,36}", "[0-9]{0,9}"),
        )
            .prop_map(
                move |(
                    (material, kms),
                    (internal, external, migrated, at),
                    (published, abandoned, remote),
                    (uid, version),
                )| {
                    let mut key = KeySecret::new(id, mode, material, kms, internal);
                    key.external_reason = external;
                    key.migrated = migrated;
                    key.migrated_at = at.map(|at| jiff::Timestamp::from_second(at).unwrap());
                    key.write_published = published.map(Revision);
                    key.abandoned = abandoned;
                    key.remote_key_id = remote.map(RemoteKeyId);
                    key.uid = uid;
                    key.resource_version = version;
                    key
                },
            )
    })
}

fn local(mode: Mode, keys: Vec<(String, Vec<u8>)>) -> ProviderConfiguration {
    let named = |(name, secret)| NamedKey { name, secret: STANDARD.encode::<Vec<u8>>(secret) };
    let keys = Some(KeysConfiguration { keys: keys.into_iter().map(named).collect() });
    match mode {
        Mode::Aescbc => ProviderConfiguration { aescbc: keys, ..Default::default() },
        Mode::Aesgcm => ProviderConfiguration { aesgcm: keys, ..Default::default() },
        _ => ProviderConfiguration { secretbox: keys, ..Default::default() },
    }
}

fn provider() -> impl Strategy<Value = ProviderConfiguration> {
    let keys = vec((any::<String>(), vec(any::<u8>(), 0..40)), 0..3);
    prop_oneof![
        3 => (select(vec![Mode::Aescbc, Mode::Aesgcm, Mode::Secretbox]), keys)
            .prop_map(|(mode, keys)| local(mode, keys)),
        1 => Just(ProviderConfiguration { identity: Some(Identity {}), ..Default::default() }),
        1 => any::<String>()
            .prop_flat_map(kms_configuration)
            .prop_map(|kms| ProviderConfiguration { kms: Some(kms), ..Default::default() }),
    ]
}

/// Any configuration, others' too: many keys a provider, many resources an entry.
pub fn configuration() -> impl Strategy<Value = EncryptionConfiguration> {
    let entry = (option::of(vec(any::<String>(), 0..3)), vec(provider(), 0..5));
    vec(entry, 0..4).prop_map(|entries| {
        EncryptionConfiguration::new(
            entries
                .into_iter()
                .map(|(resources, providers)| ResourceConfiguration { resources, providers })
                .collect(),
        )
    })
}

/// A deployed revision in OpenShift's order (openshift: provider-order). Plugin data may be missing, as after
/// the deletion of a key secret (openshift: deleted-kms-key-secret).
pub fn deployed() -> impl Strategy<Value = RevisionContent> {
    let lists = (vec(mode(), 40), btree_set(1..40_u64, 0..6), any::<bool>());
    (
        btree_map(resource(), lists, 1..4),
        vec(any::<u8>(), 32),
        btree_map((1..40_u64).prop_map(KeyId), record(), 0..20),
    )
        .prop_map(|(resources, material, plugins)| {
            let modes: Vec<Mode> = resources.values().next().unwrap().0.clone();
            let material = [&material[..31], &[1]].concat();
            let entries = resources.iter().map(|(resource, (_, ids, plain))| {
                let ids: Vec<u64> = ids.iter().rev().copied().collect();
                ResourceConfiguration {
                    resources: Some(vec![resource.to_string()]),
                    providers: providers(resource, &ids, *plain, &modes, &material),
                }
            });
            RevisionContent::new(EncryptionConfiguration::new(entries.collect()), plugins)
        })
}

fn providers(
    resource: &GroupResource,
    ids: &[u64],
    plain: bool,
    modes: &[Mode],
    material: &[u8],
) -> Vec<ProviderConfiguration> {
    let encoded = |bytes: &[u8]| STANDARD.encode(bytes);
    let keys = |id: u64, bytes: &[u8]| {
        Some(KeysConfiguration { keys: vec![NamedKey { name: id.to_string(), secret: encoded(bytes) }] })
    };
    let none = ProviderConfiguration::default;
    let identity = || ProviderConfiguration { identity: Some(Identity {}), ..none() };
    let mode_of = |id: u64| modes[usize::try_from(id).unwrap() - 1];
    let (mut list, mut fakes) = (Vec::new(), Vec::new());
    if plain || ids.first().is_some_and(|id| mode_of(*id) == Mode::Identity) {
        list.push(identity());
    }
    for id in ids {
        match mode_of(*id) {
            Mode::Identity => fakes.push(ProviderConfiguration { aesgcm: keys(*id, &[0; 16]), ..none() }),
            Mode::Aescbc => list.push(ProviderConfiguration { aescbc: keys(*id, material), ..none() }),
            Mode::Aesgcm => list.push(ProviderConfiguration { aesgcm: keys(*id, material), ..none() }),
            Mode::Secretbox => list.push(ProviderConfiguration { secretbox: keys(*id, material), ..none() }),
            Mode::Kms => list.push(ProviderConfiguration {
                kms: Some(KmsConfiguration {
                    api_version: "v2".to_owned(),
                    name: names::kms_provider(KeyId(*id), resource),
                    cachesize: None,
                    endpoint: format!("unix:///var/run/kmsplugin/kms-{id}.sock"),
                    timeout: "10s".to_owned(),
                }),
                ..none()
            }),
        }
    }
    if list.first().is_none_or(|first| first.identity.is_none()) {
        list.push(identity());
    }
    list.append(&mut fakes);
    list
}

pub fn plugins() -> impl Strategy<Value = BTreeMap<KeyId, PluginRecord>> {
    btree_map(any::<u64>().prop_map(KeyId), record(), 0..3)
}

/// Damage to bytes: on a disk, on a wire, by an admin.
#[derive(Clone, Debug)]
pub enum Mishap {
    Flip(usize, u8),
    Insert(usize, Vec<u8>),
    Delete(usize, usize),
    Repeat(usize, usize),
    Cut(usize),
}

pub fn mishaps() -> impl Strategy<Value = Vec<Mishap>> {
    let at = any::<usize>;
    let telling = select(vec![
        "\"",
        "{",
        "}",
        "[",
        "]",
        ":",
        ",",
        "null",
        "\\u0000",
        "-",
        "_",
        "\n",
        "*a",
        "&a ",
        "!!binary ",
    ]);
    vec(
        prop_oneof![
            (at(), 1..=255_u8).prop_map(|(at, bits)| Mishap::Flip(at, bits)),
            (at(), vec(any::<u8>(), 1..6)).prop_map(|(at, bytes)| Mishap::Insert(at, bytes)),
            (at(), telling).prop_map(|(at, text)| Mishap::Insert(at, text.as_bytes().to_vec())),
            (at(), 1..40_usize).prop_map(|(at, count)| Mishap::Delete(at, count)),
            (at(), 1..40_usize).prop_map(|(at, count)| Mishap::Repeat(at, count)),
            at().prop_map(Mishap::Cut),
        ],
        1..5,
    )
}

/// The bytes after all of that.
pub fn after(bytes: &[u8], mishaps: &[Mishap]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for mishap in mishaps {
        let place = |at: usize| at.checked_rem(bytes.len() + 1).unwrap();
        match mishap {
            Mishap::Flip(at, bits) => {
                let at = place(*at);
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= bits;
                }
            }
            Mishap::Insert(at, more) => {
                let at = place(*at);
                bytes.splice(at..at, more.iter().copied());
            }
            Mishap::Delete(at, count) => {
                let at = place(*at);
                let end = bytes.len().min(at + count);
                bytes.drain(at..end);
            }
            Mishap::Repeat(at, count) => {
                let at = place(*at);
                let end = bytes.len().min(at + count);
                bytes.extend_from_within(at..end);
            }
            Mishap::Cut(at) => bytes.truncate(place(*at)),
        }
    }
    bytes
}
