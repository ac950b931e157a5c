//! The command line: global flags, then a verb with its own. A verb's flags may stand before or after the id.

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use lexopt::prelude::*;

use crate::log::Log;
use crate::verb::Verb;

const HELP: &str = "\
Usage: orlop-oci [GLOBAL FLAGS] VERB [FLAGS] ID

  create [-b|--bundle DIR] ID           make a container, which waits to be started
  start ID                              start it
  run [-d|--detach] ID | run DIR        create, start and, unless detached, wait for a container
  exec ID COMMAND [ARGUMENT...]         run one more process in it
  state ID                              say what is known of it, as JSON
  kill [-a|--all] ID [SIGNAL]           send its init (or all of it) a signal, SIGTERM if none is named
  delete [-f|--force] ID                remove it when it has ended
  list [-f|--format table|json] [-q]    list the containers
  ps [-f|--format table|json] ID        list its processes
  update [-r|--resources FILE] ID       set limits, by flag or from a file
  events [--stats] [--interval 5s] ID   say what it uses, and when the kernel kills in it for want of memory
  spec [-b DIR] [--rootless]            write a config.json to start from
  features                              say what of the specification is honoured, as JSON
  plan [--json] DIR                     say what would be done with a bundle, step by step, and which field asks for it
  pause ID, resume ID                   stop it for a while, and let it go on

  create, run: --config FILE --console-socket PATH --pidfd-socket PATH --pid-file FILE --preserve-fds N --no-pivot
               --no-new-keyring; run also: --keep --no-subreaper
  update: --blkio-weight --cpu-period --cpu-quota --cpu-burst --cpu-share --cpu-idle --cpuset-cpus --cpuset-mems
          --memory --memory-reservation --memory-swap --pids-limit --l3-cache-schema --mem-bw-schema
  exec: --process FILE --cwd DIR --env NAME=VALUE --user UID[:GID] --additional-gids GID --cap CAP --cgroup PATH
        --apparmor PROFILE --process-label LABEL --no-new-privs --tty --detach --pid-file FILE --console-socket PATH
        --pidfd-socket PATH --preserve-fds N --ignore-paused

Global flags:
  --root DIR                  where the state of containers is kept (default /run/orlop-oci, or orlop-oci in
                              XDG_RUNTIME_DIR for who is not root)
  --log FILE                  write errors and warnings there, too
  --log-format text|json      how (default text)
  --debug                     say more
  --systemd-cgroup            let systemd make the cgroups: the same as --cgroup-manager systemd
  --cgroup-manager cgroupfs|systemd|disabled
  --rootless true|false|auto  whether what takes root may be lacking (default auto)
  --version, --help";

/// What holds for every verb.
#[derive(Debug)]
pub(crate) struct Globals {
    pub(crate) root: PathBuf,
    pub(crate) log: Log,
    pub(crate) manager: Manager,
    pub(crate) rootless: bool,
}

/// Who makes cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manager {
    /// This program.
    Cgroupfs,
    /// systemd, as scopes.
    Systemd,
    /// Nobody: containers stay in the caller's.
    Disabled,
}

/// What to do.
pub(crate) enum Command {
    Verb(Box<Verb>),
    /// Say this and end.
    Print(String),
}

/// Reads the whole line. The globals are filled in as they come, so that an error later in the line reaches the log.
pub(crate) fn parse(parser: lexopt::Parser, globals: &mut Globals) -> Result<Command> {
    parse_line(parser, globals).map_err(in_runcs_words)
}

/// podman and CRI-O find out whether a flag is known by giving it without its argument and looking for these words.
fn in_runcs_words(error: anyhow::Error) -> anyhow::Error {
    match error.downcast_ref() {
        Some(lexopt::Error::MissingValue { option: Some(flag) }) => {
            anyhow::anyhow!("flag needs an argument: {flag}")
        }
        _ => error,
    }
}

