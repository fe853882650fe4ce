//! What the aggregator tells a stream: how far its messages are applied, and why it must end. Reading the former
//! wakes nobody, because a stream acknowledges seldom.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use redkeeper_core::ids::Seq;
use tokio::sync::oneshot;

/// Why a stream must end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// A newer boot of the agent was heard.
    Superseded,
    /// A report that was refused would be taken now.
    Resend,
    /// A bound is reached.
    Full(&'static str),
}

/// The aggregator's side.
#[derive(Debug)]
pub struct Feedback {
    applied: Arc<AtomicU64>,
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
    /// The reason to end; an error when the aggregator is gone.
    pub end: oneshot::Receiver<End>,
}

/// Both sides.
pub fn channel() -> (Feedback, FeedbackReader) {
    let applied = Arc::new(AtomicU64::new(0));
    let (sender, end) = oneshot::channel();
    let feedback = Feedback {
        applied: Arc::clone(&applied),
        end: Some(sender),
    };
    let applied = Applied(applied);
    (feedback, FeedbackReader { applied, end })
}

impl Feedback {
    /// Everything up to here is applied, and in the view.
    pub fn applied(&self, seq: Seq) {
        self.applied.fetch_max(seq.0, Ordering::Release);
    }

    /// The first reason counts.
    pub fn end(&mut self, why: End) {
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
