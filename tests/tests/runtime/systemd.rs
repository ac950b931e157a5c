//! The systemd driver, against a systemd of the test's own: PID 1 of its own namespaces, in the test's cgroup.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::json;
use tests::{Need, cgroup_controllers, cgroup_root, eventually, require};

use crate::bundle::{Bundle, PATIENCE, with_bundle};

const PROGRAM: &str = "/usr/lib/systemd/systemd";

/// What systemd finds is a machine of its own, with the files of this one, which it must leave as they are: it knows no
/// unit but an empty target, so that it starts nothing (the tmpfiles service of Debian would empty /tmp).
const SCRIPT: &str = "echo 0 > $1/cgroup.procs && exec unshare --pid --fork --kill-child --mount --cgroup --uts --ipc \
     --net --mount-proc --propagation private sh -c 'mount -t tmpfs none /run && mkdir /run/lock /run/units && \
     echo \"[Unit]\" > /run/units/only.target && mount --bind -o ro /etc /etc && mount --bind -o ro /var /var && \
     { umount -l /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup; } && \
     exec env -i container=lxc PATH=/usr/bin:/bin:/usr/sbin:/sbin SYSTEMD_UNIT_PATH=/run/units \
     SYSTEMD_GENERATOR_PATH=/run/units SYSTEMD_ENVIRONMENT_GENERATOR_PATH=/run/units \
     /usr/lib/systemd/systemd --system --unit=only.target --log-target=null --show-status=false'";

struct Systemd {
    outside: Child,
    /// PID 1 of the inside, as this process sees it.
    pid: u32,
    cgroup: PathBuf,
}

impl Systemd {
    fn start(bundle: &mut Bundle<'_>) -> Self {
        // It finds what controllers the machine has.
        for name in cgroup_controllers() {
            fs::write(cgroup_root().join("cgroup.subtree_control"), format!("+{name}")).unwrap();
        }
        let cgroup = bundle.scratch.cgroup();
        let mut command = Command::new("sh");
        command.args(["-c", SCRIPT, "sh"]).arg(&cgroup).stdin(Stdio::null());
        let outside = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let children = format!("/proc/{0}/task/{0}/children", outside.id());
        let inside = || fs::read_to_string(&children).unwrap_or_default().trim().parse().ok();
        let socket = |pid: u32| format!("/proc/{pid}/root/run/systemd/private");
        eventually(PATIENCE, "systemd's process is there", || inside().is_some());
        // Controllers are for the children of a cgroup without processes of its own; systemd leaves it by itself.
        let leave = format!(
            "mkdir {0} && echo {1} > {0}/cgroup.procs",
            cgroup.join("outside").display(),
            outside.id()
        );
        assert!(Command::new("sh").args(["-c", &leave]).status().unwrap().success());
        let is_up = || inside().is_some_and(|pid| Path::new(&socket(pid)).exists());
        eventually(PATIENCE, "systemd is up", is_up);
        let pid = inside().unwrap();
        // Who asks systemd for a cgroup is in one of its own.
        let enter = format!(
            "mkdir -p {0} && echo 0 > {0}/cgroup.procs && exec \"$@\"",
            cgroup.join("caller").display()
        );
        let pid_text = pid.to_string();
        let inside = ["nsenter", "--target", &pid_text, "--mount", "--pid", "--cgroup"];
        bundle.around.0 = ["sh", "-c", &enter, "sh"]
            .into_iter()
            .chain(inside)
            .map(String::from)
            .collect();
        bundle.around.1 = vec!["--systemd-cgroup".into()];
        Self { outside, pid, cgroup }
    }

    /// The cgroup of a scope as the host sees it; none when there is no such.
    fn scope(&self, slice: &str, name: &str) -> Option<PathBuf> {
        let path = self.cgroup.join(slice).join(name);
        path.exists().then_some(path)
    }
}

impl Drop for Systemd {
    fn drop(&mut self) {
        let _ = fs::write(self.cgroup.join("cgroup.kill"), "1");
        let _ = self.outside.wait();
        let root = format!("/proc/{}/root/run", self.pid);
        eventually(PATIENCE, "systemd has ended", || !Path::new(&root).exists());
        // Depth first.
        let script = "find \"$1\" -mindepth 1 -depth -type d -exec rmdir {} +";
        eventually(PATIENCE, "its slices are empty and removed", || {
            let mut remove = Command::new("sh");
            remove
                .args(["-c", script, "sh"])
                .arg(&self.cgroup)
                .stderr(Stdio::null());
            remove.status().unwrap().success()
        });
    }
}

