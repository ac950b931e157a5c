//! Reads the JSON of the specification: a whole configuration or a part of it, spelled as the specification spells it.
//!
//! Everything is read from text, JSON values too: a second way would cost an eighth of the program's size.

use std::borrow::Cow;
use std::collections::BTreeSet;

use memchr::memmem;
use oci_spec::runtime::Capability;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// Names of scheduler flags that the crate which knows the fields spells otherwise.
const RESPELLED: [(&str, &str); 2] = [
    ("SCHED_FLAG_RESET_ON_FORK", "SCHED_RESET_ON_FORK"),
    ("SCHED_FLAG_DL_OVERRUN", "SCHED_FLAG_D_L_OVERRUN"),
];

/// A name, and the end of no longer one: a quotation mark inside of a string has a backslash before it.
const PIDS: &[u8] = b"\"pids\"";

/// A configuration, a process, resources.
pub fn read<T: DeserializeOwned>(text: &[u8]) -> serde_json::Result<T> {
    read_telling(text, &mut Vec::new())
}

/// As [`read`], with a sentence for whatever is passed over.
pub fn read_telling<T: DeserializeOwned>(text: &[u8], passed_over: &mut Vec<String>) -> serde_json::Result<T> {
    let text = &*without_empty_pids(text);
    serde_json::from_slice(text).or_else(|error| {
        let completed = completed(text, passed_over).and_then(|text| serde_json::from_slice(&text).ok());
        completed.ok_or(error)
    })
}

/// The same text with `null` for a `pids` that has no `limit`, which the crate would read as a limit of 0.
fn without_empty_pids(text: &[u8]) -> Cow<'_, [u8]> {
    let mut replaced = Vec::new();
    let mut done = 0;
    for at in memmem::find_iter(text, PIDS) {
        let start = at + PIDS.len();
        if let Some(length) = empty_object(&text[start..]) {
            replaced.extend_from_slice(&text[done..start]);
            replaced.extend_from_slice(b":null");
            done = start + length;
        }
    }
    if done == 0 {
        return text.into();
    }
    replaced.extend_from_slice(&text[done..]);
    replaced.into()
}

/// How long the `: {}` is that `text` begins with, if it does.
fn empty_object(text: &[u8]) -> Option<usize> {
    let mut rest = text;
    for mark in b":{}" {
        rest = rest.trim_ascii_start().strip_prefix(&[*mark])?;
    }
    Some(text.len() - rest.len())
}

/// The same text as the crate can read it; none when nothing differs.
fn completed(text: &[u8], passed_over: &mut Vec<String>) -> Option<Vec<u8>> {
    let mut config: Value = serde_json::from_slice(text).ok()?;
    // A process by itself, or the one of a whole configuration.
    let process = if config.get("args").is_some() || config.get("scheduler").is_some() {
        &mut config
    } else {
        config.get_mut("process")?
    };
    let gets_user = add_user(process);
    let gets_flags = respell_flags(process);
    let unknown = drop_unknown_capabilities(process);
    let loses = unknown.is_some();
    passed_over.extend(unknown);
    (gets_user || gets_flags || loses).then(|| config.to_string().into_bytes())
}

/// A process without a user is root's, as for every other runtime; whether it was without.
fn add_user(process: &mut Value) -> bool {
    let process = process.as_object_mut().filter(|process| !process.contains_key("user"));
    process
        .map(|process| process.insert("user".to_owned(), json!({ "uid": 0, "gid": 0 })))
        .is_some()
}

/// Gives the scheduler's flags the names that the crate has for them; whether there were such.
fn respell_flags(process: &mut Value) -> bool {
    let mut changed = false;
    let flags = process.pointer_mut("/scheduler/flags").and_then(Value::as_array_mut);
    for flag in flags.into_iter().flatten() {
        let spelling = RESPELLED.iter().find(|(name, _)| flag.as_str() == Some(name));
        if let Some((_, spelling)) = spelling {
            *flag = (*spelling).into();
            changed = true;
        }
    }
    changed
}

