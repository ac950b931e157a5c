//! Accepting connections: so many at once, and no more.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::Semaphore;

/// Between tries while there is no room for another descriptor.
const PAUSE: Duration = Duration::from_millis(100);

/// What connections come from.
pub(crate) trait Listener: Send {
    /// A connection.
    type Stream: Send;

    /// The next one. Cancel-safe.
    fn next(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

impl Listener for UnixListener {
    type Stream = UnixStream;

    async fn next(&self) -> io::Result<UnixStream> {
        Ok(self.accept().await?.0)
    }
}

impl Listener for TcpListener {
    type Stream = TcpStream;

    async fn next(&self) -> io::Result<TcpStream> {
        Ok(self.accept().await?.0)
    }
}

/// Serves what a listener accepts, at most `seats` connections at once; more wait to be accepted. Never ends; when it is
/// dropped, connections that have been accepted are still served.
pub(crate) async fn accept<L, F>(listener: L, seats: usize, serve: impl Fn(L::Stream) -> F)
where
    L: Listener,
    F: Future<Output = ()> + Send + 'static,
{
    let room = Arc::new(Semaphore::new(seats));
    loop {
        let Ok(seat) = Arc::clone(&room).acquire_owned().await else {
            return;
        };
        match listener.next().await {
            Ok(stream) => {
                let served = serve(stream);
                tokio::spawn(async move {
                    served.await;
                    drop(seat);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accept a connection");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}
