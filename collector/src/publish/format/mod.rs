//! Formats in which a status is published. There is one today; another is a file here, with the same two directions, and is
//! chosen where the leader writes (`publish::commit`).

pub mod native;
