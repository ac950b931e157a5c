//! What manifests are taken and what is said of those that are not, by table.

use agent_core::manifest::{MAX_FILE_BYTES, ManifestError, Object, parse};
use k8s_openapi::{
    api::core::v1::{Pod, Service},
    apimachinery::pkg::util::intstr::IntOrString,
};

const POD: &str = "\
apiVersion: v1
kind: Pod
metadata:
  name: web
  labels: {app: web, app.kubernetes.io/part-of: demo}
spec:
  containers:
  - name: app
    image: busybox:1.36
    args: [httpd, -f]
    ports:
    - containerPort: 80
      name: http
    env:
    - name: ME
      valueFrom: {fieldRef: {fieldPath: metadata.name}}
    resources:
      limits: {cpu: 1, memory: 64Mi}
";

fn errors(text: &str) -> Vec<ManifestError> {
    parse("a.yaml", text.as_bytes()).expect_err("the manifest is wrong")
}

fn first(text: &str) -> String {
    errors(text)[0].to_string()
}

/// What is said of `text`, when it does not begin as it should.
fn difference(text: &str, expected: &str) -> Option<String> {
    let found = first(text);
    (!found.starts_with(expected)).then(|| format!("{text}\n  said     {found}\n  expected {expected}\n"))
}

fn pod(text: &str) -> Pod {
    match parse("a.yaml", text.as_bytes())
        .expect("the manifest is good")
        .remove(0)
    {
        Object::Pod(pod) => *pod,
        Object::Service(_) | Object::ConfigMap(_) | Object::EndpointSlice(_) => panic!("not a pod"),
    }
}

/// The pod above with one line replaced.
fn with(line: &str, replacement: &str) -> String {
    assert!(POD.contains(line), "{line}");
    POD.replacen(line, replacement, 1)
}

#[test]
fn a_pod_gets_its_defaults() {
    let pod = pod(POD);
    let spec = pod.spec.unwrap();
    let container = &spec.containers[0];
    assert_eq!(pod.metadata.namespace.as_deref(), Some("default"));
    assert_eq!(spec.restart_policy.as_deref(), Some("Always"));
    assert_eq!(spec.termination_grace_period_seconds, Some(30));
    assert_eq!(spec.enable_service_links, Some(true));
    assert_eq!(container.image_pull_policy.as_deref(), Some("IfNotPresent"));
    assert_eq!(container.ports.as_ref().unwrap()[0].protocol.as_deref(), Some("TCP"));
    let requests = container.resources.as_ref().unwrap().requests.as_ref().unwrap();
    assert_eq!(
        (requests["cpu"].0.as_str(), requests["memory"].0.as_str()),
        ("1", "64Mi")
    );
}

#[test]
fn a_uid_follows_namespace_name_and_spec_and_nothing_else() {
    let uid = |text: &str| pod(text).metadata.uid.unwrap();
    let own = uid(POD);
    assert_eq!(own.len(), 36);
    assert_eq!(own, uid(&with("app: web", "app: other")));
    assert_eq!(
        own,
        uid(&with("    args: [httpd, -f]", "    args:\n    - httpd\n    - \"-f\""))
    );
    assert_ne!(own, uid(&with("name: web", "name: web2")));
    assert_ne!(own, uid(&with("  name: web", "  name: web\n  namespace: other")));
    assert_ne!(own, uid(&with("busybox:1.36", "busybox:1.37")));
    assert_eq!(uid(&with("  name: web", "  name: web\n  uid: my-own-1")), "my-own-1");
}

#[test]
fn a_file_holds_many_documents_and_comments_and_json() {
    let service = r#"{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
	"spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "http"}]}}"#;
    let map = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c, creationTimestamp: null}\ndata: {a.b: 'x', n: \"1\"}\nbinaryData: {b: aGk=}\n";
    let text = format!("# first\n---\n{POD}status: {{}}\n---\n---\n{service}\n---\n{map}...\n# last\n");
    let objects = parse("a.yaml", text.as_bytes()).unwrap();
    let names: Vec<String> = objects.iter().map(Object::identity).collect();
    assert_eq!(names, ["Pod default/web", "Service default/web", "ConfigMap default/c"]);
    let Object::Service(service) = &objects[1] else {
        panic!("a service")
    };
    let Service { spec: Some(spec), .. } = service.as_ref() else {
        panic!("a spec")
    };
    assert_eq!(spec.type_.as_deref(), Some("ClusterIP"));
    let port = &spec.ports.as_ref().unwrap()[0];
    assert_eq!(port.target_port, Some(IntOrString::String("http".to_owned())));
    let Object::ConfigMap(map) = &objects[2] else {
        panic!("a config map")
    };
    assert_eq!(map.binary_data.as_ref().unwrap()["b"].0, b"hi");
}

