//! Kubernetes quantities (`500m`, `1.5Gi`, `2e3`), exactly: no float is involved, and what does not divide is rounded up,
//! as the API server does.

/// An amount in thousand-millionths of one: the smallest unit that a quantity has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Amount {
    nanos: u128,
    is_negative: bool,
}

/// Text that is no quantity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$' and stay below 2^63"
)]
pub struct QuantityError;

const NANOS: u128 = 1_000_000_000;
/// Digits beyond these could overflow while they are read.
const MAX_DIGITS: usize = 24;
/// The largest exponent that a quantity may have.
const MAX_EXPONENT: u32 = 18;

impl Amount {
    /// Reads a quantity.
    ///
    /// # Errors
    /// When it is not one, or 2^63 and more.
    pub fn parse(text: &str) -> Result<Self, QuantityError> {
        let (is_negative, rest) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            Some(_) | None => (false, text),
        };
        let end = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let (number, suffix) = rest.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.len() + fraction.len() == 0 || number.len() > MAX_DIGITS || fraction.contains('.') {
            return Err(QuantityError);
        }
        let digits: u128 = format!("{whole}{fraction}").parse().map_err(|_| QuantityError)?;
        let (up, down) = scale(suffix).ok_or(QuantityError)?;
        let over = 10u128.pow(u32::try_from(fraction.len()).map_err(|_| QuantityError)?) * down;
        let scaled = digits
            .checked_mul(up)
            .and_then(|value| value.checked_mul(NANOS))
            .ok_or(QuantityError)?;
        let nanos = scaled.div_ceil(over);
        (nanos / NANOS < 1 << 63)
            .then_some(Self { nanos, is_negative })
            .ok_or(QuantityError)
    }

    /// Whether it is less than nothing.
    pub fn is_negative(self) -> bool {
        self.is_negative && self.nanos > 0
    }

    /// In ones, rounded up.
    pub fn ones(self) -> u64 {
        u64::try_from(self.nanos.div_ceil(NANOS)).unwrap_or(u64::MAX)
    }

    /// In thousandths, rounded up.
    pub fn thousandths(self) -> u64 {
        u64::try_from(self.nanos.div_ceil(NANOS / 1000)).unwrap_or(u64::MAX)
    }
}

/// By what a suffix multiplies and divides.
fn scale(suffix: &str) -> Option<(u128, u128)> {
    let binary = |power: u32| Some((1u128 << (10 * power), 1));
    let decimal = |power: u32| Some((10u128.pow(power), 1));
    match suffix {
        "n" => Some((1, 1_000_000_000)),
        "u" => Some((1, 1_000_000)),
        "m" => Some((1, 1000)),
        "" => Some((1, 1)),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(1),
        "Mi" => binary(2),
        "Gi" => binary(3),
        "Ti" => binary(4),
        "Pi" => binary(5),
        "Ei" => binary(6),
        _ => exponent(suffix),
    }
}

fn exponent(suffix: &str) -> Option<(u128, u128)> {
    let text = suffix.strip_prefix(['e', 'E'])?;
    let (is_down, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let power: u32 = digits
        .bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| digits.parse().ok())??;
    let factor = (power <= MAX_EXPONENT).then(|| 10u128.pow(power))?;
    Some(if is_down { (1, factor) } else { (factor, 1) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_exact() {
        for (text, ones, thousandths) in [
            ("0", 0, 0),
            ("1", 1, 1000),
            ("+1.5", 2, 1500),
            (".5", 1, 500),
            ("5.", 5, 5000),
            ("100m", 1, 100),
            ("0.1", 1, 100),
            ("1n", 1, 1),
            ("1u", 1, 1),
            ("1k", 1000, 1_000_000),
            ("64Mi", 64 << 20, 64_000 << 20),
            ("1.5Gi", 3 << 29, 1500 << 30),
            ("2e3", 2000, 2_000_000),
            ("2E3", 2000, 2_000_000),
            ("25e-1", 3, 2500),
            ("1E", 1_000_000_000_000_000_000, u64::MAX),
        ] {
            let amount = Amount::parse(text).unwrap();
            assert_eq!((amount.ones(), amount.thousandths()), (ones, thousandths), "{text}");
        }
        assert!(Amount::parse("-1").unwrap().is_negative());
        assert!(!Amount::parse("-0").unwrap().is_negative());
        assert!(Amount::parse("100m").unwrap() < Amount::parse("0.2").unwrap());
    }

    #[test]
    fn what_is_no_quantity_is_refused() {
        for text in [
            "",
            "-",
            ".",
            "1..2",
            "1 Gi",
            "Gi",
            "1gi",
            "1KB",
            "1e",
            "1e99",
            "1e-",
            "ten",
            "1,5",
            "0x10",
            "9E99",
            "10E",
            "8Ei",
            "1mm",
            "99999999999999999999999999",
            "é",
        ] {
            assert_eq!(Amount::parse(text), Err(QuantityError), "{text:?}");
        }
    }
}
