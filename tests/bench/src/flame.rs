//! Flame graphs of redkeeper's daemons while a scenario runs: perf samples their stacks, inferno draws them. The figures
//! of such a run are not comparable, because perf takes CPU too.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use inferno::{
    collapse::{Collapse, perf::Folder},
    flamegraph,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use redkeeper_tests::process::mortal;

use crate::report::folder;

/// The first process of each of them is sampled.
const DAEMONS: [&str; 2] = ["redkeeper-collector", "redkeeper-agent"];
/// Samples in a second of CPU. No divisor of what timers use, so that their work is met by chance.
const FREQUENCY: &str = "499";
/// How long perf may take to write what it has.
const END_MAX: Duration = Duration::from_secs(20);

/// Samples until its end.
pub(crate) struct Flame {
    stop: mpsc::Sender<()>,
    watcher: JoinHandle<Vec<Result<String, String>>>,
}

impl Flame {
    /// Samples the daemons that this process starts from now on.
    pub(crate) fn start(scenario: &str) -> Self {
        let (stop, stopped) = mpsc::channel();
        let scenario = scenario.to_owned();
        // perf ends with the thread that started it, so this one stays until all is drawn.
        let watcher = std::thread::spawn(move || {
            let mut sampled = BTreeMap::new();
            while stopped.recv_timeout(Duration::from_millis(20)) == Err(mpsc::RecvTimeoutError::Timeout) {
                for (name, pid) in daemons() {
                    let file = |end| folder().join(format!("flame-{scenario}-{name}.{end}"));
                    sampled
                        .entry(name)
                        .or_insert_with(|| (record(pid, &file("perf")), file("perf"), file("svg")));
                }
            }
            let draw = |(perf, data, svg): (_, PathBuf, PathBuf)| {
                let drawn = ended(perf).and_then(|()| draw(&data, &svg));
                fs::remove_file(&data).ok();
                drawn.map_err(|e| format!("{} is missing: {e}", svg.display()))
            };
            sampled.into_values().map(draw).collect()
        });
        Self { stop, watcher }
    }

    /// The files that were drawn, and why others were not.
    pub(crate) fn end(self) -> Vec<Result<String, String>> {
        drop(self.stop);
        let panicked = |_| vec![Err("flame graphs are missing: their thread panicked".to_owned())];
        self.watcher.join().unwrap_or_else(panicked)
    }
}

/// The running daemons that are children of this process, the oldest first.
fn daemons() -> Vec<(&'static str, u32)> {
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let children = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    let mut pids: Vec<u32> = children
        .flat_map(|text| {
            text.split_whitespace()
                .filter_map(|pid| pid.parse().ok())
                .collect::<Vec<_>>()
        })
        .collect();
    pids.sort_unstable();
    let name = |pid: &u32| {
        let exe = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
        DAEMONS
            .into_iter()
            .find(|name| exe.file_name().is_some_and(|file| file == *name))
    };
    pids.into_iter()
        .filter_map(|pid| Some((name(&pid)?, pid)))
        .collect()
}

fn record(pid: u32, data: &Path) -> Result<Child, String> {
    // perf would keep what a killed run left.
    fs::remove_file(data).ok();
    let mut perf = Command::new("perf");
    perf.args([
        "record",
        "--quiet",
        "--freq",
        FREQUENCY,
        "--call-graph",
        "dwarf,8192",
    ]);
    perf.arg("--pid").arg(pid.to_string()).arg("--output").arg(data);
    let mut perf = mortal(perf);
    perf.stdin(Stdio::null()).stdout(Stdio::null());
    perf.spawn().map_err(|e| format!("perf does not start: {e}"))
}

/// Waits until perf has ended, as it does with the process that it samples; asks it to, where that goes on.
fn ended(perf: Result<Child, String>) -> Result<(), String> {
    let mut perf = perf?;
    let start = Instant::now();
    let mut asked = false;
    loop {
        match perf.try_wait() {
            Ok(None) if start.elapsed() > END_MAX => return Err("perf did not end".to_owned()),
            Ok(None) if start.elapsed() > END_MAX / 10 && !asked => {
                asked = true;
                let pid = i32::try_from(perf.id()).map_err(|e| e.to_string())?;
                kill(Pid::from_raw(pid), Signal::SIGINT).map_err(|e| format!("perf: {e}"))?;
            }
            Ok(None) => std::thread::sleep(Duration::from_millis(20)),
            Ok(Some(_)) => return Ok(()),
            Err(e) => return Err(format!("perf: {e}")),
        }
    }
}

fn draw(data: &Path, svg: &Path) -> Result<String, String> {
    let mut script = Command::new("perf");
    script.args(["script", "--no-inline", "--input"]).arg(data);
    let mut script = mortal(script);
    script.stdin(Stdio::null());
    let output = script.output().map_err(|e| format!("perf script: {e}"))?;
    let mut folded = Vec::new();
    Folder::default()
        .collapse(&*output.stdout, &mut folded)
        .map_err(|e| format!("perf script: {e}"))?;
    if folded.is_empty() {
        return Err(format!(
            "perf saw nothing: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        ));
    }
    let mut options = flamegraph::Options::default();
    let name = svg.file_stem().map(|stem| stem.to_string_lossy().into_owned());
    options.title = name.unwrap_or_default();
    options.min_width = 0.2;
    let out = File::create(svg).map_err(|e| e.to_string())?;
    flamegraph::from_reader(&mut options, &*folded, out).map_err(|e| e.to_string())?;
    let file = svg.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(format!("target/bench/{file}"))
}
