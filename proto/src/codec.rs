//! The codec of messages: prost, with buffers of the usual message size. A collector holds a stream for each agent, on
//! which a message of some hundred bytes passes once a second. The two buffers of 8 KiB each that tonic gives a stream
//! were a fifth of the collector's memory.

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::{BufferSettings, Codec};
use tonic_prost::ProstCodec;

/// Initial size of a buffer; larger messages make it grow.
const BUFFER: usize = 1_024;
/// Size of the parts in which queued messages are sent. The receiver keeps a buffer as large as the largest part, and a
/// collector has thousands of streams: with tonic's 32 KiB, each stream that had carried a snapshot was 0.9 KB larger
/// (measured).
const YIELD: usize = 4 * 1_024;

/// The prost codec with small buffers.
#[derive(Clone, Copy, Debug)]
pub struct SmallBuffers<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for SmallBuffers<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for SmallBuffers<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = <ProstCodec<T, U> as Codec>::Encoder;
    type Decoder = <ProstCodec<T, U> as Codec>::Decoder;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::raw_encoder(BufferSettings::new(BUFFER, YIELD))
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<T, U>::raw_decoder(BufferSettings::new(BUFFER, YIELD))
    }
}
