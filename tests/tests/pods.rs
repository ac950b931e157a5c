//! Pods from manifest to end, driven through the real `orlop` on the real kernel.
#![forbid(unsafe_code)]

#[path = "pods/network.rs"]
mod network;
#[path = "pods/node.rs"]
mod node;
#[path = "pods/ports.rs"]
mod ports;

use std::io::Write;
use std::process::Stdio;

use node::{PATIENCE, pod, stderr, with_node};
use tests::{eventually, require_root};

#[test]
fn a_pod_runs_logs_answers_exec_and_goes() {
    require_root!();
    with_node("pod", |node| {
        node.manifest(
            "web.yaml",
            &pod("web", "echo hello; echo there >&2; exec sleep 1000", ""),
        );
        let web = node.wait_ready("web");
        assert_eq!(web["status"]["phase"], "Running");
        let address = web["status"]["podIP"].as_str().unwrap();

        assert_eq!(node.ok(&["logs", "web", "--tail", "2"]).lines().count(), 2);
        assert!(
            node.ok(&["get", "pods"]).contains("web    1/1     Running   0"),
            "{}",
            node.ok(&["get", "pods"])
        );
        assert!(node.ok(&["get", "pods", "-o", "wide"]).contains(address));
        assert!(
            node.ok(&["describe", "pod", "web"]).contains("Started container")
                || node.ok(&["describe", "pod", "web"]).contains("Container started")
        );
        assert!(
            node.ok(&["exec", "web", "--", "cat", "/etc/hosts"])
                .ends_with(&format!("{address}\tweb\n"))
        );
        assert_eq!(node.ok(&["exec", "web", "--", "hostname"]), "web\n");

        let output = node.orlop(&["exec", "web", "--", "sh", "-c", "echo out; echo err >&2; exit 7"]);
        assert_eq!(
            (output.status.code(), String::from_utf8_lossy(&output.stdout).as_ref()),
            (Some(7), "out\n")
        );
        assert!(stderr(&output).starts_with("err\n"));
        assert_eq!(node.orlop(&["exec", "web", "--", "nowhere"]).status.code(), Some(127));
        assert!(node.fails(&["delete", "pod", "web"]).contains("web.yaml"));

        node.remove_manifest("web.yaml");
        node.wait_gone("web");
        node.assert_empty();
    });
}

#[test]
fn exec_passes_its_input_on() {
    require_root!();
    with_node("exec-input", |node| {
        node.manifest("a.yaml", &pod("a", "exec sleep 1000", ""));
        node.wait_ready("a");
        let mut exec = node.command(&["exec", "-i", "a", "--", "sha256sum"]);
        let mut exec = exec.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut input = exec.stdin.take().unwrap();
        // More than every buffer on the way holds.
        input.write_all(&vec![b'x'; 3 << 20]).unwrap();
        drop(input);
        let output = exec.wait_with_output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(text.split(' ').next().unwrap(), sha256_of_x(3 << 20));
    });
}

