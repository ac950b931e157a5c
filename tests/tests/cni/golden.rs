//! What is answered to calls that never get to work, by us and by Debian's `ptp` and `host-local`.

use std::path::Path;

use serde_json::{Value, json};
use tests::NetworkNamespace;

use crate::node::{Node, addresses, environment};

/// A call that never gets to work, and the code it fails with: ours, and that of the reference plugins.
struct Golden {
    case: &'static str,
    environment: Vec<(&'static str, String)>,
    stdin: String,
    ours: Option<u64>,
    reference: Option<u64>,
}

fn golden(config: &Value) -> Vec<Golden> {
    let good = environment("ADD", "abc", "/nonexistent").map(|(key, value)| (key, value.to_owned()));
    let but = |key: &'static str, value: &str| {
        let mut environment = good.to_vec();
        environment.retain(|(other, _)| *other != key);
        environment.push((key, value.to_owned()));
        environment
    };
    let with = |key: &str, value: Value| {
        let mut config = config.clone();
        config[key] = value;
        config.to_string()
    };
    let row = |case, environment, stdin, ours, reference| Golden {
        case,
        environment,
        stdin,
        ours,
        reference,
    };
    let text = config.to_string();
    let nameless = json!({"cniVersion": "1.0.0", "type": "orlop-cni"}).to_string();
    vec![
        row("no command", Vec::new(), String::new(), None, None),
        row(
            "unknown command",
            but("CNI_COMMAND", "FOO"),
            text.clone(),
            Some(4),
            Some(4),
        ),
        row("missing id", but("CNI_CONTAINERID", ""), text.clone(), Some(4), Some(4)),
        row("missing netns", but("CNI_NETNS", ""), text.clone(), Some(4), Some(4)),
        row("bad id", but("CNI_CONTAINERID", "a/b"), text.clone(), Some(4), Some(4)),
        row(
            "long ifname",
            but("CNI_IFNAME", "sixteen-bytes-ab"),
            text.clone(),
            Some(4),
            Some(4),
        ),
        row(
            "ifname with a colon",
            but("CNI_IFNAME", "a:b"),
            text.clone(),
            Some(4),
            Some(4),
        ),
        row("no JSON", good.to_vec(), "{".to_owned(), Some(6), Some(6)),
        row("no name", good.to_vec(), nameless, Some(7), Some(7)),
        row("bad name", good.to_vec(), with("name", json!("a/b")), Some(7), Some(7)),
        row(
            "unknown version",
            good.to_vec(),
            with("cniVersion", json!("2.0.0")),
            Some(1),
            Some(1),
        ),
        row(
            "CHECK of 0.3.1",
            but("CNI_COMMAND", "CHECK"),
            with("cniVersion", json!("0.3.1")),
            Some(1),
            Some(1),
        ),
        // The reference plugins answer 999 to nearly everything; the specification's numbers say more.
        row(
            "CHECK without prevResult",
            but("CNI_COMMAND", "CHECK"),
            text.clone(),
            Some(7),
            Some(999),
        ),
        row("namespace is gone", good.to_vec(), text.clone(), Some(8), Some(999)),
        row(
            "DEL of a namespace that is gone",
            but("CNI_COMMAND", "DEL"),
            text,
            None,
            None,
        ),
    ]
}

fn check_golden(node: &Node, config: &Value, expected: impl Fn(&Golden) -> Option<u64>) {
    for row in golden(config) {
        let environment: Vec<(&str, &str)> = row
            .environment
            .iter()
            .map(|(key, value)| (*key, value.as_str()))
            .collect();
        let answer = node.call(&environment, &row.stdin);
        assert_eq!(answer.failure(), expected(&row), "{}: {answer:?}", row.case);
        if answer.code == 0 {
            assert_eq!(answer.stdout, "", "{}", row.case);
        } else {
            assert!(!answer.json()["msg"].as_str().unwrap().is_empty(), "{}", row.case);
        }
    }
}

#[test]
fn failures_have_the_codes_of_the_specification() {
    tests::require_root!();
    let node = Node::new("golden");
    let config = node.with("cniVersion", json!("1.0.0"));
    check_golden(&node, &config, |row| row.ours);
    let own = node.namespace.path();
    assert_eq!(node.verb("ADD", "abc", &own, &config).failure(), Some(8));
    let about = node.spawn(&[], "").wait_with_output().unwrap();
    assert!(
        String::from_utf8(about.stderr)
            .unwrap()
            .contains("CNI protocol versions supported: 0.3.0")
    );
}

/// Of Debian's containernetworking-plugins.
const REFERENCE: &str = "/usr/lib/cni/ptp";

/// The same table for Debian's plugins, so that the table itself is tested, and one pod by each.
#[test]
fn the_reference_plugins_agree_but_for_the_listed_differences() {
    tests::require!(tests::Need::Root, tests::Need::Path(REFERENCE));
    compare_with(Path::new(REFERENCE));
}

/// The newest release of them, sid's, where `cargo xtask test` could fetch it. The VM has the disk's alone.
#[test]
fn the_newest_reference_plugins_agree_but_for_the_same_differences() {
    tests::require_root!();
    if let Some(dir) = std::env::var_os("ORLOP_NEWEST_PLUGINS").filter(|dir| !dir.is_empty()) {
        compare_with(&Path::new(&dir).join("ptp"));
    }
}

fn compare_with(reference: &Path) {
    let ours = Node::new("golden-ours");
    let mut theirs = Node::new("golden-ptp");
    theirs.plugin = reference.to_owned();
    theirs.config = json!({
        "cniVersion": "1.0.0",
        "name": "pods",
        "type": "ptp",
        "ipam": {
            "type": "host-local",
            "dataDir": theirs.scratch.input(),
            "ranges": [[{"subnet": "10.244.0.0/24"}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    });
    check_golden(&theirs, &theirs.config, |row| row.reference);
    let (a, b) = (NetworkNamespace::new(), NetworkNamespace::new());
    let mut config = ours.with("cniVersion", json!("1.0.0"));
    config["podCIDRs"] = json!(["10.244.0.0/24"]);
    let our_result = ours.verb("ADD", "abc", &a.path(), &config).succeeded().json();
    let their_result = theirs.add("abc", &b).succeeded().json();
    // Both list the node's interface first and point each address at the pod's. They differ in the address's prefix and
    // gateway: ours has neither a subnet nor a gateway of its own.
    for result in [&our_result, &their_result] {
        assert_eq!(result["cniVersion"], "1.0.0");
        assert_eq!(result["interfaces"].as_array().unwrap().len(), 2);
        assert_eq!(result["interfaces"][1]["name"], "eth0");
        assert_eq!(result["ips"][0]["interface"], 1);
        assert_eq!(addresses(result).len(), 1);
        assert_eq!(result["routes"][0]["dst"], "0.0.0.0/0");
    }
    let prefix = |result: &Value| {
        result["ips"][0]["address"]
            .as_str()
            .unwrap()
            .split('/')
            .nth(1)
            .unwrap()
            .to_owned()
    };
    assert_eq!(
        (prefix(&our_result), prefix(&their_result)),
        ("32".to_owned(), "24".to_owned())
    );
    assert_eq!(theirs.add("abc", &b).failure(), Some(999), "ADD twice");
    let again = ours.verb("ADD", "abc", &a.path(), &config);
    assert_eq!(again.failure(), Some(100), "ADD twice");
    theirs.del("abc");
    ours.del("abc");
}
