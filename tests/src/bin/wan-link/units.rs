//! What is typed on the command line, as numbers: `20ms`, `1.5%`, `10mbit`, `64k`.

use std::time::Duration;

/// Reads `20ms`, `500us`, `1.5s`; at most a minute.
///
/// # Errors
/// A sentence that shows what is expected.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let seconds = scaled(text, &[("us", 1e-6), ("ms", 1e-3), ("s", 1.0)]).filter(|seconds| *seconds <= 60.0);
    seconds
        .map(Duration::from_secs_f64)
        .ok_or_else(|| "a time up to a minute is meant, such as 20ms".to_owned())
}

/// Reads `1%`, as 0.01.
///
/// # Errors
/// A sentence that shows what is expected.
pub(crate) fn share(text: &str) -> Result<f64, String> {
    let share = scaled(text, &[("%", 0.01)]).filter(|share| *share <= 1.0);
    share.ok_or_else(|| "a share up to 100% is meant, such as 1%".to_owned())
}

/// Reads `10mbit`, `500kbit`, `1gbit`; at least 1 kbit/s.
///
/// # Errors
/// A sentence that shows what is expected.
pub(crate) fn bits_per_second(text: &str) -> Result<u64, String> {
    let bits = scaled(text, &[("kbit", 1e3), ("mbit", 1e6), ("gbit", 1e9)]);
    let bits = bits.filter(|bits| (1e3..=1e12).contains(bits));
    bits.map(whole).ok_or_else(|| "a rate is meant, such as 10mbit".to_owned())
}

/// Reads `1500`, `64k`, `1m`, in bytes of 1,024s.
///
/// # Errors
/// A sentence that shows what is expected.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    let bytes = scaled(text, &[("k", 1024.0), ("m", 1_048_576.0), ("", 1.0)]);
    let bytes = bytes.filter(|bytes| *bytes <= 1e9);
    bytes.map(whole).ok_or_else(|| "a size in bytes is meant, such as 64k".to_owned())
}

/// The number before the first of the units that ends `text`, times the unit.
fn scaled(text: &str, units: &[(&str, f64)]) -> Option<f64> {
    let (number, unit) = units.iter().find_map(|(name, unit)| Some((text.strip_suffix(name)?, unit)))?;
    let number: f64 = number.parse().ok()?;
    (number.is_finite() && number >= 0.0).then_some(number * unit)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the callers bound it")]
fn whole(number: f64) -> u64 {
    number.round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_with_their_units() {
        assert_eq!(duration("20ms"), Ok(Duration::from_millis(20)));
        assert_eq!(duration("500us"), Ok(Duration::from_micros(500)));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(share("1.5%"), Ok(0.015));
        assert_eq!(bits_per_second("10mbit"), Ok(10_000_000));
        assert_eq!(bytes("64k"), Ok(65_536));
        assert_eq!(bytes("1500"), Ok(1500));
    }

    #[test]
    fn what_is_no_such_number_is_refused() {
        for text in ["", "20", "ms", "-1ms", "61s", "NaNms", "20 m"] {
            assert!(duration(text).is_err(), "{text}");
        }
        assert!(share("101%").is_err() && share("0.5").is_err());
        assert!(bits_per_second("10").is_err() && bits_per_second("0kbit").is_err());
        assert!(bytes("k").is_err() && bytes("2000m").is_err());
    }
}
