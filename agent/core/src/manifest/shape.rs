//! The shape of an object: which fields are honoured, and a tree brought into it. A field that is not in the shape is an
//! error, one that is gets the type that it must have.

use serde_json::{Map, Value};

use super::tree::{Node, Position, Tree, is_null};

/// What a value may be.
#[derive(Clone, Copy, Debug)]
pub(super) enum Shape {
    /// Text; a number or a truth value needs quotes, as with `kubectl`.
    Text,
    /// `true` or `false`; `yes`, `no`, `on` and `off` as with `kubectl`.
    Flag,
    /// A whole number.
    Integer,
    /// A whole number or text.
    IntegerOrText,
    /// A number or text, taken as it is written.
    Quantity,
    /// Any keys, values of one shape.
    Map(&'static Shape),
    /// Values of one shape.
    List(&'static Shape),
    /// These fields.
    Object(&'static Fields),
    /// Nothing, or an object without fields: what tools write that fill a struct.
    Empty,
}

/// The fields of an object.
#[derive(Debug)]
pub(super) struct Fields {
    /// Those that are honoured.
    pub(super) honoured: &'static [(&'static str, Shape)],
    /// Those that Kubernetes knows and this node does not honour yet.
    pub(super) later: &'static [&'static str],
}

/// A value out of shape.
#[derive(Debug)]
pub(super) struct Misfit {
    pub(super) at: Position,
    pub(super) path: String,
    pub(super) message: String,
}

/// The node as JSON of the shape. Misfits are added to `misfits`, and their values left out.
pub(super) fn fit(node: &Node, shape: Shape, path: &str, misfits: &mut Vec<Misfit>) -> Option<Value> {
    let fitted = match (shape, &node.tree) {
        (Shape::Object(fields), Tree::Mapping(_)) => return Some(fit_object(node, fields, path, misfits)),
        (Shape::Map(each), Tree::Mapping(entries)) => {
            let values = entries.iter().filter_map(|entry| {
                let value = fit(&entry.value, *each, &format!("{path}[{}]", entry.key), misfits)?;
                Some((entry.key.clone(), value))
            });
            return Some(Value::Object(values.collect()));
        }
        (Shape::List(each), Tree::List(items)) => {
            let numbered = items.iter().enumerate();
            let values = numbered.filter_map(|(index, item)| fit(item, *each, &format!("{path}[{index}]"), misfits));
            return Some(Value::Array(values.collect()));
        }
        (Shape::Empty, Tree::Mapping(entries)) if entries.is_empty() => return None,
        (_, Tree::Scalar { text, is_plain }) => fit_scalar(shape, text, *is_plain),
        (_, Tree::List(_) | Tree::Mapping(_)) => None,
    };
    if fitted.is_none() {
        misfits.push(Misfit {
            at: node.at,
            path: path.to_owned(),
            message: expectation(node, shape),
        });
    }
    fitted
}

fn fit_object(node: &Node, fields: &Fields, path: &str, misfits: &mut Vec<Misfit>) -> Value {
    let mut object = Map::new();
    let Tree::Mapping(entries) = &node.tree else {
        return Value::Object(object);
    };
    for entry in entries {
        let path = if path.is_empty() {
            entry.key.clone()
        } else {
            format!("{path}.{}", entry.key)
        };
        match fields.honoured.iter().find(|(name, _)| *name == entry.key) {
            Some(_) if is_unset(&entry.value) => {}
            Some((_, shape)) => {
                let value = fit(&entry.value, *shape, &path, misfits);
                object.extend(value.map(|value| (entry.key.clone(), value)));
            }
            None => misfits.push(Misfit {
                at: entry.key_at,
                path,
                message: refusal(&entry.key, fields),
            }),
        }
    }
    Value::Object(object)
}

/// `field:` and `field: null` leave the field out, as for the API server.
fn is_unset(node: &Node) -> bool {
    matches!(&node.tree, Tree::Scalar { text, is_plain: true } if is_null(text))
}

