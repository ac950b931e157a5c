//! Wires the agent together: opens what it needs, starts its tasks, ends with a signal. The only place that sees
//! everything.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::IsTerminal;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use agent_core::pod::DesiredPod;
use agent_core::service::shelf::{Named, Shelf};
use agent_core::service::{AddressRange, ServicesStatus};
use anyhow::{Context, bail};
use cni::pod_network;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

use crate::config::{Config, Places};
use crate::events::Subject;
use crate::hands::namespaces::{Shared, pin_path};
use crate::node::Node;
use crate::paths::PodPaths;
use crate::pod_task::Facts;
use crate::server::{self, Api};
use crate::service_env::Variables;
use crate::services::node::{Cookies, facts as facts_of_node, uplinks};
use crate::services::report::Reporter;
use crate::services::{self, ServiceFacts, ServicesConfig};
use crate::sources::wanted::{Key, Sourced, Wanted};
use crate::sources::{self, WantedReceiver};
use crate::{host_ports, pods, status};

/// Threads that poll tasks; what blocks runs on others.
const WORKERS: usize = 2;
/// Threads for what blocks; more work waits in line.
const BLOCKING: usize = 64;
/// How long Services wait for adopted pods to be looked at before they are taken to be gone.
const ADOPTION: Duration = Duration::from_secs(30);
/// How long a lock may be held by what is left of an agent that was killed.
pub(crate) const LOCK: Duration = Duration::from_secs(3);
/// Between looks at the node's addresses, which nobody tells of: kube-proxy's time.
const LOOK: Duration = Duration::from_secs(30);
/// Between tries to make the node ready for pods.
const RETRY: Duration = Duration::from_secs(10);

/// Runs the agent until SIGTERM or SIGINT; pods go on running.
pub fn run(config: Config) -> anyhow::Result<()> {
    log_to_stderr();
    runtime::sys::memory::keep_little();
    let _lock = lock(&config.places)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(BLOCKING)
        .enable_all()
        .build()
        .context("start the runtime")?;
    let result = runtime.block_on(serve(config));
    // Whatever still blocks is cut short: every step may be.
    runtime.shutdown_background();
    result
}

async fn serve(config: Config) -> anyhow::Result<()> {
    make_directories(&config)?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let node = Arc::new(Node::open(config)?);
    announce(&node);
    let places = &node.config.places;
    let listener = server::bind(&places.socket())?;
    let plugins = server::bind(&places.cni_socket())?;
    let directories = [node.config.manifests.clone(), places.applied()];
    let (wanted, rescan) =
        sources::watch_directories(directories, Arc::clone(&node.events)).context("watch the manifests")?;
    let (publish_services, services) = watch::channel(ServicesStatus::default());
    let (queries, asked) = mpsc::channel(16);
    tokio::spawn(prepare_network(Arc::clone(&node)));
    tokio::spawn(server::cni::serve(plugins, Arc::clone(&node)));
    let facts = service_facts(&node, wanted.clone());
    let reporter = Reporter::new(facts.clone(), services.clone(), queries.clone()).of_node(Arc::clone(&node));
    let reporter = Arc::new(reporter);
    let flags = &node.config.services;
    tokio::spawn(reporter.run(flags.healthz_bind_address, flags.metrics_bind_address));
    tokio::spawn(host_ports::follow_plugins(Arc::clone(&node)));
    tokio::spawn(host_ports::tell(Arc::clone(&node), services.clone()));
    tokio::spawn(services::run(services_config(&node), facts, publish_services, asked));
    tokio::spawn(pods::run(
        Arc::clone(&node),
        wanted.clone(),
        container_facts(wanted.clone(), services.clone()),
    ));
    tokio::spawn(server::serve(
        listener,
        Arc::new(Api {
            node: Arc::clone(&node),
            wanted,
            rescan,
            services,
            queries,
        }),
    ));
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("agent ends; pods go on running");
    Ok(())
}

fn log_to_stderr() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("ORLOP_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    // A second subscriber in one process is refused, and the first one stands.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .try_init();
}

