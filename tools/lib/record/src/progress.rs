//! Progress of long work on stderr: a bar on a terminal, otherwise a line a minute.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::{
    io::{IsTerminal, Write},
    time::{Duration, Instant},
};

/// The progress of one piece of work.
pub struct Progress {
    bar: ProgressBar,
    /// When a line is due, where stderr is not a terminal.
    lines: Option<Instant>,
    label: String,
}

const LINE_EVERY: Duration = Duration::from_secs(60);

impl Progress {
    /// Progress over `total` units (`"steps"`, `"B"`); silent when `quiet`.
    pub fn new(quiet: bool, label: &str, total: u64, unit: &str) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let target = if terminal && !quiet { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(total), target);
        let template = format!("{{prefix}} {{wide_bar}} {{pos}}/{{len}} {unit} {{msg}} {{eta}} left");
        if let Ok(style) = ProgressStyle::with_template(&template) {
            bar.set_style(style);
        }
        bar.set_prefix(label.to_string());
        let lines = (!terminal && !quiet).then(Instant::now);
        Progress { bar, lines, label: label.to_string() }
    }

    /// So many more units are done; `note` is shown beside the bar.
    pub fn advance(&mut self, units: u64, note: &str) {
        self.bar.set_message(note.to_string());
        self.bar.inc(units);
        if self.lines.is_some_and(|last| last.elapsed() >= LINE_EVERY) {
            self.lines = Some(Instant::now());
            let (done, total) = (self.bar.position(), self.bar.length().unwrap_or(0));
            // Progress that cannot be shown is no reason to stop the work.
            let _ = writeln!(std::io::stderr(), "{}: {done}/{total} {note}", self.label);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
