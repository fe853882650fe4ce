//! Facts about this machine, as the kernel shows them: [`process`]es, listening [`sockets`], the [`owner`] of a server, and
//! how many [`descriptors`] connections may use; and reading of [`files`]. Reads `/proc` and files; connects to no server.

pub mod descriptors;
pub mod files;
pub mod owner;
pub mod process;
pub mod sockets;
