//! The tables of what is honoured (`FEATURES.md`): each test that a row names is there, and each guard has a row.

use std::path::Path;

/// Words with so many underscores are names of tests, where the row is a guard's.
const UNDERSCORES: usize = 3;

/// What is wrong with a table, given every Rust file of the house.
pub(crate) fn complaints_about(table: &str, files: &[(String, String)]) -> Vec<String> {
    rows(table)
        .flat_map(|(number, row)| names(row).map(move |name| (number, name)))
        .filter(|(_, name)| !is_there(name, files))
        .map(|(number, name)| format!("line {number}: there is no test {name}"))
        .collect()
}

/// The guards of `enum Guard` that no row opens with.
pub(crate) fn guards_without_row(guards: &str, table: &str) -> Vec<String> {
    let body = guards.split_once("pub enum Guard {").map_or("", |(_, rest)| rest);
    let body = body.split_once("\n}").map_or("", |(body, _)| body);
    let variants = body.lines().map(str::trim).filter(|line| !line.starts_with("//"));
    let names = variants.filter_map(|line| line.split([',', ' ']).next().filter(|name| !name.is_empty()));
    let lacks = |name: &&str| !rows(table).any(|(_, row)| row.starts_with(&format!("| `{name}` |")));
    names
        .filter(lacks)
        .map(|name| format!("no row for the guard {name}"))
        .collect()
}

fn rows(table: &str) -> impl Iterator<Item = (usize, &str)> {
    let numbered = table.lines().enumerate().map(|(index, line)| (index + 1, line));
    numbered.filter(|(_, line)| line.starts_with('|'))
}

/// What a row has between backticks that can only be a test, or a module of tests.
fn names(row: &str) -> impl Iterator<Item = &str> {
    let quoted = row.split('`').skip(1).step_by(2);
    let is_guards = row.starts_with("| `") && row.chars().nth(3).is_some_and(|c| c.is_ascii_uppercase());
    quoted
        .map(|quoted| quoted.strip_prefix("unit: ").unwrap_or(quoted))
        .filter(move |name| is_name(name, is_guards))
}

fn is_name(text: &str, may_be_bare: bool) -> bool {
    let is_word = |word: &str| {
        word == "*"
            || word
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    };
    let mut words = text.split("::");
    let is_path = words.clone().count() > 1;
    let is_long = text.matches('_').count() >= UNDERSCORES;
    !text.is_empty() && words.all(is_word) && (is_path || (may_be_bare && is_long))
}

/// Whether a function, or a file, is called so, in a file or directory that is called as what stands before.
fn is_there(name: &str, files: &[(String, String)]) -> bool {
    let (places, last) = name.rsplit_once("::").unwrap_or(("", name));
    let place = places.rsplit("::").next().unwrap_or_default();
    let start = last.trim_end_matches('*');
    let function = format!("fn {start}");
    files
        .iter()
        .filter(|(path, _)| has_part(path, place))
        .any(|(path, text)| start.is_empty() || text.contains(&format!("{function}(")) || has_part(path, last))
}

fn has_part(path: &str, name: &str) -> bool {
    name.is_empty() || Path::new(path).with_extension("").iter().any(|part| part == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_names_tests_that_are_there() {
        let files = [(
            "tests/tests/runtime/user.rs".to_owned(),
            "fn root_is_another() {}\nfn a_b_c_d() {}".to_owned(),
        )];
        for (row, complaints) in [
            ("| x | `user::root_is_another` |", 0),
            (
                "| x | `unit: user::*`, `runtime::user` ‡, `of_something_else_entirely` |",
                0,
            ),
            ("| `Guard` | `a_b_c_d` |", 0),
            (
                "| `some::Type` and `--a-flag` | `user::root_is_nobody`, `mounts::*` |",
                2,
            ),
            ("| `Guard` | `mounts::root_is_another`, `e_f_g_h` |", 2),
            ("Outside of a table `user::nothing`.", 0),
        ] {
            assert_eq!(complaints_about(row, &files).len(), complaints, "{row}");
        }
    }

    #[test]
    fn a_guard_has_a_row() {
        let guards = "pub enum Guard {\n    /// One.\n    First = 1,\n    Second,\n}\n";
        assert_eq!(
            guards_without_row(guards, "| `First` | CVE |\n"),
            ["no row for the guard Second"]
        );
    }
}
