//! Random input for what reads bytes of others: files of `runtime/corpus`, changed here and there, the same in every run.
//!
//! A few thousand in every test run; a million with `ORLOP_CASES=1000000 cargo test --release -p runtime random`.

use std::fs;
use std::path::Path;

use serde_json::Value;

/// How many without `ORLOP_CASES`.
const FEW: usize = 2_000;

/// Shows `answer` the changed files of the directory `corpus`. When it panics, the input is printed.
pub(crate) fn inputs(corpus: &str, mut answer: impl FnMut(&[u8])) {
    let cases = std::env::var("ORLOP_CASES").map_or(FEW, |cases| cases.parse().unwrap());
    let mut maker = Maker::of(corpus);
    for case in 0..cases {
        let input = maker.next();
        let shown = Shown { case, input: &input };
        answer(shown.input);
    }
}

struct Shown<'a> {
    case: usize,
    input: &'a [u8],
}

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("case {}: {}", self.case, String::from_utf8_lossy(self.input));
        }
    }
}

/// What files are changed to, besides pieces of other files.
const WORDS: [&str; 14] = [
    "",
    "/",
    "..",
    "../..",
    "/a//b/./c",
    "\u{0}",
    "-1",
    "0-4294967295",
    "ro",
    "private",
    "é\u{ffff}",
    "all",
    "4294967296",
    "a=b",
];

struct Maker {
    dice: u64,
    texts: Vec<Vec<u8>>,
    documents: Vec<Value>,
    /// Every value in every document.
    pieces: Vec<Value>,
}

impl Maker {
    fn of(corpus: &str) -> Self {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(corpus);
        let mut files: Vec<_> = fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        files.sort();
        let texts: Vec<Vec<u8>> = files.iter().map(|file| fs::read(file).unwrap()).collect();
        let documents = texts
            .iter()
            .filter_map(|text| serde_json::from_slice(text).ok())
            .filter(Value::is_object);
        let documents: Vec<Value> = documents.collect();
        let mut pieces = WORDS.map(Value::from).to_vec();
        documents.iter().for_each(|document| collect(document, &mut pieces));
        Self {
            dice: 0x6f72_6c6f_7021,
            texts,
            documents,
            pieces,
        }
    }

    fn next(&mut self) -> Vec<u8> {
        let mut text = if self.documents.is_empty() || self.roll(8) == 0 {
            self.pick_text()
        } else {
            let place = self.roll(self.documents.len());
            let mut document = self.documents[place].clone();
            for _ in 0..=self.roll(3) {
                self.change(&mut document);
            }
            document.to_string().into_bytes()
        };
        let breaks = if self.documents.is_empty() {
            1 + self.roll(4)
        } else {
            self.roll(10).saturating_sub(7)
        };
        for _ in 0..breaks {
            self.tear(&mut text);
        }
        text
    }

    /// Changes one value, somewhere below.
    fn change(&mut self, value: &mut Value) {
        let length = match value {
            Value::Object(fields) => fields.len(),
            Value::Array(items) => items.len(),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
        };
        if length == 0 {
            *value = self.like(value);
            return;
        }
        let (place, what) = (self.roll(length), self.roll(12));
        let piece = self.piece();
        match value {
            Value::Object(fields) => {
                let Some(key) = fields.keys().nth(place).cloned() else {
                    return;
                };
                match what {
                    0 => drop(fields.remove(&key)),
                    1 => drop(fields.insert(key, piece)),
                    _ => self.change(&mut fields[&key]),
                }
            }
            Value::Array(items) => match what {
                0 => drop(items.remove(place)),
                1 => items[place] = piece,
                2 => items.insert(place, items[place].clone()),
                3 => items.push(piece),
                _ => self.change(&mut items[place]),
            },
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    /// Most often of the same kind: what can't even be read shows little.
    fn like(&mut self, value: &Value) -> Value {
        let piece = self.piece();
        let is_kept = self.roll(8) > 0;
        match value {
            Value::Bool(is) if is_kept => Value::from(!is),
            Value::Number(_) if is_kept => Value::from(self.number()),
            Value::String(_) if is_kept && !piece.is_string() => Value::from(WORDS[self.roll(WORDS.len())]),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) | Value::Object(_) => {
                piece
            }
        }
    }

    fn piece(&mut self) -> Value {
        match self.roll(6) {
            0 => Value::from(self.roll(2) == 0),
            1 => Value::from(self.number()),
            2 => Value::from(self.number().cast_signed()),
            3 => Value::Null,
            _ => {
                let place = self.roll(self.pieces.len());
                self.pieces[place].clone()
            }
        }
    }

    /// Of any size, and often at the edge of a type.
    fn number(&mut self) -> u64 {
        let bits = self.roll(65);
        let edge = 1_u64.checked_shl(u32::try_from(bits).unwrap()).unwrap_or(0);
        edge.wrapping_add(u64::try_from(self.roll(3)).unwrap()).wrapping_sub(1)
    }

    fn pick_text(&mut self) -> Vec<u8> {
        let place = self.roll(self.texts.len());
        self.texts[place].clone()
    }

    /// Breaks bytes: cut, flipped, doubled, or put in between.
    fn tear(&mut self, text: &mut Vec<u8>) {
        let place = self.roll(text.len().max(1)).min(text.len());
        match self.roll(6) {
            0 => text.truncate(place),
            1 => text.splice(place..place, self.dice.to_le_bytes()).for_each(drop),
            2 => text.extend_from_within(place..),
            3 => {
                let other = self.pick_text();
                text.extend_from_slice(&other[..self.roll(other.len() + 1)]);
            }
            4 => {
                let word = WORDS[self.roll(WORDS.len())];
                text.splice(place..place, word.bytes()).for_each(drop);
            }
            _ => text
                .iter_mut()
                .skip(place)
                .take(1)
                .for_each(|byte| *byte ^= 1 << (place % 8)),
        }
    }

    /// Below `sides` (xorshift64).
    fn roll(&mut self, sides: usize) -> usize {
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        usize::try_from(self.dice >> 11).unwrap() % sides
    }
}

fn collect(value: &Value, pieces: &mut Vec<Value>) {
    pieces.push(value.clone());
    match value {
        Value::Object(fields) => fields.values().for_each(|value| collect(value, pieces)),
        Value::Array(items) => items.iter().for_each(|value| collect(value, pieces)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
