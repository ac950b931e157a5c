//! What an agent does for plugins that pass their calls on to it: the same work, in a process that is there already. Programs
//! inspect and limit its pods.

use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use agent::hands::inspector::Inspector;
use cni::pod_network::NodeNetwork;
use cni::relay;

/// Does `work`, which gets the agent's socket, while there is one.
pub(super) fn while_there(network: &NodeNetwork, work: impl FnOnce(&Path)) {
    let socket = network.run_dir.join("cni.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let inspector = Inspector::load().unwrap();
    let mut network = network.clone();
    network.masquerade = true;
    network.inspector = Some(inspector.program());
    network.pacer = Some(inspector.pacer());
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for stream in listener.incoming() {
                if is_over.load(Ordering::Relaxed) {
                    return;
                }
                relay::answer(stream.unwrap(), |call| call.perform(&network, &[])).unwrap();
            }
        });
        work(&socket);
        is_over.store(true, Ordering::Relaxed);
        drop(UnixStream::connect(&socket));
    });
}
