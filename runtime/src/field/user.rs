//! User namespaces: `linux.uidMappings` and `linux.gidMappings`, and those of a mount.

use oci_spec::runtime::LinuxIdMapping;

use super::namespaces::Namespaces;
use crate::plan::FieldError;

/// The kernel takes so many lines of a map (user_namespaces(7)).
const LINES: usize = 340;

/// Which ids of a user namespace are which of the one around it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct IdMappings {
    pub(crate) uids: Vec<IdRange>,
    pub(crate) gids: Vec<IdRange>,
}

/// One line of a map: `count` ids from `inside` on are those from `outside` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct IdRange {
    pub(crate) inside: u32,
    pub(crate) outside: u32,
    pub(crate) count: u32,
}

/// The mappings of a container's user namespace. For one that exists already they only say what is there.
pub(crate) fn of(
    namespaces: &Namespaces,
    uids: Option<&[LinuxIdMapping]>,
    gids: Option<&[LinuxIdMapping]>,
) -> Result<IdMappings, FieldError> {
    let mappings = IdMappings {
        uids: ranges("linux.uidMappings", uids.unwrap_or_default())?,
        gids: ranges("linux.gidMappings", gids.unwrap_or_default())?,
    };
    let lists = [
        ("linux.uidMappings", &mappings.uids),
        ("linux.gidMappings", &mappings.gids),
    ];
    let is_new = namespaces.is_new(libc::CLONE_NEWUSER);
    for (field, list) in lists {
        if is_new && list.is_empty() {
            return Err(FieldError::new(field, "a new user namespace needs mappings"));
        }
        if !namespaces.has(libc::CLONE_NEWUSER) && !list.is_empty() {
            return Err(FieldError::new(field, "there is no user namespace in linux.namespaces"));
        }
    }
    Ok(mappings)
}

/// Reads one list of mappings.
pub(crate) fn ranges(field: &str, list: &[LinuxIdMapping]) -> Result<Vec<IdRange>, FieldError> {
    if list.len() > LINES {
        return Err(FieldError::new(field, format!("has more than {LINES} lines")));
    }
    list.iter()
        .enumerate()
        .map(|(index, line)| range(&format!("{field}[{index}]"), line))
        .collect()
}

fn range(field: &str, line: &LinuxIdMapping) -> Result<IdRange, FieldError> {
    let range = IdRange {
        inside: line.container_id(),
        outside: line.host_id(),
        count: line.size(),
    };
    let ends = [range.inside, range.outside].map(|first| first.checked_add(range.count));
    if range.count == 0 {
        Err(FieldError::new(format!("{field}.size"), "is 0"))
    } else if ends.contains(&None) {
        Err(FieldError::new(format!("{field}.size"), "reaches beyond the last id"))
    } else {
        Ok(range)
    }
}

/// The id outside for one inside, if the map has it.
pub(crate) fn outside(ranges: &[IdRange], inside: u32) -> Option<u32> {
    ranges.iter().find_map(|range| {
        let offset = inside
            .checked_sub(range.inside)
            .filter(|offset| *offset < range.count)?;
        range.outside.checked_add(offset)
    })
}

/// The map as the kernel reads it (`/proc/PID/uid_map`).
pub(crate) fn text(ranges: &[IdRange]) -> String {
    let line = |range: &IdRange| format!("{} {} {}\n", range.inside, range.outside, range.count);
    ranges.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(json: &str) -> Vec<LinuxIdMapping> {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn ids_are_found_through_the_map() {
        let map = ranges(
            "f",
            &list(r#"[{"containerID":0,"hostID":1000,"size":1},{"containerID":1,"hostID":100000,"size":10}]"#),
        );
        let map = map.unwrap();
        for (inside, expected) in [(0, Some(1000)), (1, Some(100_000)), (10, Some(100_009)), (11, None)] {
            assert_eq!(outside(&map, inside), expected, "{inside}");
        }
        assert_eq!(text(&map), "0 1000 1\n1 100000 10\n");
    }

    #[test]
    fn lines_that_make_no_sense_are_refused_by_name() {
        for json in [
            r#"[{"containerID":0,"hostID":0,"size":0}]"#,
            r#"[{"containerID":4294967295,"hostID":0,"size":2}]"#,
            r#"[{"containerID":0,"hostID":4294967295,"size":2}]"#,
        ] {
            assert_eq!(ranges("m", &list(json)).unwrap_err().field, "m[0].size", "{json}");
        }
    }
}
