//! Prints JSON values as YAML, block style, as kubectl does. Not a general emitter: keys are strings, and what could be
//! read as something other than a string is quoted as JSON, which YAML understands.

use serde_json::Value;

/// The value as a YAML document, with a line feed at its end.
pub(super) fn to_string(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(map) if !map.is_empty() => mapping(map, 0, &mut out),
        Value::Array(items) if !items.is_empty() => sequence(items, 0, &mut out),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) | Value::Object(_) => {
            out.push_str(&inline(value));
            out.push('\n');
        }
    }
    out
}

fn mapping(map: &serde_json::Map<String, Value>, indent: usize, out: &mut String) {
    for (index, (key, value)) in map.iter().enumerate() {
        if index > 0 || indent == 0 || !out.ends_with("- ") {
            out.push_str(&" ".repeat(indent));
        }
        out.push_str(&string(key));
        out.push(':');
        nested(value, indent, out);
    }
}

fn sequence(items: &[Value], indent: usize, out: &mut String) {
    for item in items {
        out.push_str(&" ".repeat(indent));
        out.push_str("- ");
        match item {
            Value::Object(map) if !map.is_empty() => mapping(map, indent + 2, out),
            Value::Array(inner) if !inner.is_empty() => {
                out.pop();
                out.push('\n');
                sequence(inner, indent + 2, out);
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) | Value::Object(_) => {
                out.push_str(&inline(item));
                out.push('\n');
            }
        }
    }
}

/// What follows `key:`; a sequence stands at its key's own indent, as kubectl prints it.
fn nested(value: &Value, indent: usize, out: &mut String) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            out.push('\n');
            mapping(map, indent + 2, out);
        }
        Value::Array(items) if !items.is_empty() => {
            out.push('\n');
            sequence(items, indent, out);
        }
        Value::String(text) if is_block(text) => block(text, indent + 2, out),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) | Value::Object(_) => {
            out.push(' ');
            out.push_str(&inline(value));
            out.push('\n');
        }
    }
}

fn inline(value: &Value) -> String {
    match value {
        Value::String(text) => string(text),
        Value::Array(_) => "[]".into(),
        Value::Object(_) => "{}".into(),
        Value::Null | Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}

fn string(text: &str) -> String {
    if is_plain(text) {
        text.into()
    } else {
        Value::from(text).to_string()
    }
}

/// Text that no YAML reader, of 1.1 or 1.2, takes for anything but this string.
fn is_plain(text: &str) -> bool {
    const WORDS: [&str; 11] = [
        "null", "true", "false", "yes", "no", "on", "off", "y", "n", ".inf", ".nan",
    ];
    let first = |char: char| char.is_ascii_alphabetic() || char == '/' || char == '_';
    let rest = |char: char| char.is_ascii_alphanumeric() || " ./_-@+:()=,".contains(char);
    text.starts_with(first)
        && text.chars().all(rest)
        && !text.ends_with([' ', ':'])
        && !text.contains(": ")
        && !WORDS.contains(&text.to_ascii_lowercase().as_str())
}

fn is_block(text: &str) -> bool {
    text.trim_end_matches('\n').contains('\n')
        && !text.starts_with([' ', '\n'])
        && text.chars().all(|char| char == '\n' || !char.is_control())
        && !text.ends_with("\n\n")
}

fn block(text: &str, indent: usize, out: &mut String) {
    out.push_str(if text.ends_with('\n') { " |\n" } else { " |-\n" });
    for line in text.lines() {
        if !line.is_empty() {
            out.push_str(&" ".repeat(indent));
            out.push_str(line);
        }
        out.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn objects_and_lists_nest_as_kubectl_prints_them() {
        let value = json!({"items": [{"a": 1, "b": {"c": [true, [2]]}}, "x"], "none": {}, "empty": []});
        assert_eq!(
            to_string(&value),
            "empty: []\nitems:\n- a: 1\n  b:\n    c:\n    - true\n    -\n      - 2\n- x\nnone: {}\n"
        );
    }

    #[test]
    fn strings_that_look_like_something_else_are_quoted() {
        let cases = [
            ("plain", "plain"),
            ("true", "\"true\""),
            ("12", "\"12\""),
            ("", "\"\""),
            ("a: b", "\"a: b\""),
            ("#x", "\"#x\""),
            ("busybox:1.36", "busybox:1.36"),
            ("tab\t", "\"tab\\t\""),
        ];
        for (text, printed) in cases {
            assert_eq!(string(text), printed);
        }
    }

    #[test]
    fn text_of_many_lines_stands_as_a_block() {
        assert_eq!(to_string(&json!({"k": "a\n\n b\n"})), "k: |\n  a\n\n   b\n");
        assert_eq!(to_string(&json!({"k": "a\nb"})), "k: |-\n  a\n  b\n");
    }
}
