//! Allocates ports of plugins, which all share the node's network.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, TcpListener};

use keyward_core::node::Instance;

use crate::error::AgentError;

/// Below the ranges of NodePorts and of outgoing connections.
const FIRST: u16 = 28100;
const LAST: u16 = 28399;

/// Free ports for these names, none of which is `taken`. The start of the search depends on node and instance
/// alone, so that agents that share a network, as in tests, do not race for the same port.
pub(super) fn allocate(
    node: &str,
    instance: &Instance,
    names: &[String],
    taken: &BTreeSet<u16>,
) -> Result<BTreeMap<String, u16>, AgentError> {
    let count = LAST - FIRST + 1;
    let start = hash16(&format!("{node}/{instance}")) % count;
    let mut free = (0..count)
        .map(|i| FIRST + (start + i) % count)
        .filter(|port| !taken.contains(port) && TcpListener::bind((Ipv4Addr::UNSPECIFIED, *port)).is_ok());
    names
        .iter()
        .map(|name| {
            let port = free.next().ok_or(AgentError::NoPort { first: FIRST, last: LAST })?;
            Ok((name.clone(), port))
        })
        .collect()
}

/// FNV-1a, folded to 16 bits.
fn hash16(text: &str) -> u16 {
    let hash =
        text.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    let [a, b, c, d] = hash.to_be_bytes();
    u16::from_be_bytes([a ^ c, b ^ d]) & 0x7fff
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_free_and_distinct() {
        let instance = Instance::parse("kms-1-0123456789abcdef").unwrap();
        let names = ["health".to_owned(), "metrics".to_owned()];
        let first = allocate("n", &instance, &names, &BTreeSet::new()).unwrap();
        assert_eq!(
            first,
            allocate("n", &instance, &names, &BTreeSet::new()).unwrap(),
            "the same ports again"
        );
        assert_eq!(first.values().collect::<BTreeSet<_>>().len(), 2);
        let bound = TcpListener::bind((Ipv4Addr::LOCALHOST, first["health"]));
        let taken = BTreeSet::from([first["metrics"]]);
        let second = allocate("n", &instance, &names, &taken).unwrap();
        assert!(bound.is_err() || first.values().all(|port| !second.values().any(|other| other == port)));
        let all = (FIRST..=LAST).collect();
        assert!(matches!(allocate("n", &instance, &names, &all), Err(AgentError::NoPort { .. })));
    }
}
