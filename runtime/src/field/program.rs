//! `process.args` and `process.env`: what is executed, found in PATH when it has no slash.

use std::ffi::CString;

use oci_spec::runtime::Hook;

use crate::plan::{FieldError, c_string};
use crate::step::Program;
use crate::sys::exec::StringArray;

/// PATH of a process that has none (what Docker and runc give).
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Makes the program of `arguments` and `environment` ready to be executed by user `uid`.
pub(crate) fn of(arguments: &[String], environment: &[String], uid: u32) -> Result<Program, FieldError> {
    let name = arguments.first().filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| FieldError::new("process.args", "there is no program to run"))?;
    Ok(Program {
        candidates: candidates(name, value(environment, "PATH").unwrap_or(DEFAULT_PATH))?,
        arguments: StringArray::new(c_strings("process.args", arguments)?),
        environment: StringArray::new(self::environment(environment)?),
        home_of: value(environment, "HOME").is_none_or(str::is_empty).then_some(uid),
        label: None,
    })
}

/// Makes the program of a hook ready: its path is executed as it is, whatever its first argument says.
pub(crate) fn of_hook(hook: &Hook, environment: &[String]) -> Result<Program, FieldError> {
    let path = c_string("hooks", hook.path().as_os_str())?;
    let arguments = match hook.args().as_deref() {
        None | Some([]) => vec![path.clone()],
        Some(arguments) => c_strings("hooks", arguments)?,
    };
    Ok(Program {
        candidates: vec![path],
        arguments: StringArray::new(arguments),
        environment: StringArray::new(c_strings("hooks", environment)?),
        home_of: None,
        label: None,
    })
}

fn candidates(name: &str, path: &str) -> Result<Vec<CString>, FieldError> {
    if name.contains('/') {
        return Ok(vec![c_string("process.args[0]", name.as_ref())?]);
    }
    let join = |directory: &str| match directory {
        "" => format!("./{name}"),
        directory => format!("{}/{name}", directory.trim_end_matches('/')),
    };
    path.split(':')
        .map(|directory| c_string("process.args[0]", join(directory).as_ref()))
        .collect()
}

/// Every variable once, as it was said last; an empty HOME is looked up like one that is not there.
fn environment(list: &[String]) -> Result<Vec<CString>, FieldError> {
    let malformed = |entry: &&String| entry.split_once('=').is_none_or(|(name, _)| name.is_empty());
    if let Some(index) = list.iter().position(|entry| malformed(&entry)) {
        return Err(FieldError::new(
            format!("process.env[{index}]"),
            "is not of the form NAME=value",
        ));
    }
    let names: Vec<_> = list.iter().filter_map(|entry| entry.split('=').next()).collect();
    let is_last = |index: usize| !names[index + 1..].contains(&names[index]);
    let is_looked_up = |entry: &str| entry == "HOME=";
    let kept = list.iter().enumerate();
    let kept = kept.filter(|(index, entry)| is_last(*index) && !is_looked_up(entry));
    let c_string = |(index, entry): (usize, &String)| c_string(&format!("process.env[{index}]"), entry.as_ref());
    kept.map(c_string).collect()
}

fn value<'a>(environment: &'a [String], name: &str) -> Option<&'a str> {
    environment
        .iter()
        .rev()
        .find_map(|entry| entry.strip_prefix(name)?.strip_prefix('='))
}

fn c_strings(field: &str, list: &[String]) -> Result<Vec<CString>, FieldError> {
    list.iter()
        .enumerate()
        .map(|(index, text)| c_string(&format!("{field}[{index}]"), text.as_ref()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(list: &[&str]) -> Vec<String> {
        list.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_name_is_tried_in_every_directory_of_path() {
        let program = of(&strings(&["sh", "-c"]), &strings(&["PATH=/a:/b/::c"]), 0).unwrap();
        let expected = [c"/a/sh", c"/b/sh", c"./sh", c"c/sh"].map(CString::from);
        assert_eq!(program.candidates, expected);
    }

    #[test]
    fn a_path_is_taken_as_it_is() {
        let program = of(&strings(&["bin/sh"]), &strings(&["PATH=/a"]), 0).unwrap();
        assert_eq!(program.candidates, [c"bin/sh".to_owned()]);
    }

    #[test]
    fn home_is_looked_up_only_for_who_has_none() {
        let home_of = |list: &[&str]| of(&strings(&["x"]), &strings(list), 5).unwrap().home_of;
        assert_eq!(home_of(&["A=1"]), Some(5));
        assert_eq!(home_of(&["HOME="]), Some(5));
        assert_eq!(home_of(&["HOME=/a", "HOME=", "HOME=/b"]), None);
    }

    #[test]
    fn the_last_of_a_name_stays() {
        let list = strings(&["ONE=two", "HOME=", "TWO=", "ONE="]);
        assert_eq!(environment(&list).unwrap(), [c"TWO=".to_owned(), c"ONE=".to_owned()]);
    }

    #[test]
    fn malformed_arguments_are_refused_by_name() {
        for (arguments, environment, field) in [
            (vec![], vec![], "process.args"),
            (vec![""], vec![], "process.args"),
            (vec!["a", "b\0"], vec![], "process.args[1]"),
            (vec!["a"], vec!["A=1", "B"], "process.env[1]"),
            (vec!["a"], vec!["=x"], "process.env[0]"),
        ] {
            assert_eq!(
                of(&strings(&arguments), &strings(&environment), 0).unwrap_err().field,
                field
            );
        }
    }
}
