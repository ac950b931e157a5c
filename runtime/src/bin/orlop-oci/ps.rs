//! `ps`: the processes of a container, as JSON or as the lines of ps(1).

use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::arguments::{Globals, Word, next, required_id, unexpected};
use crate::list::is_json;

#[derive(Debug)]
pub(crate) struct Ps {
    id: String,
    json: bool,
    /// For ps(1).
    options: Vec<String>,
}

impl Ps {
    pub(crate) fn parse(mut parser: lexopt::Parser) -> Result<Self> {
        let (mut id, mut json, mut options) = (None, false, Vec::new());
        while let Some(word) = next(&mut parser)? {
            match word {
                Word::Value(value) if id.is_none() => {
                    id = Some(value);
                    // What follows is for ps(1), unless it is our own flag.
                    if !matches!(parser.try_raw_args().as_ref().and_then(|raw| raw.peek()), Some(next) if is_ours(next))
                    {
                        options = parser
                            .raw_args()?
                            .map(|word| word.to_string_lossy().into_owned())
                            .collect();
                    }
                }
                Word::Flag(flag) if flag == "f" || flag == "format" => {
                    json = is_json(&parser.value()?.to_string_lossy())?;
                }
                word @ (Word::Flag(_) | Word::Value(_)) => return Err(unexpected(&word)),
            }
        }
        let id = required_id("ps", id)?;
        Ok(Self { id, json, options })
    }

    pub(crate) fn run(&self, globals: &Globals) -> Result<u8> {
        let processes = globals.store().find(&self.id)?.processes()?;
        if self.json {
            return crate::print(&serde_json::to_string(&processes)?);
        }
        let options = if self.options.is_empty() {
            vec!["-ef".into()]
        } else {
            self.options.clone()
        };
        let output = Command::new("ps").args(&options).output().context("execute ps")?;
        ensure!(
            output.status.success(),
            "ps {}: {}",
            options.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
        crate::print(&lines_of(&String::from_utf8_lossy(&output.stdout), &processes)?)
    }
}

fn is_ours(word: &std::ffi::OsStr) -> bool {
    word.to_str()
        .is_some_and(|word| word == "-f" || word == "--format" || word.starts_with("--format="))
}

/// The heading and the lines whose PID column names one of `processes`.
fn lines_of(table: &str, processes: &[u32]) -> Result<String> {
    let mut lines = table.lines();
    let heading = lines.next().unwrap_or_default();
    let column = heading.split_whitespace().position(|name| name == "PID");
    let column = column.context("ps has printed no PID column")?;
    let is_ours = |line: &&str| {
        let pid = line.split_whitespace().nth(column).and_then(|field| field.parse().ok());
        pid.is_some_and(|pid| processes.contains(&pid))
    };
    Ok(std::iter::once(heading)
        .chain(lines.filter(is_ours))
        .collect::<Vec<_>>()
        .join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_containers_lines_stay() {
        let table = "UID   PID  PPID CMD\nroot    1     0 init\nroot   12     1 sh\nroot  112    12 1 12\n";
        assert_eq!(
            lines_of(table, &[12]).unwrap(),
            "UID   PID  PPID CMD\nroot   12     1 sh"
        );
        assert!(lines_of("UID\n", &[]).is_err());
    }
}
