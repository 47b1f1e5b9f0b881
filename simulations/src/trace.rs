//! A run written down, line by line.

use std::fmt::Arguments;
use std::io::Write;
use std::time::Duration;

/// Where the lines go; nowhere, by default.
#[derive(Default)]
pub(crate) struct Trace(Option<Box<dyn Write>>);

impl Trace {
    /// A trace that is written to `out`.
    pub(crate) fn to(out: impl Write + 'static) -> Self {
        Self(Some(Box::new(out)))
    }

    /// Writes one line: seconds of virtual time, then what happened.
    pub(crate) fn line(&mut self, at: Duration, what: Arguments<'_>) {
        // Whoever reads may stop reading: `head` does.
        if let Some(out) = &mut self.0
            && writeln!(out, "{:>12.6} {what}", at.as_secs_f64()).is_err()
        {
            self.0 = None;
        }
    }
}
