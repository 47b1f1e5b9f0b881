//! A run written down, line by line.

use std::fmt::Arguments;
use std::time::Duration;

/// Where the lines go.
pub(crate) enum Trace {
    /// Nowhere.
    Off,
    /// To standard output.
    Print,
    /// Into memory, to be compared.
    Keep(String),
}

impl Trace {
    /// Writes one line: seconds of virtual time, then what happened.
    pub(crate) fn line(&mut self, at: Duration, what: Arguments<'_>) {
        match self {
            Self::Off => {}
            Self::Print => println!("{:>12.6} {what}", at.as_secs_f64()),
            Self::Keep(text) => {
                use std::fmt::Write as _;
                let _ = writeln!(text, "{:>12.6} {what}", at.as_secs_f64());
            }
        }
    }
}
