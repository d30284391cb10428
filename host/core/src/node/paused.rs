//! An agent that an admin has paused on its node, for an emergency edit
//! (invariant: pause-withholds-everything).
//!
//! The agent continues to observe, to probe and to report. It keeps its own records of which configuration
//! the API server has loaded, and of one that belongs to no revision, so that after the pause it decides from
//! what really happened. Every step that an API server, a plugin or the kubelet would notice is withheld, and
//! so is every removal.

use super::decide::{Draft, Step};
use super::view::View;
use crate::api::NodePause;
use crate::formats::key_secret::rfc3339;

impl Step {
    /// Whether it changes only the agent's own records. Of removals, only that of the drift is one.
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

/// Leaves only records among the steps of a paused agent. Returns what the status reports about the pause.
pub(super) fn withhold(view: &View<'_>, draft: &mut Draft) -> Option<NodePause> {
    let pause = view.o.disk.paused.as_ref()?;
    let (kept, withheld) = std::mem::take(&mut draft.steps).into_iter().partition(Step::is_record);
    draft.steps = kept;
    let withheld: Vec<Step> = withheld;
    // Observing again soon changes nothing: deleting the file wakes the agent.
    draft.busy = !draft.steps.is_empty();
    draft.why.push(format!("the agent is paused on this node: {}", pause.reason));
    Some(NodePause {
        reason: pause.reason.clone(),
        since: pause.since.map(|at| rfc3339(&at)),
        withheld: withheld.iter().map(ToString::to_string).collect(),
    })
}
