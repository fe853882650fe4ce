//! Logging to standard error by a dedicated thread: if the reader is slow or stuck, lines are dropped and counted, and
//! everything else continues.

use std::{
    io::BufWriter,
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter},
};
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::fmt;

use crate::{log_filter, log_tail::Keep};

/// Maximum number of lines waiting for standard error: enough for 10,000 transitions at once, about 3 MB.
const LINES_MAX: usize = 16_384;

static LOST: OnceLock<ErrorCounter> = OnceLock::new();
/// Guard that writes the waiting lines when it is dropped.
static WRITER: Mutex<Option<WorkerGuard>> = Mutex::new(None);

/// Format of log lines.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Human-readable text.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// Starts logging with a filter such as `info` or `info,redkeeper_collector=debug`. Panics are logged too. The last
/// lines are written by [`finish`].
///
/// # Errors
/// When the filter cannot be parsed.
pub fn init(filter: &str, format: LogFormat) -> Result<(), String> {
    let parsed = log_filter::parse(filter)?;
    let (writer, guard) = NonBlockingBuilder::default()
        .buffered_lines_limit(LINES_MAX)
        .thread_name("log")
        .finish(Keep(BufWriter::new(std::io::stderr())));
    LOST.get_or_init(|| writer.error_counter());
    *WRITER.lock().unwrap_or_else(PoisonError::into_inner) = Some(guard);
    let builder = fmt()
        .with_env_filter(parsed)
        .with_writer(writer)
        .with_target(true);
    let reload = match format {
        LogFormat::Text => {
            let builder = builder
                .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
                .with_filter_reloading();
            let handle = builder.reload_handle();
            builder.init();
            log_filter::reloader(handle)
        }
        LogFormat::Json => {
            let builder = builder.json().with_filter_reloading();
            let handle = builder.reload_handle();
            builder.init();
            log_filter::reloader(handle)
        }
    };
    log_filter::install(filter, reload);
    std::panic::set_hook(Box::new(|info| {
        PANICS.fetch_add(1, Ordering::Relaxed);
        tracing::error!(
            place = info.location().map(tracing::field::display),
            "panic: {info}"
        );
    }));
    Ok(())
}

/// Maximum time for writing the last lines.
const FINISH_TIMEOUT: Duration = Duration::from_millis(1_200);

/// Writes the waiting lines, within about a second, and ends logging. Called last, before the process ends.
pub fn finish() {
    let guard = WRITER.lock().unwrap_or_else(PoisonError::into_inner).take();
    let (done, ended) = std::sync::mpsc::channel::<()>();
    // The library's guard prints errors to standard output, which may be stuck too.
    let dropping = std::thread::Builder::new()
        .name("log-end".to_owned())
        .spawn(move || {
            drop(guard);
            drop(done);
        });
    if dropping.is_ok() {
        // An error means either that writing is done or that it takes too long.
        ended.recv_timeout(FINISH_TIMEOUT).ok();
    }
}

/// Calls [`finish`] when it is dropped, also by a panic.
pub(crate) struct Finish;

impl Drop for Finish {
    fn drop(&mut self) {
        finish();
    }
}

/// Number of panics of all threads and tasks, including those of libraries, which no supervisor sees.
static PANICS: AtomicU64 = AtomicU64::new(0);

/// Metrics of dropped log lines and of panics.
#[derive(Debug)]
pub(crate) struct LogMetrics;

impl Collector for LogMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let lost = LOST.get().map_or(0, ErrorCounter::dropped_lines);
        let help = "Log lines that were lost because nobody read them in time";
        let metric =
            encoder.encode_descriptor("redkeeper_log_lines_lost", help, None, MetricType::Counter)?;
        ConstCounter::new(u64::try_from(lost).unwrap_or(u64::MAX)).encode(metric)?;
        let help = "Panics of any thread or task";
        let metric = encoder.encode_descriptor("redkeeper_panics", help, None, MetricType::Counter)?;
        ConstCounter::new(PANICS.load(Ordering::Relaxed)).encode(metric)
    }
}
