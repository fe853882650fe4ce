//! The subcommands of `redkeeper-agent`: [`probe`] diagnoses one instance, [`discover`] explains what discovery finds,
//! [`acl`] prints the smallest ACL user.

pub mod acl;
pub mod discover;
pub mod probe;
