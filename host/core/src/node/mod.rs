//! The agent's next steps as a pure function of what it observes on its node: [`next`] takes [`Observed`] and
//! returns [`Decision`]. The agent (`host/node`) only observes and acts; the simulator runs the same function
//! on a model.
//!
//! What belongs here: the rules of the node agent (decision 0041), and the form of a plugin's pod and files
//! ([`pod`]). What does not: a disk, a socket, a clock. Ages come in as durations; files, sockets and pods as
//! facts.
//!
//! A replacement credential from an admin (`recovered.rs`) is laid over a revision's data. The configuration
//! in the file needs its plugins, whether or not an API server answers (`View::file_plugins`).
//!
//! A candidate runs as a trial (`trial.rs`): it is started once at a time, since each start may be a refused
//! login.
//!
//! The flow for one target revision (objects: from-spec-to-ciphertext): store it on disk, write each plugin's
//! files and pod, probe the new instance at its own socket, rename the key's link over to it, probe through
//! the link, install the configuration, wait until the API server's metric shows its hash, report, stop what
//! nothing needs.

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
