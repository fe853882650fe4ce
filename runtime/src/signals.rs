//! Handles the signals that request a stop.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::telemetry;

/// Cancels `stop` on the first SIGTERM or ctrl-c and ends the process at once on the second.
///
/// # Errors
/// When the handlers cannot be installed.
pub fn listen(stop: CancellationToken) -> std::io::Result<impl Future<Output = ()>> {
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    Ok(async move {
        let name = tokio::select! { _ = term.recv() => "SIGTERM", _ = int.recv() => "SIGINT" };
        tracing::info!(
            signal = name,
            "stopping; a second signal ends the process at once"
        );
        stop.cancel();
        tokio::select! { _ = term.recv() => (), _ = int.recv() => () };
        tracing::warn!("second signal: exiting at once");
        telemetry::finish();
        std::process::exit(1);
    })
}
