//! Properties of what is stored and read: for any value, not for a few.
//!
//! | file | shows |
//! |---|---|
//! | `round_trips` | what is encoded is decoded to the same, and what could not be read again is not written |
//! | `machine` | from a state to a configuration and back nothing is lost |
//! | `digests` | different entries have different digests |
//! | `small` | numbers, names, durations, field paths |
//! | `seeds` | fuzz targets begin with valid objects |
//! | `untrusted` | no parser panics, and no error contains a secret |
//!
//! The generators are in `any`; a failure that they find becomes a named case beside the property.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // a test stops at its first surprise
#![allow(clippy::needless_pass_by_value, clippy::default_trait_access)]
#![allow(unreachable_pub)] // what lives in fuzz/ is shared with the targets there

mod any;
mod digests;
#[path = "../../../../fuzz/src/entries.rs"]
mod entries;
mod go;
mod machine;
mod round_trips;
mod seeds;
mod small;
mod untrusted;
