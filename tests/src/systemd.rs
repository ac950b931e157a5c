//! A systemd of a test's own: PID 1 of its own namespaces, in the test's cgroup; and below it one of a user's.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::{Scratch, cgroup_controllers, cgroup_root, eventually};

/// How long it may take to come up or go.
const PATIENCE: Duration = Duration::from_secs(20);

/// What systemd finds is a machine of its own, with the files of this one, which it must leave as they are: it knows no
/// unit but an empty target and those that the second argument's script adds, so that it starts nothing else (the tmpfiles
/// service of Debian would empty /tmp). The third argument is one for unshare(1) besides.
const SCRIPT: &str = "echo 0 > $1/cgroup.procs && exec unshare $3 --pid --fork --kill-child --mount --cgroup --uts \
     --ipc --net --mount-proc --propagation private sh -c 'mount -t tmpfs none /run && mkdir /run/lock /run/units && \
     echo \"[Unit]\" > /run/units/only.target && . '$2' && mount --rbind -o ro /etc /etc && \
     mount --bind -o ro /var /var && { umount -l /sys/fs/cgroup || mount -t tmpfs none /sys/fs/cgroup; \
     mount -t cgroup2 none /sys/fs/cgroup; } && \
     exec env -i container=lxc PATH=/usr/bin:/bin:/usr/sbin:/sbin SYSTEMD_UNIT_PATH=/run/units \
     SYSTEMD_GENERATOR_PATH=/run/units SYSTEMD_ENVIRONMENT_GENERATOR_PATH=/run/units \
     /usr/lib/systemd/systemd --system --unit=only.target --log-target=null --show-status=false'";

/// What the script adds for a user, `UID`: their systemd, which may do no more than any process of theirs, and the buses that
/// the two systemds are on as on any machine.
const USERS: &str = r#"
user=/run/user/UID
{ cat /etc/passwd; echo nobody-in-particular:x:UID:UID::/:/bin/sh; } > /run/passwd
mount --bind /run/passwd /etc/passwd
mkdir -p /run/user-units /run/dbus $user && chown UID:UID $user && chmod 700 $user
for kind in system session; do
    echo "<busconfig><type>$kind</type><listen>systemd:</listen><auth>EXTERNAL</auth><policy context='default'>
          <allow user='*'/><allow own='*'/><allow send_destination='*' eavesdrop='true'/><allow eavesdrop='true'/>
          </policy></busconfig>" > /run/$kind.conf
done
# A bus, its socket and the target that wants them: directory, socket, configuration, what else is wanted.
units() {
    printf '[Unit]\nDefaultDependencies=no\nRequires=dbus.service %s\n' "$4" > $1/only.target
    printf '[Unit]\nDefaultDependencies=no\n[Socket]\nListenStream=%s\n' "$2" > $1/dbus.socket
    printf '[Unit]\nDefaultDependencies=no\nRequires=dbus.socket\n[Service]\nType=notify\nStandardOutput=null\nExecStart=%s\n' \
        "/usr/bin/dbus-daemon --config-file=$3 --address=systemd: --nofork --nopidfile --systemd-activation" > $1/dbus.service
}
units /run/units /run/dbus/system_bus_socket /run/system.conf user.service
units /run/user-units $user/bus /run/session.conf
cat > /run/units/user.service <<END
[Unit]
DefaultDependencies=no
Requires=dbus.service
After=dbus.service
[Service]
Type=notify
User=UID
Delegate=yes
StandardOutput=null
Environment=HOME=/ XDG_RUNTIME_DIR=$user SYSTEMD_UNIT_PATH=/run/user-units SYSTEMD_GENERATOR_PATH=/run/user-units
Environment=SYSTEMD_ENVIRONMENT_GENERATOR_PATH=/run/user-units
ExecStart=/usr/lib/systemd/systemd --user --unit=only.target --log-target=null
END
"#;

/// The systemd. It ends on drop, with all that is in its cgroup.
#[derive(Debug)]
pub struct Systemd {
    outside: Child,
    /// PID 1 of the inside, as this process sees it.
    pid: u32,
    /// What to enter besides, for nsenter(1).
    enter: &'static [&'static str],
    cgroup: PathBuf,
}

impl Systemd {
    /// Where its program is.
    pub const PROGRAM: &str = "/usr/lib/systemd/systemd";

    /// The cgroup of a user's, below the test's.
    pub const USERS: &str = "system.slice/user.service";

