//! What people and scripts read: JSON, aligned tables, numbers with units.
//!
//! Everything goes through [`std::io::Write`] and returns its error, because a reader such as `head` may close
//! the pipe at any time.

use std::io::{self, Write as _};

use serde::Serialize;

/// Writes `facts` as JSON and a line feed on standard output.
///
/// # Errors
/// When standard output does not take it.
pub(crate) fn json<T: Serialize>(facts: &T) -> io::Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, facts)?;
    writeln!(out)?;
    out.flush()
}

/// Writes `text` and a line feed on standard output.
///
/// # Errors
/// When standard output does not take it.
pub(crate) fn line(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}

/// Writes `text` and a line feed on standard error, for the person who watches; nobody may be there.
pub(crate) fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Lays `rows` out in columns two spaces apart, each as wide as its widest cell; no space at the ends of lines.
pub(crate) fn table<const COLUMNS: usize>(rows: &[[String; COLUMNS]]) -> String {
    let mut widths = [0; COLUMNS];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let lines = rows.iter().map(|row| {
        let cells: Vec<_> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        cells.join("  ").trim_end().to_owned()
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Moves every line two spaces to the right.
pub(crate) fn indent(text: &str) -> String {
    text.lines().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
}

/// Writes a number of bytes with three digits or fewer before a binary unit: `812 B`, `1.5 KiB`.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1_024 {
        return format!("{count} B");
    }
    // Exact to the digit shown: 53 bits of mantissa.
    let mut value = count as f64 / 1_024.0;
    let mut units = UNITS.iter();
    let mut unit = units.next();
    while value >= 999.95
        && let Some(larger) = units.next()
    {
        value /= 1_024.0;
        unit = Some(larger);
    }
    format!("{value:.1} {}", unit.copied().unwrap_or_default())
}

/// Writes a round trip time: `8.4 ms`.
pub(crate) fn rtt(milliseconds: f64) -> String {
    format!("{milliseconds:.1} ms")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let row = |a: &str, b: &str, c: &str| [a.to_owned(), b.to_owned(), c.to_owned()];
        let rows = [row("NAME", "ALIAS", "RTT"), row("nas", "127.80.3.9", "8.4 ms"), row("läptop", "-", "")];
        assert_eq!(table(&rows), "NAME    ALIAS       RTT\nnas     127.80.3.9  8.4 ms\nläptop  -");
    }

    #[test]
    fn bytes_carry_a_binary_unit() {
        for (count, text) in [
            (0, "0 B"),
            (1_023, "1023 B"),
            (1_024, "1.0 KiB"),
            (1_536, "1.5 KiB"),
            (1_023 * 1_024, "1.0 MiB"),
            (256 << 20, "256.0 MiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(bytes(count), text);
        }
    }
}
