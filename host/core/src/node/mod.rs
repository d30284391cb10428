//! The agent's next step as a pure function of what it sees on its node: [`next`] takes [`Observed`] and gives
//! [`Decision`]. The agent (`host/node`) only looks and does; the simulator runs the same function on a model.
//!
//! What may come in: rules of DESIGN.md, "Node agent", and what a plugin's pod and files look like ([`pod`]). What
//! never does: a disk, a socket, a clock. Ages come in as durations; files, sockets and pods as facts.
//!
//! What an admin replaced by hand (`recovered.rs`) is laid over a revision's data. A configuration that stands in the file
//! needs its plugins with or without an API server that tells so (`View::standing`).
//!
//! A candidate runs as a trial (`trial.rs`): started once at a time, since each start may be a refused login.
//!
//! The flow for one target revision (OBJECTS.md, "From spec to ciphertext"): keep it on disk, write each plugin's files
//! and pod, probe the new instance at its own socket, rename the key's link over to it, probe through the link, install
//! the configuration, see the API server's metric show its hash, report, stop what nothing needs.

mod decide;
mod drift;
mod first;
mod install;
mod instance;
mod late;
mod observe;
mod paused;
pub mod pod;
mod policy;
mod preflight;
mod probes;
mod recovered;
mod report;
mod scrub;
mod shapes;
mod stop;
#[cfg(test)]
mod tests;
mod trial;
mod view;

pub use decide::{Ask, Decision, Refused, Step, next};
pub use first::first_steps;
pub use instance::{Generation, Instance, SOCKETS};
pub use observe::{
    Absence, Disk, Failing, FileSeen, LastProbe, Observed, OnDisk, Pass, PauseFile, Probed, Question,
    Reading, Refusal, SeenSpec, Socket, StepFailure, Unread, Unusable,
};
pub use policy::Policy;
pub use recovered::{Recovered, in_force};
pub use scrub::Scrubber;
