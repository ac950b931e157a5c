//! Pulls from a registry that answers well, badly, slowly or maliciously.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use agent::image::{Credentials, Image, PullError, PullOptions, RegistryError, Store};
use tests::Scratch;
use tests::image::{Layer, Layout, digest};

use super::registry::{Answer, Asked, Fault, Registry, serve};
use super::{block_on, chain, contents, name, open};

fn options() -> PullOptions {
    PullOptions {
        stall: Duration::from_millis(400),
        ..PullOptions::default()
    }
}

/// Pulls, and gives the error as users read it.
fn pull(store: &Store, registry: &Registry) -> Result<Arc<Image>, String> {
    block_on(store.pull(&name(&format!("{}/app:1", registry.address)), &options())).map_err(chain)
}

/// Two layers, the upper one large enough to be cut and dripped.
fn image(scratch: &Scratch) -> (PathBuf, Layout) {
    let mut base = Layer::default();
    base.file("etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\n")
        .unwrap();
    let mut top = Layer::default();
    top.file("data", 0o644, &[b'x'; 100_000]).unwrap();
    let layout = Layout::new("localhost/app:1")
        .gzip(&base.finish().unwrap())
        .unwrap()
        .plain(top.finish().unwrap());
    (layout.write(&scratch.path("layout")).unwrap(), layout)
}

fn well(_: &Asked) -> Option<Answer> {
    None
}

#[test]
fn an_image_is_pulled_and_its_layers_only_once() {
    tests::require_root!();
    let scratch = Scratch::new("pull");
    let store = open(&scratch);
    let (layout, made) = image(&scratch);
    let registry = Registry::start(layout, |_| well);

    let image = pull(&store, &registry).unwrap();

    assert_eq!(image.layers.len(), 2);
    assert_eq!(fs::read(image.layers[0].join("data")).unwrap().len(), 100_000);
    assert_eq!(image.accounts().unwrap().passwd, "root:x:0:0:root:/root:/bin/sh\n");
    let before = contents(&scratch.path("store"));
    assert_eq!(before.len(), 4, "two layers, one configuration, one record: {before:?}");
    let by_digest = format!("{}/app@{}", registry.address, image.digest);
    let again = block_on(store.pull(&name(&by_digest), &options())).unwrap();
    assert_eq!(again.layers, image.layers);
    for layer in made.layer_digests() {
        assert_eq!(registry.count(&layer), 1, "a layer that is here is not fetched again");
    }
}

#[test]
fn pulls_at_the_same_time_fetch_each_layer_once() {
    tests::require_root!();
    let scratch = Scratch::new("pull-storm");
    let store = open(&scratch);
    let (layout, made) = image(&scratch);
    let registry = Registry::start(layout, |_| well);
    let pulled = block_on(async {
        let mut pulls = tokio::task::JoinSet::new();
        for tag in 0..20 {
            let (store, name) = (store.clone(), name(&format!("{}/app:{tag}", registry.address)));
            pulls.spawn(async move { store.pull(&name, &PullOptions::default()).await.unwrap() });
        }
        pulls.join_all().await
    });
    assert!(pulled.iter().all(|image| image.layers == pulled[0].layers));
    for layer in made.layer_digests() {
        assert_eq!(registry.count(&layer), 1);
    }
    assert_eq!(contents(&scratch.path("store")).len(), 2 + 1 + 20);
}

