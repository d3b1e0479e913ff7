//! Logs: `tracing` to standard error, as text or JSON.

use tracing_subscriber::EnvFilter;

/// Starts logging once for the process. `level` is a filter such as `info` or `heddle_agent=debug,info`.
pub fn init(level: &str, json: bool) {
    let filter = EnvFilter::try_new(level).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A second call (tests in one process) keeps the first subscriber.
    let _ = if json { builder.json().try_init() } else { builder.with_ansi(false).try_init() };
}