fn sha256_of_x(count: usize) -> String {
    use sha2::{Digest, Sha256};
    Sha256::digest(vec![b'x'; count])
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[test]
fn a_container_that_ends_restarts_with_back_off() {
    require_root!();
    with_node("restart", |node| {
        node.manifest("a.yaml", &pod("a", "echo attempt; exit 3", ""));
        eventually(PATIENCE, "the second restart waits", || {
            node.ok(&["get", "pods"]).contains("CrashLoopBackOff")
        });
        let status = node.pod("a")["status"]["containerStatuses"][0].clone();
        assert_eq!(status["lastState"]["terminated"]["exitCode"], 3, "{status}");
        assert_eq!(status["lastState"]["terminated"]["reason"], "Error", "{status}");
        assert!(node.ok(&["describe", "pod", "a"]).contains("BackOff"));
        let followed = node.follow("a", 2);
        assert_eq!(followed, ["attempt", "attempt"]);
        eventually(PATIENCE, "it has restarted", || {
            node.orlop(&["logs", "-p", "a"]).status.success()
        });
        assert_eq!(node.ok(&["logs", "-p", "a"]), "attempt\n");
    });
}

#[test]
fn a_pod_that_shall_not_restart_runs_to_its_end() {
    require_root!();
    with_node("never", |node| {
        node.manifest("a.yaml", &pod("a", "echo done", "  restartPolicy: Never\n"));
        eventually(PATIENCE, "the pod has succeeded", || {
            node.pod("a")["status"]["phase"] == "Succeeded"
        });
        assert!(
            node.ok(&["get", "pods"]).contains("0/1     Completed"),
            "{}",
            node.ok(&["get", "pods"])
        );
        assert_eq!(node.ok(&["logs", "-f", "a"]), "done\n");
    });
}

#[test]
fn variables_come_from_a_config_map_as_soon_as_it_is_there() {
    require_root!();
    with_node("config-map", |node| {
        let more = "    envFrom: [{configMapRef: {name: settings}}]\n";
        node.manifest("a.yaml", &pod("a", "echo $GREETING; exec sleep 1000", more));
        eventually(PATIENCE, "the pod says what it lacks", || {
            node.ok(&["get", "pods"]).contains("CreateContainerConfigError")
        });
        assert!(
            node.ok(&["describe", "pod", "a"])
                .contains("configmap \"settings\" not found")
        );
        let map = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: {GREETING: bonjour}\n";
        node.manifest("settings.yaml", map);
        node.wait_ready("a");
        eventually(PATIENCE, "the variable is printed", || {
            node.ok(&["logs", "a"]) == "bonjour\n"
        });
    });
}

#[test]
fn a_service_leads_to_both_its_pods_and_to_none_when_they_are_gone() {
    require_root!();
    with_node("service", |node| {
        let port = "    ports: [{name: http, containerPort: 8080}]\n";
        let serve = "mkdir /tmp/w; hostname > /tmp/w/index.html; exec httpd -f -p 8080 -h /tmp/w";
        for name in ["web-1", "web-2"] {
            let web = pod(name, serve, port).replace(&format!("app: {name}"), "app: web");
            node.manifest(&format!("{name}.yaml"), &web);
        }
        let service = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\n\
                       spec: {selector: {app: web}, ports: [{port: 80, targetPort: http}]}\n";
        node.manifest("service.yaml", service);
        node.manifest("client.yaml", &pod("client", "exec sleep 1000", ""));
        for name in ["web-1", "web-2", "client"] {
            node.wait_ready(name);
        }
        let address = eventually(PATIENCE, "the Service has an address", || {
            let service = node.json(&["get", "service", "web"]);
            service["spec"]["clusterIP"].as_str().map(str::to_owned)
        });
        let url = format!("http://{address}/");
        let fetch = ["exec", "client", "--", "wget", "-q", "-O", "-", &url];
        let mut seen = std::collections::BTreeSet::new();
        eventually(PATIENCE, "both pods have answered", || {
            let output = node.orlop(&fetch);
            seen.insert(String::from_utf8_lossy(&output.stdout).trim().to_owned());
            if ["web-1", "web-2"].iter().all(|name| seen.contains(*name)) {
                Ok(())
            } else {
                Err(stderr(&output))
            }
        });
        assert!(node.ok(&["describe", "service", "web"]).contains("forwarded"));
        for name in ["web-1", "web-2"] {
            node.remove_manifest(&format!("{name}.yaml"));
            node.wait_gone(name);
        }
        eventually(PATIENCE, "nobody answers", || {
            let said = stderr(&node.orlop(&fetch));
            if said.contains("refused") { Ok(()) } else { Err(said) }
        });
    });
}

#[test]
fn a_service_answers_while_no_agent_runs() {
    require_root!();
    with_node("no-agent", |node| {
        let port = "    ports: [{containerPort: 8080}]\n";
        node.manifest("web.yaml", &pod("web", "exec httpd -f -p 8080 -h /www", port));
        let service = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\n\
                       spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}\n";
        node.manifest("service.yaml", service);
        // Waits for the Service's variables by its name, and then counts its answers.
        let script = "until wget -q -O - http://$WEB_SERVICE_HOST/; do sleep 0.1; done; \
                      while sleep 0.1; do wget -q -O - http://$WEB_SERVICE_HOST/; done";
        node.wait_ready("web");
        node.manifest("client.yaml", &pod("client", script, ""));
        let client = node.wait_ready("client");
        let uid = client["metadata"]["uid"].as_str().unwrap();
        let log = node.path(&format!("log/default_client_{uid}/main/0.log"));
        let answers = || {
            std::fs::read_to_string(&log)
                .unwrap_or_default()
                .matches("hello")
                .count()
        };
        eventually(PATIENCE, "the Service answers", || answers() > 0);
        node.kill_agent();
        let before = answers();
        eventually(PATIENCE, "it goes on answering", || answers() > before + 5);
    });
}

#[test]
fn a_pod_on_the_hosts_network_has_its_addresses() {
    require_root!();
    with_node("host-network", |node| {
        node.manifest("a.yaml", &pod("a", "exec sleep 1000", "  hostNetwork: true\n"));
        node.wait_ready("a");
        let links = node.ok(&["exec", "a", "--", "ls", "/sys/class/net"]);
        assert!(!links.contains("eth0"), "{links}");
    });
}

