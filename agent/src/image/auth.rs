//! What a registry asks for in `WWW-Authenticate`, and the request that answers it. Pure.
//!
//! RFC 9110 §11.6.1 for the header, the distribution project's "token authentication" for bearer tokens.

/// How a registry wants to be authenticated to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    /// Fetch a token from `realm`.
    Bearer {
        realm: String,
        service: Option<String>,
        scope: Option<String>,
    },
    /// Send user name and password.
    Basic,
}

/// More parameters than any registry sends.
const PARAMETERS: usize = 32;

/// The challenge to answer: bearer before basic, however the registry orders them. `None` if there is none that we know.
pub(super) fn parse(header: &str) -> Option<Challenge> {
    let challenges = split(header)?;
    let scheme = |name: &str| challenges.iter().find(|(scheme, _)| scheme.eq_ignore_ascii_case(name));
    let bearer = scheme("bearer").and_then(|(_, parameters)| {
        let get = |key: &str| {
            let found = parameters.iter().find(|(name, _)| name.eq_ignore_ascii_case(key));
            found.map(|(_, value)| value.clone()).filter(|value| !value.is_empty())
        };
        Some(Challenge::Bearer {
            realm: get("realm")?,
            service: get("service"),
            scope: get("scope"),
        })
    });
    bearer.or_else(|| scheme("basic").map(|_| Challenge::Basic))
}

type Scheme = (String, Vec<(String, String)>);

/// `Scheme key=value, key="value", Scheme …`
fn split(mut rest: &str) -> Option<Vec<Scheme>> {
    let mut schemes: Vec<Scheme> = Vec::new();
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        if rest.is_empty() {
            return Some(schemes);
        }
        let (token, after) = token(rest)?;
        let Some(value) = after.trim_start().strip_prefix('=') else {
            schemes.push((token.to_owned(), Vec::new()));
            rest = after;
            continue;
        };
        let (value, after) = value_of(value.trim_start())?;
        let (_, parameters) = schemes.last_mut()?;
        if parameters.len() == PARAMETERS {
            return None;
        }
        parameters.push((token.to_owned(), value));
        rest = after;
    }
}

fn token(text: &str) -> Option<(&str, &str)> {
    let end = text
        .find(|c: char| !c.is_ascii_alphanumeric() && !"!#$%&'*+-.^_`|~".contains(c))
        .unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

/// A token or a quoted string with backslash escapes.
fn value_of(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
        return Some((text[..end].to_owned(), &text[end..]));
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => value.push(characters.next()?.1),
            _ => value.push(character),
        }
    }
    None
}

/// The address of a token for pulling from `repository`.
pub(super) fn token_url(realm: &str, service: Option<&str>, scope: Option<&str>, repository: &str) -> String {
    let scope = scope.map_or_else(|| format!("repository:{repository}:pull"), str::to_owned);
    let service = service
        .map(|service| format!("service={}&", encode(service)))
        .unwrap_or_default();
    let joint = if realm.contains('?') { '&' } else { '?' };
    format!("{realm}{joint}{service}scope={}", encode(&scope))
}

/// Percent-encodes all that has a meaning in a query (RFC 3986 §2.3).
fn encode(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:/".contains(&byte);
    text.bytes()
        .map(|byte| {
            if is_plain(byte) {
                char::from(byte).to_string()
            } else {
                format!("%{byte:02X}")
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Option<Challenge> {
        let [service, scope] = [service, scope].map(|text| text.map(str::to_owned));
        Some(Challenge::Bearer {
            realm: realm.to_owned(),
            service,
            scope,
        })
    }

    #[test]
    fn challenges_of_real_and_of_odd_registries() {
        for (header, expected) in [
            (
                r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/busybox:pull""#,
                bearer(
                    "https://auth.docker.io/token",
                    Some("registry.docker.io"),
                    Some("repository:library/busybox:pull"),
                ),
            ),
            (r#"bearer REALM=https://a/t"#, bearer("https://a/t", None, None)),
            (
                r#"Bearer realm = "https://a/\"t\"" , service="""#,
                bearer("https://a/\"t\"", None, None),
            ),
            (
                r#"Basic realm="x", Bearer realm="https://a/t""#,
                bearer("https://a/t", None, None),
            ),
            (r#"Basic realm="Registry""#, Some(Challenge::Basic)),
            (r#"Basic"#, Some(Challenge::Basic)),
            (r#"Bearer service="no realm""#, None),
            (r#"Negotiate"#, None),
            (r#"Bearer realm="unterminated"#, None),
            (r#"realm="without a scheme""#, None),
            (r#"="#, None),
            ("", None),
        ] {
            assert_eq!(parse(header), expected, "{header}");
        }
        assert_eq!(
            parse(&format!("Bearer {}", "a=b,".repeat(100))),
            None,
            "too many parameters"
        );
    }

    #[test]
    fn token_addresses() {
        let url = token_url("https://a/token", Some("my registry"), None, "library/busybox");
        assert_eq!(
            url,
            "https://a/token?service=my%20registry&scope=repository:library/busybox:pull"
        );
        let url = token_url("https://a/token?x=1", None, Some("repository:a:pull,push&y=2"), "a");
        assert_eq!(url, "https://a/token?x=1&scope=repository:a:pull%2Cpush%26y%3D2");
    }

    proptest::proptest! {
        #[test]
        fn parsing_never_panics(header: String) {
            let _ = parse(&header);
        }
    }
}
