//! The heap profile: the allocator records one allocation in some 512 KiB with its stack, until it is freed.

use std::{
    fs::File,
    io::{Read, Seek},
    os::fd::AsRawFd,
    sync::{Mutex, PoisonError},
};

use nix::sys::memfd::{MFdFlags, memfd_create};
use tikv_jemalloc_ctl::{Access, AsName};

use super::{Profile, ProfileError, Unit, jemalloc_dump};

const BUILT_IN: &[u8] = b"opt.prof\0";
const ACTIVE: &[u8] = b"prof.active\0";
const DUMP: &[u8] = b"prof.dump\0";
const SAMPLE_LG: &[u8] = b"prof.lg_sample\0";

/// Whether allocations are sampled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sampling {
    /// The allocator was built without it.
    Unavailable,
    /// Switched off.
    Off,
    /// One allocation in so many bytes is recorded, on average.
    Every(u64),
}

/// Whether allocations are sampled now.
pub fn sampling() -> Sampling {
    let is = |name: &'static [u8]| name.name().read().unwrap_or(false);
    if !is(BUILT_IN) {
        return Sampling::Unavailable;
    }
    let lg: usize = SAMPLE_LG.name().read().unwrap_or_default();
    match is(ACTIVE) {
        true => Sampling::Every(1u64.checked_shl(u32::try_from(lg).unwrap_or(0)).unwrap_or(0)),
        false => Sampling::Off,
    }
}

/// Switches the sampling. What was recorded before stays recorded until it is freed.
///
/// # Errors
/// When the allocator was built without it, or refuses.
pub fn set_sampling(on: bool) -> Result<(), ProfileError> {
    if sampling() == Sampling::Unavailable {
        return Err(ProfileError::Unavailable);
    }
    let switched = ACTIVE.name().write(on);
    switched.map_err(|e| ProfileError::Failed(format!("the sampling cannot be switched: {e}")))
}

/// The profile of memory in use, or of all that was allocated since the sampling began. Takes some milliseconds, and
/// blocks allocations of other threads that are to be recorded for a part of it.
///
/// # Errors
/// When allocations are not sampled, or the allocator cannot write the profile.
pub fn profile(unit: Unit) -> Result<Profile, ProfileError> {
    match sampling() {
        Sampling::Unavailable => return Err(ProfileError::Unavailable),
        Sampling::Off => return Err(ProfileError::Off),
        Sampling::Every(_) => {}
    }
    let text =
        dump().map_err(|e| ProfileError::Failed(format!("the allocator cannot write the profile: {e}")))?;
    let stacks = jemalloc_dump::parse(&text, unit)
        .map_err(|e| ProfileError::Failed(format!("the allocator's profile cannot be read: {e}")))?;
    Ok(Profile { unit, stacks })
}

/// A file in memory, and its path for the allocator, which takes nothing else.
struct MemoryFile {
    file: File,
    path: &'static [u8],
}

/// One for the whole process: its path must live as long, and one profile at a time is enough.
static FILE: Mutex<Option<MemoryFile>> = Mutex::new(None);

/// The profile as the allocator writes it. It goes through memory, because the file system may be read-only or full.
fn dump() -> std::io::Result<String> {
    let mut file = FILE.lock().unwrap_or_else(PoisonError::into_inner);
    let file = match &mut *file {
        Some(file) => file,
        none => none.insert(memory_file()?),
    };
    let written = DUMP.name().write(file.path);
    let mut text = String::new();
    let read = file
        .file
        .rewind()
        .and_then(|()| file.file.read_to_string(&mut text));
    // Gives the memory back, whatever went wrong.
    file.file.set_len(0)?;
    written.map_err(|e| std::io::Error::other(e.to_string()))?;
    read.map(|_| text)
}

fn memory_file() -> std::io::Result<MemoryFile> {
    let file = File::from(memfd_create("heap-profile", MFdFlags::MFD_CLOEXEC)?);
    let path = format!("/proc/self/fd/{}\0", file.as_raw_fd());
    Ok(MemoryFile {
        file,
        path: path.into_bytes().leak(),
    })
}
