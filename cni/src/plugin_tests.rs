//! Tables for what is refused before anything is done, and random input that must never do more.

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn environment(pairs: &[(&str, &str)]) -> Environment {
    pairs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

fn full(command: &str) -> Environment {
    environment(&[
        ("CNI_COMMAND", command),
        ("CNI_CONTAINERID", "abc"),
        ("CNI_NETNS", "/nonexistent/netns"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_PATH", "/opt/cni/bin"),
    ])
}

fn config() -> Value {
    json!({"cniVersion": "1.1.0", "name": "n", "type": "orlop-cni", "podCIDRs": ["10.0.0.0/24"]})
}

fn code(environment: &Environment, stdin: &str) -> (u64, String) {
    let outcome = run(environment, || Ok(stdin.as_bytes().to_vec()));
    assert_eq!(outcome.exit_code, 1);
    let document = outcome.stdout.unwrap();
    (
        document["code"].as_u64().unwrap(),
        document["msg"].as_str().unwrap().to_owned(),
    )
}

#[test]
fn the_environment_is_checked_before_the_configuration_is_read() {
    let unread = || -> std::io::Result<Vec<u8>> { panic!("standard input was read") };
    for (environment, reason) in [
        (environment(&[("CNI_COMMAND", "FOO")]), "unknown CNI_COMMAND: FOO"),
        (environment(&[("CNI_COMMAND", "")]), "unknown CNI_COMMAND: "),
        (
            environment(&[("CNI_COMMAND", "ADD"), ("CNI_CONTAINERID", "a"), ("CNI_PATH", "/")]),
            "required env variables [CNI_NETNS,CNI_IFNAME] missing",
        ),
        (
            environment(&[("CNI_COMMAND", "GC")]),
            "required env variables [CNI_PATH] missing",
        ),
    ] {
        let outcome = run(&environment, unread);
        let document = outcome.stdout.unwrap();
        assert_eq!((&document["code"], &document["msg"]), (&json!(4), &json!(reason)));
        assert_eq!(document["cniVersion"], "1.1.0");
    }
}

#[test]
fn version_reads_nothing() {
    let outcome = run(&environment(&[("CNI_COMMAND", "VERSION")]), || {
        panic!("standard input was read")
    });
    let expected = json!({"cniVersion": "1.1.0", "supportedVersions": ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]});
    assert_eq!(
        outcome,
        Outcome {
            stdout: Some(expected),
            exit_code: 0
        }
    );
}

#[test]
fn wrong_input_has_the_code_of_the_specification() {
    let with = |key: &str, value: Value| {
        let mut config = config();
        config[key] = value;
        config.to_string()
    };
    let but = |key: &str, value: &str| {
        let mut environment = full("ADD");
        environment.insert(key.to_owned(), value.to_owned());
        environment
    };
    let good = config().to_string();
    for (case, environment, stdin, expected) in [
        ("no JSON", full("ADD"), "{", 6),
        ("no object", full("ADD"), "[]", 6),
        ("no name", full("ADD"), "{\"cniVersion\":\"1.0.0\"}", 7),
        ("unknown version", full("ADD"), &with("cniVersion", json!("2.0.0")), 1),
        ("bad id", but("CNI_CONTAINERID", "a/b"), &good, 4),
        ("long ifname", but("CNI_IFNAME", "sixteen-bytes-ab"), &good, 4),
        ("bad args", but("CNI_ARGS", "IP"), &good, 4),
        ("bad address in args", but("CNI_ARGS", "IP=1.2.3"), &good, 4),
        ("unknown args", but("CNI_ARGS", "FOO=1"), &good, 4),
        ("own namespace", but("CNI_NETNS", "/proc/self/ns/net"), &good, 8),
        ("unknown field", full("ADD"), &with("bridge", json!("cni0")), 2),
        ("chained", full("ADD"), &with("prevResult", json!({"ips": []})), 2),
        ("check without result", full("CHECK"), &good, 7),
        ("check of 0.3.1", full("CHECK"), &with("cniVersion", json!("0.3.1")), 1),
        (
            "status of 1.0.0",
            full("STATUS"),
            &with("cniVersion", json!("1.0.0")),
            1,
        ),
        ("gc without list", full("GC"), &good, 7),
    ] {
        let (code, message) = code(&environment, stdin);
        assert_eq!(code, expected, "{case}: {message}");
    }
}

#[test]
fn failures_are_told_in_the_version_of_the_configuration() {
    let mut config = config();
    config["cniVersion"] = json!("0.4.0");
    config["bridge"] = json!("cni0");
    let outcome = run(&full("ADD"), || Ok(config.to_string().into_bytes()));
    assert_eq!(outcome.stdout.unwrap()["cniVersion"], "0.4.0");
}

#[test]
fn unreadable_standard_input_is_code_5() {
    let outcome = run(&full("ADD"), || Err(std::io::Error::other("gone")));
    let document = outcome.stdout.unwrap();
    assert_eq!((&document["code"], &document["details"]), (&json!(5), &json!("gone")));
}

#[test]
fn args_ask_for_an_address_and_may_carry_what_is_to_be_ignored() {
    let address = requested_by_args("IgnoreUnknown=1;K8S_POD_NAME=a;IP=10.0.0.9;K8S_POD_UID=b").unwrap();
    assert_eq!(address, Some("10.0.0.9".parse().unwrap()));
    assert_eq!(requested_by_args(""), Ok(None));
    assert_eq!(requested_by_args("K8S_POD_NAME=a;IgnoreUnknown=true"), Ok(None));
}

/// Verbs and namespaces with which no input can reach the kernel's network: the namespace does not exist.
fn harmless() -> impl Strategy<Value = Environment> {
    let text = || prop_oneof![Just(String::new()), "[a-zA-Z0-9/.;=:_ -]{0,20}", ".{0,20}"];
    let verb = prop::sample::select(vec!["ADD", "CHECK", "VERSION", "", "add", "ADDX"]);
    (verb, text(), text(), text()).prop_map(|(verb, id, ifname, args)| {
        let mut environment = full(verb);
        environment.insert("CNI_CONTAINERID".to_owned(), id);
        environment.insert("CNI_IFNAME".to_owned(), ifname);
        environment.insert("CNI_ARGS".to_owned(), args);
        environment
    })
}

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[0-9a-f.:/]{0,20}".prop_map(Value::from),
        ".{0,10}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-z]{1,6}", inner, 0..4).prop_map(|map| map.into_iter().collect()),
        ]
    })
}

const KEYS: [&str; 14] = [
    "cniVersion",
    "name",
    "podCIDRs",
    "serviceCIDRs",
    "mtu",
    "linkKind",
    "capabilities",
    "runtimeConfig",
    "prevResult",
    "args",
    "dns",
    "ipMasq",
    "cni.dev/valid-attachments",
    "other",
];

fn check_outcome(outcome: &Outcome) -> Result<(), TestCaseError> {
    let document = outcome.stdout.clone().unwrap_or_default();
    prop_assert_eq!(outcome.exit_code, u8::from(document.get("code").is_some()));
    prop_assert!(document.get("cniVersion").is_some());
    Ok(())
}

proptest! {
    #[test]
    fn random_bytes_are_answered_with_one_document(
        environment in harmless(),
        stdin in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        check_outcome(&run(&environment, || Ok(stdin)))?;
    }

    #[test]
    fn random_fields_are_answered_with_one_document(
        environment in harmless(),
        key in prop::sample::select(KEYS.to_vec()),
        value in json_value(),
    ) {
        let mut config = config();
        config["runDir"] = json!("/nonexistent/orlop");
        config[key] = value;
        check_outcome(&run(&environment, || Ok(config.to_string().into_bytes())))?;
    }
}
