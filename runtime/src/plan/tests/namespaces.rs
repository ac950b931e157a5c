//! Plans in user and time namespaces, with labels, and of added processes.

use serde_json::{Value, json};

use super::*;

/// [`base`] in a user namespace of its own.
fn in_user_namespace() -> Value {
    let mut spec = base();
    let list = spec["linux"]["namespaces"].as_array_mut().unwrap();
    list.push(json!({ "type": "user" }));
    for name in ["uidMappings", "gidMappings"] {
        spec["linux"][name] = json!([{ "containerID": 0, "hostID": 1000, "size": 1 }]);
    }
    spec
}

/// A user of the host without rights.
const NOBODY: Privileges = Privileges {
    mounts: false,
    devices: false,
    maps_ids: false,
    sets_groups: true,
    uid: 1000,
    gid: 1000,
};

#[test]
fn others_are_kept_out_unless_who_made_it_would_be_and_nobody_else_is_there() {
    let keeps_out = |spec: Value, privileges| {
        let plan = plan_for(spec, Terminal::None, privileges).unwrap();
        let becomes = |planned: &Planned| matches!(planned.step, InitStep::BecomeUndumpable);
        plan.steps.iter().any(becomes)
    };
    assert!(keeps_out(in_user_namespace(), Privileges::all()));
    assert!(!keeps_out(in_user_namespace(), NOBODY));
    let mut joining = in_user_namespace();
    joining["linux"]["namespaces"][1]["path"] = json!("/pid");
    assert!(keeps_out(joining, NOBODY));
    assert!(keeps_out(base(), NOBODY));
}

#[test]
fn in_a_user_namespace_the_maps_come_first_and_devices_are_the_hosts() {
    let plan = plan_of(in_user_namespace(), Terminal::None).unwrap();
    assert_eq!(position(&plan, "wait for the maps of the user namespace"), 0);
    assert_ne!(plan.namespaces & libc::CLONE_NEWUSER, 0);
    assert!(position(&plan, "prepare to mount proc on /proc") < position(&plan, "pivot to the root filesystem"));
    assert!(position(&plan, "become root of the user namespace") < position(&plan, "prepare to mount proc on /proc"));
    position(&plan, "bind /dev/null on /dev/null");
    assert!(!described(&plan).join("\n").contains("make the device"));
}

#[test]
fn who_may_not_mount_leaves_it_to_the_child_while_the_host_is_in_sight() {
    let mut spec = in_user_namespace();
    let mounts = spec["mounts"].as_array_mut().unwrap();
    mounts.push(json!({ "destination": "/d", "source": "/data", "options": ["bind"] }));
    let plan = plan_for(spec.clone(), Terminal::None, NOBODY).unwrap();
    let pivot = position(&plan, "pivot to the root filesystem");
    for words in [
        "prepare to bind /data on /d",
        "prepare to bind /dev/null on /dev/null",
        "take /bundle/rootfs from the host",
    ] {
        assert!(position(&plan, words) < pivot, "{words}");
    }
    spec["process"]["user"]["additionalGids"] = json!([5]);
    let error = plan_for(spec, Terminal::None, NOBODY).unwrap_err();
    assert_eq!(error.field, "process.user.additionalGids");
}

#[test]
fn with_a_user_namespace_existing_ones_are_entered_by_the_maker() {
    let mut spec = in_user_namespace();
    spec["linux"]["namespaces"][3]["path"] = json!("/net");
    spec["linux"]["namespaces"][1]["path"] = json!("/pid");
    let plan = plan_of(spec, Terminal::None).unwrap();
    let door: Vec<_> = plan.door.iter().map(|file| file.path.to_str().unwrap()).collect();
    assert_eq!((door, plan.pid_namespace), (vec!["/pid", "/net"], None));
    let steps: Vec<_> = plan.steps.iter().map(|planned| planned.step.describe()).collect();
    assert!(!steps.join("\n").contains("join the namespace"));
}

/// A descriptor in the place of a container's process or root.
fn init() -> OwnedFd {
    std::fs::File::open("/dev/null").unwrap().into()
}

