//! Go's durations, exactly: the API server must be able to parse a duration in an EncryptionConfiguration.

use std::time::Duration;

/// Parses a duration that Go's `time.ParseDuration` accepts and that is not negative: `10s`, `1m30s`, `1.5h`, `0`.
/// Limit: 2⁶³−1 nanoseconds.
pub fn go(text: &str) -> Result<Duration, String> {
    let nanos = nanos(text).ok_or_else(|| format!("{text:?} is not a duration such as 10s or 1m30s"))?;
    let nanos = u64::try_from(nanos).map_err(|_| format!("{text:?} is negative"))?;
    Ok(Duration::from_nanos(nanos))
}

/// A duration that Go's `time.ParseDuration` accepts, in nanoseconds.
fn nanos(text: &str) -> Option<i64> {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let nanos = parse(unsigned)?;
    if text.starts_with('-') { 0_i64.checked_sub_unsigned(nanos) } else { i64::try_from(nanos).ok() }
}

/// A duration without a sign, up to 2⁶³ nanoseconds.
fn parse(text: &str) -> Option<u64> {
    if text == "0" {
        return Some(0);
    }
    let (mut rest, mut total) = (text, 0_u64);
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
        let (whole, after) = rest.split_at(digits(rest));
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => after.split_at(digits(after)),
            None => ("", after),
        };
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let end = after.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        let unit: u64 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        let nanos = whole.checked_mul(unit)?.checked_add(part(fraction, unit))?;
        total = total.checked_add(nanos)?;
        rest = after;
    }
    (total <= 1 << 63).then_some(total)
}

/// The nanoseconds of a fraction of a unit, as Go computes them: in floating point, rounded down, and without the
/// digits beyond 63 bits.
#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)] // as Go does
fn part(fraction: &str, unit: u64) -> u64 {
    let (mut value, mut scale) = (0_u64, 1.0_f64);
    for digit in fraction.bytes() {
        if value > i64::MAX.unsigned_abs() / 10 {
            break;
        }
        let more = value * 10 + u64::from(digit.saturating_sub(b'0'));
        if more > 1 << 63 {
            break;
        }
        (value, scale) = (more, scale * 10.0);
    }
    (value as f64 * (unit as f64 / scale)) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_parsed_as_in_go() {
        for (text, millis) in [
            ("10s", 10_000),
            ("1m30s", 90_000),
            ("1.5h", 5_400_000),
            (".5s", 500),
            ("1.s", 1_000),
            ("0", 0),
            ("+1.5s", 1_500),
            ("-0s", 0),
            ("-0", 0),
            ("0s", 0),
            ("250ms", 250),
            ("2000us", 2),
            ("2000µs", 2),
            ("1h0m0.25s", 3_600_250),
        ] {
            assert_eq!(go(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in [
            "",
            "10",
            "s",
            ".s",
            "10 seconds",
            "10 s",
            "1min",
            "PT10S",
            "00:00:10",
            "-1s",
            "-9223372036854775808ns",
            "--1s",
            "+",
            "- 1s",
            "1d",
            "1s ",
            "1.2.3s",
            "9223372036854775808ns",
            "99999999999999999999999h",
        ] {
            assert!(go(text).is_err(), "{text}");
        }
        assert_eq!(go("-1h30m").unwrap_err(), "\"-1h30m\" is negative");
        assert_eq!(nanos("-9223372036854775808ns"), Some(i64::MIN));
    }
}
