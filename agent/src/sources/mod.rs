//! Where objects come from: the manifest directory, and what `orlop apply` stored. They are merged into one set of wanted
//! objects; what becomes of them is not decided here.

pub mod applied;
pub mod manifests;
pub mod wanted;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

use crate::events::{Events, Subject};
use manifests::Directory;
use wanted::Wanted;

/// Every so often the directories are read even if nothing was heard of them: inotify is silent on some file systems.
const RESCAN: Duration = Duration::from_secs(20);
/// Requests to read at once that may wait; callers beyond it wait in line.
const QUEUE: usize = 16;

/// The latest wanted objects; none before the first full list.
pub type WantedReceiver = watch::Receiver<Option<Arc<Wanted>>>;

/// Asks for the directories to be read now.
#[derive(Clone, Debug)]
pub struct Rescan(mpsc::Sender<oneshot::Sender<()>>);

impl Rescan {
    /// Returns when what is on disk now has been published.
    pub async fn now(&self) {
        let (done, wait) = oneshot::channel();
        if self.0.send(done).await.is_ok() {
            // An agent that is ending answers nobody.
            let _ = wait.await;
        }
    }
}

/// Watches the directories, the first one's objects before the second one's. The task ends with the agent.
pub fn watch_directories(paths: [PathBuf; 2], events: Arc<Events>) -> std::io::Result<(WantedReceiver, Rescan)> {
    let changes = manifests::Changes::new()?;
    let (publish, wanted) = watch::channel(None);
    let (rescan, requests) = mpsc::channel(QUEUE);
    tokio::spawn(run(paths.map(Directory::new), changes, requests, publish, events));
    Ok((wanted, Rescan(rescan)))
}

async fn run(
    mut directories: [Directory; 2],
    mut changes: manifests::Changes,
    mut requests: mpsc::Receiver<oneshot::Sender<()>>,
    publish: watch::Sender<Option<Arc<Wanted>>>,
    events: Arc<Events>,
) {
    let mut waiting = Vec::new();
    loop {
        for directory in &directories {
            changes.watch(directory.path());
        }
        let scanned = tokio::task::spawn_blocking(move || {
            directories.iter_mut().for_each(Directory::scan);
            let wanted = Wanted::merge(&directories);
            (directories, wanted)
        });
        let Ok((scanned, wanted)) = scanned.await else {
            tracing::error!("reading the manifests panicked; what is known of them stays as it is");
            return;
        };
        directories = scanned;
        report(publish.borrow().as_deref(), &wanted, &events);
        publish.send_if_modified(|published| {
            let is_new = published.as_deref() != Some(&wanted);
            if is_new {
                *published = Some(Arc::new(wanted));
            }
            is_new
        });
        waiting.drain(..).for_each(|done: oneshot::Sender<()>| {
            // Whoever asked may have gone away meanwhile.
            let _ = done.send(());
        });
        tokio::select! {
            () = changes.next() => {}
            Some(done) = requests.recv() => waiting.push(done),
            () = tokio::time::sleep(RESCAN) => {}
        }
        while let Ok(done) = requests.try_recv() {
            waiting.push(done);
        }
    }
}

/// Tells of each thing that is newly wrong, once.
fn report(before: Option<&Wanted>, now: &Wanted, events: &Events) {
    let known: BTreeSet<&String> = before
        .iter()
        .flat_map(|before| &before.files)
        .flat_map(|file| &file.errors)
        .collect();
    for error in now
        .files
        .iter()
        .flat_map(|file| &file.errors)
        .filter(|error| !known.contains(error))
    {
        tracing::warn!(%error, "manifest refused");
        events.warning(Subject::Node, "FailedValidation", error.clone());
    }
}
