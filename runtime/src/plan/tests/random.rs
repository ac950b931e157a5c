//! Changed configurations and processes: each is planned or refused, and what is planned is the same every time.

use std::fs::File;

use super::*;
use crate::cgroup::DeviceRules;
use crate::container::config;
use crate::container::explain::explain_for;
use crate::random;
use crate::spec::{Process, Spec};

/// Of those who may do everything and those who may do nothing.
fn privileges() -> [Privileges; 2] {
    let none = Privileges {
        mounts: false,
        devices: false,
        maps_ids: false,
        sets_groups: false,
        uid: 1000,
        gid: 1000,
    };
    [Privileges::all(), none]
}

#[test]
fn random_configurations_are_planned_or_refused() {
    let (mut read, mut planned) = (0, 0);
    random::inputs("config", |text| {
        let Ok(spec) = config::read::<Spec>(text) else { return };
        read += 1;
        let cgroup = Some(Path::new("/sys/fs/cgroup/c1"));
        let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
        let devices = resources
            .and_then(|resources| resources.devices().as_deref())
            .unwrap_or_default();
        if let Ok(rules) = DeviceRules::of(devices) {
            assert!(!rules.program().is_empty());
        }
        for privileges in privileges() {
            let plan = || explain_for(&spec, Path::new("/b"), cgroup, Manner::default(), privileges, u64::MAX);
            let explained = plan();
            planned += usize::from(explained.is_ok());
            assert_eq!(explained.ok(), plan().ok());
        }
    });
    eprintln!("{read} read, {planned} plans");
    assert!(read > 100 && planned > 100, "they do not reach beyond the first check");
}

#[test]
fn random_processes_are_added_or_refused() {
    let spec: Spec = serde_json::from_value(base()).unwrap();
    let (mut read, mut planned) = (0, 0);
    random::inputs("process", |text| {
        let Ok(process) = config::read::<Process>(text) else {
            return;
        };
        read += 1;
        for privileges in privileges() {
            let terminal = match process.terminal() {
                Some(true) => Terminal::NEW,
                _ => Terminal::None,
            };
            let facts = process_facts(terminal, privileges);
            let init = File::open("/dev/null").unwrap().into();
            if let Ok(plan) = exec(&spec, &process, (init, None), facts) {
                planned += 1;
                assert!(matches!(plan.steps.last().unwrap().step, InitStep::Execute(_)));
            }
        }
    });
    eprintln!("{read} read, {planned} plans");
    assert!(read > 100 && planned > 100, "they do not reach beyond the first check");
}
