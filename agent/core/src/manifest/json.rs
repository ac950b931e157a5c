//! What JSON has and YAML does not: characters beyond the first 65536 as two escapes.

use std::borrow::Cow;

/// The text with every surrogate pair (`\ud83d\ude00`) as the one escape that YAML knows (`\U0001f600`), if it is JSON.
/// A column behind one, on the same line, is told two too small for each.
pub(super) fn join_surrogates(text: &str) -> Cow<'_, str> {
    if !text.trim_start().starts_with(['{', '[']) || !text.contains("\\u") {
        return Cow::Borrowed(text);
    }
    let mut joined = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        joined.push_str(before);
        if let Some((character, following)) = pair(after) {
            joined.push_str(&format!("\\U{:08x}", u32::from(character)));
            rest = following;
        } else {
            let escaped = after.chars().next().map_or(0, char::len_utf8);
            joined.push('\\');
            joined.push_str(&after[..escaped]);
            rest = &after[escaped..];
        }
    }
    joined.push_str(rest);
    Cow::Owned(joined)
}

/// The character of `ud83d\ude00` and what follows it.
fn pair(text: &str) -> Option<(char, &str)> {
    let (high, rest) = unit(text)?;
    let (low, rest) = unit(rest.strip_prefix('\\')?)?;
    let character = char::decode_utf16([high, low]).next()?.ok()?;
    (u32::from(character) > 0xffff).then_some((character, rest))
}

fn unit(text: &str) -> Option<(u16, &str)> {
    let digits = text.strip_prefix('u')?;
    let value = u16::from_str_radix(digits.get(..4)?, 16).ok()?;
    Some((value, &digits[4..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pairs_are_joined_and_only_in_json() {
        for (text, expected) in [
            (r#"{"a": "\ud83d\ude00!"}"#, r#"{"a": "\U0001f600!"}"#),
            (r#"{"a": "\\ud83d\\ude00"}"#, r#"{"a": "\\ud83d\\ude00"}"#),
            (r#"{"a": "\u00e9\n\"\ud83d\ude00"}"#, r#"{"a": "\u00e9\n\"\U0001f600"}"#),
            (r#"{"a": "\ud83d"}"#, r#"{"a": "\ud83d"}"#),
            (r#"{"a": "\ud83d\u0041"}"#, r#"{"a": "\ud83d\u0041"}"#),
            (r#"{"a": "\u"#, r#"{"a": "\u"#),
            ("{\"a\": \"\\u\\", "{\"a\": \"\\u\\"),
            (r#"a: "\ud83d\ude00""#, r#"a: "\ud83d\ude00""#),
        ] {
            assert_eq!(join_surrogates(text), expected);
        }
    }
}
