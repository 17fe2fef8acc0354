//! How far a backup or restore has come, on the terminal; and the wish to stop it, from there.

use anshin_base::{ByteSize, Millis, Mono, Problem};
use anshin_capture::Monitor;
use anshin_director::{
    Span, record,
    run::{Estimate, Meter},
};
use std::{
    io::{self, IsTerminal, Write},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Instant,
};

/// Columns of a line that is written again and again where nobody says how many there are.
const WIDTH: usize = 80;

/// A line on standard error that is kept up to date, if that is a terminal.
pub struct Line {
    shown: Arc<AtomicBool>,
}

impl Line {
    /// A monitor that `total` bytes are expected of (0: nobody knows), and the line that shows it.
    pub fn monitor(quiet: bool, total: u64) -> (Arc<Monitor>, Self) {
        let shown = Arc::new(AtomicBool::new(false));
        if quiet || !io::stderr().is_terminal() {
            return (Arc::new(Monitor::new()), Self { shown });
        }
        let begun = Instant::now();
        let first = record::Progress { bytes_total: (total > 0).then_some(total), ..Default::default() };
        let meter = Mutex::new(Meter::new(Mono(0), first));
        let any = shown.clone();
        let monitor = Monitor::observed(move |seen| {
            let mut meter = meter.lock().unwrap_or_else(PoisonError::into_inner);
            let elapsed = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
            let now = Mono(0).after(Millis(elapsed));
            let progress = record::Progress {
                files: seen.entries,
                bytes: seen.bytes.max(seen.bytes_moved),
                sent: seen.bytes_moved,
                ..first
            };
            meter.observe(now, progress);
            any.store(true, Relaxed);
            let width =
                rustix::termios::tcgetwinsize(io::stderr()).map_or(0, |size| usize::from(size.ws_col));
            let width = if width == 0 { WIDTH } else { width };
            let text = words(&progress, &meter.estimate(None), &seen.current, width.saturating_sub(1));
            // Nobody can be told if even the terminal is gone.
            let _ = write!(io::stderr(), "\r\x1b[K{text}").and_then(|()| io::stderr().flush());
        });
        (Arc::new(monitor), Self { shown })
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if self.shown.load(Relaxed) {
            let _ = write!(io::stderr(), "\r\x1b[K").and_then(|()| io::stderr().flush());
        }
    }
}

/// `1.2 GiB of 4.5 GiB, 1,234 files, 180 MiB/s, 19 seconds left  srv/data/…`
fn words(progress: &record::Progress, estimate: &Estimate, current: &[u8], width: usize) -> String {
    let mut text = ByteSize(progress.bytes).to_string();
    if let Some(total) = progress.bytes_total.filter(|total| *total >= progress.bytes) {
        text += &format!(" of {}", ByteSize(total));
    }
    text += &format!(", {} files", progress.files);
    if estimate.bytes_per_second >= 1.0 {
        text += &format!(", {}/s", ByteSize(estimate.bytes_per_second as u64));
    }
    if let Some(Span(left)) = estimate.remaining {
        text += &format!(", {} left", Span(left).rough());
    }
    let path = current.escape_ascii().to_string();
    let room = width.saturating_sub(text.chars().count() + 2);
    if room >= 16 && !path.is_empty() {
        let skip = path.len().saturating_sub(room.saturating_sub(1));
        // `escape_ascii` gives ASCII, so every byte is a character.
        text += if skip > 0 { "  …" } else { "  " };
        text += &path[skip..];
    }
    text.chars().take(width).collect()
}

/// Asks the monitor to stop at the first SIGINT or SIGTERM, so that what is being written ends cleanly.
///
/// # Errors
/// If signals cannot be waited for.
pub fn stop_on_signal(monitor: Arc<Monitor>) -> Result<(), Problem> {
    let failed = |error: io::Error| Problem::new("signals", format!("signals cannot be waited for: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let (mut interrupt, mut terminate) = {
        let _inside = runtime.enter();
        use tokio::signal::unix::{SignalKind, signal};
        (signal(SignalKind::interrupt()).map_err(failed)?, signal(SignalKind::terminate()).map_err(failed)?)
    };
    // Ends with the process.
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        });
        monitor.cancel();
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_how_much_how_fast_and_how_long_and_fits() {
        let progress =
            record::Progress { files: 7, bytes: 512 << 20, bytes_total: Some(1 << 30), ..Default::default() };
        let estimate = Estimate {
            bytes_per_second: f64::from(64 << 20),
            remaining: Some(Span(8)),
            ..Estimate::default()
        };
        let text = words(&progress, &estimate, b"srv/data/some/where/deep/in/the/tree", 80);
        assert_eq!(text, "512 MiB of 1 GiB, 7 files, 64 MiB/s, 8 seconds left  …ome/where/deep/in/the/tree");
        assert!(words(&progress, &estimate, &[b'x'; 200], 40).chars().count() <= 40);
    }
}
