//! Laws that hold for facts and text of any kind, however little sense they make together.

use std::{collections::BTreeMap, net::IpAddr, sync::LazyLock, time::Duration};

use agent_core::{
    manifest::{self, Object},
    pod::{
        Attempt, AttemptState, Backoffs, CgroupFacts, ContainerFacts, ContainerName, DesiredPod, ExitRecord,
        FailureKind, Goal, ImageFacts, NodeFacts, ObservedPod, Presence, PullPolicy, RestartPolicy, ShimState,
        Signalled, StepFailure, StepKey, StepVerb, StopSignal, Time, env, event, plan, status,
    },
};
use proptest::{collection, option, prelude::*, sample::select};

const MANIFEST: &str = "\
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {a: b}}
spec:
  containers:
  - {name: a, image: \"i:1\", ports: [{containerPort: 80, name: http}], env: [{name: A, value: \"$(B)\"}]}
  - {name: b, image: j, resources: {limits: {cpu: 1, memory: 64Mi}}, securityContext: {runAsUser: 5}}
";

static ACCEPTED: LazyLock<DesiredPod> = LazyLock::new(|| {
    let objects = manifest::parse("m", MANIFEST.as_bytes()).expect("a good manifest");
    let [Object::Pod(pod)] = objects.as_slice() else {
        panic!("one pod")
    };
    DesiredPod::accept(pod, Goal::Run, &NodeFacts::default(), Backoffs::default()).expect("an honoured pod")
});

fn time() -> impl Strategy<Value = Time> {
    let near = (0u64..2_000).prop_map(|seconds| seconds * 1_000_000_000);
    prop_oneof![4 => near, 1 => any::<u64>()].prop_map(Time::from_unix_nanos)
}

fn goal() -> impl Strategy<Value = Goal> {
    let stop = (time(), 0u64..100).prop_map(|(since, grace)| Goal::Stop {
        since,
        grace: Duration::from_secs(grace),
    });
    prop_oneof![Just(Goal::Run), stop]
}

fn desired() -> impl Strategy<Value = DesiredPod> {
    let policy = select(vec![
        RestartPolicy::Always,
        RestartPolicy::OnFailure,
        RestartPolicy::Never,
    ]);
    let pull = select(vec![PullPolicy::Always, PullPolicy::IfNotPresent, PullPolicy::Never]);
    (goal(), policy, pull, any::<bool>()).prop_map(|(goal, restart_policy, pull_policy, host_network)| {
        let mut pod = DesiredPod {
            goal,
            restart_policy,
            host_network,
            ..ACCEPTED.clone()
        };
        pod.containers[0].pull_policy = pull_policy;
        pod
    })
}

fn attempt() -> impl Strategy<Value = Attempt> {
    let exit = (any::<i32>(), option::of(time()), time()).prop_map(|(exit_code, started_at, finished_at)| {
        AttemptState::Exited(ExitRecord {
            exit_code,
            started_at,
            finished_at,
            ..ExitRecord::default()
        })
    });
    let running = time().prop_map(|started_at| AttemptState::Running { started_at });
    let state = prop_oneof![Just(AttemptState::Created), running, exit];
    let signal = select(vec![StopSignal::Stop, StopSignal::Kill]);
    let signalled = option::of((signal, time()).prop_map(|(signal, at)| Signalled { signal, at }));
    (any::<u32>(), any::<u32>(), state, signalled).prop_map(|(number, crashes, state, signalled)| Attempt {
        number,
        crashes,
        image: String::new(),
        state,
        signalled,
    })
}

fn containers() -> impl Strategy<Value = BTreeMap<ContainerName, ContainerFacts>> {
    let facts = (
        collection::vec(attempt(), 0..4),
        option::of(any::<u32>()),
        option::of(any::<u32>()),
    );
    let facts = facts.prop_map(|(attempts, pulled, last_log)| ContainerFacts {
        attempts,
        pulled,
        last_log,
    });
    let name = select(vec!["a", "b", "c"]).prop_map(|name| ContainerName::parse(name).expect("a name"));
    collection::btree_map(name, facts, 0..4)
}

fn failures() -> impl Strategy<Value = BTreeMap<StepKey, StepFailure>> {
    use StepVerb::{AttachNetwork, CreateContainer, KillCgroup, PullImage, RemovePod, SignalContainer, StartShim};
    let verb = select(vec![
        AttachNetwork,
        CreateContainer,
        KillCgroup,
        PullImage,
        RemovePod,
        SignalContainer,
        StartShim,
    ]);
    let name = option::of(select(vec!["a", "b"]).prop_map(|name| ContainerName::parse(name).expect("a name")));
    let key = (verb, name).prop_map(|(verb, container)| StepKey { verb, container });
    let failure = (time(), any::<u32>()).prop_map(|(at, count)| {
        let (kind, message) = (FailureKind::Step, "no".to_owned());
        StepFailure {
            at,
            count,
            kind,
            message,
        }
    });
    collection::btree_map(key, failure, 0..4)
}

fn observed() -> impl Strategy<Value = ObservedPod> {
    let presence = select(vec![Presence::Absent, Presence::Partial, Presence::Whole]);
    let shim = select(vec![
        ShimState::Absent,
        ShimState::Running,
        ShimState::Running,
        ShimState::Lost,
    ]);
    let cgroup = option::of(any::<bool>().prop_map(|populated| CgroupFacts { populated }));
    let network = option::of(Just(vec![IpAddr::from([10, 0, 0, 2])]));
    let image = ImageFacts {
        id: "i".to_owned(),
        reference: "i".to_owned(),
    };
    let images = collection::btree_map(select(vec!["i:1".to_owned(), "j".to_owned()]), Just(image), 0..3);
    let shared = (any::<bool>(), presence, cgroup, network, shim);
    (shared, images, containers(), failures()).prop_map(|(shared, images, containers, failures)| {
        let (has_files, namespaces, cgroup, network, shim) = shared;
        let accepted_at = None;
        let unenforced = Vec::new();
        ObservedPod {
            accepted_at,
            has_files,
            namespaces,
            cgroup,
            network,
            shim,
            images,
            containers,
            failures,
            unenforced,
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_plan_is_total_and_deterministic_and_sleeps_forward(pod in desired(), facts in observed(), now in time()) {
        let found = plan(&pod, &facts, now);
        prop_assert_eq!(&found, &plan(&pod, &facts, now));
        prop_assert!(found.wake_at.is_none_or(|wake_at| wake_at > now));
        for (index, step) in found.steps.iter().enumerate() {
            prop_assert!(!found.steps[..index].contains(step), "{:?} twice", step);
            event::of_step(&pod, &facts, step, event::Outcome::Begun);
        }
    }

    #[test]
    fn a_status_is_total_and_settles(pod in desired(), facts in observed(), now in time()) {
        let first = status(&pod, &facts, None, now);
        let second = status(&pod, &facts, Some(&first), now);
        prop_assert_eq!(&first, &second);
        prop_assert!(event::of_change(&pod, Some(&first), &second).is_empty());
    }

    #[test]
    fn no_text_breaks_the_reader(text in "\\PC{0,200}") {
        let _ = manifest::parse("m", text.as_bytes());
    }

    #[test]
    fn no_damage_to_a_manifest_breaks_the_reader(at in 0..MANIFEST.len(), byte in any::<u8>(), cut in any::<bool>()) {
        let mut bytes = MANIFEST.as_bytes().to_vec();
        if cut { bytes.truncate(at) } else { bytes[at] = byte }
        if let Err(errors) = manifest::parse("m", &bytes) {
            prop_assert!(!errors.is_empty());
            for error in errors {
                let lines = bytes.iter().filter(|&&byte| byte == b'\n').count() + 1;
                prop_assert!((1..=lines).contains(&error.line), "{} of {}", error, lines);
            }
        }
    }

    #[test]
    fn expansion_without_references_changes_nothing(text in "[^$]{0,100}") {
        prop_assert_eq!(env::expand(&text, |_| None), text);
    }
}
