//! One at a time for each digest: whoever comes second waits, and then finds the work done.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, Weak};

use tokio::sync::{Mutex as Turn, OwnedMutexGuard};

use super::digest::Digest;

/// The digests that somebody works on.
#[derive(Default)]
pub(super) struct Flights(Mutex<BTreeMap<Digest, Weak<Turn<()>>>>);

impl Flights {
    /// Waits for the turn. The turn may be moved into a blocking task.
    pub(super) async fn turn(&self, digest: &Digest) -> OwnedMutexGuard<()> {
        self.flight(digest).lock_owned().await
    }

    /// As [`Flights::turn`], for blocking tasks.
    pub(super) fn blocking_turn(&self, digest: &Digest) -> OwnedMutexGuard<()> {
        self.flight(digest).blocking_lock_owned()
    }

    fn flight(&self, digest: &Digest) -> Arc<Turn<()>> {
        let mut flights = self.0.lock().expect("no code panics while it holds the flights");
        flights.retain(|_, flight| flight.strong_count() > 0);
        let known = flights.get(digest).and_then(Weak::upgrade);
        known.unwrap_or_else(|| {
            let flight = Arc::new(Turn::new(()));
            flights.insert(digest.clone(), Arc::downgrade(&flight));
            flight
        })
    }
}
