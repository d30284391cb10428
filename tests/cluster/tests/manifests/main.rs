//! Compares how Keyward reads static pod manifests, flags, quantities and durations with the kubelet and
//! kube-apiserver. If upstream accepts a text, Keyward understands the same, or refuses with a reason; never
//! less, and nothing else.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // a test fails at the first error

mod generate;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};

use generate::Rng;
use keyward_core::duration;
use keyward_core::node::pod::four_times;
use keyward_core::quantity::Quantity;
use keyward_node::kubeadm::{SWITCHES, defines_api_server, manifest, parse_words};
use keyward_test_cluster::Tools;
use serde_json::{Value, json};

const FLAGS: [&str; 3] =
    ["encryption-provider-config", "encryption-provider-config-automatic-reload", "request-timeout"];

/// How many of each kind are generated.
fn count() -> u64 {
    std::env::var("KEYWARD_TEST_MANIFESTS")
        .map_or(400, |text| text.parse().expect("KEYWARD_TEST_MANIFESTS is a number"))
}

/// Upstream's answers; `None` if KUBEBUILDER_ASSETS has no program for them.
fn upstream(questions: &[Value]) -> Option<Vec<Value>> {
    let program = Tools::here().control_plane().unwrap().pod?;
    let mut command = Command::new(&program.path);
    let mut child = command.args(&program.args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    let answers: Vec<Value> = std::thread::scope(|scope| {
        scope.spawn(move || {
            for question in questions {
                writeln!(input, "{question}").unwrap();
            }
        });
        output.lines().map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect()
    });
    assert!(child.wait().unwrap().success());
    assert_eq!(answers.len(), questions.len());
    Some(answers)
}

fn error(answer: &Value) -> Option<&str> {
    answer.get("error").and_then(Value::as_str)
}

/// The results of the comparisons.
#[derive(Default)]
struct Tally {
    agreed: u64,
    upstream_refuses: u64,
    refused: BTreeMap<String, u64>,
}

impl Tally {
    fn refuse(&mut self, why: &str) {
        // The reason without names and numbers.
        let mut reason: String = why.split('"').step_by(2).collect();
        for prefix in ["its argument ", "whether --"] {
            if let Some((before, _)) = reason.split_once(prefix) {
                reason = format!("{before}{prefix}…");
            }
        }
        reason.retain(|c| !c.is_ascii_digit());
        *self.refused.entry(reason).or_default() += 1;
    }

    fn print(&self, what: &str) {
        println!("{what}: {} agree, {} refused by upstream", self.agreed, self.upstream_refuses);
        for (reason, count) in &self.refused {
            println!("  {count:>5} refused by Keyward: {reason}");
        }
        assert!(self.agreed * 10 >= count(), "{what}: too few agree to show anything");
    }
}

#[test]
fn durations_are_read_like_go_or_refused() {
    let texts: Vec<String> = (0..count()).map(|seed| generate::duration(&mut Rng::new(seed))).collect();
    let questions: Vec<Value> = texts.iter().map(|text| json!({"duration": text})).collect();
    let Some(answers) = upstream(&questions) else { return };
    let mut tally = Tally::default();
    for (text, answer) in texts.iter().zip(&answers) {
        match (duration::go(text), error(answer)) {
            (Err(_), Some(_)) => tally.upstream_refuses += 1,
            (Ok(_), Some(why)) => panic!("{text:?}: upstream refuses it: {why}"),
            (Err(why), None) => tally.refuse(&why),
            (Ok(found), None) => {
                let nanos = answer.get("duration").and_then(Value::as_i64).unwrap_or_default();
                assert_eq!(i128::try_from(found.as_nanos()).unwrap(), i128::from(nanos), "{text:?}");
                tally.agreed += 1;
            }
        }
    }
    tally.print("durations");
    assert!(tally.refused.keys().all(|reason| reason.ends_with("is negative")), "{:?}", tally.refused);
}

/// A decimal number, in billionths.
fn nanos(text: &str) -> i128 {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    format!("{whole}{fraction:0<9}").parse().unwrap()
}

#[test]
fn quantities_are_read_like_kubernetes_or_refused() {
    let texts: Vec<String> = (0..count()).map(|seed| generate::quantity(&mut Rng::new(seed))).collect();
    // The agent writes a limit for the kubelet: four times the request.
    let limits: Vec<Option<String>> = texts.iter().map(|text| four_times(text)).collect();
    let asked = texts.iter().chain(limits.iter().flatten());
    let questions: Vec<Value> = asked.map(|text| json!({"quantity": text})).collect();
    let Some(answers) = upstream(&questions) else { return };
    let (answers, products) = answers.split_at(texts.len());
    let mut products = products.iter();
    let mut tally = Tally::default();
    for ((text, limit), answer) in texts.iter().zip(&limits).zip(answers) {
        match (Quantity::parse(text), error(answer)) {
            (Err(_), Some(_)) => tally.upstream_refuses += 1,
            (Ok(_), Some(why)) => panic!("{text:?}: upstream refuses it: {why}"),
            (Err(why), None) => tally.refuse(&why),
            (Ok(found), None) => {
                let amount = nanos(answer["quantity"].as_str().unwrap());
                assert_eq!(i128::try_from(found.nanos()).unwrap(), amount, "{text:?}");
                if let Some(limit) = limit {
                    let product = products.next().unwrap();
                    assert_eq!(
                        nanos(product["quantity"].as_str().unwrap()),
                        amount * 4,
                        "{text:?}: {limit:?}"
                    );
                }
                tally.agreed += 1;
            }
        }
    }
    tally.print("quantities");
}

#[test]
fn flags_are_read_like_kube_apiserver_or_refused() {
    let all: Vec<Vec<String>> = (0..count()).map(|seed| generate::words(&mut Rng::new(seed))).collect();
    let questions: Vec<Value> = all.iter().map(|words| json!({"words": words})).collect();
    let Some(answers) = upstream(&questions) else { return };
    let mut tally = Tally::default();
    for (words, answer) in all.iter().zip(&answers) {
        compare_flags(words, answer, &mut tally);
    }
    tally.print("flags");
}

/// Words that kube-apiserver refuses are not compared: it does not start with them.
fn compare_flags(words: &[String], answer: &Value, tally: &mut Tally) {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    if error(answer).is_some() {
        tally.upstream_refuses += 1;
        return;
    }
    let flags = match parse_words(&words) {
        Ok(flags) => flags,
        Err(why) => return tally.refuse(&why),
    };
    for name in FLAGS {
        let (ours, theirs) = (flags.get(name), answer["flags"].get(name).and_then(Value::as_str));
        let same = match (name, ours, theirs) {
            ("request-timeout", Some(ours), Some(theirs)) => {
                duration::go(ours).ok() == duration::go(theirs).ok()
            }
            ("encryption-provider-config-automatic-reload", Some(ours), Some(theirs)) => {
                matches!(ours, "1" | "t" | "T" | "true" | "TRUE" | "True") == (theirs == "true")
            }
            _ => ours == theirs,
        };
        assert!(same, "{words:?}: --{name} is {theirs:?} for kube-apiserver and {ours:?} for Keyward");
    }
    tally.agreed += 1;
}

/// A flag without a value that Keyward does not know makes it refuse valid flags. A flag with a value that
/// Keyward takes for one without hides the next word.
#[test]
fn keyward_knows_which_flags_take_no_value() {
    let Some(answers) = upstream(&[json!({"names": true})]) else { return };
    let names: BTreeMap<String, bool> = serde_json::from_value(answers[0]["names"].clone()).unwrap();
    let switches: Vec<&str> =
        names.iter().filter(|(_, alone)| **alone).map(|(name, _)| name.as_str()).collect();
    let unknown: Vec<&&str> = switches.iter().filter(|name| !SWITCHES.contains(name)).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
    let valued: Vec<&&str> = SWITCHES.iter().filter(|name| names.get(**name) == Some(&false)).collect();
    assert!(valued.is_empty(), "{valued:?}");
}

#[test]
fn static_pods_are_read_like_the_kubelet_or_refused() {
    let texts: Vec<String> = (0..count()).map(|seed| generate::manifest(&mut Rng::new(seed))).collect();
    let questions: Vec<Value> = texts.iter().map(|text| json!({"pod": text})).collect();
    let Some(answers) = upstream(&questions) else { return };
    let mut tally = Tally::default();
    let mut understood = Vec::new();
    for (text, answer) in texts.iter().zip(&answers) {
        if error(answer).is_some() {
            tally.upstream_refuses += 1;
            continue;
        }
        let pod = &answer["pod"];
        let containers = pod["containers"].as_array().unwrap();
        let is_server = |container: &&Value| {
            let program = container["words"].get(0).and_then(Value::as_str).unwrap_or_default();
            container["name"] == "kube-apiserver" || program.rsplit('/').next() == Some("kube-apiserver")
        };
        let server = containers.iter().find(is_server);
        match defines_api_server(text.as_bytes()) {
            Err(why) => {
                tally.refuse(&why);
                continue;
            }
            Ok(defines) => assert!(defines || server.is_none(), "a second API server is overlooked:\n{text}"),
        }
        let Some(server) = server else {
            tally.agreed += 1;
            continue;
        };
        match manifest::read(text) {
            Err(why) => tally.refuse(&why.to_string()),
            Ok(ours) => {
                assert_eq!(mounts(&ours), expected_mounts(server, pod), "\n{text}");
                understood.push((server["words"].clone(), text, ours));
            }
        }
    }
    let words = |words: &Value| words.as_array().unwrap()[1..].to_vec();
    let questions: Vec<Value> = understood.iter().map(|(all, ..)| json!({"words": words(all)})).collect();
    for ((_, text, ours), answer) in understood.iter().zip(upstream(&questions).unwrap()) {
        if error(&answer).is_some() {
            tally.upstream_refuses += 1;
            continue;
        }
        for name in FLAGS {
            let theirs = answer["flags"].get(name).and_then(Value::as_str);
            assert_eq!(ours.flags.get(name).is_some(), theirs.is_some(), "--{name}\n{text}");
        }
        let (ours, theirs) =
            (ours.flags.get(FLAGS[0]), answer["flags"].get(FLAGS[0]).and_then(Value::as_str));
        assert_eq!(ours, theirs, "\n{text}");
        tally.agreed += 1;
    }
    tally.print("static pods");
}

/// Volume, mount path, subPath, host path and its type.
type Seen = Vec<[String; 5]>;

fn mounts(server: &manifest::Server) -> Seen {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let seen = |mount: &keyward_node::kubeadm::Mount| {
        [
            mount.name.clone(),
            mount.path.clone(),
            text(&mount.sub_path),
            text(&mount.source),
            mount.kind.clone(),
        ]
    };
    server.mounts.iter().map(seen).collect()
}

fn expected_mounts(server: &Value, pod: &Value) -> Seen {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let volumes = pod["volumes"].as_array().cloned().unwrap_or_default();
    let seen = |mount: &Value| {
        let volume = volumes.iter().find(|volume| volume["name"] == mount["name"]).unwrap();
        [&mount["name"], &mount["path"], &mount["subPath"], &volume["hostPath"], &volume["type"]].map(text)
    };
    server["mounts"].as_array().into_iter().flatten().map(seen).collect()
}