fn parse_line(mut parser: lexopt::Parser, globals: &mut Globals) -> Result<Command> {
    let (mut root, mut rootless) = (None, None);
    while let Some(argument) = parser.next()? {
        match argument {
            Long("root") => root = Some(PathBuf::from(parser.value()?)),
            Long("log") => globals.log.file = Some(parser.value()?.into()),
            Long("log-format") => globals.log.format = parser.value()?.string()?.parse()?,
            Long("debug") => globals.log.debug = is_on(&mut parser)?,
            Long("log-level") => globals.log.debug = parser.value()?.string()? == "debug",
            Long("systemd-cgroup") => {
                if is_on(&mut parser)? {
                    globals.manager = manager("systemd")?;
                }
            }
            Long("cgroup-manager") => globals.manager = manager(&parser.value()?.string()?)?,
            Long("rootless") => rootless = parse_rootless(&parser.value()?.string()?)?,
            Long("version") | Short('v') => return Ok(Command::Print(version())),
            Long("help") | Short('h') => return Ok(Command::Print(HELP.into())),
            Value(verb) => {
                if asks_for_help(&mut parser)? {
                    return Ok(Command::Print(HELP.into()));
                }
                globals.rootless = rootless.unwrap_or_else(crate::rootless::is_rootless);
                globals.root = match root {
                    Some(root) => root,
                    None => crate::rootless::state_directory(globals.rootless)?,
                };
                return Verb::parse(&verb.string()?, parser).map(|verb| Command::Verb(verb.into()));
            }
            Short(_) | Long(_) => return Err(argument.unexpected().into()),
        }
    }
    bail!("no command given; see orlop-oci --help")
}

/// Whether the next word asks for help. podman and CRI-O take a verb for known when that succeeds.
fn asks_for_help(parser: &mut lexopt::Parser) -> Result<bool> {
    let words = parser.raw_args()?;
    let next = words.peek().and_then(|word| word.to_str());
    Ok(matches!(next, Some("--help" | "-h")))
}

fn version() -> String {
    let version = env!("CARGO_PKG_VERSION");
    format!("orlop-oci version {version}\nspec: {}", runtime::SPEC_VERSION)
}

fn manager(name: &str) -> Result<Manager> {
    match name {
        "cgroupfs" => Ok(Manager::Cgroupfs),
        "disabled" => Ok(Manager::Disabled),
        "systemd" => Ok(Manager::Systemd),
        _ => bail!("{name:?} is not a cgroup manager: cgroupfs, systemd or disabled"),
    }
}

fn parse_rootless(value: &str) -> Result<Option<bool>> {
    match value {
        "true" => Ok(Some(true)),
        "false" => Ok(Some(false)),
        "auto" => Ok(None),
        _ => bail!("--rootless is true, false or auto, not {value:?}"),
    }
}

/// A flag that is on by being there, and may say so: `--flag`, `--flag=true`, `--flag=false`.
pub(crate) fn is_on(parser: &mut lexopt::Parser) -> Result<bool> {
    match parser.optional_value() {
        None => Ok(true),
        Some(value) => match value.to_str() {
            Some("true" | "1") => Ok(true),
            Some("false" | "0") => Ok(false),
            _ => bail!("a flag is true or false, not {value:?}"),
        },
    }
}

/// One word of a verb's line.
pub(crate) enum Word {
    /// A flag's name, without its dashes.
    Flag(String),
    Value(OsString),
}

/// The next word.
pub(crate) fn next(parser: &mut lexopt::Parser) -> Result<Option<Word>> {
    Ok(match parser.next()? {
        None => None,
        Some(Long(name)) => Some(Word::Flag(name.into())),
        Some(Short(name)) => Some(Word::Flag(name.into())),
        Some(Value(value)) => Some(Word::Value(value)),
    })
}

/// The error for a word that has no meaning where it stands.
pub(crate) fn unexpected(word: &Word) -> anyhow::Error {
    match word {
        Word::Flag(name) => anyhow::anyhow!("there is no flag {name:?} here; see orlop-oci --help"),
        Word::Value(value) => anyhow::anyhow!("unexpected argument {value:?}"),
    }
}

/// The words of a verb without flags of its own: exactly one id.
pub(crate) fn only_id(verb: &str, mut parser: lexopt::Parser) -> Result<String> {
    let mut id = None;
    while let Some(word) = next(&mut parser)? {
        match word {
            Word::Value(value) if id.is_none() => id = Some(value),
            word @ (Word::Flag(_) | Word::Value(_)) => return Err(unexpected(&word)),
        }
    }
    required_id(verb, id)
}