#[test]
fn a_container_is_a_scope_of_its_slice_while_it_lives() {
    require!(Need::Root, Need::Path(PROGRAM), Need::Tool("nsenter"));
    with_bundle("systemd", |bundle| {
        let systemd = Systemd::start(bundle);
        bundle.set("/linux/cgroupsPath", json!("machine-test.slice:orlop:c1"));
        bundle.set(
            "/linux/resources",
            json!({ "pids": { "limit": 50 }, "memory": { "limit": 64 << 20 } }),
        );
        bundle.set(
            "/annotations",
            json!({
                "org.systemd.property.TimeoutStopUSec": "uint64 7000000",
                "org.systemd.property.After": "['only.target']",
                "org.systemd.property.KillSignal": "37",
            }),
        );
        bundle.create("exec sleep 1000");
        let scope = || systemd.scope("machine.slice/machine-test.slice", "orlop-c1.scope");
        let path = scope().expect("the scope is there");
        let members = fs::read_to_string(path.join("cgroup.procs")).unwrap();
        assert_eq!(members.lines().count(), 1, "the runtime has not gone back: {members}");
        bundle.ok("start", &["c1"]);
        let command = || fs::read_to_string(format!("/proc/{}/cmdline", members.trim())).unwrap_or_default();
        eventually(PATIENCE, "the program runs", || command().starts_with("sleep"));
        let show = |property: &str| {
            let inside = &bundle.around.0;
            let output = Command::new(&inside[0])
                .args(&inside[1..])
                .args(["systemctl", "show", "-P", property, "orlop-c1.scope"])
                .output()
                .unwrap();
            String::from_utf8(output.stdout).unwrap().trim().to_owned()
        };
        assert_eq!(
            (show("ActiveState"), show("Slice")),
            ("active".into(), "machine-test.slice".into())
        );
        assert_eq!(
            (show("TasksMax"), show("MemoryMax")),
            ("50".into(), (64 << 20).to_string())
        );
        assert_eq!(show("Delegate"), "yes");
        assert_eq!(
            (show("TimeoutStopUSec"), show("KillSignal")),
            ("7s".into(), "37".into())
        );
        assert!(show("After").contains("only.target"), "{}", show("After"));
        if cgroup_controllers().iter().any(|name| name == "cpu") {
            bundle.ok("update", &["--cpu-quota", "50000", "--cpu-period", "100000", "c1"]);
            assert_eq!(show("CPUQuotaPerSecUSec"), "500ms");
        }
        bundle.ok("pause", &["c1"]);
        bundle.ok("resume", &["c1"]);
        assert_eq!(
            bundle.ok("exec", &["c1", "grep", "-c", "^0::/$", "/proc/self/cgroup"]),
            "1\n"
        );
        bundle.ok("delete", &["--force", "c1"]);
        assert!(scope().is_none());
        eventually(PATIENCE, "systemd forgets it", || show("ActiveState") == "inactive");
    });
}

#[test]
fn a_container_that_can_not_be_made_leaves_no_scope() {
    require!(Need::Root, Need::Path(PROGRAM), Need::Tool("nsenter"));
    with_bundle("systemd-fail", |bundle| {
        let systemd = Systemd::start(bundle);
        bundle.set("/linux/cgroupsPath", json!("system.slice:orlop:c1"));
        bundle.set("/process/args", json!(["nothing"]));
        bundle.file("config.json", &bundle.config.to_string());
        let dir = bundle.dir();
        assert!(
            bundle
                .fails("create", &["--bundle", dir.to_str().unwrap(), "c1"])
                .contains("nothing")
        );
        assert!(systemd.scope("system.slice", "orlop-c1.scope").is_none());
        bundle.set("/linux/cgroupsPath", json!("/a/path"));
        bundle.file("config.json", &bundle.config.to_string());
        assert!(
            bundle
                .fails("create", &["--bundle", dir.to_str().unwrap(), "c1"])
                .contains("slice:prefix:name")
        );
        bundle.set("/linux/cgroupsPath", json!("system.slice:orlop:c1"));
        bundle.set("/annotations", json!({ "org.systemd.property.Slice": "'other.slice'" }));
        bundle.file("config.json", &bundle.config.to_string());
        let error = bundle.fails("create", &["--bundle", dir.to_str().unwrap(), "c1"]);
        assert!(error.contains("annotations.org.systemd.property.Slice"), "{error}");
    });
}
