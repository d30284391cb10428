//! An agent that an admin has paused on its node, for an emergency edit by hand.
//!
//! It goes on to look, to probe and to report, and it keeps its own records: which configuration the API server has loaded,
//! and that one was loaded which is no revision, so that resuming decides from what really happened. Everything that an API
//! server, a plugin or the kubelet would notice is withheld, and so is every removal.

use super::decide::{Draft, Step};
use super::view::View;
use crate::api::NodePause;
use crate::formats::key_secret::rfc3339;

impl Step {
    /// Whether it touches no more than the agent's own records, and removes none of them.
    pub fn is_record(&self) -> bool {
        match self {
            Self::RecordHighWater(_)
            | Self::KeepKeyChecks(_)
            | Self::KeepPreflight(_)
            | Self::KeepRevision(_)
            | Self::RecordLoaded(_)
            | Self::RecordDrift(_)
            | Self::ForgetDrift
            | Self::PutAside(_) => true,
            Self::MakeFolder(_)
            | Self::WriteFiles(_)
            | Self::WritePod { .. }
            | Self::SwitchLink { .. }
            | Self::InstallConfiguration { .. }
            | Self::PutBack { .. }
            | Self::ForgetRefusal
            | Self::RemoveLink(_)
            | Self::RemovePod(_)
            | Self::RemoveFiles(_)
            | Self::ForgetRevision(_)
            | Self::ForgetConfiguration(_)
            | Self::ForgetRecovered { .. } => false,
        }
    }
}

/// Leaves only records among the steps of a paused agent. Answers what the status reports of the pause.
pub(super) fn withhold(view: &View<'_>, draft: &mut Draft) -> Option<NodePause> {
    let pause = view.o.disk.paused.as_ref()?;
    let (kept, withheld) = std::mem::take(&mut draft.steps).into_iter().partition(Step::is_record);
    draft.steps = kept;
    let withheld: Vec<Step> = withheld;
    // Looking again soon changes nothing: deleting the file wakes the agent.
    draft.busy = !draft.steps.is_empty();
    draft.why.push(format!("the agent is paused on this node: {}", pause.reason));
    Some(NodePause {
        reason: pause.reason.clone(),
        since: pause.since.map(|at| rfc3339(&at)),
        withheld: withheld.iter().map(ToString::to_string).collect(),
    })
}