#[test]
fn labels_are_written_through_a_procfs_that_was_there_before_the_containers() {
    let plan = plan_with("/process/apparmorProfile", json!("x")).unwrap();
    let open = position(&plan, "open a procfs apart from the container's");
    assert!(open < position(&plan, "pivot to the root filesystem"));
    let spec: Spec = serde_json::from_value(base()).unwrap();
    let mut process = spec.process().clone().unwrap();
    process.set_apparmor_profile(Some("x".into()));
    let mut facts = facts_of_exec();
    assert_eq!(
        exec(&spec, &process, (init(), None), facts).unwrap_err().field,
        "process.apparmorProfile"
    );
    facts.modules.apparmor = true;
    let plan = exec(&spec, &process, (init(), None), facts).unwrap();
    let open = position(&plan, "open a procfs apart from the container's");
    assert!(open < position(&plan, "join the container's namespaces"));
}

#[test]
fn the_mount_label_is_an_option_of_filesystems_whose_files_have_none() {
    let plan = plan_with("/linux/mountLabel", json!("label")).unwrap();
    let labelled: Vec<_> = plan
        .steps
        .iter()
        .filter_map(|planned| {
            let InitStep::Mount(new) = &planned.step else {
                return None;
            };
            let is_labelled = new.options.iter().any(|(key, _)| key.as_c_str() == c"context");
            is_labelled.then(|| new.kind.to_str().unwrap().to_owned())
        })
        .collect();
    assert_eq!(labelled, ["tmpfs"]);
}

#[test]
fn what_is_made_besides_is_labelled_too() {
    let mut spec = base();
    spec["process"]["selinuxLabel"] = json!("of the process");
    spec["linux"]["mountLabel"] = json!("of its files");
    spec["linux"]["maskedPaths"] = json!(["/proc/acpi"]);
    let mqueue = json!({ "destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue" });
    spec["mounts"].as_array_mut().unwrap().push(mqueue);
    let plan = plan_of(spec, Terminal::None).unwrap();
    position(&plan, "make a session keyring with the label \"of the process\"");
    position(
        &plan,
        "prepare to mount mqueue on /dev/mqueue with the label \"of its files\"",
    );
    let exec = described(&plan).pop().unwrap();
    assert!(exec.ends_with("with the label \"of the process\""), "{exec}");
    let mut masks = plan.steps.iter().filter_map(|planned| {
        let InitStep::MaskPath { label, .. } = &planned.step else {
            return None;
        };
        label.as_deref()
    });
    assert_eq!(masks.next(), Some(c"of its files"));
}

#[test]
fn the_affinity_is_for_added_processes() {
    let mut spec = base();
    spec["process"]["execCPUAffinity"] = json!({ "initial": "0", "final": "0-1" });
    let plan = plan_of(spec.clone(), Terminal::None).unwrap();
    assert!(!described(&plan).join("\n").contains("affinity"));
    let every = "have every CPU that there is for it";
    position(&plan, every);
    let spec: Spec = serde_json::from_value(spec).unwrap();
    let plan = exec(&spec, spec.process().as_ref().unwrap(), (init(), None), facts_of_exec()).unwrap();
    assert_eq!(plan.affinity, Some(vec![1]));
    position(&plan, "set the CPU affinity");
    assert!(!described(&plan).join("\n").contains(every));
}

#[test]
fn clocks_are_set_in_a_time_namespace_of_its_own_only() {
    let mut spec = base();
    spec["linux"]["timeOffsets"] = json!({ "monotonic": { "secs": 5, "nanosecs": 1 }, "boottime": { "secs": -1 } });
    assert_eq!(
        plan_of(spec.clone(), Terminal::None).unwrap_err().field,
        "linux.timeOffsets"
    );
    spec["linux"]["namespaces"]
        .as_array_mut()
        .unwrap()
        .push(json!({ "type": "time" }));
    let plan = plan_of(spec.clone(), Terminal::None).unwrap();
    let InitStep::NewTimeNamespace { offsets } = &plan.steps[0].step else {
        panic!("the first step is {}", plan.steps[0].step.describe())
    };
    assert_eq!(offsets.to_str().unwrap(), "boottime -1 0\nmonotonic 5 1\n");
    spec["linux"]["timeOffsets"] = json!({ "realtime": { "secs": 5 } });
    assert_eq!(
        plan_of(spec, Terminal::None).unwrap_err().field,
        "linux.timeOffsets.realtime"
    );
}

