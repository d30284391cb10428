//! The cursor of a migration whose objects finish out of order: only objects that are finished without a gap count,
//! so a restart neither skips an object nor counts one twice.

use std::collections::BTreeMap;

/// Objects in progress, in the order of the list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Track {
    /// Objects finished without a gap, in this run and those before it.
    done: u64,
    /// The name of the last of them.
    cursor: Option<String>,
    /// Tickets issued so far; they begin at `done`.
    issued: u64,
    /// Objects that finished before earlier ones.
    ahead: BTreeMap<u64, String>,
}

impl Track {
    /// Continues where an earlier run stopped.
    pub(super) fn resumed(done: u64, cursor: Option<String>) -> Self {
        Self { done, cursor, issued: done, ahead: BTreeMap::new() }
    }

    /// The next object's ticket.
    pub(super) fn issue(&mut self) -> u64 {
        let ticket = self.issued;
        self.issued += 1;
        ticket
    }

    /// The object with this ticket is finished.
    pub(super) fn finish(&mut self, ticket: u64, name: String) {
        self.ahead.insert(ticket, name);
        while let Some(name) = self.ahead.remove(&self.done) {
            self.done += 1;
            self.cursor = Some(name);
        }
    }

    /// An object that is not in the list is finished.
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

    /// Whether every issued ticket is finished.
    #[cfg(test)]
    pub(super) fn is_settled(&self) -> bool {
        self.done == self.issued
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursor_waits_for_the_slowest_object() {
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
    fn resumed_run_continues_the_count() {
        let mut track = Track::resumed(7, Some("n/6".into()));
        assert!(track.is_settled());
        let ticket = track.issue();
        track.finish(ticket, "n/7".into());
        assert_eq!((track.done(), track.cursor()), (8, Some("n/7")));
    }
}
