//! Numbers that must not be used twice: those of keys, and those of revisions (objects: numbers).
//!
//! Two kinds of sources show which numbers were used. An object *names* a number: a key secret, a configuration, a key
//! check, a migration, a list in a status. Named numbers count. A *mark* is the highest number that the operator or an
//! agent has recorded. It prevents the reuse of a number whose objects are all gone. But nothing else proves a mark,
//! and a mark that is far too high would leave no number for the next key. So a mark counts only up to a bound above
//! the named numbers, and a mark above its bound is reported.

use std::collections::BTreeSet;
use std::fmt;

use crate::ids::LAST;

/// How far above the named numbers an agent's mark counts. The agent records a number when a configuration or a key
/// check names it, so only the numbers of objects that were lost since then are between.
pub const AGENT_BOUND: u64 = 16;
/// The same for the operator's own marks. The operator raises them before it creates an object, so they grow without
/// objects as long as, for example, an admission webhook refuses every Secret.
pub const OPERATOR_BOUND: u64 = 1 << 20;

/// The highest number that the operator or an agent has recorded.
#[derive(Clone, Copy, Debug)]
pub struct Mark<'a> {
    /// The node whose agent recorded it; `None` for the operator's own mark.
    pub node: Option<&'a str>,
    /// The field with the number.
    pub field: &'static str,
    /// The number.
    pub number: u64,
    /// The remedy if it exceeds its bound.
    pub remedy: &'static str,
}

/// A mark that exceeds its bound, or a Secret whose number is above the maximum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Excess {
    /// The node whose agent recorded it; `None` for the operator's own mark.
    pub node: Option<String>,
    /// The Secret with the number. It is kept and not used.
    pub secret: Option<String>,
    /// The field with the number.
    pub field: &'static str,
    /// The number.
    pub number: u64,
    /// The highest number that an object names.
    pub named: u64,
    /// The remedy.
    pub remedy: &'static str,
}

impl fmt::Display for Excess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { node, secret, field, number, named, remedy } = self;
        if let Some(secret) = secret {
            return write!(
                f,
                "secret {secret}: {field} has the number {number}, which is above the maximum {LAST}; it is ignored. {remedy}"
            );
        }
        match node {
            Some(node) => write!(f, "node {node}: ")?,
            None => write!(f, "ClusterEncryption {}: ", crate::names::CLUSTER)?,
        }
        write!(f, "{field} is {number}, but no object uses a number above {named}; it is ignored. {remedy}")
    }
}

/// The result of counting one sequence of numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Numbers {
    /// The highest number that an object names.
    pub named: u64,
    /// The highest number that counts.
    pub highest: u64,
    /// The marks above `highest`. Their numbers are not used either.
    pub excess: Vec<Excess>,
}

/// Counts named numbers and marks.
pub fn count<'a, M>(named: impl IntoIterator<Item = u64>, marks: M) -> Numbers
where
    M: IntoIterator<Item = Mark<'a>, IntoIter: Clone>,
{
    let named = named.into_iter().max().unwrap_or_default();
    let marks = marks.into_iter();
    let counts = |mark: Mark<'_>| {
        let bound = if mark.node.is_some() { AGENT_BOUND } else { OPERATOR_BOUND };
        mark.number.min(named.saturating_add(bound))
    };
    let highest = marks.clone().map(counts).max().unwrap_or_default().max(named);
    let excess = marks.filter(|mark| mark.number > highest).map(|mark| Excess {
        node: mark.node.map(ToOwned::to_owned),
        secret: None,
        field: mark.field,
        number: mark.number,
        named,
        remedy: mark.remedy,
    });
    Numbers { named, highest, excess: excess.collect() }
}

impl Numbers {
    /// The numbers of the marks above [`Self::highest`].
    pub fn beyond(&self) -> BTreeSet<u64> {
        self.excess.iter().map(|excess| excess.number).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::ids::KeyId;
    use crate::snapshot::next_free;

    fn any_number() -> impl Strategy<Value = u64> {
        prop_oneof![3 => 0..60_u64, 1 => LAST - 30..=LAST, 1 => Just(u64::MAX), 1 => any::<u64>()]
    }

    fn mark(node: Option<&str>, number: u64) -> Mark<'_> {
        Mark { node, field: "status.highestKeyID", number, remedy: "" }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn next_number_is_new_and_close_to_what_objects_name(
            named in vec(any_number(), 0..6),
            by_agents in vec(any_number(), 0..6),
            by_operator in any_number(),
        ) {
            let agents = by_agents.iter().map(|number| mark(Some("n"), *number));
            let marks: Vec<Mark<'_>> = agents.chain([mark(None, by_operator)]).collect();
            let numbers = count(named.iter().copied(), marks);
            let top = named.iter().copied().max().unwrap_or_default();
            let counted = by_operator.min(top.saturating_add(OPERATOR_BOUND));
            let bound = counted.max(top.saturating_add(AGENT_BOUND));

            let beyond = numbers.beyond().into_iter().map(KeyId).collect();
            match next_free(KeyId(numbers.highest), KeyId::next, &beyond) {
                Some(KeyId(next)) => {
                    let mut known = named.iter().chain(&by_agents).chain([&by_operator]);
                    prop_assert!(known.all(|known| *known != next), "{next} is used twice");
                    prop_assert!(top < next && next <= LAST);
                    prop_assert!(next <= bound.saturating_add(8), "{next} is far above {top}");
                }
                None => prop_assert!(bound >= LAST - 8, "numbers are left above {}", numbers.highest),
            }
            for number in &by_agents {
                let reported = numbers.excess.iter().any(|excess| excess.number == *number);
                prop_assert_eq!(reported, *number > numbers.highest);
                prop_assert!(*number <= bound || reported, "{number} is neither counted nor reported");
            }
        }
    }
}
