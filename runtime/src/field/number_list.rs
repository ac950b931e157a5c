//! Lists of numbers as cpuset(7) writes them (`0-3,7`), as the bits of a mask.

use crate::plan::FieldError;

/// The kernel knows at most so many CPUs and nodes.
const LIMIT: usize = 8192;

/// The mask of a list: bit n of the words for number n, no word more than needed. Refuses what is no list.
pub(crate) fn mask(field: &str, list: &str) -> Result<Vec<u64>, FieldError> {
    let refuse = || {
        FieldError::new(
            field,
            format!("{list:?} is not a list of numbers and ranges below {LIMIT}"),
        )
    };
    let number = |text: &str| text.trim().parse::<usize>().ok().filter(|number| *number < LIMIT);
    let mut words = Vec::new();
    for part in list.split(',').filter(|part| !part.trim().is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = number(first).zip(number(last)).ok_or_else(refuse)?;
        if first > last {
            return Err(refuse());
        }
        words.resize(words.len().max(last / 64 + 1), 0);
        for number in first..=last {
            if let Some(word) = words.get_mut(number / 64) {
                *word |= 1_u64 << (number % 64);
            }
        }
    }
    if words.is_empty() { Err(refuse()) } else { Ok(words) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_ranges_become_bits() {
        for (list, words) in [
            ("0", vec![1]),
            ("0-2,5", vec![0b10_0111]),
            ("64", vec![0, 1]),
            ("63-64, 1", vec![1 << 63 | 2, 1]),
        ] {
            assert_eq!(mask("f", list).unwrap(), words, "{list}");
        }
        for list in ["", ",", "x", "2-1", "-1", "8192", "1-2-3"] {
            assert_eq!(mask("f", list).unwrap_err().field, "f", "{list}");
        }
    }
}
