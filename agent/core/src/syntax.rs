//! The names that Kubernetes allows, with the API server's words for what is wrong (apimachinery/pkg/util/validation).

const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start \
    and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
    '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const DNS_1035: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an \
    alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for \
    validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', \
    and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
    '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const QUALIFIED: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with \
    an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
    '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', \
    and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for \
    validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const CONFIG_KEY: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  \
    or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";

/// The rule that a value breaks, in words.
pub(crate) type Broken = Result<(), String>;

/// An RFC 1123 label: a namespace, a container, a hostname.
pub(crate) fn label(value: &str) -> Broken {
    at_most(63, value)?;
    says(is_label(value), LABEL)
}

/// An RFC 1035 label: a Service.
pub(crate) fn dns_1035_label(value: &str) -> Broken {
    at_most(63, value)?;
    says(
        is_label(value) && value.starts_with(|c: char| c.is_ascii_lowercase()),
        DNS_1035,
    )
}

/// An RFC 1123 subdomain: a Pod, a ConfigMap.
pub(crate) fn subdomain(value: &str) -> Broken {
    at_most(253, value)?;
    says(value.split('.').all(is_label), SUBDOMAIN)
}

/// A key of a label or an annotation: `[subdomain/]name`.
pub(crate) fn qualified_name(value: &str) -> Broken {
    let name = match value.split_once('/') {
        None => value,
        Some(("", _)) => return Err("prefix part must be non-empty".to_owned()),
        Some((prefix, name)) => {
            subdomain(prefix).map_err(|rule| format!("prefix part {rule}"))?;
            name
        }
    };
    if name.is_empty() {
        return Err("name part must be non-empty".to_owned());
    }
    at_most(63, name).map_err(|rule| format!("name part {rule}"))?;
    says(is_loose(name), QUALIFIED)
}

/// A label's value.
pub(crate) fn label_value(value: &str) -> Broken {
    at_most(63, value)?;
    says(value.is_empty() || is_loose(value), LABEL_VALUE)
}

/// A key of a ConfigMap.
pub(crate) fn config_key(value: &str) -> Broken {
    at_most(253, value)?;
    if value == "." || value == ".." || value.starts_with("..") {
        return Err("must not be '.' and must not start with '..'".to_owned());
    }
    says(!value.is_empty() && value.bytes().all(is_loose_byte), CONFIG_KEY)
}

/// The name of an environment variable: printable ASCII without `=`.
pub(crate) fn env_name(value: &str) -> Broken {
    let is_fine = !value.is_empty() && value.bytes().all(|byte| matches!(byte, b' '..=b'~') && byte != b'=');
    says(
        is_fine,
        "a valid environment variable name must consist only of printable ASCII characters other than '='",
    )
}

/// The name of a container's port (an IANA service name).
pub(crate) fn port_name(value: &str) -> Broken {
    if value.len() > 15 {
        return Err("must be no more than 15 characters".to_owned());
    }
    says(
        is_label(value),
        "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)",
    )?;
    says(
        value.bytes().any(|byte| byte.is_ascii_lowercase()),
        "must contain at least one letter (a-z)",
    )?;
    says(!value.contains("--"), "must not contain consecutive hyphens")
}

/// A port number.
pub(crate) fn port(value: i32) -> Result<u16, String> {
    match u16::try_from(value) {
        Ok(number @ 1..) => Ok(number),
        Ok(0) | Err(_) => Err("must be between 1 and 65535, inclusive".to_owned()),
    }
}

fn says(holds: bool, rule: &str) -> Broken {
    if holds { Ok(()) } else { Err(rule.to_owned()) }
}

fn at_most(bytes: usize, value: &str) -> Broken {
    if value.len() > bytes {
        Err(format!("must be no more than {bytes} characters"))
    } else {
        Ok(())
    }
}

fn is_label(value: &str) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = value.as_bytes();
    bytes.first().is_some_and(|&byte| is_letter(byte))
        && bytes.last().is_some_and(|&byte| is_letter(byte))
        && bytes.iter().all(|&byte| is_letter(byte) || byte == b'-')
}

fn is_loose(value: &str) -> bool {
    let bytes = value.as_bytes();
    bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
        && value.bytes().all(is_loose_byte)
}

fn is_loose_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_kubernetes_takes() {
        let long = "a".repeat(64);
        type Rule = fn(&str) -> Broken;
        let table: [(&str, Rule, &[&str], &[&str]); 8] = [
            (
                "label",
                label,
                &["a", "1", "my-name"],
                &["", "A", "-a", "a-", "a.b", "a_b", &long],
            ),
            ("service", dns_1035_label, &["a", "a1"], &["1a", "", "A", &long]),
            (
                "subdomain",
                subdomain,
                &["a", "a.b-c.1", &long],
                &["", "a..b", ".a", "A.b"],
            ),
            (
                "qualified",
                qualified_name,
                &["app", "App_1", "a.b/c"],
                &["", "/a", "a/", "A/b", "a/b/c", "-a", &long],
            ),
            ("value", label_value, &["", "A_b.c-1"], &["-a", "a b", &long]),
            (
                "key",
                config_key,
                &["a", ".hidden", "A_b.c-1"],
                &["", ".", "..", "..a", "a b", "a/b"],
            ),
            ("env", env_name, &["A", "a.b-c d", "1"], &["", "A=B", "é", "a\n"]),
            (
                "port",
                port_name,
                &["http", "a-1"],
                &["", "1", "a--b", "-a", "a234567890123456", "HTTP"],
            ),
        ];
        for (name, rule, good, bad) in table {
            good.iter()
                .for_each(|value| assert_eq!(rule(value), Ok(()), "{name} {value:?}"));
            bad.iter()
                .for_each(|value| assert!(rule(value).is_err(), "{name} {value:?}"));
        }
        assert_eq!(port(443), Ok(443));
        assert!(port(0).is_err() && port(65_536).is_err() && port(-1).is_err());
    }
}
