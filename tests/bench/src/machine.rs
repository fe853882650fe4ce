//! How noisy the machine is, and what processes cost, as `/proc` tells.

use std::{
    fs,
    hint::black_box,
    time::{Duration, Instant},
};

use nix::{time::clock_getcpuclockid, unistd::Pid};

use crate::stats::Samples;

/// CPU time of a process in seconds, over all of its threads, those that ended included.
///
/// # Errors
/// When the process is gone: a measurement of it would be nothing.
pub(crate) fn cpu_seconds(pid: u32) -> Result<f64, String> {
    let gone = |e| format!("the CPU time of process {pid}: {e}");
    let number = i32::try_from(pid).map_err(|e| e.to_string())?;
    let clock = clock_getcpuclockid(Pid::from_raw(number)).map_err(gone)?;
    Ok(Duration::from(clock.now().map_err(gone)?).as_secs_f64())
}

/// A line of `/proc/PID/status` in bytes.
fn status_bytes(pid: u32, key: &str) -> Option<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    let kib: f64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024.0)
}

/// Resident memory in bytes.
///
/// # Errors
/// When the process is gone.
pub(crate) fn resident(pid: u32) -> Result<f64, String> {
    status_bytes(pid, "VmRSS:").ok_or_else(|| format!("process {pid} is gone: it has no memory"))
}

/// Memory that could be taken now, in bytes.
pub(crate) fn available() -> f64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kib.unwrap_or(0.0) * 1024.0
}

/// Observes the machine while a scenario runs.
pub(crate) struct Noise {
    before: Samples,
    steal: (f64, f64),
}

/// What was observed.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct Observed {
    /// The same work took this many times longer in the slowest than in the median try.
    pub(crate) worst_to_median: f64,
    /// The median try after the run over the one before it.
    pub(crate) after_to_before: f64,
    /// Share of CPU time that the host kept for others.
    pub(crate) steal: f64,
}

/// Always the same work, about a millisecond of it.
fn work() -> Samples {
    let mut samples = Samples::default();
    for _ in 0..100 {
        let start = Instant::now();
        let mut x = 1u64;
        for n in 0..400_000u64 {
            x = black_box(x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(n));
        }
        black_box(x);
        samples.push_ms(start.elapsed());
        std::thread::sleep(Duration::from_micros(200));
    }
    samples
}

/// Steal, and all CPU time, in ticks.
fn cpu_ticks() -> (f64, f64) {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = text.lines().next().unwrap_or_default();
    let ticks: Vec<f64> = line
        .split_whitespace()
        .skip(1)
        .filter_map(|n| n.parse().ok())
        .collect();
    (ticks.get(7).copied().unwrap_or(0.0), ticks.iter().take(8).sum())
}

impl Noise {
    pub(crate) fn start() -> Self {
        Self {
            before: work(),
            steal: cpu_ticks(),
        }
    }

    pub(crate) fn end(self) -> Observed {
        let (steal, all) = cpu_ticks();
        let after = work();
        let median = |samples: &Samples| samples.median().unwrap_or(1.0);
        let worst = self.before.max().unwrap_or(1.0) / median(&self.before);
        Observed {
            worst_to_median: worst.max(after.max().unwrap_or(1.0) / median(&after)),
            after_to_before: median(&after) / median(&self.before),
            steal: (steal - self.steal.0) / (all - self.steal.1).max(1.0),
        }
    }
}
