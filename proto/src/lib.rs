//! The wire format of redkeeper: messages and services of package `redkeeper.v1`, whose `.proto` files are the
//! specification; [`convert`], the only place where wire types become core types and back; [`codec`]; [`dial`], which
//! opens connections; and [`error_texts`], which describes failures.

/// Generated from `proto/redkeeper/v1/*.proto`.
#[allow(missing_docs, clippy::all, clippy::unwrap_used, rustdoc::all)]
pub mod v1 {
    tonic::include_proto!("redkeeper.v1");
    include!(concat!(env!("OUT_DIR"), "/redkeeper.v1.serde.rs"));
}

pub mod codec;
pub mod convert;
pub mod dial;
pub mod error_texts;
mod open_enum;

pub use pbjson_types::{Duration, Timestamp};

/// Encoded `FileDescriptorSet` of all files, for gRPC reflection.
pub const DESCRIPTOR: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/redkeeper_descriptor.bin"));
