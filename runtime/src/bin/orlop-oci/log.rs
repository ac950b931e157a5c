//! The log that callers read: runc's lines, one a message.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Result, bail};
use runtime::container::named::stamp_of_now;
use serde_json::json;

/// Where messages go.
#[derive(Debug, Default)]
pub(crate) struct Log {
    /// `--log`
    pub(crate) file: Option<PathBuf>,
    pub(crate) format: Format,
    pub(crate) debug: bool,
}

/// What a line looks like.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    #[default]
    Text,
    Json,
}

impl FromStr for Format {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => bail!("--log-format is text or json, not {text:?}"),
        }
    }
}

impl Log {
    /// Why this program fails: for people, and for the caller that reads the file.
    pub(crate) fn error(&self, message: &str) {
        say(&format!("orlop-oci: error: {message}"));
        self.write("error", message);
    }

    /// What goes on all the same. Who has given a file looks there.
    pub(crate) fn warning(&self, message: &str) {
        if self.file.is_none() {
            say(&format!("orlop-oci: warning: {message}"));
        }
        self.write("warning", message);
    }

    /// With `--debug` only.
    pub(crate) fn debug(&self, message: &str) {
        if self.debug {
            if self.file.is_none() {
                say(&format!("orlop-oci: debug: {message}"));
            }
            self.write("debug", message);
        }
    }

    fn write(&self, level: &str, message: &str) {
        let Some(file) = &self.file else { return };
        let line = line(self.format, level, message, &stamp_of_now());
        let opened = OpenOptions::new().create(true).append(true).open(file);
        if let Err(error) = opened.and_then(|mut file| file.write_all(line.as_bytes())) {
            say(&format!("orlop-oci: write {}: {error}", file.display()));
        }
    }
}

/// Who has closed our standard error does not want to know.
fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

fn line(format: Format, level: &str, message: &str, time: &str) -> String {
    match format {
        Format::Text => format!("time={time:?} level={level} msg={message:?}\n"),
        Format::Json => format!("{}\n", json!({ "level": level, "msg": message, "time": time })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_runcs() {
        assert_eq!(
            line(Format::Json, "error", "a \"b\"", "T"),
            "{\"level\":\"error\",\"msg\":\"a \\\"b\\\"\",\"time\":\"T\"}\n"
        );
        assert_eq!(
            line(Format::Text, "error", "a \"b\"", "T"),
            "time=\"T\" level=error msg=\"a \\\"b\\\"\"\n"
        );
    }
}
