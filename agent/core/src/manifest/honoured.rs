//! The fields that this node honours, kind by kind, and those of Kubernetes that it does not honour yet. A field moves
//! from `later` to `honoured` in the same commit that makes it work.

use super::shape::{
    Fields,
    Shape::{self, Empty, Flag, Integer, IntegerOrText, List, Map, Object, Quantity, Text},
};

/// A kind that is honoured, by `apiVersion` and `kind`.
pub(super) const KINDS: &[(&str, &str, Shape)] = &[
    ("v1", "Pod", Object(&POD)),
    ("v1", "Service", Object(&SERVICE)),
    ("v1", "ConfigMap", Object(&CONFIG_MAP)),
    ("discovery.k8s.io/v1", "EndpointSlice", Object(&ENDPOINT_SLICE)),
];

const NONE: &[&str] = &[];

const METADATA: Fields = Fields {
    honoured: &[
        ("name", Text),
        ("namespace", Text),
        ("uid", Text),
        ("labels", Map(&Text)),
        ("annotations", Map(&Text)),
        ("creationTimestamp", Empty),
    ],
    later: &[
        "generateName",
        "finalizers",
        "ownerReferences",
        "resourceVersion",
        "generation",
        "managedFields",
        "selfLink",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    ],
};

const POD: Fields = Fields {
    honoured: &[
        ("apiVersion", Text),
        ("kind", Text),
        ("metadata", Object(&METADATA)),
        ("spec", Object(&POD_SPEC)),
        ("status", Empty),
    ],
    later: NONE,
};

const POD_SPEC: Fields = Fields {
    honoured: &[
        ("containers", List(&Object(&CONTAINER))),
        ("restartPolicy", Text),
        ("terminationGracePeriodSeconds", Integer),
        ("hostname", Text),
        ("hostNetwork", Flag),
        ("enableServiceLinks", Flag),
        ("dnsPolicy", Text),
        ("securityContext", Object(&POD_SECURITY)),
    ],
    later: &[
        "activeDeadlineSeconds",
        "affinity",
        "automountServiceAccountToken",
        "dnsConfig",
        "ephemeralContainers",
        "hostAliases",
        "hostIPC",
        "hostPID",
        "hostUsers",
        "hostnameOverride",
        "imagePullSecrets",
        "initContainers",
        "nodeName",
        "nodeSelector",
        "os",
        "overhead",
        "preemptionPolicy",
        "priority",
        "priorityClassName",
        "readinessGates",
        "resourceClaims",
        "resources",
        "runtimeClassName",
        "schedulerName",
        "schedulingGates",
        "serviceAccount",
        "serviceAccountName",
        "setHostnameAsFQDN",
        "shareProcessNamespace",
        "subdomain",
        "tolerations",
        "topologySpreadConstraints",
        "volumes",
    ],
};

const POD_SECURITY: Fields = Fields {
    honoured: &[
        ("runAsUser", Integer),
        ("runAsGroup", Integer),
        ("runAsNonRoot", Flag),
        ("supplementalGroups", List(&Integer)),
        ("fsGroup", Integer),
    ],
    later: &[
        "appArmorProfile",
        "fsGroupChangePolicy",
        "seLinuxChangePolicy",
        "seLinuxOptions",
        "seccompProfile",
        "supplementalGroupsPolicy",
        "sysctls",
        "windowsOptions",
    ],
};

const CONTAINER: Fields = Fields {
    honoured: &[
        ("name", Text),
        ("image", Text),
        ("imagePullPolicy", Text),
        ("command", List(&Text)),
        ("args", List(&Text)),
        ("workingDir", Text),
        ("env", List(&Object(&ENV))),
        ("envFrom", List(&Object(&ENV_FROM))),
        ("ports", List(&Object(&CONTAINER_PORT))),
        ("resources", Object(&RESOURCES)),
        ("securityContext", Object(&SECURITY)),
    ],
    later: &[
        "lifecycle",
        "livenessProbe",
        "readinessProbe",
        "resizePolicy",
        "restartPolicy",
        "restartPolicyRules",
        "startupProbe",
        "stdin",
        "stdinOnce",
        "terminationMessagePath",
        "terminationMessagePolicy",
        "tty",
        "volumeDevices",
        "volumeMounts",
    ],
};

const ENV: Fields = Fields {
    honoured: &[("name", Text), ("value", Text), ("valueFrom", Object(&ENV_SOURCE))],
    later: NONE,
};

const ENV_SOURCE: Fields = Fields {
    honoured: &[("fieldRef", Object(&FIELD_REF)), ("configMapKeyRef", Object(&KEY_REF))],
    later: &["secretKeyRef", "resourceFieldRef", "fileKeyRef"],
};

const FIELD_REF: Fields = Fields {
    honoured: &[("apiVersion", Text), ("fieldPath", Text)],
    later: NONE,
};

const KEY_REF: Fields = Fields {
    honoured: &[("name", Text), ("key", Text), ("optional", Flag)],
    later: NONE,
};

const ENV_FROM: Fields = Fields {
    honoured: &[("prefix", Text), ("configMapRef", Object(&MAP_REF))],
    later: &["secretRef"],
};

const MAP_REF: Fields = Fields {
    honoured: &[("name", Text), ("optional", Flag)],
    later: NONE,
};