/// CVE-2023-25809: the cgroup may belong to who is root inside.
#[test]
fn the_hosts_view_of_a_cgroup_is_read_only_in_a_user_namespace() {
    for (spec, expected) in [(base(), 0), (in_user_namespace(), libc::MOUNT_ATTR_RDONLY)] {
        let mut spec = spec;
        let mounts = spec["mounts"].as_array_mut().unwrap();
        mounts.push(json!({ "destination": "/c", "type": "cgroup", "options": ["rw"] }));
        let plan = plan_of(spec, Terminal::None).unwrap();
        let bind = plan.steps.iter().find_map(|planned| {
            let InitStep::Bind(bind) = &planned.step else {
                return None;
            };
            bind.target.is("/c").then_some(bind)
        });
        assert_eq!(bind.unwrap().tree.flags.named.set & libc::MOUNT_ATTR_RDONLY, expected);
    }
}

#[test]
fn where_others_see_the_mounts_the_root_is_changed_for_the_container_alone() {
    for mount in [None, Some(json!({ "type": "mount", "path": "/mnt" }))] {
        let mut spec = base();
        let list = spec["linux"]["namespaces"].as_array_mut().unwrap();
        list.retain(|namespace| namespace["type"] != "mount");
        list.extend(mount);
        let plan = plan_of(spec, Terminal::None).unwrap();
        assert_eq!(plan.namespaces & libc::CLONE_NEWNS, 0);
        let words = described(&plan).join("\n");
        assert!(!words.contains("mounts private") && !words.contains("pivot"), "{words}");
        let change = position(&plan, "change to the root filesystem");
        assert!(position(&plan, "open the root filesystem") < position(&plan, "mount proc on /proc"));
        assert!(position(&plan, "mount proc on /proc") < change);
        assert!(change < position(&plan, "change to the directory /"));
    }
    let mut spec = in_user_namespace();
    let list = spec["linux"]["namespaces"].as_array_mut().unwrap();
    list.retain(|namespace| namespace["type"] != "mount");
    assert_eq!(plan_of(spec, Terminal::None).unwrap_err().field, "linux.namespaces");
}

#[test]
fn an_added_process_has_the_root_of_the_container_where_the_namespace_has_another() {
    let mut spec = base();
    spec["linux"]["namespaces"] = json!([]);
    let spec: Spec = serde_json::from_value(spec).unwrap();
    let process = spec.process().as_ref().unwrap();
    let plan = exec(&spec, process, (init(), Some(init())), facts_of_exec()).unwrap();
    position(&plan, "change to the container's root");
    assert!(!described(&plan).join("\n").contains("join"));
    let error = exec(&spec, process, (init(), None), facts_of_exec()).unwrap_err();
    assert_eq!(error.field, "root");
}

#[test]
fn a_namespace_of_somebody_else_is_entered_again_before_the_rights_are_given_up() {
    let mut spec = in_user_namespace();
    spec["linux"]["namespaces"][3]["path"] = json!("/net");
    let spec: Spec = serde_json::from_value(spec).unwrap();
    let plan = exec(&spec, spec.process().as_ref().unwrap(), (init(), None), facts_of_exec()).unwrap();
    let [door] = plan.door.as_slice() else {
        panic!("{:?}", plan.door)
    };
    assert_eq!(door.kind, libc::CLONE_NEWUSER | libc::CLONE_NEWPID | libc::CLONE_NEWNET);
    let entered = plan.steps.iter().find_map(|planned| {
        let InitStep::JoinContainerByFiles { files, .. } = &planned.step else {
            return None;
        };
        Some(
            files
                .iter()
                .map(|file| (file.kind, file.path.as_path()))
                .collect::<Vec<_>>(),
        )
    });
    let expected = [(libc::CLONE_NEWNS, "ns/mnt"), (libc::CLONE_NEWUTS, "ns/uts")];
    assert_eq!(entered.unwrap(), expected.map(|(kind, path)| (kind, Path::new(path))));
}
