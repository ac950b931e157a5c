//! The command line: flags may stand before or after the container's id.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use lexopt::prelude::*;

const HELP: &str = "\
Usage: orlop-oci [--root DIR] COMMAND

  run [-b|--bundle DIR] [--pid-file FILE] [--keep] ID   create, start and wait for a container
  run DIR                                               the same for the bundle in DIR, with a new id
  exec [-e NAME=VALUE] [--cwd DIR] [-u UID[:GID]] [-t] [-p|--process FILE] ID COMMAND [ARGUMENT...]
  --version, --help

  --root DIR    where the state of containers is kept (default /run/orlop-oci)";

/// Where the state of containers is kept unless `--root` says otherwise.
const STATE_DIRECTORY: &str = "/run/orlop-oci";

/// Longest container id.
const ID_LIMIT: usize = 128;

/// What to do.
pub(crate) enum Command {
    Run(Run),
    Exec(Exec),
    /// Say this and end.
    Print(String),
}

/// `run`
pub(crate) struct Run {
    pub(crate) root: PathBuf,
    pub(crate) id: String,
    pub(crate) bundle: PathBuf,
    pub(crate) pid_file: Option<PathBuf>,
    /// Leave state and cgroup behind when the container ends.
    pub(crate) keep: bool,
}

/// `exec`
pub(crate) struct Exec {
    pub(crate) root: PathBuf,
    pub(crate) id: String,
    /// A file with an OCI process; else the container's own with the changes below.
    pub(crate) process: Option<PathBuf>,
    pub(crate) command: Vec<String>,
    pub(crate) environment: Vec<String>,
    pub(crate) cwd: Option<PathBuf>,
    pub(crate) user: Option<(u32, Option<u32>)>,
    pub(crate) terminal: bool,
}

pub(crate) fn parse(mut parser: lexopt::Parser) -> Result<Command> {
    let mut root = PathBuf::from(STATE_DIRECTORY);
    while let Some(argument) = parser.next()? {
        match argument {
            Long("root") => root = parser.value()?.into(),
            Long("version") | Short('v') => {
                let version = env!("CARGO_PKG_VERSION");
                return Ok(Command::Print(format!(
                    "orlop-oci version {version}\nspec: {}",
                    oci_spec::runtime::VERSION
                )));
            }
            Long("help") | Short('h') => return Ok(Command::Print(HELP.into())),
            Value(command) if command == "run" => return parse_run(parser, root).map(Command::Run),
            Value(command) if command == "exec" => return parse_exec(parser, root).map(Command::Exec),
            Value(command) => bail!("{command:?} is not a command; see orlop-oci --help"),
            Short(_) | Long(_) => return Err(argument.unexpected().into()),
        }
    }
    bail!("no command given; see orlop-oci --help")
}

fn parse_run(mut parser: lexopt::Parser, root: PathBuf) -> Result<Run> {
    let mut run = Run {
        root,
        id: String::new(),
        bundle: PathBuf::new(),
        pid_file: None,
        keep: false,
    };
    let (mut bundle, mut positional) = (None, None);
    while let Some(argument) = parser.next()? {
        match argument {
            Short('b') | Long("bundle") => bundle = Some(PathBuf::from(parser.value()?)),
            Long("pid-file") => run.pid_file = Some(parser.value()?.into()),
            Long("keep") => run.keep = true,
            Value(value) if positional.is_none() => positional = Some(value.string()?),
            Value(_) | Short(_) | Long(_) => return Err(argument.unexpected().into()),
        }
    }
    let positional = positional.context("run needs the id of the new container, or a bundle directory")?;
    if bundle.is_none() && Path::new(&positional).join("config.json").is_file() {
        (run.id, run.bundle) = (format!("orlop-{}", std::process::id()), positional.into());
    } else {
        (run.id, run.bundle) = (check_id(positional)?, bundle.unwrap_or_else(|| ".".into()));
    }
    Ok(run)
}

fn parse_exec(mut parser: lexopt::Parser, root: PathBuf) -> Result<Exec> {
    let mut exec = Exec {
        root,
        id: String::new(),
        process: None,
        command: Vec::new(),
        environment: Vec::new(),
        cwd: None,
        user: None,
        terminal: false,
    };
    let mut id = None;
    while let Some(argument) = parser.next()? {
        match argument {
            Short('p') | Long("process") => exec.process = Some(parser.value()?.into()),
            Short('e') | Long("env") => exec.environment.push(parser.value()?.string()?),
            Long("cwd") => exec.cwd = Some(parser.value()?.into()),
            Short('u') | Long("user") => exec.user = Some(parse_user(&parser.value()?.string()?)?),
            Short('t') | Long("tty") => exec.terminal = true,
            Value(value) if id.is_none() => {
                id = Some(check_id(value.string()?)?);
                if exec.process.is_none() {
                    exec.command = parser.raw_args()?.map(|word| word.string()).collect::<Result<_, _>>()?;
                }
            }
            Value(_) | Short(_) | Long(_) => return Err(argument.unexpected().into()),
        }
    }
    exec.id = id.context("exec needs the id of a container")?;
    ensure!(
        exec.process.is_some() || !exec.command.is_empty(),
        "exec needs a command or --process FILE"
    );
    Ok(exec)
}

/// Numbers only: a name would have to be looked up in files that the container controls (CVE-2026-30892).
fn parse_user(text: &str) -> Result<(u32, Option<u32>)> {
    let number = |text: &str| {
        text.parse::<u32>()
            .with_context(|| format!("{text:?} is not a user or group number"))
    };
    match text.split_once(':') {
        Some((user, group)) => Ok((number(user)?, Some(number(group)?))),
        None => Ok((number(text)?, None)),
    }
}

fn check_id(id: String) -> Result<String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_+-.".contains(c);
    let is_name = !id.is_empty() && id.len() <= ID_LIMIT && id.chars().all(allowed) && !id.starts_with('.');
    ensure!(
        is_name,
        "{id:?} is not a container id: up to {ID_LIMIT} letters, digits, '_', '+', '-' and '.'"
    );
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_words(line: &str) -> Result<Command> {
        parse(lexopt::Parser::from_args(line.split_whitespace()))
    }

    #[test]
    fn flags_stand_before_or_after_the_id() {
        for line in [
            "run -b /b --keep c1",
            "run c1 --bundle /b --keep",
            "run c1 --keep -b /b",
        ] {
            let Command::Run(run) = parse_words(line).unwrap() else {
                panic!("{line}")
            };
            assert_eq!(
                (run.id.as_str(), run.bundle.as_path(), run.keep),
                ("c1", Path::new("/b"), true),
                "{line}"
            );
        }
    }

    #[test]
    fn what_follows_the_id_of_an_exec_is_the_command() {
        let Command::Exec(exec) = parse_words("--root /r exec -u 5:6 c1 ls -l --cwd").unwrap() else {
            panic!()
        };
        assert_eq!(exec.command, ["ls", "-l", "--cwd"]);
        assert_eq!((exec.root.as_path(), exec.user), (Path::new("/r"), Some((5, Some(6)))));
    }

    #[test]
    fn malformed_lines_are_refused() {
        for line in [
            "",
            "fly",
            "run",
            "run ../c1",
            "run .c1",
            "run a b",
            "run --fast c1",
            "exec c1",
            "exec -u root c1 ls",
        ] {
            assert!(parse_words(line).is_err(), "{line:?}");
        }
    }
}
