//! The log filter. It can be changed for a time while the process runs, and then falls back to the configured one, so that
//! nobody has to remember to end a debugging session.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tracing_subscriber::{EnvFilter, reload};

/// How long a change may last.
pub const CHANGE_MAX: Duration = Duration::from_secs(24 * 3_600);

type Reload = Box<dyn Fn(EnvFilter) -> Result<(), String> + Send>;

struct State {
    configured: String,
    /// The changed filter, and when it ends.
    changed: Option<(String, Instant)>,
    reload: Reload,
}

/// `None` until logging has started.
static STATE: Mutex<Option<State>> = Mutex::new(None);

/// The filters.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Filters {
    /// The one of the configuration.
    pub configured: String,
    /// The one that was set while the process runs, and the time until it ends.
    pub changed: Option<(String, Duration)>,
}

fn state() -> MutexGuard<'static, Option<State>> {
    // Nothing panics while the lock is held.
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Parses a filter.
///
/// # Errors
/// When the filter is invalid; the text says why.
pub(crate) fn parse(filter: &str) -> Result<EnvFilter, String> {
    let wrong = |e| {
        format!("{filter:?} is no log filter such as \"info\" or \"info,redkeeper_collector=debug\": {e}")
    };
    EnvFilter::try_new(filter).map_err(wrong)
}

/// Makes a handle of the logging library into one that does not name its types.
pub(crate) fn reloader<S: 'static>(handle: reload::Handle<EnvFilter, S>) -> Reload {
    Box::new(move |filter| handle.reload(filter).map_err(|e| e.to_string()))
}

/// Records the configured filter, and how to replace it.
pub(crate) fn install(configured: &str, reload: Reload) {
    *state() = Some(State {
        configured: configured.to_owned(),
        changed: None,
        reload,
    });
}

/// The filters in force; `None` before logging has started.
pub fn get() -> Option<Filters> {
    let state = state();
    let State {
        configured, changed, ..
    } = state.as_ref()?;
    let left = |(filter, until): &(String, Instant)| {
        (filter.clone(), until.saturating_duration_since(Instant::now()))
    };
    Some(Filters {
        configured: configured.clone(),
        changed: changed.as_ref().map(left),
    })
}

/// Sets a filter for a time, at most [`CHANGE_MAX`].
///
/// # Errors
/// When the filter is invalid, or logging has not started; nothing has changed then.
pub fn set(filter: &str, lasts: Duration) -> Result<(), String> {
    let parsed = parse(filter)?;
    let mut state = state();
    let state = state.as_mut().ok_or("logging has not started")?;
    (state.reload)(parsed)?;
    state.changed = Some((filter.to_owned(), Instant::now() + lasts.min(CHANGE_MAX)));
    Ok(())
}

/// Goes back to the configured filter. Returns whether another one was set.
///
/// # Errors
/// When the logging library refuses.
pub fn reset() -> Result<bool, String> {
    restore(|_| true)
}

/// Goes back to the configured filter if the time of another one is over. To be called each few seconds.
pub(crate) fn reset_if_due() {
    let now = Instant::now();
    match restore(|until| until <= now) {
        Ok(true) => tracing::info!("the log filter is the configured one again"),
        Ok(false) => {}
        Err(e) => tracing::warn!("the log filter cannot be set back: {e}"),
    }
}

fn restore(is_over: impl Fn(Instant) -> bool) -> Result<bool, String> {
    let mut state = state();
    let Some(state) = state.as_mut() else {
        return Ok(false);
    };
    if !state.changed.as_ref().is_some_and(|(_, until)| is_over(*until)) {
        return Ok(false);
    }
    (state.reload)(parse(&state.configured)?)?;
    state.changed = None;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    // A single test, because the state is that of the process.
    #[test]
    fn a_change_lasts_as_long_as_it_was_asked_for() {
        assert_eq!(get(), None);
        assert!(set("debug", CHANGE_MAX).is_err(), "logging has not started");
        let loaded = Arc::new(Mutex::new(Vec::new()));
        let note = Arc::clone(&loaded);
        let reload = move |filter: EnvFilter| {
            note.lock().unwrap().push(filter.to_string());
            Ok(())
        };
        install("info", Box::new(reload));

        assert!(set("info,=", CHANGE_MAX).is_err());
        assert_eq!(get().unwrap().changed, None);
        set("debug", CHANGE_MAX * 2).unwrap();
        reset_if_due();
        let (filter, left) = get().unwrap().changed.unwrap();
        assert_eq!(filter, "debug");
        assert!(left <= CHANGE_MAX && left > CHANGE_MAX - Duration::from_secs(60));
        set("trace", Duration::ZERO).unwrap();
        reset_if_due();
        assert_eq!(get().unwrap().changed, None);
        assert_eq!(reset(), Ok(false));
        set("warn", CHANGE_MAX).unwrap();
        assert_eq!(reset(), Ok(true));
        assert_eq!(
            *loaded.lock().unwrap(),
            ["debug", "trace", "info", "warn", "info"]
        );
    }
}
