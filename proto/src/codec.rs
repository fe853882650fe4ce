//! How messages become bytes: prost, with buffers for what is usual. A collector holds a stream for each agent, on which
//! a message of some hundred bytes passes once a second; two buffers of 8 KiB each, which tonic gives a stream, were a
//! fifth of its memory.

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::{BufferSettings, Codec};
use tonic_prost::ProstCodec;

/// Bytes that are set aside at first; larger messages make them grow.
const BUFFER: usize = 1_024;
/// Many messages go out in parts of this size. Whoever receives them keeps a buffer as large as the largest part, and a
/// collector has thousands: with tonic's 32 KiB each stream that had carried a snapshot was 0.9 KB larger (measured).
const YIELD: usize = 4 * 1_024;

/// prost with small buffers.
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
