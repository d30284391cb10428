//! Compares how the API server and Keyward understand EncryptionConfigurations: generated, mutated, and in
//! the forms of other programs. Both understand the same, or Keyward refuses with a reason; Keyward never
//! understands less.
//!
//! `KEYWARD_TEST_CONFIGURATIONS` sets how many are generated, `KEYWARD_TEST_SEED` which ones.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::format_push_string, reason = "a test")]

mod compare;
mod corpus;
mod generate;
mod mutate;
mod random;
mod write;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use compare::{Mistake, Rewritten, Understood, Verdict, compare};
use keyward_test_cluster::Tools;
use random::Random;

/// How many files by default: the test then takes seconds.
const FILES: u64 = 400;

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap())
}

/// How the API server's own code understands each file.
fn theirs<'a>(files: impl Iterator<Item = &'a [u8]>) -> Result<Vec<Understood>> {
    let control_plane = Tools::here().control_plane()?;
    let reader =
        control_plane.encryption_configurations.context("KUBEBUILDER_ASSETS has no program for it")?;
    let mut child =
        Command::new(&reader.path).args(&reader.args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut input = child.stdin.take().unwrap();
    let mut all = Vec::new();
    for file in files {
        all.extend(format!("{}\n", file.len()).into_bytes());
        all.extend(file);
    }
    let writer = std::thread::spawn(move || input.write_all(&all));
    let output = child.wait_with_output()?;
    writer.join().unwrap()?;
    ensure!(output.status.success(), "{} failed", reader.path.display());
    let lines = String::from_utf8(output.stdout)?;
    lines.lines().map(|line| serde_json::from_str(line).context(line.to_owned())).collect()
}

fn generated(count: u64, seed: u64) -> Vec<Vec<u8>> {
    let file = |index: u64| {
        let mut random = Random::new(seed.wrapping_mul(1_000_003).wrapping_add(index));
        let mut config = generate::configuration(&mut random);
        let how = random.below(100);
        if (45..90).contains(&how) {
            mutate::values(&mut random, &mut config);
        }
        let mut text = write::text(&mut random, &config);
        if how >= 80 {
            mutate::text(&mut random, &mut text);
        }
        text.into_bytes()
    };
    (0..count).map(file).collect()
}

#[derive(Default)]
struct Tally {
    agreements: usize,
    both_refuse: usize,
    refusals: BTreeMap<String, usize>,
    differences: Vec<String>,
}

impl Tally {
    fn difference(&mut self, file: &[u8], error: &anyhow::Error) {
        self.differences.push(format!("{error:#}\n{}\n", String::from_utf8_lossy(file)));
    }
}

/// The reason without path, names and numbers.
fn reason(why: &str) -> String {
    let why = why.strip_prefix("failed to decode EncryptionConfiguration: ").unwrap_or(why);
    let why = match why.split_once(": ") {
        Some((path, rest)) if path.starts_with("resources") || path.starts_with("line") => rest,
        _ => why,
    };
    let mut short = String::new();
    for (index, part) in why.split('"').enumerate() {
        short.push_str(if index % 2 == 0 { part } else { "…" });
    }
    let digits = |c: char| c.is_ascii_digit();
    let named = short.split(' ').map(|word| if word.contains(digits) { "…" } else { word });
    named.collect::<Vec<_>>().join(" ")
}

fn run(files: &[Vec<u8>], theirs_of_files: &[Understood], mistake: Option<Mistake>) -> Result<Tally> {
    let mut tally = Tally::default();
    let mut rewritten: Vec<(usize, Box<Rewritten>)> = Vec::new();
    for (index, (file, theirs)) in files.iter().zip(theirs_of_files).enumerate() {
        match compare(file, theirs, mistake) {
            Ok(Verdict::Agree(again)) => {
                tally.agreements += 1;
                rewritten.push((index, again));
            }
            Ok(Verdict::BothRefuse) => tally.both_refuse += 1,
            Ok(Verdict::Refused(why)) => *tally.refusals.entry(reason(&why)).or_default() += 1,
            Err(error) => tally.difference(file, &error),
        }
    }
    let again = theirs(rewritten.iter().map(|(_, rewritten)| rewritten.bytes.as_slice()))?;
    for ((index, rewritten), theirs) in rewritten.iter().zip(&again) {
        if let Err(error) = rewritten.loses_nothing(theirs) {
            tally.difference(&files[*index], &error);
        }
    }
    Ok(tally)
}

#[test]
fn generated_configurations_are_understood_like_the_api_server_or_refused() -> Result<()> {
    let count = number("KEYWARD_TEST_CONFIGURATIONS", FILES);
    let files = generated(count, number("KEYWARD_TEST_SEED", 1));
    let understood = theirs(files.iter().map(Vec::as_slice))?;
    ensure!(understood.len() == files.len(), "one result for each file");
    let tally = run(&files, &understood, None)?;
    let refusals: usize = tally.refusals.values().sum();
    println!(
        "{} files: {} agreements, {} refused by both, {refusals} refused only by Keyward, {} differences",
        files.len(),
        tally.agreements,
        tally.both_refuse,
        tally.differences.len()
    );
    for (why, count) in &tally.refusals {
        println!("{count:>6}  {why}");
    }
    for difference in tally.differences.iter().take(10) {
        println!("DIFFERENCE: {difference}");
    }
    assert!(tally.differences.is_empty());
    // Otherwise the test shows nothing.
    assert!(tally.agreements * 3 > files.len(), "too few agreements");
    assert!(refusals > 0 && tally.both_refuse > 0);
    Ok(())
}

/// Checks the comparison itself.
#[test]
fn mistakes_in_reading_are_found() -> Result<()> {
    let mistakes: [(&str, Mistake); 6] = [
        ("the second key of a provider is ignored", |config| {
            for provider in config.resources.iter_mut().flat_map(|entry| &mut entry.providers) {
                for keys in [&mut provider.aescbc, &mut provider.aesgcm, &mut provider.secretbox]
                    .into_iter()
                    .flatten()
                {
                    keys.keys.truncate(1);
                }
            }
        }),
        ("entries of several resources are skipped", |config| {
            config.resources.retain(|entry| entry.resources.as_ref().is_some_and(|names| names.len() == 1));
        }),
        ("wildcards are ignored", |config| {
            config.resources.retain(|entry| !entry.resources.iter().flatten().any(|name| name.contains('*')));
        }),
        ("only the first entry of a resource counts", |config| {
            let mut seen = std::collections::BTreeSet::new();
            config
                .resources
                .retain(|entry| entry.resources.iter().flatten().all(|name| seen.insert(name.clone())));
        }),
        ("keys whose name is not a number are skipped", |config| {
            for provider in config.resources.iter_mut().flat_map(|entry| &mut entry.providers) {
                for keys in [&mut provider.aescbc, &mut provider.aesgcm, &mut provider.secretbox]
                    .into_iter()
                    .flatten()
                {
                    keys.keys.retain(|key| key.name.parse::<u64>().is_ok());
                }
            }
        }),
        ("identity is always first", |config| {
            for entry in &mut config.resources {
                entry.providers.sort_by_key(|provider| provider.identity.is_none());
            }
        }),
    ];
    let files = generated(FILES, 1);
    let understood = theirs(files.iter().map(Vec::as_slice))?;
    for (what, mistake) in mistakes {
        let tally = run(&files, &understood, Some(mistake))?;
        println!("{what}: {} differences", tally.differences.len());
        assert!(!tally.differences.is_empty(), "not found: {what}");
    }
    Ok(())
}

#[test]
fn forms_of_other_programs_are_understood_or_refused_with_a_reason() -> Result<()> {
    let files: Vec<Vec<u8>> = corpus::ALL.iter().map(|file| file.text.as_bytes().to_vec()).collect();
    let understood = theirs(files.iter().map(Vec::as_slice))?;
    for (file, theirs) in corpus::ALL.iter().zip(&understood) {
        let verdict = compare(file.text.as_bytes(), theirs, None).context(file.name)?;
        let found = match verdict {
            Verdict::Agree(again) => {
                let theirs = theirs_of(&again.bytes)?;
                again.loses_nothing(&theirs).context(file.name)?;
                "understood".to_owned()
            }
            Verdict::BothRefuse => "refused by both".to_owned(),
            Verdict::Refused(why) => why.replacen("failed to decode EncryptionConfiguration: ", "", 1),
        };
        println!("{:<40} {found}", file.name);
        assert_eq!(found, file.expected, "{}: {:?}", file.name, theirs.error);
    }
    Ok(())
}

fn theirs_of(file: &[u8]) -> Result<Understood> {
    theirs(std::iter::once(file))?.pop().context("one result")
}
