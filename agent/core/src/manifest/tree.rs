//! YAML (and so JSON) as a tree with positions, within limits. What the fields mean is not known here.

use std::collections::BTreeMap;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Span, Tag};

/// How deep lists and mappings may stand in one another.
const MAX_DEPTH: usize = 64;
/// The most values of a file, those that aliases repeat counted each time.
const MAX_VALUES: usize = 200_000;
/// The most bytes of text of a file, that which aliases repeat counted each time.
const MAX_TEXT: usize = 16 * 1024 * 1024;
/// The longest document, in characters: as much as etcd takes.
const MAX_DOCUMENT: usize = 1536 * 1024;

/// A place in a file; both count from 1, columns in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) line: usize,
    pub(super) column: usize,
}

/// One value.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node {
    pub(super) at: Position,
    pub(super) tree: Tree,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Tree {
    Scalar {
        text: String,
        /// Without quotes, so that it may be a number, a truth value or nothing.
        is_plain: bool,
    },
    List(Vec<Node>),
    /// In the order of the file; no key is there twice.
    Mapping(Vec<Entry>),
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) key_at: Position,
    pub(super) value: Node,
}

/// Why there is no tree.
#[derive(Debug, PartialEq)]
pub(super) struct TreeError {
    pub(super) at: Position,
    pub(super) message: String,
}

/// The documents of a file; empty ones are left out.
pub(super) fn documents(text: &str) -> Result<Vec<Node>, TreeError> {
    let mut builder = Builder::default();
    for event in Parser::new_from_str(text) {
        match event {
            Ok((event, span)) => builder.take(event, span)?,
            Err(error) => return fail(position(*error.marker()), error.info()),
        }
    }
    Ok(builder.documents)
}

/// The value at a path such as `spec.containers[0].image`, or the nearest one around it that exists.
pub(super) fn locate(root: &Node, path: &str) -> Position {
    let (mut node, mut rest) = (root, path);
    while let Some((segment, after)) = next_segment(rest) {
        let next = match &node.tree {
            Tree::Mapping(entries) => entries
                .iter()
                .find(|entry| entry.key == segment)
                .map(|entry| &entry.value),
            Tree::List(items) => segment.parse::<usize>().ok().and_then(|index| items.get(index)),
            Tree::Scalar { .. } => None,
        };
        let Some(next) = next else { break };
        (node, rest) = (next, after);
    }
    node.at
}

/// The first key or index of a path and what follows it; keys in brackets may hold dots.
fn next_segment(path: &str) -> Option<(&str, &str)> {
    let path = path.strip_prefix('.').unwrap_or(path);
    match path.strip_prefix('[') {
        Some(inner) => inner.split_once(']'),
        None if path.is_empty() => None,
        None => Some(path.split_at(path.find(['.', '[']).unwrap_or(path.len()))),
    }
}

#[derive(Default)]
struct Builder {
    documents: Vec<Node>,
    open: Vec<Open>,
    /// Anchored values of this document, with what a copy of each costs.
    anchors: BTreeMap<usize, (Node, Cost)>,
    spent: Cost,
    document_start: usize,
}

#[derive(Clone, Copy, Default)]
struct Cost {
    values: usize,
    text: usize,
}

/// A list or mapping whose end has not been read.
struct Open {
    at: Position,
    anchor: usize,
    spent_before: Cost,
    content: Content,
}

enum Content {
    List(Vec<Node>),
    Mapping {
        entries: Vec<Entry>,
        lines: BTreeMap<String, usize>,
        key: Option<(String, Position)>,
    },
}

