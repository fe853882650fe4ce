//! The subcommands of `redkeeper-agent`: [`probe`] diagnoses one instance, [`discover`] explains what discovery finds,
//! [`acl`] prints the smallest ACL user, [`debug`] looks into the running agent.

pub mod acl;
pub mod debug;
pub mod discover;
pub mod probe;
