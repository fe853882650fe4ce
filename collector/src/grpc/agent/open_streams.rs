//! The open streams of agents, for `/debug/streams`. Each stream's task writes its own numbers, and nobody waits for
//! anybody: a message costs three plain stores.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    ops::Deref,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use redkeeper_core::{
    ids::{AgentId, BootId},
    time::{Mono, WallMs},
};

use crate::fleet::stream_status::Applied;

/// An open stream. Only its task changes the numbers.
#[derive(Debug)]
pub struct OpenStream {
    /// Number of the stream.
    pub number: u64,
    /// The agent.
    pub agent: AgentId,
    /// The boot of the agent.
    pub boot: BootId,
    /// The other end of the connection, if it is known.
    pub peer: Option<SocketAddr>,
    /// When the stream began.
    pub opened: WallMs,
    /// How far the aggregator has applied the messages.
    pub(super) applied: Applied,
    received: AtomicU64,
    acknowledged: AtomicU64,
    messages: AtomicU64,
    heard: AtomicU64,
}

/// The sequences of one stream. An agent counts its messages over all of its streams, so a stream does not have each of
/// them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sequences {
    /// Of the last message that was received.
    pub received: u64,
    /// Everything up to this one is applied by the aggregator.
    pub applied: u64,
    /// Everything up to this one is acknowledged to the agent.
    pub acknowledged: u64,
}

impl Sequences {
    /// By how much the aggregator is behind.
    pub fn lag(self) -> u64 {
        self.received.saturating_sub(self.applied)
    }
}

impl OpenStream {
    /// A stream whose first message, a Hello with the sequence `first`, was received, and is not accepted yet.
    pub(super) fn new(
        number: u64,
        (agent, boot): (AgentId, BootId),
        peer: Option<SocketAddr>,
        first: u64,
        (now, wall): (Mono, WallMs),
    ) -> Self {
        Self {
            number,
            agent,
            boot,
            peer,
            opened: wall,
            applied: Applied::default(),
            received: AtomicU64::new(first),
            acknowledged: AtomicU64::new(first.saturating_sub(1)),
            messages: AtomicU64::new(1),
            heard: AtomicU64::new(now.0),
        }
    }

    /// Records a message.
    pub(super) fn received(&self, sequence: u64, now: Mono) {
        self.received.store(sequence, Ordering::Relaxed);
        self.heard.store(now.0, Ordering::Relaxed);
        // There is one writer, so that an atomic addition, which costs more, is not needed.
        let before = self.messages.load(Ordering::Relaxed);
        self.messages.store(before + 1, Ordering::Relaxed);
    }

    /// Records an acknowledgement. The Welcome acknowledges the Hello.
    pub(super) fn acknowledged(&self, sequence: u64) {
        self.acknowledged.store(sequence, Ordering::Relaxed);
    }

    /// Its sequences.
    pub fn sequences(&self) -> Sequences {
        let acknowledged = self.acknowledged.load(Ordering::Relaxed);
        Sequences {
            // Before `received`, so that the lag is never too small.
            applied: self.applied.get().0.max(acknowledged),
            acknowledged,
            received: self.received.load(Ordering::Relaxed),
        }
    }

    /// Number of messages received.
    pub fn messages(&self) -> u64 {
        self.messages.load(Ordering::Relaxed)
    }

    /// When the last message was received.
    pub fn heard(&self) -> Mono {
        Mono(self.heard.load(Ordering::Relaxed))
    }
}

/// The open streams by number: one for each task of a stream.
#[derive(Debug, Default)]
pub struct OpenStreams(Mutex<BTreeMap<u64, Arc<OpenStream>>>);

impl OpenStreams {
    fn streams(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<OpenStream>>> {
        // Nothing panics while the lock is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a stream until the returned guard is dropped.
    pub(super) fn add(self: &Arc<Self>, stream: OpenStream) -> OpenStreamGuard {
        let stream = Arc::new(stream);
        self.streams().insert(stream.number, Arc::clone(&stream));
        OpenStreamGuard {
            streams: Arc::clone(self),
            stream,
        }
    }

    /// All streams, by number. Holds the lock only while it copies the pointers.
    pub fn all(&self) -> Vec<Arc<OpenStream>> {
        self.streams().values().map(Arc::clone).collect()
    }
}

/// Removes its stream when it is dropped.
pub(super) struct OpenStreamGuard {
    streams: Arc<OpenStreams>,
    stream: Arc<OpenStream>,
}

impl Deref for OpenStreamGuard {
    type Target = OpenStream;

    fn deref(&self) -> &OpenStream {
        &self.stream
    }
}

impl Drop for OpenStreamGuard {
    fn drop(&mut self) {
        self.streams.streams().remove(&self.stream.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(number: u64, first: u64) -> OpenStream {
        let (agent, boot) = (AgentId::new("db"), BootId::new(&"0".repeat(32)));
        let who = (agent.unwrap(), boot.unwrap());
        OpenStream::new(number, who, None, first, (Mono(5), WallMs(7)))
    }

    #[test]
    fn the_hello_lags_until_it_is_accepted() {
        let one = stream(1, 100);
        let now = || {
            let Sequences {
                received,
                applied,
                acknowledged,
            } = one.sequences();
            (received, applied, acknowledged, one.sequences().lag())
        };
        assert_eq!(now(), (100, 99, 99, 1));
        one.acknowledged(100);
        assert_eq!(now(), (100, 100, 100, 0));
        one.received(107, Mono(9));
        assert_eq!(now(), (107, 100, 100, 7));
        assert_eq!((one.messages(), one.heard()), (2, Mono(9)));
    }

    #[test]
    fn a_stream_is_there_as_long_as_its_guard() {
        let all = Arc::new(OpenStreams::default());
        let (first, second) = (all.add(stream(1, 1)), all.add(stream(2, 1)));
        let numbers = || all.all().iter().map(|stream| stream.number).collect::<Vec<_>>();
        assert_eq!(numbers(), [1, 2]);
        drop(first);
        assert_eq!(numbers(), [2]);
        drop(second);
        assert!(numbers().is_empty());
    }
}
