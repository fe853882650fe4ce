//! The queue of a stream's responses, filled by the task that makes them. Messages are large, and a channel of tokio
//! reserves room for 32 at once, so they are boxed.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use tokio::sync::mpsc;
use tokio_stream::Stream;
use tonic::Status;

/// Write half of the queue.
pub(super) type ResponseSender<T> = mpsc::Sender<Result<Box<T>, Status>>;

/// Read half of the queue.
#[derive(Debug)]
pub struct ResponseStream<T>(mpsc::Receiver<Result<Box<T>, Status>>);

/// Creates a queue with this many slots.
pub(super) fn channel<T>(places: usize) -> (ResponseSender<T>, ResponseStream<T>) {
    let (sender, receiver) = mpsc::channel(places);
    (sender, ResponseStream(receiver))
}

impl<T> Stream for ResponseStream<T> {
    type Item = Result<T, Status>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = self.get_mut().0.poll_recv(context);
        next.map(|answer| answer.map(|result| result.map(|message| *message)))
    }
}
