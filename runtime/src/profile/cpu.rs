//! The CPU profile: a signal (SIGPROF) interrupts the process 99 times in each second of CPU time and records the stack
//! of the thread that runs.
//!
//! A sample that falls into the C library or the unwinder is left out: the unwinder cannot always walk from there, and
//! crashes then (grafana/pyroscope-rs#211, tikv/tikv#11205). System calls end in the C library, so the time of the
//! kernel is missing as well. The profile says how much CPU time was used and how much of it is in the samples.

use std::{
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::Duration,
};

use nix::sys::{
    resource::{UsageWho, getrusage},
    time::TimeValLike,
};
use pprof::ProfilerGuardBuilder;

use super::{Profile, ProfileError, Stack, Unit, symbols};

/// Samples in each second of CPU time. Not a round number, so that it does not run in step with timers.
const FREQUENCY: i32 = 99;
/// Libraries in which nothing is sampled.
const LEFT_OUT: [&str; 4] = ["libc", "libgcc", "pthread", "vdso"];
/// Name of the library's signal handler.
const HANDLER: &str = "perf_signal_handler";
/// Memory that the library takes while it samples, in MiB (measured: 140, and 220 for a moment at its end). It keeps up to
/// 150 of them until the process ends.
const MEMORY_MIB: u64 = 256;

/// Longest profile.
pub const DURATION_MAX: Duration = Duration::from_secs(60);

/// What was sampled.
pub struct CpuProfile {
    /// The samples.
    pub profile: Profile,
    /// CPU time that the process used meanwhile: its own, and that of the kernel for it.
    pub used: (Duration, Duration),
    /// CPU time that the samples stand for.
    pub sampled: Duration,
}

/// Whether one is being made: there is one timer for the process.
static BUSY: AtomicBool = AtomicBool::new(false);

struct Busy;

impl Drop for Busy {
    fn drop(&mut self) {
        BUSY.store(false, Ordering::Release);
    }
}

/// Samples for this long, or until the other end of `asked` is dropped. Blocks the calling thread.
///
/// # Errors
/// When another one is being made, when there is too little memory, or when the timer cannot be set up.
pub fn profile(lasts: Duration, asked: &Receiver<()>) -> Result<CpuProfile, ProfileError> {
    if BUSY.swap(true, Ordering::Acquire) {
        return Err(ProfileError::Busy);
    }
    let _busy = Busy;
    check_room()?;
    check_temporary_folder()?;
    let failed = |e: pprof::Error| ProfileError::Failed(format!("the CPU cannot be sampled: {e}"));
    let guard = ProfilerGuardBuilder::default()
        .frequency(FREQUENCY)
        .blocklist(&LEFT_OUT)
        .build()
        .map_err(failed)?;
    let before = used();
    match asked.recv_timeout(lasts.min(DURATION_MAX)) {
        Err(RecvTimeoutError::Timeout) => {}
        _ => {
            return Err(ProfileError::Failed(
                "nobody waits for the profile any more".to_owned(),
            ));
        }
    }
    let (user, system) = used();
    let report = guard.report().build_unresolved().map_err(failed)?;
    drop(guard);
    let each = Duration::from_secs(1) / FREQUENCY.unsigned_abs();
    let (mut stacks, mut samples, mut handler) = (Vec::new(), 0, None);
    for (stack, count) in report.data {
        let mut addresses: Vec<_> = stack.frames.iter().map(|frame| frame.ip().addr()).collect();
        // The innermost frames are the same in all stacks.
        let handler = *handler.get_or_insert_with(|| handler_frames(&addresses));
        addresses.drain(..handler.min(addresses.len()));
        addresses.retain(|address| *address != 0);
        // Those that follow are return addresses, which are behind the call.
        addresses.iter_mut().skip(1).for_each(|address| *address -= 1);
        let count = u32::try_from(count).unwrap_or(0);
        samples += count;
        let weight = (each * count).as_nanos() as f64;
        stacks.push(Stack { addresses, weight });
    }
    Ok(CpuProfile {
        profile: Profile {
            unit: Unit::Cpu,
            stacks,
        },
        used: (user.saturating_sub(before.0), system.saturating_sub(before.1)),
        sampled: each * samples,
    })
}

/// Number of innermost frames that belong to the signal: those of its handler, and the one from which the kernel returns.
fn handler_frames(addresses: &[usize]) -> usize {
    let is_handler = |address: &usize| {
        symbols::functions(*address)
            .iter()
            .any(|f| f.name.ends_with(HANDLER))
    };
    addresses.iter().position(is_handler).map_or(0, |at| at + 2)
}

/// CPU time of the process so far: its own, and that of the kernel for it.
fn used() -> (Duration, Duration) {
    let time = |time: nix::sys::time::TimeVal| {
        Duration::from_micros(u64::try_from(time.num_microseconds()).unwrap_or(0))
    };
    // It fails only for wrong arguments.
    getrusage(UsageWho::RUSAGE_SELF).map_or_else(
        |_| Default::default(),
        |usage| (time(usage.user_time()), time(usage.system_time())),
    )
}

/// Refuses a profile that would make the kernel end this process for want of memory.
fn check_room() -> Result<(), ProfileError> {
    match room() {
        Some(left) if left < MEMORY_MIB << 20 => Err(ProfileError::NoRoom {
            needed: MEMORY_MIB,
            left: left >> 20,
        }),
        _ => Ok(()),
    }
}

/// Refuses a profile without a folder for temporary files: the library needs one, and remembers its first failure until
/// the process ends.
fn check_temporary_folder() -> Result<(), ProfileError> {
    let folder = std::env::temp_dir();
    let file = folder.join(format!("redkeeper-profile-{}", std::process::id()));
    let made = std::fs::File::create_new(&file).and_then(|_| std::fs::remove_file(&file));
    made.map_err(|e| ProfileError::NoFolder {
        folder,
        why: e.to_string(),
    })
}

/// Bytes that the cgroups of this process (version 2) leave, with what the kernel could reclaim of the file cache; `None`
/// if none has a limit, or they cannot be read.
fn room() -> Option<u64> {
    let cgroups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = cgroups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let all = std::path::Path::new(own).ancestors();
    all.filter_map(|cgroup| room_of(&cgroup.to_string_lossy())).min()
}

fn room_of(cgroup: &str) -> Option<u64> {
    let read = |name: &str| std::fs::read_to_string(format!("/sys/fs/cgroup{cgroup}/{name}")).ok();
    let number = |name: &str| read(name)?.trim().parse::<u64>().ok();
    // Without a limit it says "max".
    let (limit, used) = (number("memory.max")?, number("memory.current")?);
    let of_files = read("memory.stat").and_then(|text| {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("inactive_file "))?;
        line.parse::<u64>().ok()
    });
    Some(limit.saturating_sub(used.saturating_sub(of_files.unwrap_or(0))))
}