/// One agent per run directory; the kernel drops the lock with the process, however that ends. A child that was between
/// fork and exec when its agent was killed holds the lock until it execs, so the lock is tried for a while.
pub(crate) fn lock(places: &Places) -> anyhow::Result<Flock<File>> {
    let path = places.lock();
    fs::create_dir_all(&places.run_dir).with_context(|| format!("create {}", places.run_dir.display()))?;
    let open = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path);
    let mut file = open.with_context(|| format!("open {}", path.display()))?;
    let deadline = Instant::now() + LOCK;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((unlocked, Errno::EWOULDBLOCK)) if Instant::now() < deadline => file = unlocked,
            Err((_, Errno::EWOULDBLOCK)) => bail!("another agent runs on {}", places.run_dir.display()),
            Err((_, errno)) => return Err(errno).with_context(|| format!("lock {}", path.display())),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn make_directories(config: &Config) -> anyhow::Result<()> {
    let places = &config.places;
    let cgroup = runtime::cgroup::root()?.join(&places.cgroup_parent);
    for dir in [
        &cgroup,
        &places.root_dir,
        &places.applied(),
        &places.state_dir,
        &places.pod_runs(),
        &places.log_dir,
    ] {
        fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    }
    if !config.manifests.is_dir() {
        bail!("--manifests {}: not a directory", config.manifests.display());
    }
    Ok(())
}

fn announce(node: &Node) {
    let version = env!("CARGO_PKG_VERSION");
    tracing::info!(node = %node.facts.name, version, manifests = %node.config.manifests.display(), "agent starts");
    node.events.normal(Subject::Node, "Starting", "Starting orlop.");
    for sentence in &node.unenforced {
        tracing::warn!("{sentence}");
        node.events.warning(Subject::Node, "LimitsUnenforced", sentence.clone());
    }
}

/// Makes the node ready for pods; until it succeeds, attaching pods fails and says why.
async fn prepare_network(node: Arc<Node>) {
    loop {
        let network = node.network.clone();
        let prepared = tokio::task::spawn_blocking(move || {
            pod_network::prepare(&network)?;
            pod_network::inspect_again(&network)
        })
        .await;
        match prepared {
            Ok(Ok(())) => return,
            Ok(Err(error)) => {
                let message = format!("{:#}", anyhow::Error::from(error).context("prepare the pod network"));
                tracing::error!(message);
                node.events.warning(Subject::Node, "NetworkNotReady", message);
            }
            Err(error) => tracing::error!(%error, "preparing the pod network panicked"),
        }
        tokio::time::sleep(RETRY).await;
    }
}

fn services_config(node: &Node) -> ServicesConfig {
    let places = &node.config.places;
    let range = AddressRange {
        address: places.service_cidr.network(),
        prefix: places.service_cidr.prefix(),
    };
    ServicesConfig {
        bpf_dir: places.bpf_dir.clone(),
        cgroup: node.cgroup_root.join(&places.service_cgroup),
        uplinks: uplinks(&node.config.services),
        ranges: vec![range],
        record: places.root_dir.join("cluster-addresses.json"),
    }
}

