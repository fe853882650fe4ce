//! Facts about this machine, as the kernel shows them: [`process`]es and their sockets, the [`owner`] of a server, and
//! how many [`descriptors`] connections may use. Reads `/proc`; connects to no server.

pub mod descriptors;
pub mod owner;
pub mod process;