/// Where there is a memory controller, the container is killed for memory; where there is none, the pod says so.
#[test]
fn a_memory_limit_holds_or_the_pod_says_that_it_does_not() {
    require_root!();
    with_node("memory", |node| {
        let limit = "    resources: {limits: {memory: 32Mi}}\n";
        let can_hold = tests::cgroup_controllers().iter().any(|name| name == "memory");
        let script = if can_hold { "tail /dev/zero" } else { "exec sleep 1000" };
        node.manifest("a.yaml", &pod("a", script, limit));
        if can_hold {
            eventually(PATIENCE, "the container is killed for memory", || {
                let status = node.pod("a")["status"]["containerStatuses"][0].clone();
                let ended = |state: &str| status[state]["terminated"]["reason"] == "OOMKilled";
                if ended("state") || ended("lastState") {
                    Ok(())
                } else {
                    Err(status)
                }
            });
        } else {
            node.wait_ready("a");
            let told = node.ok(&["describe", "pod", "a"]);
            assert!(told.contains("LimitsNotEnforced") && told.contains("memory"), "{told}");
            assert!(node.ok(&["describe", "node"]).contains("LimitsUnenforced"));
        }
    });
}

#[test]
fn a_bad_manifest_keeps_what_it_said_before_and_leaves_the_others_alone() {
    require_root!();
    with_node("bad-manifest", |node| {
        node.manifest("good.yaml", &pod("good", "exec sleep 1000", ""));
        node.manifest("turns.yaml", &pod("turns", "exec sleep 1000", ""));
        let uids = ["good", "turns"].map(|name| node.wait_ready(name)["metadata"]["uid"].clone());
        node.manifest("turns.yaml", &pod("turns", "exec sleep 1000", "    flavour: sweet\n"));
        node.manifest("torn.yaml", "kind: [Pod\n");
        node.manifest("huge.yaml", &"#".repeat(11 << 20));
        node.manifest("deep.json", &"[".repeat(100_000));
        eventually(PATIENCE, "every file is reported", || {
            let list = node.ok(&["get", "manifests"]);
            let is_told = |words: &&str| list.contains(*words);
            if ["flavour", "torn.yaml:", "huge.yaml: ", "deep.json:"]
                .iter()
                .all(is_told)
            {
                Ok(())
            } else {
                Err(list)
            }
        });
        assert!(node.ok(&["describe", "node"]).contains("flavour"));
        assert_eq!(
            ["good", "turns"].map(|name| node.wait_ready(name)["metadata"]["uid"].clone()),
            uids
        );
    });
}

#[test]
fn a_missing_image_is_told_on_its_pod_only() {
    require_root!();
    with_node("no-image", |node| {
        let absent = pod("absent", "true", "").replace(tests::image::BUSYBOX, "127.0.0.1:1/absent:1");
        node.manifest("absent.yaml", &absent);
        node.manifest("good.yaml", &pod("good", "exec sleep 1000", ""));
        node.wait_ready("good");
        eventually(PATIENCE, "the pod waits for its image", || {
            let list = node.ok(&["get", "pods"]);
            list.contains("ErrImagePull") || list.contains("ImagePullBackOff")
        });
        assert!(node.ok(&["describe", "pod", "absent"]).contains("Failed to pull image"));
    });
}

#[test]
fn applied_objects_are_kept_changed_and_deleted() {
    require_root!();
    with_node("apply", |node| {
        let file = node.path("input").join("a.yaml");
        let path = file.to_str().unwrap();
        std::fs::write(&file, pod("a", "echo one; exec sleep 1000", "")).unwrap();
        assert_eq!(node.ok(&["apply", "-f", path]), "pod/a created\n");
        assert_eq!(node.ok(&["apply", "-f", path]), "pod/a unchanged\n");
        node.wait_ready("a");
        std::fs::write(&file, pod("a", "echo two; exec sleep 1000", "")).unwrap();
        assert_eq!(node.ok(&["apply", "-f", path]), "pod/a configured\n");
        eventually(PATIENCE, "the new pod runs", || {
            String::from_utf8_lossy(&node.orlop(&["logs", "a"]).stdout) == "two\n"
        });
        std::fs::write(&file, pod("a", "true", "    flavour: sweet\n")).unwrap();
        let error = node.fails(&["apply", "-f", path]);
        assert!(
            error.contains(&format!("{path}:10:")) && error.contains("spec.containers[0].flavour"),
            "{error}"
        );
        assert_eq!(node.ok(&["delete", "pod", "a"]), "pod \"a\" deleted\n");
        assert!(node.pod("a").is_null());
    });
}