/// What Services follow from: the wanted ones, and the pods as they are. Nothing is told before every adopted pod has
/// been looked at, or an agent that restarts would take its backends away for a moment.
fn service_facts(node: &Arc<Node>, mut wanted: WantedReceiver) -> watch::Receiver<Option<Arc<ServiceFacts>>> {
    let (publish, facts) = watch::channel(None);
    let mut pods = node.board.watch();
    let mut attached = node.attached.subscribe();
    let adopted = adopted_uids(&node.config.places);
    let node = Arc::clone(node);
    tokio::spawn(async move {
        let all_seen = pods.wait_for(|pods| adopted.iter().all(|uid| pods.keys().any(|seen| seen.as_str() == uid)));
        if tokio::time::timeout(ADOPTION, all_seen).await.is_err() {
            tracing::warn!("not every pod of the agent before could be looked at");
        }
        // The node has the sender.
        let _ = attached.wait_for(Option::is_some).await;
        let mut cookies = Cookies::default();
        let (mut services, mut slices) = (Shelf::default(), Shelf::default());
        let mut wanted_before: Option<Arc<Wanted>> = None;
        loop {
            let wanted_now = wanted.borrow_and_update().clone();
            let shown = pods.borrow_and_update().clone();
            let others = attached.borrow_and_update().clone().unwrap_or_default();
            cookies.retain(|pod| shown.contains_key(pod));
            if let Some(wanted) = wanted_now {
                if !wanted_before.is_some_and(|before| Arc::ptr_eq(&before, &wanted)) {
                    follow(&mut services, &wanted.services);
                    follow(&mut slices, &wanted.slices);
                }
                wanted_before = Some(Arc::clone(&wanted));
                let now = ServiceFacts {
                    services: services.clone(),
                    slices: slices.clone(),
                    published: [host_ports::published(&shown), others.to_vec()].concat(),
                    pods: status::ready_pods(&shown, |pod| pod_network_of(&node, pod, &mut cookies)),
                    node: facts_of_node(&node),
                };
                let now = Some(Arc::new(now));
                publish.send_if_modified(|told| {
                    let is_news = *told != now;
                    *told = now;
                    is_news
                });
            }
            tokio::select! {
                changed = wanted.changed() => if changed.is_err() { return },
                changed = pods.changed() => if changed.is_err() { return },
                changed = attached.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    });
    facts
}

/// Makes a shelf hold what there is now; what is as it was stays the same allocation.
fn follow<T: PartialEq + Named>(shelf: &mut Shelf<T>, now: &BTreeMap<Key, Sourced<Arc<T>>>) {
    let names = shelf
        .iter()
        .map(|object| (object.namespace().to_owned(), object.name().to_owned()));
    for (namespace, name) in names.filter(|name| !now.contains_key(name)).collect::<Vec<_>>() {
        shelf.remove(&namespace, &name);
    }
    for ((namespace, name), sourced) in now {
        if shelf.get(namespace, name).is_none_or(|known| *known != sourced.object) {
            shelf.put(Arc::clone(&sourced.object));
        }
    }
}

/// Pods in the host's network have none of their own.
fn pod_network_of(node: &Node, pod: &DesiredPod, cookies: &mut Cookies) -> Option<(u64, PathBuf)> {
    let paths = PodPaths::new(&node.config.places, &node.cgroup_root, pod);
    let netns = pin_path(&paths.namespaces(), Shared::Net);
    Some((cookies.of(&pod.uid, &netns)?, netns))
}

fn adopted_uids(places: &Places) -> Vec<String> {
    let entries = fs::read_dir(places.pod_runs()).into_iter().flatten().flatten();
    let with_record = entries.filter(|entry| entry.path().join(crate::paths::RECORD).exists());
    with_record
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

/// What containers may refer to: ConfigMaps and Services.
fn container_facts(
    mut wanted: WantedReceiver,
    mut services: watch::Receiver<ServicesStatus>,
) -> watch::Receiver<Facts> {
    let (publish, facts) = watch::channel(Facts::default());
    tokio::spawn(async move {
        let mut variables = Variables::default();
        loop {
            let mut config_maps: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
            if let Some(wanted) = wanted.borrow_and_update().as_deref() {
                for ((namespace, name), map) in &wanted.config_maps {
                    config_maps
                        .entry(namespace.clone())
                        .or_default()
                        .insert(name.clone(), map.object.clone());
                }
            }
            variables.follow(&services.borrow_and_update());
            let now = Facts {
                config_maps: Arc::new(config_maps),
                service_env: variables.told.clone(),
            };
            publish.send_if_modified(|told| {
                let is_news = *told != now;
                *told = now;
                is_news
            });
            // Endpoints that come and go, a thousand times a second maybe, are no news to containers.
            let other_services = services.wait_for(|services| !variables.are_of(services));
            tokio::select! {
                changed = wanted.changed() => if changed.is_err() { return },
                changed = other_services => if changed.is_err() { return },
            }
        }
    });
    facts
}
