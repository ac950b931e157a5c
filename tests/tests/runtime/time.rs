//! Time namespaces.

use std::fs;

use serde_json::json;
use tests::require_root;

use crate::bundle::{Bundle, Finished, with_bundle};
use crate::exec::{exec, with_running};

/// A week, which no machine of these tests is up for by chance.
const WEEK: u64 = 7 * 24 * 3600;

fn set_off(bundle: &mut Bundle<'_>) {
    bundle.set("/linux/namespaces/-", json!({ "type": "time" }));
    let offset = json!({ "secs": WEEK, "nanosecs": 5 });
    bundle.set("/linux/timeOffsets", json!({ "boottime": offset, "monotonic": offset }));
}

fn uptime(text: &str) -> u64 {
    text.split('.').next().unwrap().trim().parse().unwrap()
}

fn ours() -> u64 {
    uptime(&fs::read_to_string("/proc/uptime").unwrap())
}

#[test]
fn its_clocks_are_set_off_from_the_hosts() {
    require_root!();
    with_bundle("time", |bundle| {
        set_off(bundle);
        let before = ours();
        let inside = uptime(&bundle.say("cat /proc/uptime"));
        assert!(
            (before + WEEK..=ours() + WEEK).contains(&inside),
            "{inside} and {before}"
        );
        let said = bundle.say("cat /proc/self/timens_offsets | sed 's/  */ /g'");
        assert_eq!(said, format!("monotonic {WEEK} 5\nboottime {WEEK} 5\n"));
    });
}

#[test]
fn an_added_process_and_one_that_joins_have_the_same_clocks() {
    require_root!();
    with_running("time-exec", set_off, |bundle, container| {
        let script = "readlink /proc/self/ns/time; cat /proc/uptime";
        let link = fs::read_link(format!("/proc/{}/ns/time", container.pid())).unwrap();
        let is_inside = |finished: &Finished| {
            let (namespace, inside) = finished.out.split_once('\n').unwrap();
            assert_eq!(link.to_str(), Some(namespace), "{finished:?}");
            assert!(uptime(inside) >= WEEK, "{finished:?}");
        };
        is_inside(&exec(bundle, &["c1", "sh", "-c", script]));
        let mut second = Bundle::of_state(bundle.scratch);
        let path = format!("/proc/{}/ns/time", container.pid());
        second.set("/linux/namespaces/-", json!({ "type": "time", "path": path }));
        second.set(
            "/linux/cgroupsPath",
            json!(format!("{}/c2", bundle.scratch.cgroup_parent())),
        );
        second.set("/process/args", json!(["sh", "-c", script]));
        is_inside(&Finished::of(&mut second.command("c2")));
    });
}

#[test]
fn in_a_user_namespace_it_belongs_to_that() {
    require_root!();
    with_bundle("time-user", |bundle| {
        set_off(bundle);
        crate::user::map(bundle, 100_000, 65536);
        assert!(uptime(&bundle.say("cat /proc/uptime")) >= WEEK);
    });
}