/// The id that a verb needs.
pub(crate) fn required_id(verb: &str, id: Option<OsString>) -> Result<String> {
    let id = id.with_context(|| format!("{verb} needs the id of a container"))?;
    Ok(id.string()?)
}

/// The number that follows a flag.
pub(crate) fn number<T: std::str::FromStr>(parser: &mut lexopt::Parser, flag: &str) -> Result<T> {
    let text = parser.value()?.string()?;
    text.parse()
        .ok()
        .with_context(|| format!("--{flag}: {text:?} is not a number that it takes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_words(line: &str) -> Result<(Command, Globals)> {
        let mut globals = Globals::default();
        let command = parse(lexopt::Parser::from_args(line.split_whitespace()), &mut globals)?;
        Ok((command, globals))
    }

    fn verb(line: &str) -> (Verb, Globals) {
        match parse_words(line).unwrap() {
            (Command::Verb(verb), globals) => (*verb, globals),
            (Command::Print(_), _) => panic!("{line}"),
        }
    }

    #[test]
    fn flags_stand_before_or_after_the_id() {
        for line in [
            "run -b /b --keep c1",
            "run c1 --bundle /b --keep",
            "run c1 --keep=true -b=/b",
        ] {
            let Verb::Run(run) = verb(line).0 else { panic!("{line}") };
            let made = &run.making;
            assert_eq!(
                (made.id.as_str(), made.bundle.to_str(), run.keep),
                ("c1", Some("/b"), true),
                "{line}"
            );
        }
    }

    #[test]
    fn what_follows_the_id_of_an_exec_is_the_command() {
        for line in [
            "--root /r exec -u 5:6 c1 ls -l --cwd",
            "--root=/r exec -u 5:6 c1 -- ls -l --cwd",
        ] {
            let (Verb::Exec(exec), globals) = verb(line) else {
                panic!("{line}")
            };
            assert_eq!(exec.command, ["ls", "-l", "--cwd"]);
            assert_eq!((globals.root.to_str(), exec.user), (Some("/r"), Some((5, Some(6)))));
        }
    }

    #[test]
    fn the_lines_of_known_callers_are_understood() {
        for line in [
            // containerd's go-runc
            "--root /r --log /l --log-format json --systemd-cgroup=false --rootless=false create --bundle /b --pid-file /p c",
            "create --bundle /b --pid-file /p --console-socket /s --no-pivot --no-new-keyring --preserve-fds 2 c",
            "exec --process /p --console-socket /s --detach --pid-file /f c",
            "kill --all c 9",
            "delete --force c",
            "ps --format json c",
            "list --format=json",
            // conmon and podman
            "create --bundle /b --pid-file /p --console-socket /s c",
            "--cgroup-manager disabled exec --pid-file /p --process /f --detach c",
            "--log-format=json --log=/l start c",
            "kill c 15",
            // the suites
            "create c --bundle /b",
            "state c",
        ] {
            assert!(parse_words(line).is_ok(), "{line}: {:?}", parse_words(line).err());
        }
    }

    #[test]
    fn what_clients_ask_to_learn_what_is_known_is_answered() {
        for line in ["--help", "checkpoint --help", "restore -h", "exec --help"] {
            assert!(
                matches!(parse_words(line).unwrap().0, Command::Print(text) if text == HELP),
                "{line}"
            );
        }
        let (Verb::Exec(exec), _) = verb("exec c1 ls --help") else {
            panic!("a command's own flag is no question")
        };
        assert_eq!(exec.command, ["ls", "--help"]);
        let error = parse_words("restore --lsm-mount-context").err().unwrap();
        assert_eq!(error.to_string(), "flag needs an argument: --lsm-mount-context");
    }

    #[test]
    fn malformed_lines_are_refused() {
        for line in [
            "",
            "fly",
            "run",
            "run a b",
            "run --fast c1",
            "exec c1",
            "exec -u root c1 ls",
            "kill c1 SIGNOTHING",
            "kill c1 65",
            "list --format yaml",
            "--log-format xml list",
            "--rootless maybe list",
            "state a b",
            "create --preserve-fds -1 c",
        ] {
            assert!(parse_words(line).is_err(), "{line:?}");
        }
    }
}
