//! How far a download is: a bar on a terminal, a line for each tenth of a large file elsewhere.

use std::io::{self, IsTerminal};

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};

/// Files below this size arrive too quickly for lines.
const LINES_FROM_BYTES: u64 = 8 << 20;

/// Progress of one file, shown on stderr.
pub(super) struct Progress {
    name: String,
    total: Option<u64>,
    done: u64,
    tenths: u64,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// `done` bytes of `total`, if that is known, are there already.
    pub(super) fn new(name: &str, total: Option<u64>, done: u64) -> Self {
        let bar = io::stderr().is_terminal().then(|| bar(name, total, done));
        let tenths = tenths(done, total);
        Self { name: name.to_owned(), total, done, tenths, bar }
    }

    pub(super) fn advance(&mut self, bytes: u64) {
        self.set(self.done + bytes);
    }

    pub(super) fn set(&mut self, done: u64) {
        self.done = done;
        if let Some(bar) = &self.bar {
            bar.set_position(done);
            return;
        }
        let tenths = tenths(done, self.total);
        if tenths > self.tenths
            && let Some(total) = self.total.filter(|total| *total >= LINES_FROM_BYTES)
        {
            eprintln!("{}: {} % of {}", self.name, tenths * 10, HumanBytes(total));
        }
        self.tenths = tenths;
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn bar(name: &str, total: Option<u64>, done: u64) -> ProgressBar {
    let (bar, template) = match total {
        Some(total) => (ProgressBar::new(total), "{msg} {wide_bar} {bytes} / {total_bytes}  {bytes_per_sec}  {eta}"),
        None => (ProgressBar::new_spinner(), "{msg} {spinner} {bytes}  {bytes_per_sec}"),
    };
    bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.set_message(name.to_owned());
    bar.set_position(done);
    bar.reset_eta();
    bar
}

fn tenths(done: u64, total: Option<u64>) -> u64 {
    total.map_or(0, |total| done.saturating_mul(10).checked_div(total).unwrap_or(0).min(10))
}
