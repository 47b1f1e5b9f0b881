//! Metrics as text: the Prometheus exposition format, version 0.0.4.
//!
//! ```text
//! # HELP vpi_member_sent_bytes_total Bytes of data datagrams sent to the member.
//! # TYPE vpi_member_sent_bytes_total counter
//! vpi_member_sent_bytes_total{vpi="home",member="nas"} 1536
//! ```

use std::fmt;

use serde::{Deserialize, Serialize};

/// All samples of one name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Family {
    /// `[a-z_]+`, with the unit and, for counters, `_total` at the end.
    pub(crate) name: String,
    /// One sentence.
    pub(crate) help: String,
    /// Counter or gauge.
    pub(crate) kind: Kind,
    /// Each with labels of its own.
    pub(crate) samples: Vec<Sample>,
}

/// What a value means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// Only grows, from zero at the node's start.
    Counter,
    /// Goes up and down.
    Gauge,
}

/// One value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sample {
    /// Names `[a-z_]+` and values of any characters.
    pub(crate) labels: Vec<(String, String)>,
    /// In the unit of the name.
    pub(crate) value: f64,
}

impl Family {
    /// A family without samples yet.
    pub(crate) fn new(name: &str, kind: Kind, help: &str) -> Self {
        Self { name: name.to_owned(), help: help.to_owned(), kind, samples: Vec::new() }
    }

    /// Adds a sample.
    pub(crate) fn add(&mut self, labels: &[(&str, &str)], value: f64) {
        let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        self.samples.push(Sample { labels, value });
    }
}

impl fmt::Display for Family {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        let help = self.help.replace('\\', "\\\\").replace('\n', "\\n");
        writeln!(to, "# HELP {} {help}\n# TYPE {} {kind}", self.name, self.name)?;
        for sample in &self.samples {
            to.write_str(&self.name)?;
            for (at, (name, value)) in sample.labels.iter().enumerate() {
                write!(to, "{}{name}=\"{}\"", if at == 0 { '{' } else { ',' }, escaped(value))?;
            }
            let end = if sample.labels.is_empty() { "" } else { "}" };
            writeln!(to, "{end} {}", sample.value)?;
        }
        Ok(())
    }
}

/// A label's value as it stands between quotes.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_is_help_type_and_samples() {
        let mut family = Family::new("vpi_sent_bytes_total", Kind::Counter, "Bytes sent.");
        family.add(&[("vpi", "home"), ("member", "nas")], 1_536.0);
        family.add(&[], 0.25);
        let expected = "\
# HELP vpi_sent_bytes_total Bytes sent.
# TYPE vpi_sent_bytes_total counter
vpi_sent_bytes_total{vpi=\"home\",member=\"nas\"} 1536
vpi_sent_bytes_total 0.25
";
        assert_eq!(family.to_string(), expected);
    }

    #[test]
    fn nothing_in_a_label_or_a_help_text_ends_a_line_or_a_string() {
        let mut family = Family::new("vpi_x", Kind::Gauge, "a\\b\nc");
        family.add(&[("name", "q\"uo\\te\nline")], 1.0);
        let text = family.to_string();
        assert!(text.contains("# HELP vpi_x a\\\\b\\nc\n"), "{text}");
        assert!(text.contains("vpi_x{name=\"q\\\"uo\\\\te\\nline\"} 1\n"), "{text}");
        assert_eq!(text.lines().count(), 3);
    }

    #[test]
    fn large_counters_are_written_in_full() {
        let mut family = Family::new("vpi_x_total", Kind::Counter, "");
        family.add(&[], (1_u64 << 53) as f64);
        assert!(family.to_string().ends_with("vpi_x_total 9007199254740992\n"));
    }
}
