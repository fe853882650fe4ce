//! Profiles of the running process: which functions hold memory ([`heap`]) and which use the CPU ([`cpu`]), with the
//! names of the functions (`symbols`), as a table (`top`), a flame graph, or a file for `go tool pprof`.

pub mod cpu;
mod flame_graph;
mod function_name;
pub mod heap;
mod jemalloc_dump;
mod pprof_file;
mod symbols;
mod top;

pub use flame_graph::flame_graph;
pub use pprof_file::pprof_file;
pub use top::{Row, Top, top};

/// A stack that was sampled.
#[derive(Clone, PartialEq, Debug)]
pub struct Stack {
    /// Addresses of instructions, the innermost first: each is within the call of the one before.
    pub addresses: Vec<usize>,
    /// Weight, in the unit of the profile.
    pub weight: f64,
}

/// Stacks and what their weights are.
#[derive(Clone, PartialEq, Debug)]
pub struct Profile {
    /// What the weights are.
    pub unit: Unit,
    /// The stacks.
    pub stacks: Vec<Stack>,
}

/// What the weights of a profile are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unit {
    /// Bytes in use.
    InUse,
    /// Bytes allocated since the sampling began, freed ones included.
    Allocated,
    /// Nanoseconds of CPU time.
    Cpu,
}

impl Unit {
    /// Title for people.
    pub fn title(self) -> &'static str {
        match self {
            Self::InUse => "memory in use",
            Self::Allocated => "memory allocated, freed included",
            Self::Cpu => "CPU time",
        }
    }

    /// Name of the unit.
    pub fn name(self) -> &'static str {
        match self {
            Self::InUse | Self::Allocated => "bytes",
            Self::Cpu => "nanoseconds",
        }
    }
}

/// Why there is no profile.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ProfileError {
    /// The program was built without it.
    #[error(
        "the allocator was built without profiles: build in the source folder, whose .cargo/config.toml sets \
         JEMALLOC_SYS_WITH_MALLOC_CONF, or start with _RJEM_MALLOC_CONF=prof:true"
    )]
    Unavailable,
    /// Allocations are not sampled.
    #[error("allocations are not sampled: set debug.heap_profile = true, or run `debug heap --sampling on`")]
    Off,
    /// Another one is being made.
    #[error("another profile is being made, or this one takes too long; try again later")]
    Busy,
    /// It would take memory that the process may not use.
    #[error(
        "a CPU profile takes {needed} MiB, and the limit of this process leaves {left} MiB (memory.max of its cgroup)"
    )]
    NoRoom {
        /// What it takes, in MiB.
        needed: u64,
        /// What is left, in MiB.
        left: u64,
    },
    /// There is no folder for temporary files.
    #[error("a CPU profile needs a folder for temporary files, and {} cannot be written ({why}): set TMPDIR", folder.display())]
    NoFolder {
        /// The folder.
        folder: std::path::PathBuf,
        /// What the kernel said.
        why: String,
    },
    /// Something else went wrong.
    #[error("{0}")]
    Failed(String),
}