#[test]
fn a_token_is_fetched_when_asked_for_and_sent_to_nobody_else() {
    tests::require_root!();
    let scratch = Scratch::new("token");
    let store = open(&scratch);
    let (layout, _) = image(&scratch);
    let cdn_layout = layout.clone();
    let cdn = Registry::start(layout.clone(), move |_| {
        move |asked: &Asked| {
            asked
                .authorization
                .is_none()
                .then(|| serve(&cdn_layout, &asked.path))
                .or(Some(Answer::new(400, "")))
        }
    });
    let cdn_address = cdn.address.clone();
    let registry = Registry::start(layout, move |address| {
        let realm =
            format!(r#"Bearer realm="http://{address}/token",service="the registry",scope="repository:app:pull""#);
        move |asked: &Asked| match asked.authorization.as_deref() {
            _ if asked.path.starts_with("/token") => Some(Answer::new(200, r#"{"token":"let-me-in","expires_in":60}"#)),
            Some("Bearer let-me-in") if asked.path.contains("/blobs/") => {
                Some(Answer::new(307, "").header("location", format!("http://{cdn_address}{}", asked.path)))
            }
            Some("Bearer let-me-in") => None,
            _ => Some(Answer::new(401, "").header("www-authenticate", realm.clone())),
        }
    });
    let credentials = Credentials {
        username: "me".to_owned(),
        password: "secret".to_owned(),
    };
    let options = PullOptions {
        credentials: Some(credentials),
        ..options()
    };

    block_on(store.pull(&name(&format!("{}/app:1", registry.address)), &options)).unwrap();

    let asked = registry.asked();
    let tokens: Vec<_> = asked.iter().filter(|asked| asked.path.starts_with("/token")).collect();
    assert_eq!(tokens.len(), 1, "one token for all requests");
    assert_eq!(
        tokens[0].path,
        "/token?service=the%20registry&scope=repository:app:pull"
    );
    assert_eq!(tokens[0].authorization.as_deref(), Some("Basic bWU6c2VjcmV0"));
    let leaked = |asked: &&Asked| {
        asked
            .authorization
            .as_deref()
            .is_some_and(|value| value.starts_with("Basic"))
    };
    assert_eq!(
        asked.iter().filter(leaked).count(),
        1,
        "the password went to the token server alone"
    );
    assert!(cdn.asked().iter().all(|asked| asked.authorization.is_none()) && cdn.count("/blobs/") == 3);
}

#[test]
fn basic_authentication_is_answered() {
    tests::require_root!();
    let scratch = Scratch::new("basic-auth");
    let store = open(&scratch);
    let (layout, _) = image(&scratch);
    let registry = Registry::start(layout, |_| {
        |asked: &Asked| {
            let is_known = asked.authorization.as_deref() == Some("Basic bWU6c2VjcmV0");
            (!is_known).then(|| Answer::new(401, "").header("www-authenticate", "Basic realm=\"registry\""))
        }
    });
    let error = pull(&store, &registry).unwrap_err();
    assert!(error.contains("may need credentials"), "{error}");
    let credentials = Some(Credentials {
        username: "me".to_owned(),
        password: "secret".to_owned(),
    });
    let options = PullOptions {
        credentials,
        ..options()
    };
    block_on(store.pull(&name(&format!("{}/app:1", registry.address)), &options)).unwrap();
}

/// Every way in which a registry may fail, with what the error must say.
#[test]
fn every_bad_answer_is_a_clear_error_and_leaves_nothing() {
    tests::require_root!();
    let scratch = Scratch::new("bad-answers");
    let store = open(&scratch);
    let (layout, made) = image(&scratch);
    let large = made.layer_digests()[1].clone();
    let blob = |fault: Fault| {
        let (layout, large) = (layout.clone(), large.clone());
        always(&large.clone(), move || {
            serve(&layout, &format!("/v2/app/blobs/{large}")).fault(fault)
        })
    };
    let text = |path: &str, answer: Answer| always(path, move || answer.clone());
    let bytes = |content: &[u8]| text(&large, Answer::new(200, content));
    let size = layout_size(&layout, &large);
    let wrong = vec![b'x'; size];
    let www = |value: &str| text("/v2/", Answer::new(401, "").header("www-authenticate", value));
    let cases: Vec<(Box<Misbehave>, &str)> = vec![
        (text("/manifests/", Answer::new(404, "")), "is not in the registry"),
        (
            text(
                "/manifests/",
                Answer::new(403, r#"{"errors":[{"message":"no pull for you"}]}"#),
            ),
            "no pull for you",
        ),
        (
            text("/manifests/", Answer::new(500, "<html>")),
            "with 500 Internal Server Error",
        ),
        (
            text("/manifests/", Answer::new(200, "nonsense")),
            "read the manifest sha256:",
        ),
        (
            text("/manifests/", Answer::new(200, vec![b' '; (4 << 20) + 1])),
            "larger than 4194304 bytes",
        ),
        (
            text("/manifests/", Answer::new(200, "{}").header("x", "y".repeat(1 << 20))),
            "ask http://127.0.0.1",
        ),
        (
            text(
                "/manifests/",
                Answer::new(200, "")
                    .fault(Fault::SilentAfter(0))
                    .header("content-length", "5"),
            ),
            "stalled after 0 bytes",
        ),
        (text("/manifests/", Answer::new(302, "")), "it is no address"),
        (
            text(
                "/manifests/",
                Answer::new(302, "").header("location", "http://169.254.169.254/latest"),
            ),
            "another host in plain HTTP",
        ),
        (
            text(
                "/manifests/",
                Answer::new(302, "").header("location", "/v2/app/manifests/again"),
            ),
            "more than 5 in a row",
        ),
        (
            www(r#"Bearer realm="http://169.254.169.254/token""#),
            "refuse to fetch a token",
        ),
        (www(r#"Bearer realm="file:///etc/passwd""#), "refuse to fetch a token"),
        (www("Negotiate"), "may need credentials"),
        (bytes(&wrong), "has the digest sha256:"),
        (bytes(&wrong[1..]), "its descriptor says"),
        (bytes(&[&wrong[..], b"more"].concat()), "the answer is larger than"),
        (blob(Fault::CutAfter(5000)), "the transfer broke off after 5000 bytes"),
        (blob(Fault::SilentAfter(5000)), "the transfer stalled after 5000 bytes"),
        (blob(Fault::Drip), "the transfer stalled after"),
        (text(&large, Answer::new(404, "")), "is not in the registry"),
    ];
    for (misbehave, expected) in cases {
        let registry = Registry::start(layout.clone(), |_| misbehave);
        let start = Instant::now();
        let error = pull(&store, &registry).expect_err(expected);
        assert!(error.contains(expected), "expected {expected:?} in {error:?}");
        assert!(error.contains(&registry.address), "the image is named: {error}");
        assert!(
            start.elapsed() < Duration::from_secs(10),
            "{expected} took {:?}",
            start.elapsed()
        );
        assert_eq!(
            contents(&scratch.path("store")),
            BTreeSet::new(),
            "nothing stays of {expected}"
        );
    }
}

type Misbehave = dyn Fn(&Asked) -> Option<Answer> + Send + Sync;

fn always(path: &str, answer: impl Fn() -> Answer + Send + Sync + 'static) -> Box<Misbehave> {
    let path = path.to_owned();
    Box::new(move |asked| asked.path.contains(&path).then(&answer))
}

fn layout_size(layout: &std::path::Path, digest: &str) -> usize {
    fs::read(layout.join("blobs").join(digest.replace(':', "/")))
        .unwrap()
        .len()
}

#[test]
fn what_passes_is_tried_again() {
    tests::require_root!();
    let scratch = Scratch::new("retry");
    let store = open(&scratch);
    let (layout, made) = image(&scratch);
    let large = made.layer_digests()[1].clone();
    let cut = layout.clone();
    let counts = std::sync::Mutex::new((0, 0));
    let registry = Registry::start(layout, move |_| {
        move |asked: &Asked| {
            let mut counts = counts.lock().unwrap();
            if asked.path.contains("/manifests/") {
                counts.0 += 1;
                return (counts.0 == 1).then(|| Answer::new(429, "").header("retry-after", "0"));
            }
            counts.1 += usize::from(asked.path.contains(&large));
            let is_cut = asked.path.contains(&large) && counts.1 == 1;
            is_cut.then(|| serve(&cut, &asked.path).fault(Fault::CutAfter(100)))
        }
    });
    pull(&store, &registry).unwrap();
}

#[test]
fn an_index_leads_to_this_machine() {
    tests::require_root!();
    let scratch = Scratch::new("index");
    let store = open(&scratch);
    let (layout, _) = image(&scratch);
    let index: serde_json::Value = serde_json::from_slice(&fs::read(layout.join("index.json")).unwrap()).unwrap();
    let entry = |architecture: &str, digest: &serde_json::Value| {
        let platform = serde_json::json!({ "os": "linux", "architecture": architecture });
        serde_json::json!({ "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest,
            "size": index["manifests"][0]["size"], "platform": platform })
    };
    let real = &index["manifests"][0]["digest"];
    let elsewhere = serde_json::json!(digest(b"elsewhere"));
    let host = agent::image::Platform::host().architecture;
    for (entries, expected) in [
        (vec![entry("s390x", &elsewhere), entry(&host, real)], None),
        (vec![entry("s390x", &elsewhere)], Some("only for linux/s390x")),
    ] {
        let body = serde_json::json!({ "schemaVersion": 2, "manifests": entries }).to_string();
        let expected_digest = digest(body.as_bytes());
        let registry = Registry::start(layout.clone(), |_| {
            move |asked: &Asked| {
                let answer = Answer::new(200, body.clone());
                let answer = answer.header("content-type", "application/vnd.oci.image.index.v1+json");
                asked.path.ends_with("/manifests/1").then_some(answer)
            }
        });
        match (pull(&store, &registry), expected) {
            (Ok(image), None) => assert_eq!(image.digest.as_str(), expected_digest),
            (Err(error), Some(expected)) => assert!(error.contains(expected)),
            (result, expected) => panic!("{result:?}, expected {expected:?}"),
        }
    }
}

#[test]
fn a_digest_in_the_name_must_be_met() {
    tests::require_root!();
    let scratch = Scratch::new("wanted-digest");
    let store = open(&scratch);
    let (layout, _) = image(&scratch);
    let (wanted, served) = (digest(b"wanted"), layout.clone());
    let registry = Registry::start(layout, |_| {
        move |asked: &Asked| {
            asked
                .path
                .contains("/manifests/")
                .then(|| serve(&served, "/v2/app/manifests/1"))
        }
    });
    let reference = name(&format!("{}/app@{wanted}", registry.address));
    let error = block_on(store.pull(&reference, &options())).unwrap_err();
    assert!(
        matches!(&error, PullError::Registry { source, .. } if matches!(**source, RegistryError::Digest { .. })),
        "{error:?}"
    );
}

#[test]
fn a_dropped_pull_stops_and_leaves_nothing_for_long() {
    tests::require_root!();
    let scratch = Scratch::new("dropped-pull");
    let store = open(&scratch);
    let (layout, made) = image(&scratch);
    let (large, slow) = (made.layer_digests()[1].clone(), layout.clone());
    let registry = Registry::start(layout, |_| {
        move |asked: &Asked| {
            asked
                .path
                .contains(&large)
                .then(|| serve(&slow, &asked.path).fault(Fault::SilentAfter(10)))
        }
    });
    block_on(async {
        let reference = name(&format!("{}/app:1", registry.address));
        let patient = PullOptions {
            stall: Duration::from_secs(60),
            ..PullOptions::default()
        };
        let pull = tokio::time::timeout(Duration::from_millis(500), store.pull(&reference, &patient));
        assert!(pull.await.is_err(), "it was waiting for the layer");
    });
    drop(store);
    open(&scratch);
    assert_eq!(contents(&scratch.path("store")), BTreeSet::new());
}

#[test]
fn pulls_and_removals_at_the_same_time_never_disturb_each_other() {
    tests::require_root!();
    let scratch = Scratch::new("pull-remove");
    let store = open(&scratch);
    let (layout, _) = image(&scratch);
    let registry = Registry::start(layout, |_| well);
    block_on(async {
        let mut tasks = tokio::task::JoinSet::new();
        for tag in 0..4 {
            let (store, name) = (store.clone(), name(&format!("{}/app:{tag}", registry.address)));
            tasks.spawn(async move {
                for _ in 0..10 {
                    let image = store.pull(&name, &PullOptions::default()).await.unwrap();
                    assert!(
                        image.layers.iter().all(|layer| layer.exists()),
                        "an image that is named is whole"
                    );
                    store.remove(&name).await.unwrap();
                }
            });
        }
        while let Some(task) = tasks.join_next().await {
            task.unwrap();
        }
    });
    assert_eq!(contents(&scratch.path("store")), BTreeSet::new());
}