#[test]
fn a_service_port_is_its_own_target() {
    let text = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 53, protocol: UDP}]}";
    let objects = parse("a.yaml", text.as_bytes()).unwrap();
    let Object::Service(service) = &objects[0] else {
        panic!("a service")
    };
    assert_eq!(
        service.spec.as_ref().unwrap().ports.as_ref().unwrap()[0].target_port,
        Some(IntOrString::Int(53))
    );
}

#[test]
fn json_holds_characters_as_json_writes_them() {
    let text =
        r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"},"data":{"a":"\ud83d\ude00 \/ \u00e9\n"}}"#;
    let objects = parse("a.json", text.as_bytes()).unwrap();
    let Object::ConfigMap(map) = &objects[0] else {
        panic!("a config map")
    };
    assert_eq!(map.data.as_ref().unwrap()["a"], "\u{1f600} / \u{e9}\n");
}

#[test]
fn an_empty_file_is_no_object_and_no_error() {
    for text in ["", "\n", "# nothing\n", "---\n", "---\n---\n", "\u{feff}", "null\n"] {
        assert_eq!(parse("a.yaml", text.as_bytes()), Ok(Vec::new()), "{text:?}");
    }
}

#[test]
fn anchors_and_aliases_repeat_values() {
    let text = with("    args: [httpd, -f]", "    args: &a [httpd, -f]\n    command: *a");
    assert_eq!(
        pod(&text).spec.unwrap().containers[0].command.as_deref(),
        Some(&["httpd".to_owned(), "-f".to_owned()][..])
    );
}

