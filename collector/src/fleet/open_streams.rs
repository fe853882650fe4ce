//! The open streams of agents: for `/debug/streams`, and for other collectors, which are passed what comes on them. Each
//! stream's task writes its own numbers, and nobody waits for anybody: a message costs three plain stores.

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
use redkeeper_proto::v1::ReportStatusRequest;

use super::relay_tap::{TapSender, Tapped};
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
    pub(crate) applied: Applied,
    received: AtomicU64,
    acknowledged: AtomicU64,
    messages: AtomicU64,
    heard: AtomicU64,
    /// Twice the number of changes of the taps, and one more while there are any: they are looked at only then.
    tap_state: AtomicU64,
    taps: Mutex<Taps>,
}

/// The taps of a stream at one time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct TapState(u64);

impl TapState {
    /// Whether there are any.
    pub(crate) fn is_tapped(self) -> bool {
        self.0 & 1 == 1
    }
}

/// The taps of one agent, by the number of the link.
type Taps = BTreeMap<u64, TapSender>;

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
    pub(crate) fn new(
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
            tap_state: AtomicU64::new(0),
            taps: Mutex::default(),
        }
    }

    fn set_taps(&self, taps: Taps) {
        // Nothing panics while the lock is held.
        let mut present = self.taps.lock().unwrap_or_else(PoisonError::into_inner);
        let changes = self.tap_state.load(Ordering::Relaxed) >> 1;
        let state = ((changes + 1) << 1) | u64::from(!taps.is_empty());
        *present = taps;
        // Last, so that whoever sees the state finds the taps.
        self.tap_state.store(state, Ordering::Release);
    }

    /// The taps now. If they differ from those before a message, who tapped meanwhile may have missed it.
    pub(crate) fn tap_state(&self) -> TapState {
        TapState(self.tap_state.load(Ordering::Acquire))
    }

    /// Passes a message to the collectors that ask for it.
    pub(crate) fn pass_on(&self, request: &ReportStatusRequest, now: Mono) {
        for tap in self.taps.lock().unwrap_or_else(PoisonError::into_inner).values() {
            tap.push(Tapped {
                agent: self.agent.clone(),
                boot: self.boot.clone(),
                received: now,
                request: request.clone(),
            });
        }
    }

    /// Records a message.
    pub(crate) fn received(&self, sequence: u64, now: Mono) {
        self.received.store(sequence, Ordering::Relaxed);
        self.heard.store(now.0, Ordering::Relaxed);
        // There is one writer, so that an atomic addition, which costs more, is not needed.
        let before = self.messages.load(Ordering::Relaxed);
        self.messages.store(before + 1, Ordering::Relaxed);
    }

    /// Records an acknowledgement. The Welcome acknowledges the Hello.
    pub(crate) fn acknowledged(&self, sequence: u64) {
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
pub struct OpenStreams(Mutex<Streams>);

#[derive(Debug, Default)]
struct Streams {
    open: BTreeMap<u64, Arc<OpenStream>>,
    /// The streams of each agent: one, or two while it opens another one.
    of_agent: BTreeMap<AgentId, Vec<Arc<OpenStream>>>,
    /// The taps of each agent, also of those that have no stream yet.
    taps: BTreeMap<AgentId, Taps>,
}

impl Streams {
    /// Changes the taps of an agent.
    fn change_taps(&mut self, agent: &AgentId, change: impl FnOnce(&mut Taps)) {
        let mut taps = self.taps.remove(agent).unwrap_or_default();
        change(&mut taps);
        for stream in self.of_agent.get(agent).into_iter().flatten() {
            stream.set_taps(taps.clone());
        }
        if !taps.is_empty() {
            self.taps.insert(agent.clone(), taps);
        }
    }
}

impl OpenStreams {
    fn streams(&self) -> MutexGuard<'_, Streams> {
        // Nothing panics while the lock is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a stream until the returned guard is dropped.
    pub(crate) fn add(self: &Arc<Self>, stream: OpenStream) -> OpenStreamGuard {
        let (stream, mut streams) = (Arc::new(stream), self.streams());
        if let Some(taps) = streams.taps.get(&stream.agent) {
            stream.set_taps(taps.clone());
        }
        streams.open.insert(stream.number, Arc::clone(&stream));
        streams
            .of_agent
            .entry(stream.agent.clone())
            .or_default()
            .push(Arc::clone(&stream));
        drop(streams);
        OpenStreamGuard {
            streams: Arc::clone(self),
            stream,
        }
    }

    /// All streams, by number. Holds the lock only while it copies the pointers.
    pub fn all(&self) -> Vec<Arc<OpenStream>> {
        self.streams().open.values().map(Arc::clone).collect()
    }

    /// When a message last came on an open stream of this agent; `None` if it has none.
    pub(crate) fn heard(&self, agent: &AgentId) -> Option<Mono> {
        let streams = self.streams();
        let of_agent = streams.of_agent.get(agent)?;
        of_agent.iter().map(|stream| stream.heard()).max()
    }

    /// Passes all that comes from an agent, on its present streams and on those to come, to a link.
    pub(crate) fn tap(&self, link: u64, agent: &AgentId, sender: &TapSender) {
        self.streams()
            .change_taps(agent, |taps| drop(taps.insert(link, sender.clone())));
    }

    /// Ends that.
    pub(crate) fn untap(&self, link: u64, agent: &AgentId) {
        self.streams().change_taps(agent, |taps| drop(taps.remove(&link)));
    }
}

/// Removes its stream when it is dropped.
pub(crate) struct OpenStreamGuard {
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
        let mut streams = self.streams.streams();
        streams.open.remove(&self.stream.number);
        if let Some(others) = streams.of_agent.get_mut(&self.stream.agent) {
            others.retain(|other| other.number != self.stream.number);
            if others.is_empty() {
                streams.of_agent.remove(&self.stream.agent);
            }
        }
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
    fn taps_reach_the_streams_of_now_and_those_to_come_and_no_others() {
        let all = Arc::new(OpenStreams::default());
        let (sender, mut receiver) = super::super::relay_tap::channel();
        let (db, other) = (AgentId::new("db").unwrap(), AgentId::new("other").unwrap());
        let first = all.add(stream(1, 1));
        all.tap(7, &db, &sender);
        all.tap(7, &other, &sender);
        let second = all.add(stream(2, 1));
        let request = |sequence| ReportStatusRequest {
            sequence,
            message: None,
        };
        for (n, stream) in [&first, &second].into_iter().enumerate() {
            assert!(stream.tap_state().is_tapped());
            stream.pass_on(&request(n as u64), Mono(3));
            let passed = receiver.try_next().unwrap();
            assert_eq!((passed.agent, passed.received), (db.clone(), Mono(3)));
            assert_eq!(passed.request, request(n as u64));
        }
        let before = first.tap_state();
        all.tap(8, &db, &sender);
        assert!(first.tap_state() != before, "a second tap is noticed");
        all.untap(8, &db);
        all.untap(7, &db);
        assert!(!first.tap_state().is_tapped() && !second.tap_state().is_tapped());
        first.pass_on(&request(9), Mono(4));
        assert!(receiver.try_next().is_none());
        all.untap(7, &other);
        assert!(all.streams().taps.is_empty(), "nothing is left behind");
        assert_eq!((all.heard(&db), all.heard(&other)), (Some(Mono(5)), None));
        drop((first, second));
        assert!(all.streams().of_agent.is_empty());
        assert_eq!(all.heard(&db), None);
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
