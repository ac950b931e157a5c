//! The harness itself, on the real kernel: namespaces, cgroups and the leak audit of them.
#![forbid(unsafe_code)]

use std::net::{TcpListener, TcpStream};
use std::process::Command;

use tests::{LeakAudit, NetworkNamespace, Scratch};

#[test]
fn a_namespace_is_fresh_and_its_loopback_works() {
    tests::require_root!();
    let namespace = NetworkNamespace::new();
    namespace.run(|| {
        let listener = TcpListener::bind("127.0.0.1:80").unwrap();
        TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    });
}

#[test]
fn a_process_left_in_a_namespace_is_a_leak() {
    tests::require_root!();
    let scratch = Scratch::new("netns-leak");
    let namespace = NetworkNamespace::new();
    let audit = LeakAudit::begin(&scratch, &[&namespace]);
    let mut child = namespace.run(|| Command::new("sleep").arg("60").spawn().unwrap());
    let report = audit.difference().expect("the sleeping process is seen");
    assert!(report.contains("sleep 60"), "{report}");
    child.kill().unwrap();
    child.wait().unwrap();
    audit.finish();
}

#[test]
fn a_cgroup_left_behind_is_a_leak() {
    tests::require_root!();
    let scratch = Scratch::new("cgroup-leak");
    let audit = LeakAudit::begin(&scratch, &[]);
    let cgroup = scratch.cgroup();
    let report = audit.difference().expect("the cgroup is seen");
    assert!(report.contains(&format!("cgroup {}", cgroup.display())), "{report}");
    std::fs::remove_dir(cgroup).unwrap();
    audit.finish();
}

#[test]
fn a_pinned_directory_is_a_leak() {
    tests::require_root!();
    let scratch = Scratch::new("bpf-leak");
    // Mounting the bpf file system is not the leak that this looks for.
    std::fs::remove_dir(scratch.bpf_dir()).unwrap();
    let audit = LeakAudit::begin(&scratch, &[]);
    std::fs::create_dir(scratch.bpf_dir().join("maps")).unwrap();
    let report = audit.difference().expect("the directory is seen");
    assert!(report.contains("pinned object maps"), "{report}");
    std::fs::remove_dir_all(scratch.bpf_dir()).unwrap();
    audit.finish();
}
