//! Taps on the streams of agents: another collector that does not hear an agent is passed each message as it comes.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use redkeeper_core::{
    ids::{AgentId, BootId},
    time::Mono,
};
use redkeeper_proto::v1::{ReportStatusRequest, report_status_request::Message};
use tokio::sync::mpsc;

/// Reports and messages that wait on one link: one message of each of 20,000 agents, and 45,000 reports with them, of some
/// 700 bytes each: 45 MB. Where more would wait, the link is too slow; it ends and begins anew with what is newest.
pub const QUEUED_MAX: usize = 65_536;

/// A message of an agent, to be relayed.
#[derive(Debug)]
pub struct Tapped {
    /// The agent.
    pub agent: AgentId,
    /// The boot that sent it.
    pub boot: BootId,
    /// When it came.
    pub received: Mono,
    /// The message. Without content, one was missed: what is known of the agent is to be told once more.
    pub request: ReportStatusRequest,
}

/// Write half of a link's queue. Clones share it.
#[derive(Clone, Debug)]
pub struct TapSender {
    queue: mpsc::UnboundedSender<Tapped>,
    state: Arc<State>,
}

/// Read half of a link's queue.
#[derive(Debug)]
pub struct TapReceiver {
    queue: mpsc::UnboundedReceiver<Tapped>,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    waiting: AtomicUsize,
    /// A message was dropped: whatever comes after it is of no use.
    has_dropped: AtomicBool,
}

/// Creates the queue of one link.
pub fn channel() -> (TapSender, TapReceiver) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let state = Arc::<State>::default();
    let sender = TapSender {
        queue: sender,
        state: Arc::clone(&state),
    };
    let receiver = TapReceiver {
        queue: receiver,
        state,
    };
    (sender, receiver)
}

/// What a message takes of [`QUEUED_MAX`].
pub(crate) fn weight(request: &ReportStatusRequest) -> usize {
    1 + match &request.message {
        Some(Message::Snapshot(snapshot)) => snapshot.instances.len(),
        Some(Message::Changes(changes)) => changes.instances.len(),
        // A few bytes for each instance.
        Some(Message::Heartbeat(beat)) => beat.handles.len() / 64,
        Some(Message::Gone(gone)) => gone.handles.len() / 64,
        Some(Message::Hello(_)) | None => 0,
    }
}

impl TapSender {
    /// Queues a message, unless too much waits: then the link has to begin anew.
    pub fn push(&self, message: Tapped) {
        let weight = weight(&message.request);
        if self.state.waiting.fetch_add(weight, Ordering::AcqRel) + weight > QUEUED_MAX {
            self.state.has_dropped.store(true, Ordering::Release);
            return;
        }
        // A link that has ended needs no message.
        self.queue.send(message).ok();
    }
}

impl TapReceiver {
    fn has_dropped(&self) -> bool {
        self.state.has_dropped.load(Ordering::Acquire)
    }

    /// The next message; `None` if too much waited.
    pub async fn next(&mut self) -> Option<Tapped> {
        if self.has_dropped() {
            return None;
        }
        let message = self.queue.recv().await?;
        self.state
            .waiting
            .fetch_sub(weight(&message.request), Ordering::AcqRel);
        Some(message)
    }

    /// The next message, if one waits.
    pub fn try_next(&mut self) -> Option<Tapped> {
        if self.has_dropped() {
            return None;
        }
        let message = self.queue.try_recv().ok()?;
        self.state
            .waiting
            .fetch_sub(weight(&message.request), Ordering::AcqRel);
        Some(message)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use redkeeper_proto::v1::{Changes, InstanceReport};

    use super::*;

    fn message(reports: usize) -> Tapped {
        let instances = vec![InstanceReport::default(); reports];
        Tapped {
            agent: AgentId::new("db").unwrap(),
            boot: BootId::new(&"0".repeat(32)).unwrap(),
            received: Mono(1),
            request: ReportStatusRequest {
                sequence: reports as u64,
                message: Some(Message::Changes(Changes { instances })),
            },
        }
    }

    #[test]
    fn a_link_that_is_too_slow_ends_instead_of_growing() {
        let (sender, mut receiver) = channel();
        for _ in 0..QUEUED_MAX / 64 {
            sender.push(message(63));
        }
        let next = receiver.next().now_or_never().flatten();
        assert_eq!(next.map(|message| message.request.sequence), Some(63));
        for _ in 0..3 {
            sender.push(message(63));
        }
        assert!(
            receiver.next().now_or_never().flatten().is_none(),
            "too much waits"
        );
        assert!(receiver.try_next().is_none(), "what follows a gap is of no use");
    }

    #[test]
    fn what_was_taken_makes_room() {
        let (sender, mut receiver) = channel();
        for n in 0..3 * QUEUED_MAX / 64 {
            sender.push(message(63));
            let next = receiver.next().now_or_never().flatten();
            assert!(next.is_some(), "{n}");
        }
        assert!(receiver.next().now_or_never().is_none(), "nothing waits");
    }
}
