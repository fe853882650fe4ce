//! What the aggregator reports to a stream: how far its messages are applied, and why it must end. The applied sequence
//! is an atomic, so updating it never wakes the stream's task; acknowledgements are rare.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use redkeeper_core::ids::Seq;
use tokio::sync::oneshot;

/// Why a stream must end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum End {
    /// A newer boot of the agent was heard.
    Superseded,
    /// Another live agent has this id; the text says where it runs.
    InUse(Arc<str>),
    /// A report that was refused before would be accepted now.
    Resend,
    /// A limit is reached, which the text names.
    Full(&'static str),
}

/// Write half, held by the aggregator.
#[derive(Debug)]
pub struct StreamHandle {
    applied: Arc<AtomicU64>,
    accepted: Option<oneshot::Sender<()>>,
    end: Option<oneshot::Sender<End>>,
}

/// The sequence up to which everything is applied. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Applied(Arc<AtomicU64>);

/// Read half, held by the stream's task.
#[derive(Debug)]
pub struct StreamStatus {
    /// The sequence up to which everything is applied.
    pub applied: Applied,
    /// Resolves when the agent may report; fails when it may not, or when the aggregator is gone.
    pub accepted: oneshot::Receiver<()>,
    /// Reason to end the stream; fails when the aggregator is gone.
    pub end: oneshot::Receiver<End>,
}

/// Creates both halves, which share `applied`.
pub fn channel(applied: Applied) -> (StreamHandle, StreamStatus) {
    let (sender, end) = oneshot::channel();
    let (accept, accepted) = oneshot::channel();
    let status = StreamHandle {
        applied: Arc::clone(&applied.0),
        accepted: Some(accept),
        end: Some(sender),
    };
    let reader = StreamStatus {
        applied,
        accepted,
        end,
    };
    (status, reader)
}

impl StreamHandle {
    /// Records that everything up to `seq` is applied and in the view.
    pub fn applied(&self, seq: Seq) {
        self.applied.fetch_max(seq.0, Ordering::Release);
    }

    /// Lets the agent report, unless it was refused before.
    pub fn accept(&mut self) {
        if let Some(sender) = self.accepted.take() {
            // A stream that is gone needs no answer.
            sender.send(()).ok();
        }
    }

    /// Ends the stream. Only the first reason counts.
    pub fn end(&mut self, why: End) {
        self.accepted = None;
        if let Some(sender) = self.end.take() {
            // A stream that is gone needs no reason.
            sender.send(why).ok();
        }
    }
}

impl Applied {
    /// The sequence up to which everything is applied.
    pub fn get(&self) -> Seq {
        Seq(self.0.load(Ordering::Acquire))
    }
}
