//! The formats in which a status is published. There is one today. Another is a further file here, with the same two
//! directions, chosen where the leader writes (`publish::fenced_write`).

pub mod native;
