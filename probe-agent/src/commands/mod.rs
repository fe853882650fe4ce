//! The commands of `redkeeper-agent` besides running it: [`probe`] diagnoses one instance, [`discover`] explains what discovery
//! finds, [`acl`] prints the smallest ACL user.

pub mod acl;
pub mod discover;
pub mod probe;
