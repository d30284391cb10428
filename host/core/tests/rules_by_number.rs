//! Each rule of CONTRACT.md's section 2 and each of DESIGN.md's decisions is found in core by its number: whoever reads a
//! rule finds the line that carries it, and whoever moves that line takes the number along.

#![allow(clippy::unwrap_used)] // a test stops at its first surprise

use std::fs;
use std::path::Path;

use rstest::rstest;

/// All of core, line by line.
fn lines() -> Vec<String> {
    fn read(folder: &Path, lines: &mut Vec<String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                read(&path, lines);
            } else {
                lines.extend(fs::read_to_string(&path).unwrap().lines().map(ToOwned::to_owned));
            }
        }
    }
    let mut lines = Vec::new();
    read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut lines);
    lines
}

/// The numbers that stand behind this word in a comment: `CONTRACT 2.1, 2.2`, `Decisions 5 and 15`, `CONTRACT 2.3, S1`.
fn numbers(word: &str, lines: &[String]) -> Vec<String> {
    let mut all = Vec::new();
    for line in lines.iter().filter(|line| line.trim_start().starts_with("//") || line.contains(" // ")) {
        for rest in line.split(word).skip(1) {
            let mut of_it = rest.split([' ', ',']).filter(|part| !part.is_empty() && *part != "and");
            let is_number = |part: &str| part.starts_with(|c: char| c.is_ascii_digit() || c == 'S');
            all.extend(of_it.by_ref().map_while(|part| {
                let part = part.trim_matches(|c: char| !c.is_ascii_alphanumeric());
                is_number(part).then(|| part.to_owned())
            }));
        }
    }
    all
}

#[rstest]
#[case::contract("CONTRACT", &["2.1", "2.2", "2.3", "S1", "S2", "S3", "S4", "2.4", "2.5", "2.6"])]
#[case::decisions(
    "Decisions",
    &["1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15"]
)]
fn the_line_that_carries_a_rule_is_found(#[case] word: &str, #[case] rules: &[&str]) {
    let found = numbers(word, &lines());
    let missing: Vec<&&str> = rules.iter().filter(|rule| !found.iter().any(|f| f == **rule)).collect();
    assert!(missing.is_empty(), "no line of core carries {word} {missing:?}; found {found:?}");
}
