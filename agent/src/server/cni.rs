//! Calls of `orlop-cni`, passed on by a socket of their own: `cni::relay` speaks, `cni::plugin` works. Blocking work, on
//! threads for it.

use std::sync::Arc;

use cni::plugin::Outcome;
use cni::relay::{self, Call};
use tokio::net::{UnixListener, UnixStream};

use crate::accept::accept;
use crate::host_ports;
use crate::node::Node;

/// Calls at once; more wait to be accepted. The kernel does them one after the other anyway, and pods need threads too.
const CALLS: usize = 32;

/// Serves until the agent ends.
pub async fn serve(listener: UnixListener, node: Arc<Node>) {
    accept(listener, CALLS, |stream| {
        let node = Arc::clone(&node);
        async move {
            let answered = tokio::task::spawn_blocking(move || answer(stream, &node)).await;
            if let Ok(Err(error)) = answered {
                tracing::debug!(%error, "a plugin's call ended early");
            }
        }
    })
    .await;
}

fn answer(stream: UnixStream, node: &Node) -> std::io::Result<()> {
    let stream = stream.into_std()?;
    stream.set_nonblocking(false)?;
    relay::answer(stream, |call| work(call, node))
}

fn work(call: Call, node: &Node) -> Outcome {
    let taken = host_ports::mappings(&node.board.now());
    let outcome = call.perform(&node.network, &taken);
    node.plugin_calls.send_replace(());
    outcome
}
