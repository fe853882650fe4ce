//! Records the log lines of a test, for tests of what is logged and how often.

use std::{
    cell::RefCell,
    fmt::{self, Write},
    sync::Once,
};

use tracing::{
    Dispatch, Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

thread_local! {
    static LINES: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// The lines that the present test has logged on its own thread since [`Log::start`].
pub(crate) struct Log;

impl Log {
    /// Begins to record. The recorder is global, because a call site that is first reached by a thread without a
    /// recorder would stay disabled for all threads.
    pub(crate) fn start() -> Self {
        static INSTALLED: Once = Once::new();
        INSTALLED.call_once(|| {
            tracing::subscriber::set_global_default(Recorder).unwrap();
            // Enables the call sites that were reached before.
            drop(Dispatch::new(Recorder));
        });
        LINES.take();
        Self
    }

    /// The lines with this text so far.
    pub(crate) fn lines_with(&self, text: &str) -> Vec<String> {
        LINES.with_borrow(|lines| lines.iter().filter(|line| line.contains(text)).cloned().collect())
    }
}

struct Recorder;

impl Subscriber for Recorder {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() <= Level::INFO && metadata.target().starts_with("redkeeper")
    }

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(event.metadata().level().to_string());
        event.record(&mut line);
        LINES.with_borrow_mut(|lines| lines.push(line.0));
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let written = match field.name() {
            "message" => write!(self.0, " {value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
        written.unwrap();
    }
}
