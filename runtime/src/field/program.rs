//! `process.args` and `process.env`: what is executed, found in PATH when it has no slash.

use std::ffi::CString;

use crate::plan::{FieldError, c_string};
use crate::step::Program;
use crate::sys::exec::StringArray;

/// PATH of a process that has none (what Docker and runc give).
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Makes the program of `arguments` and `environment` ready to be executed. `home` is HOME for an environment that has
/// none.
pub(crate) fn of(arguments: &[String], environment: &[String], home: Option<&str>) -> Result<Program, FieldError> {
    let name = arguments.first().filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| FieldError::new("process.args", "there is no program to run"))?;
    Ok(Program {
        candidates: candidates(name, value(environment, "PATH").unwrap_or(DEFAULT_PATH))?,
        arguments: StringArray::new(c_strings("process.args", arguments)?),
        environment: StringArray::new(self::environment(environment, home)?),
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

fn environment(list: &[String], home: Option<&str>) -> Result<Vec<CString>, FieldError> {
    let malformed = |entry: &&String| entry.split_once('=').is_none_or(|(name, _)| name.is_empty());
    if let Some(index) = list.iter().position(|entry| malformed(&entry)) {
        return Err(FieldError::new(
            format!("process.env[{index}]"),
            "is not of the form NAME=value",
        ));
    }
    let mut strings = c_strings("process.env", list)?;
    if let (None, Some(home)) = (value(list, "HOME"), home) {
        strings.push(c_string("process.env", format!("HOME={home}").as_ref())?);
    }
    Ok(strings)
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
        let program = of(&strings(&["sh", "-c"]), &strings(&["PATH=/a:/b/::c"]), None).unwrap();
        let expected = [c"/a/sh", c"/b/sh", c"./sh", c"c/sh"].map(CString::from);
        assert_eq!(program.candidates, expected);
    }

    #[test]
    fn a_path_is_taken_as_it_is() {
        let program = of(&strings(&["bin/sh"]), &strings(&["PATH=/a"]), None).unwrap();
        assert_eq!(program.candidates, [c"bin/sh".to_owned()]);
    }

    #[test]
    fn home_is_given_only_to_who_has_none() {
        let environment = |list: &[&str]| of(&strings(&["x"]), &strings(list), Some("/root")).unwrap().environment;
        assert_eq!(
            environment(&["A=1"]).strings(),
            [c"A=1".to_owned(), c"HOME=/root".to_owned()]
        );
        assert_eq!(environment(&["HOME="]).strings(), [c"HOME=".to_owned()]);
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
                of(&strings(&arguments), &strings(&environment), None)
                    .unwrap_err()
                    .field,
                field
            );
        }
    }
}
