//! Tables for what is refused before anything is done, and random input that must never do more.

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
        ("no namespace", full("ADD"), &good, 8),
        ("unknown field", full("ADD"), &with("bridge", json!("cni0")), 2),
        ("broken chain", full("ADD"), &with("prevResult", json!({"ips": 7})), 7),
        (
            "a device",
            full("ADD"),
            &with("runtimeConfig", json!({"deviceID": "0000:00:01.0"})),
            2,
        ),
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

/// A small generator of random numbers (xorshift), the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 11).unwrap() % sides
    }

    fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        from[self.roll(from.len())]
    }

    fn bytes(&mut self, longest: usize) -> Vec<u8> {
        (0..self.roll(longest))
            .map(|_| self.0.to_le_bytes()[self.roll(8)])
            .collect()
    }

    fn text(&mut self) -> String {
        const TEXTS: [&str; 16] = [
            "",
            "eth0",
            "abc",
            "a/b",
            "..",
            "10.0.0.9",
            "10.0.0.0/24",
            "fd00::/64",
            "::",
            "02:00:00:00:00:01",
            "tcp",
            "IP=10.0.0.9;IgnoreUnknown=1",
            "MAC=;;=",
            "1.1.0",
            "0.3.1",
            "\u{0}\u{ffff}",
        ];
        match self.roll(4) {
            0 => String::from_utf8_lossy(&self.bytes(24)).into_owned(),
            _ => self.pick(&TEXTS).to_owned(),
        }
    }

    fn value(&mut self, depth: usize) -> Value {
        let leaves = if depth == 0 { 6 } else { 9 };
        match self.roll(leaves) {
            0 => Value::Null,
            1 => Value::from(self.roll(2) == 0),
            2 => Value::from(self.0.cast_signed()),
            3 => Value::from(self.roll(70_000)),
            4 | 5 => Value::from(self.text()),
            6 => (0..self.roll(4)).map(|_| self.value(depth - 1)).collect(),
            _ => (0..self.roll(4))
                .map(|_| (self.pick(&KEYS).to_owned(), self.value(depth - 1)))
                .collect(),
        }
    }

    /// A configuration with some fields changed, as bytes, some of them broken now and then.
    fn stdin(&mut self) -> Vec<u8> {
        let mut config = config();
        config["runDir"] = json!("/nonexistent/orlop");
        for _ in 0..self.roll(4) {
            let key = self.pick(&KEYS);
            let place = match self.roll(3) {
                0 => &mut config["runtimeConfig"],
                1 if config["args"].is_null() => &mut config["args"]["cni"],
                _ => &mut config,
            };
            if place.is_object() || place.is_null() {
                place[key] = self.value(3);
            }
        }
        let mut bytes = config.to_string().into_bytes();
        for _ in 0..self.roll(8).saturating_sub(5) {
            let place = self.roll(bytes.len().max(1));
            match self.roll(3) {
                0 => bytes.truncate(place),
                1 => bytes.splice(place..place, self.bytes(6)).for_each(drop),
                _ => bytes
                    .iter_mut()
                    .skip(place)
                    .take(1)
                    .for_each(|byte| *byte ^= 1 << (place % 8)),
            }
        }
        bytes
    }

    /// Verbs and namespaces with which no input can change the kernel's network: the namespace does not exist.
    fn environment(&mut self) -> Environment {
        let mut environment = full(self.pick(&["ADD", "ADD", "CHECK", "STATUS", "VERSION", "", "add"]));
        for _ in 0..self.roll(3) {
            let key = self.pick(&[
                "CNI_CONTAINERID",
                "CNI_IFNAME",
                "CNI_ARGS",
                "CNI_PATH",
                "CNI_NETNS_OVERRIDE",
            ]);
            let value = self.text();
            environment.insert(key.to_owned(), value);
        }
        environment
    }
}

const KEYS: [&str; 32] = [
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
    "nonMasqueradeCIDRs",
    "peers",
    "ips",
    "mac",
    "portMappings",
    "bandwidth",
    "aliases",
    "cgroupPath",
    "hostPort",
    "containerPort",
    "protocol",
    "hostIP",
    "interfaces",
    "routes",
    "addresses",
    "servers",
    "ingressRate",
    "ingressBurst",
];

/// A million of them with `ORLOP_CASES=1000000`.
#[test]
fn random_calls_are_answered_with_one_document_or_none() {
    let cases = std::env::var("ORLOP_CASES").map_or(20_000, |cases| cases.parse().unwrap());
    let mut dice = Dice(0x6f72_6c6f_7021);
    let mut codes = BTreeMap::<u64, usize>::new();
    for case in 0..cases {
        let (environment, stdin) = (dice.environment(), dice.stdin());
        let outcome = run(&environment, || Ok(stdin.clone()));
        let document = outcome.stdout.unwrap_or_default();
        let code = document.get("code").and_then(Value::as_u64);
        let context = || format!("case {case}: {environment:?} {}", String::from_utf8_lossy(&stdin));
        assert_eq!(outcome.exit_code, u8::from(code.is_some()), "{}", context());
        assert!(
            document.is_null() || document.get("cniVersion").is_some(),
            "{}",
            context()
        );
        *codes.entry(code.unwrap_or(0)).or_default() += 1;
    }
    eprintln!("{cases} calls by their codes: {codes:?}");
    // The cases reach beyond the first check.
    assert!(
        [0, 1, 2, 4, 6, 7, 8].iter().all(|code| codes.contains_key(code)),
        "{codes:?}"
    );
}