    /// Starts one in the cgroup of a test.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn start(scratch: &Scratch) -> Self {
        Self::start_with(scratch, "", None)
    }

    /// Starts one in a user namespace of its own, where nobody is known but root.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn start_in_user_namespace(scratch: &Scratch) -> Self {
        let mut systemd = Self::start_with(scratch, "", Some("--map-root-user"));
        systemd.enter = &["--user", "--preserve-credentials"];
        systemd
    }

    /// Starts one with one of the user with this number.
    ///
    /// # Panics
    /// When either does not come up.
    pub fn start_with_users(scratch: &Scratch, uid: u32) -> Self {
        let systemd = Self::start_with(scratch, &USERS.replace("UID", &uid.to_string()), None);
        let manager = "org.freedesktop.systemd1";
        let ask = ["busctl", "--user", "introspect", manager, "/org/freedesktop/systemd1"];
        let before = systemd.inside_as(uid);
        eventually(PATIENCE, "the user's systemd is on its bus", || {
            let line = before.iter().map(String::as_str).chain(ask);
            is_ok(line)
        });
        systemd
    }

    /// With what a shell script adds to `/run/units`.
    fn start_with(scratch: &Scratch, script: &str, unshared: Option<&str>) -> Self {
        // It finds what controllers the machine has.
        for name in cgroup_controllers() {
            write(&cgroup_root().join("cgroup.subtree_control"), &format!("+{name}"));
        }
        let units = scratch.input().join("units.sh");
        write(&units, script);
        let cgroup = scratch.cgroup();
        let mut command = Command::new("sh");
        command
            .args(["-c", SCRIPT, "sh"])
            .arg(&cgroup)
            .arg(units)
            .args(unshared);
        let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let outside = command.spawn().expect("there is a shell");
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
        assert!(
            is_ok(["sh", "-c", &leave].into_iter()),
            "its parent stays in its cgroup"
        );
        let is_up = || inside().filter(|pid| Path::new(&socket(*pid)).exists());
        let pid = eventually(PATIENCE, "systemd is up", is_up);
        Self {
            outside,
            pid,
            enter: &[],
            cgroup,
        }
    }

    /// What stands before a command that is to run inside. Who asks systemd for a cgroup is in one of its own.
    pub fn inside(&self) -> Vec<String> {
        let enter = format!(
            "mkdir -p {0} && echo 0 > {0}/cgroup.procs && exec \"$@\"",
            self.cgroup.join("caller").display()
        );
        let pid = self.pid.to_string();
        let nsenter = ["nsenter", "--target", &pid, "--mount", "--pid", "--cgroup"];
        let line = ["sh", "-c", &enter, "sh"].into_iter().chain(nsenter);
        let line = line.chain(self.enter.iter().copied());
        line.map(String::from).collect()
    }

    /// The same for a command of the user who has a systemd. Their session is a cgroup outside of that one's.
    pub fn inside_as(&self, uid: u32) -> Vec<String> {
        let mut line = self.inside();
        let uid = uid.to_string();
        let user = ["--setuid", &uid, "--setgid", &uid, "env"].map(String::from);
        line.extend(user);
        line.push(format!("XDG_RUNTIME_DIR=/run/user/{uid}"));
        line
    }

    /// A path of the inside as this process sees it.
    pub fn path(&self, inside: &str) -> PathBuf {
        format!("/proc/{}/root{inside}", self.pid).into()
    }

    /// The cgroup of a scope as the host sees it; none when there is no such.
    pub fn scope(&self, slice: &str, name: &str) -> Option<PathBuf> {
        let path = self.cgroup.join(slice).join(name);
        path.exists().then_some(path)
    }
}

impl Drop for Systemd {
    fn drop(&mut self) {
        let _ = fs::write(self.cgroup.join("cgroup.kill"), "1");
        let _ = self.outside.wait();
        let root = self.path("/run");
        eventually(PATIENCE, "systemd has ended", || !root.exists());
        // Depth first.
        let script = "find \"$1\" -mindepth 1 -depth -type d -exec rmdir {} + 2> /dev/null";
        let cgroup = self.cgroup.display().to_string();
        eventually(PATIENCE, "its slices are empty and removed", || {
            is_ok(["sh", "-c", script, "sh", &cgroup].into_iter())
        });
    }
}

fn is_ok<'a>(mut line: impl Iterator<Item = &'a str>) -> bool {
    let mut command = Command::new(line.next().unwrap_or_default());
    command.args(line).stdin(Stdio::null());
    command.output().is_ok_and(|output| output.status.success())
}

#[track_caller]
fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap_or_else(|error| panic!("write {}: {error}", path.display()));
}
