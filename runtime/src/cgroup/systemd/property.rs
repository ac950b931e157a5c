//! `org.systemd.property.*` annotations: what else an engine wants of a container's scope, for instance to be stopped before
//! the engine is. Values are written as GVariant's, of the kinds that properties of a scope have
//! ([text format](https://docs.gtk.org/glib/gvariant-text-format.html)).

use std::collections::HashMap;

use super::super::dbus::Variant;
use crate::plan::FieldError;

pub(crate) const PREFIX: &str = "org.systemd.property.";

/// Where the scope is and who is in it is ours to say.
const OURS: [&str; 3] = ["Delegate", "PIDs", "Slice"];

/// A property's name and value.
pub(super) type Property = (String, Variant);

/// The properties that annotations ask for, by name.
pub(super) fn of(annotations: Option<&HashMap<String, String>>) -> Result<Vec<Property>, FieldError> {
    let mut properties = Vec::new();
    for (key, text) in annotations.into_iter().flatten() {
        let Some(name) = key.strip_prefix(PREFIX) else { continue };
        let refuse = |reason| FieldError::new(format!("annotations.{key}"), reason);
        if name.len() < 3 || !name.bytes().all(|byte| byte.is_ascii_alphabetic()) {
            return Err(refuse("names no property"));
        }
        if OURS.contains(&name) {
            return Err(refuse("is a property that the runtime sets itself"));
        }
        let value = value(text.trim())
            .ok_or_else(|| refuse("is neither a text nor a number, true, false or a list of texts"))?;
        properties.push(in_microseconds(name, value).ok_or_else(|| refuse("is not a number of seconds"))?);
    }
    properties.sort_by(|(one, _), (other, _)| one.cmp(other));
    Ok(properties)
}

/// As a unit's file may have seconds where the manager takes microseconds: `TimeoutStopSec`, not `TimeoutStopUSec`.
fn in_microseconds(name: &str, value: Variant) -> Option<Property> {
    let seconds = name.strip_suffix("Sec");
    match seconds.filter(|rest| rest.ends_with(|last: char| last.is_ascii_lowercase())) {
        None => Some((name.to_owned(), value)),
        Some(rest) => Some((
            format!("{rest}USec"),
            Variant::Number(number(&value)?.checked_mul(1_000_000)?),
        )),
    }
}

fn number(value: &Variant) -> Option<u64> {
    match value {
        Variant::Number(number) => Some(*number),
        Variant::Unsigned(number) => Some((*number).into()),
        Variant::Signed(number) => (*number).try_into().ok(),
        Variant::Text(_) | Variant::Texts(_) | Variant::Flag(_) | Variant::Numbers(_) => None,
    }
}

fn value(text: &str) -> Option<Variant> {
    match text {
        "true" | "false" => return Some(Variant::Flag(text == "true")),
        "@as []" => return Some(Variant::Texts(Vec::new())),
        _ => {}
    }
    if let Some(list) = text.strip_prefix('[') {
        return texts(list.strip_suffix(']')?).map(Variant::Texts);
    }
    if text.starts_with(['\'', '"']) {
        let (text, rest) = quoted(text)?;
        return rest.is_empty().then_some(Variant::Text(text));
    }
    match text.split_once(' ') {
        None => text.parse().ok().map(Variant::Signed),
        Some(("int32", number)) => number.trim().parse().ok().map(Variant::Signed),
        Some(("uint32", number)) => number.trim().parse().ok().map(Variant::Unsigned),
        Some(("uint64", number)) => number.trim().parse().ok().map(Variant::Number),
        Some(_) => None,
    }
}

/// At least one text, with commas between them.
fn texts(mut list: &str) -> Option<Vec<String>> {
    let mut texts = Vec::new();
    loop {
        let (text, rest) = quoted(list.trim_start())?;
        texts.push(text);
        list = rest.trim_start();
        if list.is_empty() {
            return Some(texts);
        }
        list = list.strip_prefix(',')?;
    }
}

/// The text between the quotes that `text` begins with, and what follows. A backslash takes the next one as it is.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut characters = text.char_indices();
    let (_, quote) = characters.next().filter(|(_, quote)| matches!(quote, '\'' | '"'))?;
    let mut plain = String::new();
    while let Some((at, character)) = characters.next() {
        match character {
            '\\' => plain.push(
                characters
                    .next()
                    .map(|(_, next)| next)
                    .filter(|next| !next.is_alphanumeric())?,
            ),
            _ if character == quote => return Some((plain, &text[at + 1..])),
            '\0' => return None,
            _ => plain.push(character),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(name: &str, value: &str) -> Result<Property, FieldError> {
        let annotations = [
            (format!("{PREFIX}{name}"), value.to_owned()),
            ("other".into(), "[".into()),
        ];
        of(Some(&annotations.into())).map(|mut properties| properties.remove(0))
    }

    #[test]
    fn what_engines_write_is_read() {
        let text = |text: &str| Variant::Text(text.to_owned());
        let texts = |list: &[&str]| Variant::Texts(list.iter().map(ToString::to_string).collect());
        for (name, value, expected) in [
            // CRI-O
            ("TimeoutStopUSec", "uint64 30000000", Variant::Number(30_000_000)),
            ("DefaultDependencies", "true", Variant::Flag(true)),
            ("After", "['crio.service']", texts(&["crio.service"])),
            ("CollectMode", "'inactive-or-failed'", text("inactive-or-failed")),
            // podman
            ("KillSignal", "37", Variant::Signed(37)),
            (
                "Before",
                r#"[ "a.service" , 'b\'s.service']"#,
                texts(&["a.service", "b's.service"]),
            ),
            ("After", "@as []", texts(&[])),
            ("CPUWeight", "uint32 5", Variant::Unsigned(5)),
        ] {
            assert_eq!(one(name, value).unwrap(), (name.to_owned(), expected), "{name} {value}");
        }
        let seconds = ("TimeoutStopUSec".to_owned(), Variant::Number(7_000_000));
        assert_eq!(one("TimeoutStopSec", "7").unwrap(), seconds);
    }

    #[test]
    fn what_is_no_property_is_refused_by_its_annotation() {
        for (name, value) in [
            ("x", "true"),
            ("After ", "true"),
            ("Slice", "'a.slice'"),
            ("TimeoutStopSec", "'long'"),
            ("TimeoutStopSec", "-1"),
            ("After", "[]"),
            ("After", "['a'"),
            ("After", "['a' 'b']"),
            ("After", "['a',]"),
            ("Description", "'a' b"),
            ("Description", r"'\x41'"),
            ("Description", "a"),
            ("Description", ""),
            ("KillSignal", "99999999999"),
            ("KillSignal", "byte 7"),
        ] {
            let error = one(name, value).unwrap_err();
            assert!(error.field.ends_with(name), "{name} {value}: {error}");
        }
    }
}
