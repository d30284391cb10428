//! How far a migration has come, when objects are finished out of order: only what is finished without a gap counts, so
//! that a restart neither leaves out an object nor counts one twice.

use std::collections::BTreeMap;

/// Objects under way, in the order in which they were listed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Track {
    /// Finished without a gap, in this run and those before it.
    done: u64,
    /// The last of them.
    cursor: Option<String>,
    /// Given out so far; tickets count on from `done`.
    issued: u64,
    /// Finished ahead of others that are not.
    ahead: BTreeMap<u64, String>,
}

impl Track {
    /// Goes on where a run before stopped.
    pub(super) fn resumed(done: u64, cursor: Option<String>) -> Self {
        Self { done, cursor, issued: done, ahead: BTreeMap::new() }
    }

    /// The next object's ticket.
    pub(super) fn issue(&mut self) -> u64 {
        let ticket = self.issued;
        self.issued += 1;
        ticket
    }

    /// The object with this ticket is dealt with.
    pub(super) fn finish(&mut self, ticket: u64, name: String) {
        self.ahead.insert(ticket, name);
        while let Some(name) = self.ahead.remove(&self.done) {
            self.done += 1;
            self.cursor = Some(name);
        }
    }

    /// One that is in no list is dealt with.
    pub(super) fn count(&mut self) {
        self.done += 1;
        self.issued += 1;
    }

    pub(super) fn done(&self) -> u64 {
        self.done
    }

    pub(super) fn cursor(&self) -> Option<&str> {
        self.cursor.as_deref()
    }

    /// Nothing that was given out is unfinished.
    #[cfg(test)]
    pub(super) fn is_settled(&self) -> bool {
        self.done == self.issued
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursor_waits_for_the_slowest() {
        let mut track = Track::default();
        let tickets: Vec<u64> = (0..4).map(|_| track.issue()).collect();
        let name = |ticket: u64| format!("n/{ticket}");
        track.finish(tickets[1], name(1));
        track.finish(tickets[3], name(3));
        assert_eq!((track.done(), track.cursor()), (0, None));
        track.finish(tickets[0], name(0));
        assert_eq!((track.done(), track.cursor()), (2, Some("n/1")));
        assert!(!track.is_settled());
        track.finish(tickets[2], name(2));
        assert_eq!((track.done(), track.cursor()), (4, Some("n/3")));
        assert!(track.is_settled());
    }

    #[test]
    fn resumed_run_counts_on() {
        let mut track = Track::resumed(7, Some("n/6".into()));
        assert!(track.is_settled());
        let ticket = track.issue();
        track.finish(ticket, "n/7".into());
        assert_eq!((track.done(), track.cursor()), (8, Some("n/7")));
    }
}