const CONTAINER_PORT: Fields = Fields {
    honoured: &[
        ("name", Text),
        ("containerPort", Integer),
        ("protocol", Text),
        ("hostPort", Integer),
        ("hostIP", Text),
    ],
    later: NONE,
};

const RESOURCES: Fields = Fields {
    honoured: &[("limits", Object(&AMOUNTS)), ("requests", Object(&AMOUNTS))],
    later: &["claims"],
};

const AMOUNTS: Fields = Fields {
    honoured: &[("cpu", Quantity), ("memory", Quantity)],
    later: &["ephemeral-storage", "hugepages-2Mi", "hugepages-1Gi"],
};

const SECURITY: Fields = Fields {
    honoured: &[
        ("runAsUser", Integer),
        ("runAsGroup", Integer),
        ("runAsNonRoot", Flag),
        ("readOnlyRootFilesystem", Flag),
        ("allowPrivilegeEscalation", Flag),
        ("privileged", Flag),
        ("capabilities", Object(&CAPABILITIES)),
    ],
    later: &[
        "appArmorProfile",
        "procMount",
        "seLinuxOptions",
        "seccompProfile",
        "windowsOptions",
    ],
};

const CAPABILITIES: Fields = Fields {
    honoured: &[("add", List(&Text)), ("drop", List(&Text))],
    later: NONE,
};

const SERVICE: Fields = Fields {
    honoured: &[
        ("apiVersion", Text),
        ("kind", Text),
        ("metadata", Object(&METADATA)),
        ("spec", Object(&SERVICE_SPEC)),
        ("status", Object(&SERVICE_STATUS)),
    ],
    later: NONE,
};

const SERVICE_STATUS: Fields = Fields {
    honoured: &[("loadBalancer", Object(&LOAD_BALANCER))],
    later: &["conditions"],
};

const LOAD_BALANCER: Fields = Fields {
    honoured: &[("ingress", List(&Object(&INGRESS)))],
    later: NONE,
};

const INGRESS: Fields = Fields {
    honoured: &[("ip", Text), ("hostname", Text), ("ipMode", Text)],
    later: &["ports"],
};

const SERVICE_SPEC: Fields = Fields {
    honoured: &[
        ("type", Text),
        ("clusterIP", Text),
        ("clusterIPs", List(&Text)),
        ("selector", Map(&Text)),
        ("ports", List(&Object(&SERVICE_PORT))),
        ("ipFamilies", List(&Text)),
        ("ipFamilyPolicy", Text),
        ("sessionAffinity", Text),
        ("sessionAffinityConfig", Object(&AFFINITY)),
        ("externalIPs", List(&Text)),
        ("externalTrafficPolicy", Text),
        ("healthCheckNodePort", Integer),
        ("internalTrafficPolicy", Text),
        ("loadBalancerSourceRanges", List(&Text)),
        ("publishNotReadyAddresses", Flag),
        ("trafficDistribution", Text),
    ],
    later: &[
        "allocateLoadBalancerNodePorts",
        "externalName",
        "loadBalancerClass",
        "loadBalancerIP",
    ],
};

const AFFINITY: Fields = Fields {
    honoured: &[("clientIP", Object(&CLIENT_IP))],
    later: NONE,
};

const CLIENT_IP: Fields = Fields {
    honoured: &[("timeoutSeconds", Integer)],
    later: NONE,
};

const SERVICE_PORT: Fields = Fields {
    honoured: &[
        ("name", Text),
        ("port", Integer),
        ("targetPort", IntegerOrText),
        ("protocol", Text),
        ("nodePort", Integer),
        ("appProtocol", Text),
    ],
    later: NONE,
};

const ENDPOINT_SLICE: Fields = Fields {
    honoured: &[
        ("apiVersion", Text),
        ("kind", Text),
        ("metadata", Object(&METADATA)),
        ("addressType", Text),
        ("endpoints", List(&Object(&ENDPOINT))),
        ("ports", List(&Object(&ENDPOINT_PORT))),
    ],
    later: NONE,
};

const ENDPOINT: Fields = Fields {
    honoured: &[
        ("addresses", List(&Text)),
        ("conditions", Object(&CONDITIONS)),
        ("hints", Object(&HINTS)),
        ("hostname", Text),
        ("nodeName", Text),
        ("zone", Text),
    ],
    later: &["deprecatedTopology", "targetRef"],
};

const CONDITIONS: Fields = Fields {
    honoured: &[("ready", Flag), ("serving", Flag), ("terminating", Flag)],
    later: NONE,
};

const HINTS: Fields = Fields {
    honoured: &[("forZones", List(&Object(&NAMED))), ("forNodes", List(&Object(&NAMED)))],
    later: NONE,
};

const NAMED: Fields = Fields {
    honoured: &[("name", Text)],
    later: NONE,
};

const ENDPOINT_PORT: Fields = Fields {
    honoured: &[
        ("name", Text),
        ("port", Integer),
        ("protocol", Text),
        ("appProtocol", Text),
    ],
    later: NONE,
};

const CONFIG_MAP: Fields = Fields {
    honoured: &[
        ("apiVersion", Text),
        ("kind", Text),
        ("metadata", Object(&METADATA)),
        ("data", Map(&Text)),
        ("binaryData", Map(&Text)),
        ("immutable", Flag),
    ],
    later: NONE,
};
