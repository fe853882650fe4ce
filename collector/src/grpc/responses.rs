//! The answers of a stream, on their way from the task that makes them. Messages are large, and a queue of tokio sets
//! aside 32 places at once, so they wait in boxes.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use tokio::sync::mpsc;
use tokio_stream::Stream;
use tonic::Status;

/// Where answers go in.
pub(super) type Answers<T> = mpsc::Sender<Result<Box<T>, Status>>;

/// Where they come out.
#[derive(Debug)]
pub struct AnswerStream<T>(mpsc::Receiver<Result<Box<T>, Status>>);

/// Both ends of a queue with so many places.
pub(super) fn channel<T>(places: usize) -> (Answers<T>, AnswerStream<T>) {
    let (sender, receiver) = mpsc::channel(places);
    (sender, AnswerStream(receiver))
}

impl<T> Stream for AnswerStream<T> {
    type Item = Result<T, Status>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = self.get_mut().0.poll_recv(context);
        next.map(|answer| answer.map(|result| result.map(|message| *message)))
    }
}
