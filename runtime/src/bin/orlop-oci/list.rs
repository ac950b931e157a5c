//! `list`: the containers of a state directory, as a table, as JSON, or their ids.

use anyhow::{Result, bail};
use runtime::container::named::State;

use crate::arguments::{Globals, Word, is_on, next, unexpected};

#[derive(Debug, Default)]
pub(crate) struct List {
    pub(crate) json: bool,
    quiet: bool,
}

/// `table` or `json`.
pub(crate) fn is_json(format: &str) -> Result<bool> {
    match format {
        "table" => Ok(false),
        "json" => Ok(true),
        _ => bail!("--format is table or json, not {format:?}"),
    }
}

impl List {
    pub(crate) fn parse(mut parser: lexopt::Parser) -> Result<Self> {
        let mut list = Self::default();
        while let Some(word) = next(&mut parser)? {
            match word {
                Word::Flag(flag) if flag == "f" || flag == "format" => {
                    list.json = is_json(&parser.value()?.to_string_lossy())?;
                }
                Word::Flag(flag) if flag == "q" || flag == "quiet" => list.quiet = is_on(&mut parser)?,
                word @ (Word::Flag(_) | Word::Value(_)) => return Err(unexpected(&word)),
            }
        }
        Ok(list)
    }

    pub(crate) fn run(&self, globals: &Globals) -> Result<u8> {
        let (states, failed) = globals.store().list()?;
        for error in failed {
            globals.log.warning(&format!("{:#}", anyhow::Error::from(error)));
        }
        if self.quiet {
            let ids: Vec<_> = states.iter().map(|state| state.id.as_str()).collect();
            return if ids.is_empty() {
                Ok(0)
            } else {
                crate::print(&ids.join("\n"))
            };
        }
        if self.json {
            // As runc says "none".
            let text = if states.is_empty() {
                "null".into()
            } else {
                serde_json::to_string(&states)?
            };
            return crate::print(&text);
        }
        crate::print(&table(&states))
    }
}

fn table(states: &[State]) -> String {
    let head = ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(String::from);
    let rows: Vec<[String; 6]> = std::iter::once(head).chain(states.iter().map(row)).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 6] = std::array::from_fn(|column| (width(column) + 3).max(12));
    let line = |row: &[String; 6]| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<String>().trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn row(state: &State) -> [String; 6] {
    [
        state.id.clone(),
        state.pid.to_string(),
        state.status.into(),
        state.bundle.display().to_string(),
        state.created.clone(),
        state.owner.clone(),
    ]
}