fn fit_scalar(shape: Shape, text: &str, is_plain: bool) -> Option<Value> {
    let kind = if is_plain { plain_kind(text) } else { Kind::Text };
    match (shape, kind) {
        (Shape::Text, Kind::Text) | (Shape::IntegerOrText, Kind::Text) => Some(text.into()),
        (Shape::Quantity, Kind::Text | Kind::Integer(_) | Kind::Number) => Some(text.into()),
        (Shape::Integer | Shape::IntegerOrText, Kind::Integer(number)) => Some(number.into()),
        (Shape::Flag, Kind::Flag(flag)) => Some(flag.into()),
        (Shape::Flag, Kind::Text) if is_plain => match text.to_ascii_lowercase().as_str() {
            "yes" | "y" | "on" => Some(true.into()),
            "no" | "n" | "off" => Some(false.into()),
            _ => None,
        },
        _ => None,
    }
}

/// What plain text stands for.
enum Kind {
    Nothing,
    Flag(bool),
    Integer(i64),
    Number,
    Text,
}

fn plain_kind(text: &str) -> Kind {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let radix = match digits.get(..2) {
        Some("0x" | "0X") => 16,
        Some("0o" | "0O") => 8,
        _ => 10,
    };
    let number = if radix == 10 {
        text.parse()
    } else {
        i64::from_str_radix(&digits[2..], radix)
    };
    match text {
        _ if is_null(text) => Kind::Nothing,
        "true" | "True" | "TRUE" => Kind::Flag(true),
        "false" | "False" | "FALSE" => Kind::Flag(false),
        _ => match number {
            Ok(number) => Kind::Integer(number),
            Err(_) if digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') && text.parse::<f64>().is_ok() => {
                Kind::Number
            }
            Err(_) => Kind::Text,
        },
    }
}

fn expectation(node: &Node, shape: Shape) -> String {
    let wanted = match shape {
        Shape::Text => "text",
        Shape::Flag => "true or false",
        Shape::Integer => "a whole number",
        Shape::IntegerOrText => "a whole number or text",
        Shape::Quantity => "a quantity, such as 500m or 64Mi",
        Shape::Map(_) | Shape::Object(_) => "a mapping",
        Shape::List(_) => "a list",
        Shape::Empty => "left out",
    };
    let (found, hint) = match &node.tree {
        Tree::List(_) => ("a list".to_owned(), ""),
        Tree::Mapping(_) => ("a mapping".to_owned(), ""),
        Tree::Scalar { text, is_plain: false } => (format!("the text {:?}", shorten(text)), ""),
        Tree::Scalar { text, is_plain: true } => {
            let hint = if matches!(shape, Shape::Text) {
                ": put it in quotes"
            } else {
                ""
            };
            match plain_kind(text) {
                Kind::Nothing => ("nothing".to_owned(), ""),
                Kind::Flag(_) => (format!("the truth value {text}"), hint),
                Kind::Integer(_) | Kind::Number => (format!("the number {}", shorten(text)), hint),
                Kind::Text => (format!("the text {:?}", shorten(text)), ""),
            }
        }
    };
    format!("must be {wanted}, not {found}{hint}")
}

fn refusal(key: &str, fields: &Fields) -> String {
    if fields.later.contains(&key) {
        return "not honoured yet: leave the field out".to_owned();
    }
    let names = fields
        .honoured
        .iter()
        .map(|(name, _)| *name)
        .chain(fields.later.iter().copied());
    match names.map(|name| (distance(key, name), name)).min() {
        Some((steps, name)) if steps <= 1 + name.len() / 5 => format!("unknown field: did you mean {name:?}?"),
        _ => "unknown field".to_owned(),
    }
}

/// The fewest letters to add, drop or replace to get from one word to the other, case aside.
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.to_lowercase().chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (index, letter) in from.to_lowercase().chars().take(64).enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], index + 1);
        for column in 0..to.len() {
            let replace = diagonal + usize::from(letter != to[column]);
            diagonal = row[column + 1];
            row[column + 1] = replace.min(row[column] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}

fn shorten(text: &str) -> String {
    let short: String = text.chars().take(60).collect();
    if short.len() < text.len() { short + "…" } else { short }
}