#[test]
fn what_is_wrong_is_told_with_its_place() {
    let head = "apiVersion: v1\nkind: Pod\n";
    let table: &[(String, &str)] = &[
        (
            "a: [1, 2".to_owned(),
            "a.yaml:1:9: while parsing a flow sequence, expected ',' or ']'",
        ),
        ("a: b: c\n".to_owned(), "a.yaml:1:5: "),
        ("a:\n\t- b\n".to_owned(), "a.yaml:2:2: tabs disallowed"),
        (
            "- a\n".to_owned(),
            "a.yaml:1:1: must be a Kubernetes object: a mapping with apiVersion, kind and metadata",
        ),
        ("just text".to_owned(), "a.yaml:1:1: must be a Kubernetes object"),
        ("kind: Pod\n".to_owned(), "a.yaml:1:1: apiVersion: Required value"),
        ("apiVersion: v1\n".to_owned(), "a.yaml:1:1: kind: Required value"),
        (
            "apiVersion: v2\nkind: Pod\n".to_owned(),
            "a.yaml:1:13: apiVersion: unknown version \"v2\" of Pod: must be \"v1\"",
        ),
        (
            "apiVersion: apps/v1\nkind: Deployment\n".to_owned(),
            "a.yaml:2:7: kind: kind \"Deployment\" is not honoured yet: only Pod, Service, ConfigMap and EndpointSlice are",
        ),
        (
            format!("{head}metadata: {{name: a}}\n"),
            "a.yaml:1:1: spec.containers: Required value",
        ),
        (
            format!("{head}spec: {{containers: []}}\n"),
            "a.yaml:1:1: metadata.name: Required value",
        ),
        (
            with("kind: Pod", "kind: Pod\nkind: Pod"),
            "a.yaml:3:1: key \"kind\" is already set on line 2",
        ),
        (
            with("    image: busybox:1.36", "    image: a\n    image: b"),
            "a.yaml:10:5: key \"image\" is already set on line 9",
        ),
        (
            with("    image: busybox:1.36", "    imagee: a"),
            "a.yaml:9:5: spec.containers[0].imagee: unknown field: did you mean \"image\"?",
        ),
        (
            with("    image: busybox:1.36", "    volumeMonts: []"),
            "a.yaml:9:5: spec.containers[0].volumeMonts: unknown field: did you mean \"volumeMounts\"?",
        ),
        (
            with("    image: busybox:1.36", "    xyzzy: a"),
            "a.yaml:9:5: spec.containers[0].xyzzy: unknown field",
        ),
        (
            with("spec:", "spec:\n  volumes: []"),
            "a.yaml:7:3: spec.volumes: not honoured yet: leave the field out",
        ),
        (
            with("      name: http", "      hostPort: eighty"),
            "a.yaml:13:17: spec.containers[0].ports[0].hostPort: must be a whole number, not the text \"eighty\"",
        ),
        (
            with("    image: busybox:1.36", "    image: 5"),
            "a.yaml:9:12: spec.containers[0].image: must be text, not the number 5: put it in quotes",
        ),
        (
            with("args: [httpd, -f]", "args: [true]"),
            "a.yaml:10:12: spec.containers[0].args[0]: must be text, not the truth value true: put it in quotes",
        ),
        (
            with("args: [httpd, -f]", "args: httpd"),
            "a.yaml:10:11: spec.containers[0].args: must be a list, not the text \"httpd\"",
        ),
        (
            with("args: [httpd, -f]", "args: [a, null]"),
            "a.yaml:10:15: spec.containers[0].args[1]: must be text, not nothing",
        ),
        (
            with("containerPort: 80", "containerPort: \"80\""),
            "a.yaml:12:22: spec.containers[0].ports[0].containerPort: must be a whole number, not the text \"80\"",
        ),
        (
            with("containerPort: 80", "containerPort: 99999999999"),
            "a.yaml:12:22: spec.containers[0].ports[0].containerPort: invalid value",
        ),
        (
            with("containerPort: 80", "containerPort: 65536"),
            "a.yaml:12:22: spec.containers[0].ports[0].containerPort: Invalid value: 65536: must be between 1 and 65535, inclusive",
        ),
        (
            with("      name: http", "      hostPort: 65536"),
            "a.yaml:13:17: spec.containers[0].ports[0].hostPort: Invalid value: 65536: must be between 1 and 65535, inclusive",
        ),
        (
            with("      name: http", "      hostPort: 80\n      hostIP: here"),
            "a.yaml:14:15: spec.containers[0].ports[0].hostIP: Invalid value: \"here\": must be a valid IP address",
        ),
        (
            with(
                "      name: http",
                "      hostPort: 80\n    - {containerPort: 81, hostPort: 80}",
            ),
            "a.yaml:14:37: spec.containers[0].ports[1].hostPort: Duplicate value: \"TCP//80\"",
        ),
        (
            with("spec:", "spec:\n  hostNetwork: true").replace("name: http", "hostPort: 81"),
            "a.yaml:13:22: spec.containers[0].ports[0].containerPort: Invalid value: 80: must match `hostPort` when",
        ),
        (
            with("name: http", "name: HTTP"),
            "a.yaml:13:13: spec.containers[0].ports[0].name: Invalid value: \"HTTP\": must contain only alpha-numeric",
        ),
        (
            with("  - name: app", "  - name: App"),
            "a.yaml:8:11: spec.containers[0].name: Invalid value: \"App\": a lowercase RFC 1123 label must consist of",
        ),
        (
            with("  - name: app\n    image: busybox:1.36", "  - name: app"),
            "a.yaml:8:5: spec.containers[0].image: Required value",
        ),
        (
            with("  name: web", "  name: Web"),
            "a.yaml:4:9: metadata.name: Invalid value: \"Web\": a lowercase RFC 1123 subdomain must consist of",
        ),
        (
            with("app.kubernetes.io/part-of: demo", "app.kubernetes.io/part-of: -demo"),
            "a.yaml:5:49: metadata.labels[app.kubernetes.io/part-of]: Invalid value: \"-demo\": a valid label must",
        ),
        (
            with("spec:", "spec:\n  restartPolicy: Sometimes"),
            "a.yaml:7:18: spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"OnFailure\", \"Never\"",
        ),
        (
            with("spec:", "spec:\n  terminationGracePeriodSeconds: -1"),
            "a.yaml:7:34: spec.terminationGracePeriodSeconds: Invalid value: -1: must be greater than or equal to 0",
        ),
        (
            with("cpu: 1", "cpu: lots"),
            "a.yaml:18:21: spec.containers[0].resources.limits.cpu: Invalid value: \"lots\": quantities must match",
        ),
        (
            with("cpu: 1", "cpu: -1"),
            "a.yaml:18:21: spec.containers[0].resources.limits.cpu: Invalid value: \"-1\": must be greater than or equal to 0",
        ),
        (
            with("      limits:", "      requests: {memory: 1Gi}\n      limits:"),
            "a.yaml:18:17: spec.containers[0].resources.requests: Invalid value: \"1Gi\": must be less than or equal to memory limit of 64Mi",
        ),
        (
            with("fieldPath: metadata.name", "fieldPath: spec.foo"),
            "a.yaml:16:41: spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: Unsupported value: \"spec.foo\"",
        ),
        (
            with("- name: ME", "- name: A=B"),
            "a.yaml:15:13: spec.containers[0].env[0].name: Invalid value: \"A=B\": a valid environment variable name",
        ),
        (
            with(
                "    image: busybox:1.36",
                "    image: a\n    securityContext: {capabilities: {add: [FLY]}}",
            ),
            "a.yaml:10:44: spec.containers[0].securityContext.capabilities.add[0]: Invalid value: \"FLY\"",
        ),
        (
            with(
                "    image: busybox:1.36",
                "    image: a\n    securityContext: {privileged: true, allowPrivilegeEscalation: no}",
            ),
            "a.yaml:10:22: spec.containers[0].securityContext: Invalid value: cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
        ),
        (
            format!("{POD}---\n{POD}"),
            "a.yaml:20:1: Pod default/web is already in this file",
        ),
        (
            "a: &a [*a]\n".to_owned(),
            "a.yaml:1:8: an alias must not stand inside the value that it repeats",
        ),
        ("a: *b\n".to_owned(), "a.yaml:1:"),
        ("? [a]\n: b\n".to_owned(), "a.yaml:1:3: a key must be text"),
        (
            "a: {<<: {b: c}}\n".to_owned(),
            "a.yaml:1:5: merge keys (`<<`) are not honoured yet",
        ),
        ("a: !!binary aGk=\n".to_owned(), "a.yaml:1:"),
    ];
    let wrong: Vec<String> = table
        .iter()
        .filter_map(|(text, expected)| difference(text, expected))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn services_and_config_maps_are_checked() {
    let service = |spec: &str| format!("apiVersion: v1\nkind: Service\nmetadata: {{name: a}}\nspec:\n  {spec}\n");
    let map = |body: &str| format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: a}}\n{body}\n");
    let table = [
        (service("ports: []"), "a.yaml:5:10: spec.ports: Required value"),
        (
            service("type: NodePort\n  ports: [{port: 1}]"),
            "a.yaml:6:11: spec.ports[0].nodePort: Required value: choose one of 30000-32767; this node hands out none",
        ),
        (
            service("ports: [{port: 0}]"),
            "a.yaml:5:18: spec.ports[0].port: Invalid value: 0: must be between 1 and",
        ),
        (
            service("ports: [{port: 80, nodePort: 30000}]"),
            "a.yaml:5:32: spec.ports[0].nodePort: Invalid value: 30000: may not be used when `type` is 'ClusterIP'",
        ),
        (
            service("type: NodePort\n  ports: [{port: 80, nodePort: 80}]"),
            "a.yaml:6:32: spec.ports[0].nodePort: Invalid value: 80: must be in the range 30000-32767",
        ),
        (
            service("type: ExternalName\n  ports: [{port: 80}]"),
            "a.yaml:5:9: spec.type: Unsupported value: \"ExternalName\"",
        ),
        (
            service("externalTrafficPolicy: Local\n  ports: [{port: 80}]"),
            "a.yaml:5:26: spec.externalTrafficPolicy: Invalid value: \"Local\": may only be set for externally",
        ),
        (
            service("healthCheckNodePort: 30001\n  ports: [{port: 80}]"),
            "a.yaml:5:24: spec.healthCheckNodePort: Invalid value: 30001: may only be set when `type` is 'LoadBalancer'",
        ),
        (
            service(
                "type: LoadBalancer\n  externalTrafficPolicy: Local\n  healthCheckNodePort: 80\n  ports: [{port: 80}]",
            ),
            "a.yaml:7:24: spec.healthCheckNodePort: Invalid value: 80: must be in the range 30000-32767",
        ),
        (
            service("sessionAffinityConfig: {clientIP: {timeoutSeconds: 5}}\n  ports: [{port: 80}]"),
            "a.yaml:5:26: spec.sessionAffinityConfig: Forbidden: must not be set when session affinity is None",
        ),
        (
            service(
                "sessionAffinity: ClientIP\n  sessionAffinityConfig: {clientIP: {timeoutSeconds: 0}}\n  ports: [{port: 80}]",
            ),
            "a.yaml:6:54: spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 0: must be between 1 and 86400",
        ),
        (
            service("externalIPs: [127.0.0.1]\n  ports: [{port: 80}]"),
            "a.yaml:5:17: spec.externalIPs[0]: Invalid value: \"127.0.0.1\": may not be an unspecified, loopback",
        ),
        (
            service("type: LoadBalancer\n  loadBalancerSourceRanges: [10.0.0.0/33]\n  ports: [{port: 80}]"),
            "a.yaml:6:30: spec.loadBalancerSourceRanges[0]: Invalid value: \"10.0.0.0/33\": must be a valid CIDR",
        ),
        (
            service("trafficDistribution: Near\n  ports: [{port: 80}]"),
            "a.yaml:5:24: spec.trafficDistribution: Unsupported value: \"Near\"",
        ),
        (
            service("ports: [{port: 1}, {port: 2, name: b}]"),
            "a.yaml:5:11: spec.ports[0].name: Required value",
        ),
        (
            service("ports: [{port: 1, name: a}, {port: 1, name: b}]"),
            "a.yaml:5:31: spec.ports[1]: Duplicate value: \"1\"",
        ),
        (
            service("ports: [{port: 1, protocol: DCCP}]"),
            "a.yaml:5:31: spec.ports[0].protocol: Unsupported value",
        ),
        (
            service("ports: [{port: 1, targetPort: 70000}]"),
            "a.yaml:5:33: spec.ports[0].targetPort: Invalid value",
        ),
        (
            service("clusterIP: 1.2.3\n  ports: [{port: 1}]"),
            "a.yaml:5:14: spec.clusterIP: Invalid value: \"1.2.3\": must be a valid IP",
        ),
        (
            map("data: {\"a/b\": c}"),
            "a.yaml:4:15: data[a/b]: Invalid value: \"a/b\": a valid config key must consist of",
        ),
        (
            map("data: {a: 5}"),
            "a.yaml:4:11: data[a]: must be text, not the number 5: put it in quotes",
        ),
        (map("binaryData: {a: '*'}"), "a.yaml:4:17: binaryData.a: "),
        (
            map("data: {a: b}\nbinaryData: {a: aGk=}"),
            "a.yaml:5:17: binaryData[a]: Duplicate value: \"a\"",
        ),
    ];
    let wrong: Vec<String> = table
        .iter()
        .filter_map(|(text, expected)| difference(text, expected))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_service_may_have_everything_that_is_honoured() {
    let text = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec:\n  type: LoadBalancer\n  clusterIP: 10.96.0.9\n  \
                sessionAffinity: ClientIP\n  sessionAffinityConfig: {clientIP: {timeoutSeconds: 60}}\n  \
                externalIPs: [203.0.113.9]\n  externalTrafficPolicy: Local\n  internalTrafficPolicy: Cluster\n  \
                healthCheckNodePort: 30081\n  \
                loadBalancerSourceRanges: [10.0.0.0/8, \"fd00::/8\"]\n  publishNotReadyAddresses: true\n  \
                trafficDistribution: PreferSameNode\n  ports: [{port: 80, nodePort: 30080, appProtocol: http}]\n\
                status: {loadBalancer: {ingress: [{ip: 203.0.113.7, ipMode: VIP}, {hostname: a.example}]}}\n";
    let objects = parse("a.yaml", text.as_bytes()).unwrap();
    assert_eq!(objects[0].identity(), "Service default/a");
    let headless = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {clusterIP: None, ports: [{port: 80}]}\n";
    assert!(parse("a.yaml", headless.as_bytes()).is_ok());
}

#[test]
fn endpoint_slices_are_checked() {
    let slice = |label: &str, body: &str| {
        format!("apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: a{label}}}\n{body}\n")
    };
    const OWNED: &str = ", labels: {kubernetes.io/service-name: web}";
    let good = "addressType: IPv4\nports: [{name: http, port: 80}]\nendpoints:\n- {addresses: [192.0.2.7], nodeName: n, \
                zone: z, conditions: {ready: true, serving: true, terminating: false}, hints: {forZones: [{name: z}]}}";
    let objects = parse("a.yaml", slice(OWNED, good).as_bytes()).unwrap();
    assert_eq!(objects[0].identity(), "EndpointSlice default/a");
    let table = [
        (
            slice("", "addressType: IPv4"),
            "a.yaml:3:11: metadata.labels[kubernetes.io/service-name]: Required value: names the Service",
        ),
        (slice(OWNED, "endpoints: []"), "a.yaml:1:1: addressType: Required value"),
        (
            slice(OWNED, "addressType: FQDN"),
            "a.yaml:4:14: addressType: Unsupported value: \"FQDN\"",
        ),
        (
            slice(OWNED, "addressType: IPv6\nendpoints: [{addresses: [192.0.2.7]}]"),
            "a.yaml:5:26: endpoints[0].addresses[0]: Invalid value: \"192.0.2.7\": must be an address of the slice's",
        ),
        (
            slice(OWNED, "addressType: IPv4\nendpoints: [{addresses: [127.0.0.1]}]"),
            "a.yaml:5:26: endpoints[0].addresses[0]: Invalid value: \"127.0.0.1\": may not be an unspecified, loopback",
        ),
        (
            slice(OWNED, "addressType: IPv4\nports: [{name: a}]"),
            "a.yaml:5:9: ports[0].port: Required value",
        ),
    ];
    let wrong: Vec<String> = table
        .iter()
        .filter_map(|(text, expected)| difference(text, expected))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_error_of_a_file_is_told_in_its_order() {
    let text = with(
        "    image: busybox:1.36",
        "    imagee: a\n    tty: true\n    stdin: maybe",
    );
    let lines: Vec<usize> = errors(&text).iter().map(|error| error.line).collect();
    assert_eq!(lines, [9, 10, 11]);
}

#[test]
fn deep_nesting_is_refused_where_it_gets_too_deep() {
    let flow = format!("a: {}1{}", "[".repeat(100), "]".repeat(100));
    assert_eq!(first(&flow), "a.yaml:1:67: nested more than 64 deep");
    let block = "- ".repeat(100_000);
    assert_eq!(first(&block), "a.yaml:1:129: nested more than 64 deep");
    for endless in ["{a: ", "[", "? "] {
        let found = first(&endless.repeat(100_000));
        assert!(
            found.contains("nested") || found.contains("recursion limit"),
            "{endless}: {found}"
        );
    }
}

#[test]
fn a_file_of_ten_megabytes_is_refused() {
    let text = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: a}}\ndata:\n  a: {}\n",
        "x".repeat(10_000_000)
    );
    let expected = format!(
        "a.yaml:1:1: {} bytes are too many: a manifest may have at most {MAX_FILE_BYTES}",
        text.len()
    );
    assert_eq!(first(&text), expected);
}

