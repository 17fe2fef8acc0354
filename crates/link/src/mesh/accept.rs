//! Accepting: TLS, hello, then reading frames for the mesh.

use super::{
    Arrival,
    link::{Greeter, tune},
    wire::FRAME_LENGTH_MAX,
};
use crate::{
    clock,
    framed::{FrameReader, LinkError},
    identity::PeerIdentity,
    limiter::LogLimiter,
    tls,
};
use anshin_base::Problem;
use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncWriteExt, ReadHalf, WriteHalf},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc, oneshot},
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

/// Connections that may be in their handshake at once; more are closed unread.
const HANDSHAKES_MAX: usize = 64;
/// Accepted connections that may stand at once.
const CONNECTIONS_MAX: usize = 256;

/// The listening end.
pub(super) struct Listener {
    addresses: Vec<SocketAddr>,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Listener {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

struct Reception {
    acceptor: TlsAcceptor,
    greeter: Greeter,
    arrive: mpsc::Sender<Arrival>,
    handshakes: Semaphore,
    connections: Semaphore,
    numbers: AtomicU64,
    // Held for a moment only: which lines may still be written.
    limiter: Mutex<LogLimiter>,
}

impl Listener {
    pub(super) async fn start(
        listen: &[SocketAddr],
        config: Arc<rustls::ServerConfig>,
        greeter: Greeter,
        arrive: mpsc::Sender<Arrival>,
    ) -> Result<Self, Problem> {
        let reception = Arc::new(Reception {
            acceptor: config.into(),
            greeter,
            arrive,
            handshakes: Semaphore::new(HANDSHAKES_MAX),
            connections: Semaphore::new(CONNECTIONS_MAX),
            numbers: AtomicU64::new(1),
            limiter: Mutex::default(),
        });
        let mut listener = Self { addresses: Vec::new(), tasks: Vec::new() };
        for address in listen {
            let failed = |error: io::Error| {
                Problem::new("listen", format!("cannot listen on {address}: {error}"))
                    .hint("another process may have the port, or the address is not this machine's")
            };
            let socket = TcpListener::bind(address).await.map_err(failed)?;
            listener.addresses.push(socket.local_addr().map_err(failed)?);
            listener.tasks.push(tokio::spawn(accept(socket, Arc::clone(&reception))));
        }
        Ok(listener)
    }

    pub(super) fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }
}

async fn accept(socket: TcpListener, reception: Arc<Reception>) {
    loop {
        match socket.accept().await {
            Ok((stream, from)) => {
                tokio::spawn(Arc::clone(&reception).receive(stream, from));
            }
            Err(error) => {
                // Out of descriptors, or a connection that broke before it was taken: neither ends the listening.
                reception.log(|left_out| tracing::warn!(left_out, "cannot accept a connection: {error}"));
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

impl Reception {
    async fn receive(self: Arc<Self>, stream: TcpStream, from: SocketAddr) {
        let (Ok(handshake), Ok(_connection)) =
            (self.handshakes.try_acquire(), self.connections.try_acquire())
        else {
            self.log(|left_out| tracing::warn!(%from, left_out, "refused a connection: too many at once"));
            return;
        };
        let limit = self.greeter.times.handshake;
        let greeted =
            timeout(limit, self.greet(stream)).await.unwrap_or(Err(LinkError::Timeout("the handshake")));
        drop(handshake);
        match greeted {
            Ok((peer, reader, writer)) => self.serve(peer, reader, writer).await,
            Err(error) => {
                self.log(
                    |left_out| tracing::warn!(%from, left_out, "refused a connection: {}", explain(&error)),
                );
            }
        }
    }

    async fn greet(
        &self,
        stream: TcpStream,
    ) -> Result<
        (PeerIdentity, FrameReader<ReadHalf<TlsStream<TcpStream>>>, WriteHalf<TlsStream<TcpStream>>),
        LinkError,
    > {
        tune(&stream, self.greeter.times.write)?;
        let stream = self.acceptor.accept(stream).await?;
        let peer = tls::peer_identity(stream.get_ref().1.peer_certificates())
            .map_err(|error| LinkError::Protocol(error.to_string()))?;
        let (read, mut write) = tokio::io::split(stream);
        let mut reader = FrameReader::new(read, FRAME_LENGTH_MAX);
        let hello = reader.expect("the hello", self.greeter.times.handshake).await?;
        // Answered also if the versions differ, so that the other end can say so.
        write.write_all(&self.greeter.hello().encode()).await?;
        write.flush().await?;
        Greeter::check(&hello, &peer)?;
        Ok((peer, reader, write))
    }

    /// Reads until the link breaks. The writing half is kept only so that the link stays open.
    async fn serve(
        &self,
        peer: PeerIdentity,
        mut reader: FrameReader<ReadHalf<TlsStream<TcpStream>>>,
        _writer: WriteHalf<TlsStream<TcpStream>>,
    ) {
        let from = peer.node;
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let arrive = self.arrive.clone();
        let idle = self.greeter.times.idle;
        // The mesh learns of the reader before the reader's first frame, and can stop it.
        let (go, wait) = oneshot::channel::<()>();
        let task = tokio::spawn(async move {
            let _ = wait.await;
            loop {
                match timeout(idle, reader.next()).await {
                    Ok(Ok(Some(frame))) => {
                        if arrive.send(Arrival::Frame { from, number, frame }).await.is_err() {
                            return Ok(());
                        }
                    }
                    Ok(Ok(None)) => return Ok(()),
                    Ok(Err(error)) => return Err(error),
                    Err(_) => return Err(LinkError::Timeout("the next heartbeat")),
                }
            }
        });
        let accepted = Arrival::Accepted { peer: peer.clone(), reader: task.abort_handle(), number };
        if self.arrive.send(accepted).await.is_err() {
            task.abort();
            return;
        }
        let _ = go.send(());
        if let Ok(Err(error)) = task.await {
            self.log(|left_out| tracing::info!(%peer, left_out, "link broke: {error}"));
        }
        let _ = self.arrive.send(Arrival::Closed { from, number }).await;
    }

    fn log(&self, write: impl FnOnce(u64)) {
        let allowed = self.limiter.lock().unwrap_or_else(PoisonError::into_inner).allow(clock::now());
        if let Some(left_out) = allowed {
            write(left_out);
        }
    }
}

/// What went wrong, in words for the log.
fn explain(error: &LinkError) -> String {
    let LinkError::Io(io) = error else { return error.to_string() };
    tls::explain_io(io)
}
