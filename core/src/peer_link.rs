//! What the link to another collector proves of the process behind it: that it answers, that it is silent, or that it has
//! ended.
//!
//! Only two facts prove the end of a process: the link broke and its address refuses connections, or another process of
//! the same id answers there. A time-out, a lost packet or a reset alone proves nothing, because the process may live
//! behind them. Even a wrong proof does no harm (`docs/protocol.md`, "Take-over on evidence").

use crate::time::WallMs;

/// A single time-out may be a pause of this process.
const FAILURES_BEFORE_SILENT: u32 = 2;

/// A process of a collector, as it says itself over the link.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Process {
    /// Drawn at its start: distinguishes it from other processes of the same id.
    pub boot: String,
    /// Its candidate znode; empty while it has none.
    pub candidate: String,
}

/// Why an attempt to link failed, or why a link ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failure {
    /// The address refuses connections: nobody listens there.
    ConnectionRefused,
    /// A time-out, a reset, or the end of the link.
    NoAnswer,
    /// The process answers, and refuses the link.
    LinkRefused,
}

/// The link to one collector.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PeerLink {
    process: Option<Process>,
    ended: Option<String>,
    failures: u32,
    first_failure: Option<WallMs>,
    silent_since: Option<WallMs>,
}

impl PeerLink {
    /// The process answered, over a new link or the present one.
    pub fn answered(&mut self, process: Process) {
        (self.failures, self.first_failure, self.silent_since) = (0, None, None);
        match &self.process {
            // One that had no candidate yet leaves the former proof as it is.
            Some(before) if before.boot != process.boot && !before.candidate.is_empty() => {
                self.ended = Some(before.candidate.clone());
            }
            // The process that was taken for ended lives.
            Some(_) if self.is_ended(&process.candidate) => self.ended = None,
            _ => {}
        }
        self.process = Some(process);
    }

    /// The link ended, or an attempt failed, at this wall-clock time.
    pub fn failed(&mut self, why: Failure, now: WallMs) {
        if why == Failure::LinkRefused {
            // Whoever refuses is not silent.
            (self.failures, self.first_failure, self.silent_since) = (0, None, None);
            return;
        }
        self.failures = self.failures.saturating_add(1);
        let first = *self.first_failure.get_or_insert(now);
        if why == Failure::ConnectionRefused || self.failures >= FAILURES_BEFORE_SILENT {
            self.silent_since.get_or_insert(first);
        }
        if why == Failure::ConnectionRefused
            && let Some(process) = &self.process
            && !process.candidate.is_empty()
        {
            self.ended = Some(process.candidate.clone());
        }
    }

    /// The candidate znode of the process, if it has one.
    pub fn candidate(&self) -> Option<&str> {
        let process = self.process.as_ref()?;
        Some(process.candidate.as_str()).filter(|candidate| !candidate.is_empty())
    }

    /// The candidate znode of a process that has ended.
    pub fn ended(&self) -> Option<&str> {
        self.ended.as_deref()
    }

    /// Since when it does not answer; `None` while it does.
    pub fn silent_since(&self) -> Option<WallMs> {
        self.silent_since
    }

    fn is_ended(&self, candidate: &str) -> bool {
        self.ended.as_deref() == Some(candidate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn process(boot: &str, candidate: &str) -> Process {
        Process {
            boot: boot.to_owned(),
            candidate: candidate.to_owned(),
        }
    }

    #[test]
    fn a_refusal_after_a_link_proves_the_end() {
        let mut link = PeerLink::default();
        // Nobody was ever there: nothing to take over from.
        link.failed(Failure::ConnectionRefused, WallMs(1));
        assert_eq!(link.ended(), None);
        link.answered(process("1", ""));
        link.answered(process("1", "n-1"));
        link.failed(Failure::NoAnswer, WallMs(2));
        link.failed(Failure::NoAnswer, WallMs(3));
        assert_eq!(link.ended(), None, "a time-out or a reset proves nothing");
        link.failed(Failure::ConnectionRefused, WallMs(4));
        assert_eq!(link.ended(), Some("n-1"));
        link.failed(Failure::NoAnswer, WallMs(5));
        assert_eq!(link.ended(), Some("n-1"), "it stays proven");
    }

    #[test]
    fn a_process_that_answers_again_lives() {
        let mut link = PeerLink::default();
        link.answered(process("1", "n-1"));
        link.failed(Failure::ConnectionRefused, WallMs(1));
        link.answered(process("1", "n-1"));
        assert_eq!(link.ended(), None);
    }

    #[test]
    fn another_process_of_the_id_proves_the_end_of_the_former_one() {
        let mut link = PeerLink::default();
        link.answered(process("1", "n-1"));
        link.answered(process("2", ""));
        assert_eq!(link.ended(), Some("n-1"));
        // It is restarted again before it is a candidate.
        link.answered(process("3", ""));
        assert_eq!(link.ended(), Some("n-1"));
        link.answered(process("3", "n-2"));
        assert_eq!(link.ended(), Some("n-1"));
        link.failed(Failure::ConnectionRefused, WallMs(1));
        assert_eq!(link.ended(), Some("n-2"));
    }

    #[test]
    fn a_refused_connection_is_believed_at_once_and_a_time_out_the_second_time() {
        let mut link = PeerLink::default();
        link.failed(Failure::NoAnswer, WallMs(1_000));
        assert_eq!(link.silent_since(), None);
        link.failed(Failure::NoAnswer, WallMs(2_000));
        // Silent since the first failure.
        assert_eq!(link.silent_since(), Some(WallMs(1_000)));
        link.answered(process("1", ""));
        assert_eq!(link.silent_since(), None);
        link.failed(Failure::ConnectionRefused, WallMs(4_000));
        assert_eq!(link.silent_since(), Some(WallMs(4_000)));
        link.failed(Failure::LinkRefused, WallMs(5_000));
        assert_eq!(link.silent_since(), None, "it answers");
    }

    proptest! {
        /// Whatever happens, only a candidate of a process that answered before, and that was then refused or replaced,
        /// counts as ended.
        #[test]
        fn nothing_else_is_a_proof(events in proptest::collection::vec((0..3u8, 0..3u8), 0..40)) {
            let (mut link, mut proven) = (PeerLink::default(), std::collections::BTreeSet::new());
            let mut last = None::<Process>;
            for (kind, n) in events {
                match kind {
                    0 => {
                        let now = process(&n.to_string(), &format!("n-{n}"));
                        if let Some(before) = last.replace(now.clone()).filter(|before| before.boot != now.boot) {
                            proven.insert(before.candidate);
                        }
                        proven.remove(&now.candidate);
                        link.answered(now);
                    }
                    1 => link.failed(Failure::NoAnswer, WallMs(1)),
                    _ => {
                        proven.extend(last.iter().map(|process| process.candidate.clone()));
                        link.failed(Failure::ConnectionRefused, WallMs(1));
                    }
                }
                if let Some(ended) = link.ended() {
                    prop_assert!(proven.contains(ended), "{} is not proven", ended);
                }
            }
        }
    }
}
