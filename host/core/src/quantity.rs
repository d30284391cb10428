//! Kubernetes quantities: the kubelet must read a quantity in a static pod as the same amount.

/// One unit, in billionths.
const UNIT: u128 = 1_000_000_000;
/// The most digits. More are refused: no resource needs such an exact amount.
const DIGITS: usize = 18;
/// The largest amount. Kubernetes reads a larger amount as this one.
const LARGEST: u128 = i64::MAX.unsigned_abs() as u128 * UNIT;

/// An amount above or equal to zero, exact to a billionth of a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Quantity {
    nanos: u128,
}

impl Quantity {
    /// Parses a quantity such as `2`, `0.5`, `100m`, `64Mi` or `1e3` to the same amount as Kubernetes'
    /// `resource.ParseQuantity`. It accepts fewer forms.
    ///
    /// # Errors
    /// Kubernetes refuses it; or it is negative; or it has more than 18 digits or 9 decimal places, or is above 2⁶³−1,
    /// so that Kubernetes would round it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let refuse = |why: &str| format!("{text:?} is not a quantity such as 100m, 0.5 or 64Mi: {why}");
        let unsigned = text.strip_prefix('+').unwrap_or(text);
        let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
        let (whole, rest) = unsigned.split_at(digits(unsigned));
        let (fraction, suffix) = match rest.strip_prefix('.') {
            Some(rest) => rest.split_at(digits(rest)),
            None => ("", rest),
        };
        if whole.is_empty() && fraction.is_empty() {
            return Err(refuse(if text.starts_with('-') { "it is negative" } else { "it has no number" }));
        }
        let Some((base, exponent)) = factor(suffix) else { return Err(refuse("its suffix is unknown")) };
        let number = format!("{whole}{fraction}");
        let number = number.trim_start_matches('0');
        if number.len() > DIGITS {
            return Err(refuse("it has more than 18 digits"));
        }
        let number: u128 =
            if number.is_empty() { return Ok(Self { nanos: 0 }) } else { number.parse().unwrap_or_default() };
        let (multiplied, divided) =
            if exponent < 0 { (0, exponent.unsigned_abs()) } else { (exponent.unsigned_abs(), 0) };
        let power = |base: u128, exponent: u32| base.checked_pow(exponent);
        // The unit first: a remainder of the division is then finer than a billionth.
        let parts = power(base, multiplied).and_then(|factor| number.checked_mul(UNIT)?.checked_mul(factor));
        let places = u32::try_from(fraction.len()).ok().and_then(|places| power(10, places));
        let divisor = places.and_then(|places| places.checked_mul(power(base, divided)?));
        match (parts, divisor) {
            (Some(parts), Some(divisor)) if parts % divisor == 0 && parts / divisor <= LARGEST => {
                Ok(Self { nanos: parts / divisor })
            }
            (Some(parts), Some(divisor)) if parts / divisor <= LARGEST => {
                Err(refuse("it has more than 9 decimal places"))
            }
            (_, None) => Err(refuse("it has more than 9 decimal places")),
            _ => Err(refuse("it is too large")),
        }
    }

    /// The amount times `factor`; `None` if the product is too large.
    #[must_use]
    pub fn times(self, factor: u32) -> Option<Self> {
        let nanos = self.nanos.checked_mul(u128::from(factor)).filter(|nanos| *nanos <= LARGEST)?;
        Some(Self { nanos })
    }

    /// The amount in billionths.
    pub fn nanos(self) -> u128 {
        self.nanos
    }
}

/// Base and exponent of a suffix.
fn factor(suffix: &str) -> Option<(u128, i32)> {
    Some(match suffix {
        "" => (10, 0),
        "n" => (10, -9),
        "u" => (10, -6),
        "m" => (10, -3),
        "k" => (10, 3),
        "M" => (10, 6),
        "G" => (10, 9),
        "T" => (10, 12),
        "P" => (10, 15),
        "E" => (10, 18),
        "Ki" => (2, 10),
        "Mi" => (2, 20),
        "Gi" => (2, 30),
        "Ti" => (2, 40),
        "Pi" => (2, 50),
        "Ei" => (2, 60),
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E'])?;
            let digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
            // Two digits are more than any amount needs.
            if digits.is_empty() || digits.len() > 2 || !digits.bytes().all(|b| b.is_ascii_digit()) {
                return None;
            }
            (10, exponent.parse().ok()?)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_exact_or_refused() {
        for (text, nanos) in [
            ("0", 0),
            ("2", 2 * UNIT),
            ("+2", 2 * UNIT),
            ("0.5", UNIT / 2),
            (".5", UNIT / 2),
            ("1.", UNIT),
            ("100m", UNIT / 10),
            ("64Mi", (64 << 20) * UNIT),
            ("1.5Ki", 1536 * UNIT),
            ("1e3", 1000 * UNIT),
            ("1E3", 1000 * UNIT),
            ("1E", 1_000_000_000_000_000_000 * UNIT),
            ("12e-3", 12 * UNIT / 1000),
            ("0000000000000000000000000001k", 1000 * UNIT),
            ("1n", 1),
        ] {
            assert_eq!(Quantity::parse(text).map(Quantity::nanos), Ok(nanos), "{text}");
        }
        for (text, why) in [
            ("", "it has no number"),
            ("Mi", "it has no number"),
            ("-1", "it is negative"),
            ("1 Mi", "its suffix is unknown"),
            ("1mb", "its suffix is unknown"),
            ("1KI", "its suffix is unknown"),
            ("1K", "its suffix is unknown"),
            ("1e", "its suffix is unknown"),
            ("1e999", "its suffix is unknown"),
            ("0x10", "its suffix is unknown"),
            ("1.2.3", "its suffix is unknown"),
            ("0.0000000001", "it has more than 9 decimal places"),
            ("1e-99", "it has more than 9 decimal places"),
            ("16Ei", "it is too large"),
            ("1e30", "it is too large"),
            ("1234567890123456789", "it has more than 18 digits"),
        ] {
            let error = Quantity::parse(text).unwrap_err();
            assert!(error.ends_with(why), "{text}: {error}");
        }
    }

    #[test]
    fn product_is_exact_or_none() {
        assert_eq!(Quantity::parse("100m").unwrap().times(4), Quantity::parse("0.4").ok());
        assert_eq!(Quantity::parse("8E").unwrap().times(4), None);
    }
}
