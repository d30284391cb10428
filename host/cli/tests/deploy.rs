//! deploy/ matches this program.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // a test stops at its first surprise

use std::process::Command;

use keyward_test_tools::Tools;

#[test]
fn shipped_crds_are_current() {
    let tools = Tools::here();
    let providers = tools.providers().unwrap();
    let output =
        Command::new(env!("CARGO_BIN_EXE_keyward")).arg("crds").arg("--providers").arg(providers).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let shipped = std::fs::read_to_string(tools.root().join("deploy/crds.yaml")).unwrap_or_default();
    let now = String::from_utf8(output.stdout).unwrap();
    let same = shipped.lines().filter(|line| !line.starts_with('#')).eq(now.lines());
    assert!(
        same,
        "deploy/crds.yaml is not current; generate it again: \
         cargo run -p keyward -- crds --providers target/providers > deploy/crds.yaml"
    );
}