impl Builder {
    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), TreeError> {
        let at = position(span.start);
        match event {
            Event::DocumentStart(_) => {
                self.document_start = span.start.index();
                self.anchors.clear();
                Ok(())
            }
            Event::Alias(anchor) => self.repeat(anchor, at),
            Event::Scalar(text, style, anchor, tag) => {
                self.scalar(text.into_owned(), style, anchor, tag.as_deref(), at)
            }
            Event::SequenceStart(anchor, tag) => self.open(at, anchor, tag.as_deref(), Content::List(Vec::new())),
            Event::MappingStart(anchor, tag) => {
                let content = Content::Mapping {
                    entries: Vec::new(),
                    lines: BTreeMap::new(),
                    key: None,
                };
                self.open(at, anchor, tag.as_deref(), content)
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(span),
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
        }
    }

    fn scalar(
        &mut self,
        text: String,
        style: ScalarStyle,
        anchor: usize,
        tag: Option<&Tag>,
        at: Position,
    ) -> Result<(), TreeError> {
        let is_plain = match tag.map(core_tag).transpose().or_else(|tag| unknown_tag(at, &tag))? {
            None => style == ScalarStyle::Plain,
            Some("str") => false,
            Some(_) => true,
        };
        let cost = Cost {
            values: 1,
            text: text.len(),
        };
        let node = Node {
            at,
            tree: Tree::Scalar { text, is_plain },
        };
        self.spend(cost, at)?;
        self.finish(node, anchor, cost)
    }

    fn open(&mut self, at: Position, anchor: usize, tag: Option<&Tag>, content: Content) -> Result<(), TreeError> {
        if let Some(tag) = tag.filter(|tag| !matches!(core_tag(tag), Ok("seq" | "map"))) {
            return unknown_tag(at, &tag.to_string());
        }
        if self.open.len() >= MAX_DEPTH {
            return fail(at, format!("nested more than {MAX_DEPTH} deep"));
        }
        let spent_before = self.spent;
        self.spend(Cost { values: 1, text: 0 }, at)?;
        self.open.push(Open {
            at,
            anchor,
            spent_before,
            content,
        });
        Ok(())
    }

    fn close(&mut self, span: Span) -> Result<(), TreeError> {
        let open = self.open.pop().expect("the parser ends only what it has started");
        let tree = match open.content {
            Content::List(items) => Tree::List(items),
            Content::Mapping { entries, .. } => Tree::Mapping(entries),
        };
        if span.end.index().saturating_sub(self.document_start) > MAX_DOCUMENT {
            return fail(
                open.at,
                format!("a document may be at most {MAX_DOCUMENT} characters long"),
            );
        }
        let before = open.spent_before;
        let cost = Cost {
            values: self.spent.values - before.values,
            text: self.spent.text - before.text,
        };
        self.finish(Node { at: open.at, tree }, open.anchor, cost)
    }

    /// A copy of an anchored value. One that stands in its own anchor is not there yet, so that no tree is endless.
    fn repeat(&mut self, anchor: usize, at: Position) -> Result<(), TreeError> {
        let Some((node, cost)) = self.anchors.get(&anchor) else {
            return fail(at, "an alias must not stand inside the value that it repeats");
        };
        let (mut node, cost) = (node.clone(), *cost);
        node.at = at;
        self.spend(cost, at)?;
        self.put(node)
    }

    fn spend(&mut self, cost: Cost, at: Position) -> Result<(), TreeError> {
        self.spent.values += cost.values;
        self.spent.text += cost.text;
        if self.spent.values > MAX_VALUES || self.spent.text > MAX_TEXT {
            let limits = format!("{MAX_VALUES} values or {MAX_TEXT} bytes of text");
            return fail(
                at,
                format!("a file may hold at most {limits}, counted after aliases are expanded"),
            );
        }
        Ok(())
    }

    fn finish(&mut self, node: Node, anchor: usize, cost: Cost) -> Result<(), TreeError> {
        if anchor != 0 {
            self.spend(cost, node.at)?;
            self.anchors.insert(anchor, (node.clone(), cost));
        }
        self.put(node)
    }

    fn put(&mut self, node: Node) -> Result<(), TreeError> {
        match self.open.last_mut().map(|open| &mut open.content) {
            None if is_nothing(&node) => Ok(()),
            None => {
                self.documents.push(node);
                Ok(())
            }
            Some(Content::List(items)) => {
                items.push(node);
                Ok(())
            }
            Some(Content::Mapping { entries, lines, key }) => match key.take() {
                Some((key, key_at)) => {
                    entries.push(Entry {
                        key,
                        key_at,
                        value: node,
                    });
                    Ok(())
                }
                None => {
                    *key = Some(read_key(node, lines)?);
                    Ok(())
                }
            },
        }
    }
}

/// A key: text, and not there before.
fn read_key(node: Node, lines: &mut BTreeMap<String, usize>) -> Result<(String, Position), TreeError> {
    let at = node.at;
    match node.tree {
        Tree::List(_) | Tree::Mapping(_) => fail(at, "a key must be text"),
        Tree::Scalar { text, is_plain: true } if text == "<<" => fail(at, "merge keys (`<<`) are not honoured yet"),
        Tree::Scalar { text, .. } => match lines.insert(text.clone(), at.line) {
            Some(line) => fail(at, format!("key {text:?} is already set on line {line}")),
            None => Ok((text, at)),
        },
    }
}

fn is_nothing(node: &Node) -> bool {
    matches!(&node.tree, Tree::Scalar { text, is_plain: true } if is_null(text))
}

/// Whether plain text stands for nothing.
pub(super) fn is_null(text: &str) -> bool {
    matches!(text, "" | "~" | "null" | "Null" | "NULL")
}

/// The short name of a tag of YAML's core schema; the whole tag when it is of another.
fn core_tag(tag: &Tag) -> Result<&str, String> {
    let whole = "tag:yaml.org,2002:";
    let short = if tag.handle == whole {
        Some(tag.suffix.as_str())
    } else {
        tag.suffix.strip_prefix(whole)
    };
    short
        .filter(|name| matches!(*name, "str" | "int" | "bool" | "float" | "null" | "seq" | "map"))
        .ok_or(tag.to_string())
}

fn unknown_tag<T>(at: Position, tag: &str) -> Result<T, TreeError> {
    fail(at, format!("tag {tag} is not honoured: leave it out"))
}

fn position(marker: Marker) -> Position {
    Position {
        line: marker.line(),
        column: marker.col() + 1,
    }
}

fn fail<T>(at: Position, message: impl Into<String>) -> Result<T, TreeError> {
    Err(TreeError {
        at,
        message: message.into(),
    })
}
