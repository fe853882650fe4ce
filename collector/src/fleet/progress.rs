//! What the aggregator tells a stream: how far its messages are applied, and why it must end. Reading the former
//! wakes nobody, because a stream acknowledges seldom.

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
    /// Another agent has this id, and is alive: where it runs.
    InUse(Arc<str>),
    /// A report that was refused would be taken now.
    Resend,
    /// A bound is reached.
    Full(&'static str),
}

/// The aggregator's side.
#[derive(Debug)]
pub struct Feedback {
    applied: Arc<AtomicU64>,
    accepted: Option<oneshot::Sender<()>>,
    end: Option<oneshot::Sender<End>>,
}

/// Up to where everything is applied.
#[derive(Debug)]
pub struct Applied(Arc<AtomicU64>);

/// The stream's side.
#[derive(Debug)]
pub struct FeedbackReader {
    /// Up to where everything is applied.
    pub applied: Applied,
    /// The agent may report; an error when it may not, or when the aggregator is gone.
    pub accepted: oneshot::Receiver<()>,
    /// The reason to end; an error when the aggregator is gone.
    pub end: oneshot::Receiver<End>,
}

/// Both sides.
pub fn channel() -> (Feedback, FeedbackReader) {
    let applied = Arc::new(AtomicU64::new(0));
    let (sender, end) = oneshot::channel();
    let (accept, accepted) = oneshot::channel();
    let feedback = Feedback {
        applied: Arc::clone(&applied),
        accepted: Some(accept),
        end: Some(sender),
    };
    let applied = Applied(applied);
    let reader = FeedbackReader {
        applied,
        accepted,
        end,
    };
    (feedback, reader)
}

impl Feedback {
    /// Everything up to here is applied, and in the view.
    pub fn applied(&self, seq: Seq) {
        self.applied.fetch_max(seq.0, Ordering::Release);
    }

    /// The agent may report, unless it was refused before.
    pub fn accept(&mut self) {
        if let Some(sender) = self.accepted.take() {
            // A stream that is gone needs no answer.
            sender.send(()).ok();
        }
    }

    /// The first reason counts.
    pub fn end(&mut self, why: End) {
        self.accepted = None;
        if let Some(sender) = self.end.take() {
            // A stream that is gone needs no reason.
            sender.send(why).ok();
        }
    }
}

impl Applied {
    /// The number of the last message that is.
    pub fn get(&self) -> Seq {
        Seq(self.0.load(Ordering::Acquire))
    }
}