#[test]
fn a_pod_takes_new_labels_as_it_is_and_a_new_spec_as_a_new_pod() {
    require_root!();
    with_node("edited", |node| {
        let manifest = |app: &str, word: &str| {
            let text = pod("a", &format!("echo {word}; exec sleep 1000"), "");
            text.replace(
                "{name: a, labels: {app: a}}",
                &format!("{{name: a, uid: fixed, labels: {{app: {app}}}}}"),
            )
        };
        node.manifest("a.yaml", &manifest("one", "first"));
        let before = node.wait_ready("a");
        node.manifest("a.yaml", &manifest("two", "first"));
        eventually(PATIENCE, "the label has changed", || {
            node.pod("a")["metadata"]["labels"]["app"] == "two"
        });
        assert_eq!(node.shim_pid(&node.pod("a")), node.shim_pid(&before));
        node.manifest("a.yaml", &manifest("two", "second"));
        eventually(PATIENCE, "the new pod runs", || {
            String::from_utf8_lossy(&node.orlop(&["logs", "a"]).stdout) == "second\n"
        });
        let after = node.wait_ready("a");
        assert_eq!(after["metadata"]["uid"], "fixed");
        assert_eq!(after["status"]["containerStatuses"][0]["restartCount"], 0, "{after}");
    });
}

#[test]
fn a_new_agent_adopts_pods_without_a_restart() {
    require_root!();
    with_node("adopt", |node| {
        node.manifest("a.yaml", &pod("a", "echo once; exec sleep 1000", ""));
        node.manifest("b.yaml", &pod("b", "exec sleep 1000", ""));
        let before = node.wait_ready("a");
        node.wait_ready("b");
        let shim = node.shim_pid(&before);
        node.kill_agent();
        node.remove_manifest("b.yaml");
        node.start();
        let after = node.wait_ready("a");
        for field in [
            "/metadata/uid",
            "/status/podIP",
            "/status/containerStatuses/0/containerID",
            "/status/startTime",
        ] {
            assert_eq!(after.pointer(field), before.pointer(field), "{field}");
        }
        assert_eq!(node.shim_pid(&after), shim);
        assert_eq!(node.ok(&["logs", "a"]), "once\n");
        node.wait_gone("b");
    });
}

/// Kills the agent at twenty moments while it makes one pod after the other, and at some more while it ends them all.
#[test]
fn an_agent_that_is_killed_at_any_moment_leaves_work_that_the_next_completes() {
    require_root!();
    with_node("killed", |node| {
        let names: Vec<String> = (0..20).map(|number| format!("p{number}")).collect();
        for (number, name) in (0_u64..).zip(&names) {
            node.manifest(&format!("{name}.yaml"), &pod(name, "exec sleep 1000", ""));
            // Making a pod takes some 100 ms; the steps of 17 meet it everywhere.
            std::thread::sleep(std::time::Duration::from_millis(number * 17 % 190));
            node.kill_agent();
            node.start();
        }
        for name in &names {
            let pod = node.wait_ready(name);
            assert_eq!(
                pod["status"]["containerStatuses"][0]["restartCount"], 0,
                "{}",
                pod["status"]
            );
        }
        for (number, name) in (0_u64..).zip(&names) {
            node.remove_manifest(&format!("{name}.yaml"));
            if number % 4 == 3 {
                std::thread::sleep(std::time::Duration::from_millis(number * 13));
                node.kill_agent();
                node.start();
            }
        }
        names.iter().for_each(|name| node.wait_gone(name));
        node.assert_empty();
    });
}

#[test]
fn what_is_left_of_a_pod_without_a_record_goes() {
    require_root!();
    with_node("orphan", |node| {
        node.manifest("a.yaml", &pod("a", "echo first; exec sleep 1000", ""));
        let pod = node.wait_ready("a");
        let uid = pod["metadata"]["uid"].as_str().unwrap();
        node.kill_agent();
        node.remove_manifest("a.yaml");
        node.forget(&node.path(&format!("run/pods/{uid}")), &pod);
        node.start();
        eventually(PATIENCE, "nothing is left", || node.leftovers().is_empty());
    });
}

#[test]
fn a_lost_shim_takes_its_containers_along_and_the_pod_restarts() {
    require_root!();
    with_node("lost-shim", |node| {
        node.manifest("a.yaml", &pod("a", "exec sleep 1000", ""));
        let before = node.wait_ready("a");
        let pid: i32 = node.shim_pid(&before).parse().unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
        eventually(PATIENCE, "the container has restarted", || {
            node.pod("a")["status"]["containerStatuses"][0]["restartCount"] == 1
        });
        let after = node.wait_ready("a");
        let ended = &after["status"]["containerStatuses"][0]["lastState"]["terminated"];
        assert_eq!(
            (&ended["exitCode"], &ended["reason"]),
            (&137.into(), &"ShimLost".into()),
            "{ended}"
        );
        assert_eq!(after["status"]["podIP"], before["status"]["podIP"]);
        assert!(node.ok(&["describe", "pod", "a"]).contains("ShimLost"));
    });
}

#[test]
fn a_second_agent_on_the_same_run_directory_is_refused() {
    require_root!();
    with_node("second", |node| {
        let output = node.second_agent();
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains("another agent runs on"), "{}", stderr(&output));
    });
}
