//! Queue of what an agent sends to one collector next. It holds handles only; their newest state is read from the
//! agent's table when a message is built, so memory is bounded by the table, however slow the collector is.

use std::{
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

use crate::{
    ids::{Handle, Seq},
    limits::{REPORTS_PER_MESSAGE_MAX, REPORTS_PER_SNAPSHOT_PART_MAX, UNACKED_MESSAGES_MAX},
    time::Mono,
};

/// A message to build.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Next {
    /// Part of the snapshot; true on the last part.
    Snapshot(Vec<Handle>, bool),
    /// Changed instances.
    Changes(Vec<Handle>),
    /// Instances that are forgotten.
    Gone(Vec<Handle>),
    /// Proof of progress of all instances.
    Heartbeat,
}

/// State of one stream, from its connection on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outbox {
    snapshot: Option<BTreeSet<Handle>>,
    dirty: BTreeSet<Handle>,
    gone: BTreeSet<Handle>,
    unacked: VecDeque<(Seq, Mono)>,
    heartbeat_interval: Duration,
    heartbeat_at: Mono,
}

impl Outbox {
    /// Starts a new stream: everything in `all` is sent as a snapshot first.
    pub fn new(now: Mono, heartbeat_interval: Duration, all: impl IntoIterator<Item = Handle>) -> Self {
        Self {
            snapshot: Some(all.into_iter().collect()),
            dirty: BTreeSet::new(),
            gone: BTreeSet::new(),
            unacked: VecDeque::new(),
            heartbeat_interval,
            heartbeat_at: now + heartbeat_interval,
        }
    }

    /// Records instances that changed.
    pub fn mark(&mut self, handles: impl IntoIterator<Item = Handle>) {
        for handle in handles {
            let in_snapshot = self.snapshot.as_ref().is_some_and(|s| s.contains(&handle));
            if !in_snapshot && !self.gone.contains(&handle) {
                self.dirty.insert(handle);
            }
        }
    }

    /// Records instances that were forgotten.
    pub fn forget(&mut self, handles: impl IntoIterator<Item = Handle>) {
        for handle in handles {
            self.dirty.remove(&handle);
            if let Some(snapshot) = &mut self.snapshot {
                snapshot.remove(&handle);
            }
            self.gone.insert(handle);
        }
    }

    /// The message to build now, if any. The caller must send it and then call [`sent`](Self::sent).
    pub fn next(&mut self, now: Mono) -> Option<Next> {
        if self.unacked.len() >= UNACKED_MESSAGES_MAX {
            return None;
        }
        if let Some(mut rest) = self.snapshot.take() {
            let chunk = take(&mut rest, REPORTS_PER_SNAPSHOT_PART_MAX);
            let last = rest.is_empty();
            if !last {
                self.snapshot = Some(rest);
            }
            return Some(Next::Snapshot(chunk, last));
        }
        if !self.gone.is_empty() {
            return Some(Next::Gone(take(&mut self.gone, REPORTS_PER_MESSAGE_MAX)));
        }
        if !self.dirty.is_empty() {
            return Some(Next::Changes(take(&mut self.dirty, REPORTS_PER_MESSAGE_MAX)));
        }
        if now >= self.heartbeat_at {
            // Counted from now, not from when it was due, so that a late agent does not send a burst.
            self.heartbeat_at = now + self.heartbeat_interval;
            return Some(Next::Heartbeat);
        }
        None
    }

    /// Records that a message with this number was passed to the stream.
    pub fn sent(&mut self, now: Mono, seq: Seq) {
        self.unacked.push_back((seq, now));
    }

    /// Applies an acknowledgement of everything up to `seq`.
    pub fn acked(&mut self, seq: Seq) {
        while self.unacked.front().is_some_and(|(sent, _)| *sent <= seq) {
            self.unacked.pop_front();
        }
    }

    /// When the oldest unacknowledged message was sent. If that is too long ago, the stream is dead.
    pub fn oldest_unacked(&self) -> Option<Mono> {
        self.unacked.front().map(|(_, at)| *at)
    }

    /// Number of messages without an acknowledgement.
    pub fn unacked(&self) -> usize {
        self.unacked.len()
    }

    /// When [`next`](Self::next) returns a heartbeat if nothing else happens.
    pub fn next_deadline(&self) -> Mono {
        self.heartbeat_at
    }
}

fn take(set: &mut BTreeSet<Handle>, max: usize) -> Vec<Handle> {
    let mut chunk = Vec::new();
    while chunk.len() < max {
        let Some(handle) = set.pop_first() else { break };
        chunk.push(handle);
    }
    chunk
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Op {
        Mark(u32),
        Send,
        Ack(u64),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            (0u32..300).prop_map(Op::Mark),
            Just(Op::Send),
            (0u64..400).prop_map(Op::Ack),
        ]
    }

    proptest! {
        /// Every marked handle is sent after its last mark; the window is never exceeded; acknowledged messages never
        /// reappear.
        #[test]
        fn newest_state_survives_and_the_window_holds(ops in proptest::collection::vec(op(), 0..400)) {
            let mut outbox = Outbox::new(Mono(0), Duration::from_secs(1), (0..100).map(Handle));
            let (mut version, mut seq) = (vec![1u32; 300], 0u64);
            let mut delivered = vec![0u32; 300];
            let mut deliver = |next: Next, version: &[u32]| match next {
                Next::Snapshot(handles, _) | Next::Changes(handles) => {
                    assert!(handles.len() <= REPORTS_PER_MESSAGE_MAX);
                    for h in handles { delivered[h.0 as usize] = version[h.0 as usize]; }
                }
                Next::Gone(_) | Next::Heartbeat => {}
            };
            version[100..].fill(0);
            for op in ops {
                match op {
                    Op::Mark(h) => { version[h as usize] += 1; outbox.mark([Handle(h)]); }
                    Op::Send => if let Some(next) = outbox.next(Mono(0)) {
                        seq += 1;
                        outbox.sent(Mono(0), Seq(seq));
                        deliver(next, &version);
                    },
                    Op::Ack(s) => outbox.acked(Seq(s.min(seq))),
                }
                prop_assert!(outbox.unacked() <= UNACKED_MESSAGES_MAX);
            }
            for _ in 0..20 {
                outbox.acked(Seq(seq));
                prop_assert_eq!(outbox.unacked(), 0);
                if let Some(next) = outbox.next(Mono(0)) {
                    seq += 1;
                    outbox.sent(Mono(0), Seq(seq));
                    deliver(next, &version);
                }
            }
            prop_assert_eq!(delivered, version);
        }
    }

    #[test]
    fn an_empty_snapshot_is_sent_too() {
        let mut outbox = Outbox::new(Mono(0), Duration::from_secs(1), []);
        assert_eq!(outbox.next(Mono(0)), Some(Next::Snapshot(vec![], true)));
        assert_eq!(outbox.next(Mono(0)), None);
        assert_eq!(outbox.next(Mono::from_millis(1_000)), Some(Next::Heartbeat));
        assert_eq!(outbox.next(Mono::from_millis(1_000)), None);
    }

    #[test]
    fn a_forgotten_instance_is_told_once() {
        let mut outbox = Outbox::new(Mono(0), Duration::from_secs(1), [Handle(1), Handle(2)]);
        outbox.forget([Handle(2)]);
        outbox.mark([Handle(2)]);
        assert_eq!(outbox.next(Mono(0)), Some(Next::Snapshot(vec![Handle(1)], true)));
        assert_eq!(outbox.next(Mono(0)), Some(Next::Gone(vec![Handle(2)])));
        assert_eq!(outbox.next(Mono(0)), None);
    }
}