/// Takes out the capabilities that nobody knows: a newer kernel may have them, or a newer caller know of them. runc warns
/// and goes on, too, in these words.
fn drop_unknown_capabilities(process: &mut Value) -> Option<String> {
    let sets = process.get_mut("capabilities").and_then(Value::as_object_mut);
    let mut unknown = BTreeSet::new();
    for (_, names) in sets.into_iter().flatten() {
        let Some(names) = names.as_array_mut() else { continue };
        names.retain(|name| {
            let is_known = !name.is_string() || serde_json::from_str::<Capability>(&name.to_string()).is_ok();
            if let (false, Some(name)) = (is_known, name.as_str()) {
                unknown.insert(name.to_owned());
            }
            is_known
        });
    }
    if unknown.is_empty() {
        return None;
    }
    let names = unknown.into_iter().collect::<Vec<_>>().join(" ");
    Some(format!(
        "process.capabilities: ignoring unknown or unavailable capabilities: [{names}]"
    ))
}

#[cfg(test)]
mod tests {
    use crate::spec::{Process, Spec};
    use oci_spec::runtime::LinuxResources;
    use serde_json::json;

    use super::*;

    #[test]
    fn flags_are_read_as_the_specification_spells_them() {
        let process = json!({ "user": { "uid": 0, "gid": 0 }, "cwd": "/", "scheduler": { "policy": "SCHED_DEADLINE",
            "flags": ["SCHED_FLAG_RESET_ON_FORK", "SCHED_FLAG_DL_OVERRUN", "SCHED_FLAG_RECLAIM"] } });
        let alone: Process = read(process.to_string().as_bytes()).unwrap();
        let config = json!({ "ociVersion": "1.3.0", "process": process });
        let whole: Spec = read(config.to_string().as_bytes()).unwrap();
        for process in [&alone, whole.process().as_ref().unwrap()] {
            let flags = process.scheduler().as_ref().unwrap().flags().as_ref().unwrap();
            assert_eq!(flags.len(), 3, "{flags:?}");
        }
    }

    #[test]
    fn pids_without_a_limit_are_none_and_a_limit_of_0_is_one() {
        let limit = |text: &str| {
            let resources: LinuxResources = read(text.as_bytes()).unwrap();
            resources.pids().map(|pids| pids.limit())
        };
        for (text, expected) in [
            (r#"{"pids":{}}"#, None),
            ("{ \"pids\" :\n { \t} , \"unified\": {} }", None),
            (r#"{"unified":{"pids":"{}"},"pids":{}}"#, None),
            (r#"{"pids":{"limit":0}}"#, Some(0)),
            (r#"{"pids":{"limit":7},"unified":{}}"#, Some(7)),
            (r#"{"unified":{"a":"\"pids\":{}"},"pids":{"limit":3}}"#, Some(3)),
        ] {
            assert_eq!(limit(text), expected, "{text}");
        }
        assert!(read::<LinuxResources>(br#"{"pids":{"#).is_err());
    }

    #[test]
    fn who_is_no_other_user_is_root() {
        let process: Process = read(br#"{ "args": ["true"], "cwd": "/" }"#).unwrap();
        assert_eq!((process.user().uid(), process.user().gid()), (0, 0));
        let whole: Spec = read(br#"{ "ociVersion": "1.3.0", "process": { "args": ["true"], "cwd": "/" } }"#).unwrap();
        assert!(whole.process().is_some());
    }

    #[test]
    fn capabilities_that_nobody_knows_are_left_out_and_told() {
        let sets = json!({ "bounding": ["CAP_KILL", "CAP_FLY"], "ambient": ["SWIM"] });
        let process = json!({ "args": ["true"], "cwd": "/", "capabilities": sets });
        let mut told = Vec::new();
        let process: Process = read_telling(process.to_string().as_bytes(), &mut told).unwrap();
        let sets = process.capabilities().as_ref().unwrap();
        assert_eq!(sets.bounding().as_ref().unwrap(), &[Capability::Kill].into());
        assert_eq!(sets.ambient().as_ref().unwrap().len(), 0);
        let [sentence] = told.as_slice() else {
            panic!("{told:?}")
        };
        assert!(sentence.ends_with("[CAP_FLY SWIM]"), "{sentence}");
        assert!(read::<Process>(br#"{ "args": [], "capabilities": { "bounding": [5] } }"#).is_err());
    }

    #[test]
    fn what_is_no_flag_stays_an_error() {
        let error = read::<Process>(br#"{ "scheduler": { "flags": ["SCHED_FLAG_DL_OVERRUN"] } }"#).unwrap_err();
        assert!(error.to_string().contains("SCHED_FLAG_DL_OVERRUN"), "{error}");
        assert!(read::<Process>(b"{").is_err());
    }
}