#[test]
fn a_document_larger_than_an_api_server_takes_is_refused() {
    let text = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: a}}\ndata:\n  a: {}\n",
        "x".repeat(2_000_000)
    );
    assert!(first(&text).contains("a document may be at most"));
    let text = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: a}}\ndata:\n  a: {}\n",
        "x".repeat(1_100_000)
    );
    assert_eq!(
        first(&text),
        "a.yaml:5:3: data: Too long: may not be more than 1048576 bytes"
    );
}

#[test]
fn aliases_that_multiply_are_refused() {
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let below = format!("*a{}, ", level - 1).repeat(10);
        bomb.push_str(&format!("a{level}: &a{level} [{below}]\n"));
    }
    let found = first(&bomb);
    assert!(found.contains("counted after aliases are expanded"), "{found}");
    let long = format!("a: &a {}\nb: [{}]\n", "x".repeat(1_000_000), "*a, ".repeat(1000));
    assert!(first(&long).contains("counted after aliases are expanded"));
}

#[test]
fn text_that_is_not_utf_8_is_told_with_its_place() {
    let found = parse("a.yaml", b"a: b\nc: \xff\n").expect_err("not text");
    assert_eq!(found[0].to_string(), "a.yaml:2:4: not UTF-8 text");
}

#[test]
fn the_manifests_of_the_demo_are_good() {
    let demo = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/demo");
    let mut kinds = Vec::new();
    for entry in std::fs::read_dir(demo).expect("the demo is in the repository") {
        let path = entry.expect("a directory entry").path();
        let bytes = std::fs::read(&path).expect("a readable file");
        let objects = parse(&path.display().to_string(), &bytes).expect("a good manifest");
        kinds.extend(objects.iter().map(Object::identity));
    }
    assert!(kinds.iter().any(|identity| identity.starts_with("Pod ")), "{kinds:?}");
    assert!(
        kinds.iter().any(|identity| identity.starts_with("Service ")),
        "{kinds:?}"
    );
}
